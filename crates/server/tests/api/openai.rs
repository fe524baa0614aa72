//! The OpenAI API.

use crate::common::{options, start};
use serde_json::{Value as Json, json};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";

fn server() -> crate::common::Running {
    let server = start(options());
    let create = json!({"model": "chatty", "from": "tiny", "template": TEMPLATE, "stream": false});
    assert_eq!(server.post("/api/create", &create).status, 200);
    server
}

#[test]
fn chat_answers_whole_and_in_events_alike() {
    let server = server();
    let mut body = json!({
        "model": "chatty", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "temperature": 0, "max_completion_tokens": 8, "logprobs": true, "top_logprobs": 2,
    });
    let whole = server.post("/v1/chat/completions", &body).json();
    let choice = &whole["choices"][0];
    assert_eq!(
        (&whole["object"], &choice["message"]["role"]),
        (&json!("chat.completion"), &json!("assistant"))
    );
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap())
    );
    let n_steps = choice["logprobs"]["content"].as_array().unwrap().len() as u64;
    assert_eq!(Some(n_steps), usage["completion_tokens"].as_u64());
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/chat/completions", &body);
    assert!(answer.head.contains("text/event-stream") && answer.body.ends_with("data: [DONE]\n\n"));
    let events = answer.events();
    let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), choice["message"]["content"].as_str().unwrap());
    let finish = events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str());
    assert_eq!(finish, choice["finish_reason"].as_str());
    let last = events.last().unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["completion_tokens"]),
        (&json!([]), &usage["completion_tokens"])
    );
}

#[test]
fn choices_are_what_each_seed_gives_and_share_the_prompt() {
    let server = server();
    let mut body = json!({
        "model": "chatty", "messages": [{"role": "user", "content": "A prompt that is worth sharing."}],
        "temperature": 1.5, "seed": 5, "max_tokens": 8, "n": 3,
    });
    let whole = server.post("/v1/chat/completions", &body).json();
    let texts = |whole: &Json| -> Vec<String> {
        let choices = whole["choices"].as_array().unwrap().iter().enumerate();
        choices
            .map(|(i, choice)| {
                assert_eq!(choice["index"], i, "{whole}");
                choice["message"]["content"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let all = texts(&whole);
    assert_eq!(all.len(), 3);
    let mut alone = body.clone();
    alone["n"] = json!(1);
    let mut n_tokens = 0;
    for (i, expected) in all.iter().enumerate() {
        alone["seed"] = json!(5 + i);
        let one = server.post("/v1/chat/completions", &alone).json();
        assert_eq!(texts(&one), [expected.as_str()], "{i}");
        n_tokens += one["usage"]["completion_tokens"].as_u64().unwrap();
    }
    assert_eq!(whole["usage"]["completion_tokens"], n_tokens);
    let stats = server.get("/api/rawrz/stats").json()["models"][0]["totals"].clone();
    assert!(stats["reused_tokens"].as_u64() > stats["prompt_tokens"].as_u64(), "{stats}");

    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/chat/completions", &body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    let events = answer.events();
    for (i, expected) in all.iter().enumerate() {
        let of_choice = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == i);
        let deltas: Vec<&Json> = of_choice.collect();
        let text: String = deltas.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(&text, expected, "{i}");
        assert!(deltas.last().unwrap()["finish_reason"].is_string(), "{i}");
    }
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], n_tokens);

    let mut text = json!({"model": "tiny", "prompt": "ab", "echo": true, "max_tokens": 4, "n": 2, "best_of": 2, "seed": 1});
    let whole = server.post("/v1/completions", &text).json();
    text["stream"] = json!(true);
    let events = server.post("/v1/completions", &text).events();
    for (i, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let of_choice = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == i);
        let streamed: String = of_choice.filter_map(|choice| choice["text"].as_str()).collect();
        assert!(streamed.starts_with("ab"), "{streamed}");
        assert_eq!(choice["text"], streamed, "{i}");
    }
    for bad in [json!({"n": 0}), json!({"n": 100}), json!({"best_of": 3})] {
        let mut body = text.clone();
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert_eq!(server.post("/v1/completions", &body).status, 400, "{bad}");
    }
}

#[test]
fn completions_take_text_and_tokens() {
    let server = server();
    let mut body = json!({"model": "tiny", "prompt": "ab", "temperature": 0, "max_tokens": 6, "echo": true, "logprobs": 2});
    let whole = server.post("/v1/completions", &body).json();
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("ab"), "{whole}");
    let n_tokens = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    assert_eq!(whole["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), n_tokens);
    body["stream"] = json!(true);
    let events = server.post("/v1/completions", &body).events();
    let streamed: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let tokens = json!({"model": "tiny", "prompt": [1, 5, 9], "temperature": 0});
    assert_eq!(server.post("/v1/completions", &tokens).json()["usage"]["prompt_tokens"], 3);
    for prompt in [json!([]), json!(null), json!([99999]), json!([-1]), json!(["a", "b"]), json!({"a": 1})] {
        let refused = server.post("/v1/completions", &json!({"model": "tiny", "prompt": prompt}));
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    }
}

#[test]
fn a_schema_is_followed() {
    let server = server();
    let schema = json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false,
    });
    for seed in 0..5 {
        let body = json!({
            "model": "chatty", "messages": [{"role": "user", "content": "Hi"}], "seed": seed,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        });
        let whole = server.post("/v1/chat/completions", &body).json();
        let choice = &whole["choices"][0];
        if choice["finish_reason"] == "stop" {
            let value: Json = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
            assert!(value["ok"].is_boolean() && value.as_object().unwrap().len() == 1, "{value}");
        }
    }
}

#[test]
fn embeddings_and_lists() {
    let server = server();
    let floats = server.post("/v1/embeddings", &json!({"model": "tiny", "input": ["a", "b"]})).json();
    assert_eq!(floats["data"].as_array().unwrap().len(), 2);
    let encoded = server
        .post("/v1/embeddings", &json!({"model": "tiny", "input": "b", "encoding_format": "base64"}))
        .json();
    let n = floats["data"][1]["embedding"].as_array().unwrap().len();
    assert_eq!(encoded["data"][0]["embedding"].as_str().unwrap().len(), (n * 4).div_ceil(3) * 4);
    let models = server.get("/v1/models").json();
    let ids: Vec<_> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny:latest", "other:latest", "chatty:latest"]);
    assert_eq!(server.get("/v1/models/tiny").json()["id"], "tiny:latest");
    let missing = server.get("/v1/models/nothing");
    assert_eq!((missing.status, &missing.json()["error"]["type"]), (404, &json!("not_found_error")));
}

#[test]
fn responses_come_whole_and_in_events() {
    let server = server();
    let mut body = json!({"model": "chatty", "input": "Hi", "instructions": "S", "temperature": 0, "max_output_tokens": 5});
    let whole = server.post("/v1/responses", &body).json();
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    body["stream"] = json!(true);
    let events = server.post("/v1/responses", &body).events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "response.created");
    assert!(["response.completed", "response.incomplete"].contains(kinds.last().unwrap()));
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(deltas.map(|event| event["delta"].as_str().unwrap()).collect::<String>(), text);
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
}

#[test]
fn what_is_not_supported_is_said() {
    let server = server();
    let chat = |more: Json| {
        let mut body = json!({"model": "chatty", "messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &body)
    };
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
    let refused = chat(image);
    assert!(refused.status == 400 && refused.body.contains("image_url"), "{refused:?}");
    for more in [
        json!({"n": 0}),
        json!({"n": 17}),
        json!({"top_logprobs": 50, "logprobs": true}),
        json!({"temperature": -1}),
        json!({"messages": []}),
        json!({"response_format": {"type": "xml"}}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
        json!({"stop": [1]}),
    ] {
        let refused = chat(more.clone());
        assert_eq!(refused.status, 400, "{more}: {refused:?}");
    }
}
