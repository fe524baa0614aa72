//! Calls of tools that have to be made, in each dialect: a model with random weights makes none on its own.

use crate::common::{Answer, Running, options, start};
use serde_json::{Value as Json, json};

/// Calls between marks, as many models write them; the prompt is short, since the context is.
const MARKED: &str = "{% if tools %}{{ tools | length }}{% endif %}{% for m in messages %}\
    {{ m.role[0] }}:{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>\n\
    {\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}\
    {% endfor %}{% if add_generation_prompt %}a:{% endif %}";

fn server(template: &str) -> Running {
    let server = start(options());
    let create = json!({"model": "caller", "from": "tiny", "template": template, "stream": false});
    assert_eq!(server.post("/api/create", &create).status, 200);
    server
}

/// One of two cities.
fn parameters() -> Json {
    json!({"type": "object", "properties": {"c": {"$ref": "#/$defs/city"}}, "required": ["c"],
        "$defs": {"city": {"enum": ["x", "y"]}}})
}

fn tool(name: &str) -> Json {
    json!({"type": "function", "function": {"name": name, "parameters": parameters()}})
}

fn chat(server: &Running, more: &Json) -> Answer {
    let mut body = json!({
        "model": "caller", "messages": [{"role": "user", "content": "?"}], "tools": [tool("f"), tool("g")],
        "parallel_tool_calls": false, "temperature": 2,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/v1/chat/completions", &body)
}

/// The arguments of a call are valid.
#[track_caller]
fn check(arguments: &Json) {
    let arguments: Json = match arguments {
        Json::String(text) => serde_json::from_str(text).unwrap(),
        object => object.clone(),
    };
    assert!(arguments == json!({"c": "x"}) || arguments == json!({"c": "y"}), "{arguments}");
}

#[test]
fn a_call_that_is_required_is_made_in_the_form_of_the_model() {
    let listed = MARKED.replace("<tool_call>\n{", "[TOOL_CALLS][{").replace("}\n</tool_call>", "}]");
    let bare = MARKED
        .replace("<tool_call>\n", "")
        .replace("\n</tool_call>", "")
        .replace("arguments\\\"", "parameters\\\"");
    for template in [MARKED, &listed, &bare] {
        let server = server(template);
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..12 {
            let whole = chat(&server, &json!({"tool_choice": "required", "seed": seed})).json();
            let choice = &whole["choices"][0];
            assert_eq!(
                (&choice["finish_reason"], &choice["message"]["content"]),
                (&json!("tool_calls"), &Json::Null)
            );
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), 1, "{whole}");
            check(&calls[0]["function"]["arguments"]);
            names.insert(calls[0]["function"]["name"].as_str().unwrap().to_owned());
        }
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["f", "g"], "either is taken at times");
        for seed in 0..4 {
            let named = json!({"type": "function", "function": {"name": "g"}});
            let whole = chat(&server, &json!({"tool_choice": named, "seed": seed})).json();
            assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "g", "{whole}");
        }
    }
}

#[test]
fn several_calls_may_follow_each_other() {
    let listed = MARKED.replace("<tool_call>\n{", "[TOOL_CALLS][{").replace("}\n</tool_call>", "}]");
    let server = server(&listed);
    let n_calls = |seed: u64| {
        let more = json!({"tool_choice": "required", "parallel_tool_calls": true, "seed": seed, "tools": [tool("f")]});
        let whole = chat(&server, &more).json();
        let choice = &whole["choices"][0];
        let calls = choice["message"]["tool_calls"].as_array().map_or(0, Vec::len);
        assert!(calls > 0 || choice["finish_reason"] == "length", "{whole}");
        calls
    };
    let counts: Vec<usize> = (0..20).map(n_calls).collect();
    assert!(counts.contains(&1) && counts.contains(&2), "{counts:?}");
}

#[test]
fn a_thought_may_come_before_the_call() {
    for begun in ["", "<think>"] {
        let template = MARKED.replace(
            "{% if add_generation_prompt %}a:",
            &format!("{{% if add_generation_prompt %}}a:{begun}"),
        );
        let server = server(&format!("{{# <think> #}}{template}"));
        let mut has_called = false;
        for seed in 0..8 {
            let whole = chat(&server, &json!({"tool_choice": "required", "seed": seed})).json();
            let choice = &whole["choices"][0];
            // A thought of random letters may use up the context.
            if choice["finish_reason"] == "tool_calls" {
                check(&choice["message"]["tool_calls"][0]["function"]["arguments"]);
                has_called = true;
            } else {
                assert_eq!(choice["finish_reason"], "length", "{whole}");
            }
        }
        assert!(has_called || !begun.is_empty());
        let without = json!({"tool_choice": "required", "reasoning_effort": "none"});
        if begun.is_empty() {
            assert_eq!(chat(&server, &without).json()["choices"][0]["finish_reason"], "tool_calls");
        }
    }
}

#[test]
fn choices_of_tools_that_cannot_be_followed_are_refused() {
    let server = server(MARKED);
    for more in [
        json!({"tool_choice": "sometimes"}),
        json!({"tool_choice": {"type": "function", "function": {"name": "h"}}}),
        json!({"tool_choice": "required", "tools": []}),
        json!({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}),
        json!({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f",
            "parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}}]}),
        json!({"tools": [tool("f"), tool("f")]}),
        json!({"tools": [{"type": "web_search"}]}),
    ] {
        let refused = chat(&server, &more);
        assert_eq!(refused.status, 400, "{more}: {refused:?}");
    }
    // Nothing is forced where nothing may be called.
    let none = chat(&server, &json!({"tool_choice": "none", "max_tokens": 4}));
    assert!(
        none.status == 200 && none.json()["choices"][0]["message"].get("tool_calls").is_none(),
        "{none:?}"
    );
    let unknown =
        self::server("{{ tools | length }}{% for m in messages %}{{ m.content or '' }}{% endfor %}");
    let refused = chat(&unknown, &json!({"tool_choice": "required"}));
    assert!(refused.status == 400 && refused.body.contains("how this model writes calls"), "{refused:?}");
    assert_eq!(chat(&unknown, &json!({"tool_choice": "auto", "max_tokens": 2})).status, 200);
}

#[test]
fn calls_are_streamed_with_their_index() {
    let server = server(MARKED);
    let body = json!({"tool_choice": "required", "stream": true, "n": 2});
    let events = chat(&server, &body).events();
    for index in 0..2 {
        let of_choice =
            events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index);
        let choices: Vec<&Json> = of_choice.collect();
        let calls: Vec<&Json> =
            choices.iter().filter_map(|choice| choice["delta"].get("tool_calls")).collect();
        assert_eq!((calls.len(), &calls[0][0]["index"]), (1, &json!(0)), "{events:?}");
        check(&calls[0][0]["function"]["arguments"]);
        assert_eq!(choices.last().unwrap()["finish_reason"], "tool_calls");
    }
}

#[test]
fn anthropic_spells_it_otherwise() {
    let server = server(MARKED);
    let ask = |choice: Json, stream: bool| {
        let tools = ["f", "g"].map(|name| json!({"name": name, "input_schema": parameters()}));
        let messages = [json!({"role": "user", "content": "?"})];
        server.post(
            "/v1/messages",
            &json!({"model": "caller", "max_tokens": 100, "messages": messages, "tools": tools,
            "tool_choice": choice, "stream": stream}),
        )
    };
    for (choice, name) in [
        (json!({"type": "any", "disable_parallel_tool_use": true}), None),
        (json!({"type": "tool", "name": "g"}), Some("g")),
    ] {
        let whole = ask(choice.clone(), false).json();
        let block = &whole["content"][0];
        assert_eq!(
            (&whole["stop_reason"], &block["type"]),
            (&json!("tool_use"), &json!("tool_use")),
            "{whole}"
        );
        check(&block["input"]);
        assert!(name.is_none_or(|name| block["name"] == name), "{whole}");
        let events = ask(choice, true).events();
        let input: String =
            events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
        check(&Json::String(input));
    }
    assert_eq!(ask(json!({"type": "none"}), false).status, 200);
    for bad in
        [json!({"type": "tool"}), json!({"type": "tool", "name": "h"}), json!({"type": "all"}), json!("any")]
    {
        assert_eq!(ask(bad.clone(), false).status, 400, "{bad}");
    }
}

#[test]
fn responses_have_calls_as_items() {
    let server = server(MARKED);
    let mut body = json!({
        "model": "caller", "input": "?", "tool_choice": "required", "parallel_tool_calls": false,
        "tools": [{"type": "function", "name": "f", "parameters": parameters(), "strict": true}],
    });
    let whole = server.post("/v1/responses", &body).json();
    let item = whole["output"][0].clone();
    assert_eq!(
        (&whole["status"], &item["type"], &item["name"]),
        (&json!("completed"), &json!("function_call"), &json!("f"))
    );
    assert_eq!((&whole["tools"], &whole["tool_choice"]), (&body["tools"], &body["tool_choice"]));
    check(&item["arguments"]);

    body["stream"] = json!(true);
    let events = server.post("/v1/responses", &body).events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let last = &events.last().unwrap()["response"]["output"][0];
    assert_eq!((last, &events[2]["item"]["id"]), (&events[5]["item"], &last["id"]));
    check(&last["arguments"]);

    // The call goes back with what came of it.
    let output = json!({"type": "function_call_output", "call_id": item["call_id"], "output": "7"});
    let ask = |input: Json| {
        server.post("/v1/responses", &json!({"model": "caller", "max_output_tokens": 4, "input": input}))
    };
    let asked = json!({"role": "user", "content": "?"});
    let answer = ask(json!([asked, item, output]));
    assert!(answer.status == 200 && answer.json()["output"][0]["type"] == "message", "{answer:?}");
    for bad in [
        json!([asked, output]),
        json!([{"type": "function_call", "name": "f"}]),
        json!([{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]),
        json!([{"type": "computer_call"}]),
        json!([7]),
    ] {
        assert_eq!(ask(bad.clone()).status, 400, "{bad}");
    }
}
