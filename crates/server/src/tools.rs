//! Tools that a request offers, and the grammar of a call where one has to be made.
//!
//! How a model writes a call is not looked up by its name: its template writes one, and what comes out is read. A template
//! whose calls [`answer`](crate::answer) would not find again is refused.

use crate::answer::{CALLS, Piece, parse_calls};
use crate::constrain::{Grammar, json_rule};
use crate::error::{ApiError, ApiResult};
use rawrz_text::{ChatInput, ChatTemplate, Json as TextJson, Message, ToolCall};
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;
use std::fmt::Write;

/// Most tools of a request.
const MAX_TOOLS: usize = 128;

/// Most calls in one answer that has to call: a small model would go on until its tokens are used up.
const MAX_CALLS: usize = 8;

/// What a model may do with the tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// Call some, or answer.
    #[default]
    Auto,
    /// It has to call one at least.
    Required,
    /// It has to call this one, once.
    Named(String),
}

/// The tools of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    /// As OpenAI writes them: `{"type": "function", "function": {..}}`. None: there are no tools, whatever the rest says.
    pub(crate) offered: Vec<Json>,
    pub(crate) choice: ToolChoice,
    /// At most one call in an answer.
    pub(crate) one_call: bool,
}

/// Where a model that may think is when it begins to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thought {
    /// It does not think.
    Never,
    /// A thought may begin.
    MayBegin,
    /// The prompt began one.
    HasBegun,
}

impl Tools {
    /// Tools that may be called or not.
    pub(crate) fn auto(offered: Option<Vec<Json>>) -> Tools {
        Tools { offered: offered.unwrap_or_default(), ..Tools::default() }
    }

    /// # Errors
    /// When tools have no names or the same, are too many, or the one that has to be called is not there.
    pub(crate) fn check(&self) -> ApiResult<()> {
        if self.offered.len() > MAX_TOOLS {
            let n = self.offered.len();
            return Err(ApiError::bad(format!("{n} tools are too many, at most {MAX_TOOLS} are taken")));
        }
        let mut names = HashSet::new();
        for tool in &self.offered {
            let name = name_of(tool).ok_or_else(|| ApiError::bad("a tool has no function with a name"))?;
            if !names.insert(name) {
                return Err(ApiError::bad(format!("two tools have the name {name}")));
            }
        }
        match &self.choice {
            ToolChoice::Auto => Ok(()),
            ToolChoice::Required if self.offered.is_empty() => {
                Err(ApiError::bad("tool_choice wants a call, but there are no tools"))
            }
            ToolChoice::Named(name) if !names.contains(name.as_str()) => {
                Err(ApiError::bad(format!("tool_choice names {name}, which is not among the tools")))
            }
            ToolChoice::Required | ToolChoice::Named(_) => Ok(()),
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.offered.iter().filter_map(name_of).map(str::to_owned).collect()
    }

    /// The grammar of the calls that have to be made; `None` where none has to. `control` gives the id of a control token.
    ///
    /// # Errors
    /// When it is not known how the model writes calls, or arguments cannot be described by what a tool says of them.
    pub(crate) fn grammar(
        &self,
        template: &ChatTemplate,
        control: impl Fn(&str) -> Option<u32>,
        thought: Thought,
    ) -> ApiResult<Option<Grammar>> {
        let wanted: Vec<&Json> = match &self.choice {
            ToolChoice::Auto => return Ok(None),
            ToolChoice::Required => self.offered.iter().collect(),
            ToolChoice::Named(name) => {
                self.offered.iter().filter(|tool| name_of(tool) == Some(name)).collect()
            }
        };
        let form = CallForm::of(template, &self.offered).ok_or_else(|| {
            ApiError::bad("tool_choice cannot be followed: it is not known how this model writes calls")
        })?;
        // Who names a tool wants it called once.
        let one_call = self.one_call || matches!(self.choice, ToolChoice::Named(_));
        form.grammar(&wanted, one_call, control, thought).map(Some)
    }
}

fn name_of(tool: &Json) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str().filter(|name| !name.is_empty())
}

/// How a model writes a call: `BEGIN {"name": .., KEY: ..} END`, the object in a list where it writes lists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallForm {
    /// What begins a call, and the space after it; empty where the object itself does.
    begin: (&'static str, String),
    end: (String, &'static str),
    is_list: bool,
    key: &'static str,
}

/// The call that templates write to show how; no text of a template has this name.
const PROBE: &str = "rawrz_probe";

impl CallForm {
    fn of(template: &ChatTemplate, tools: &[Json]) -> Option<CallForm> {
        let arguments = TextJson::Object(vec![("a".to_owned(), TextJson::Int(1))]);
        // Some templates insist on an id of nine letters or digits.
        let id = Some("rawrz0001".to_owned());
        let call = ToolCall { id, name: PROBE.to_owned(), arguments: arguments.clone() };
        let asked = Message::text("user", "?");
        let called = Message { role: "assistant".to_owned(), tool_calls: vec![call], ..Message::default() };
        let render = |messages: &[&Message], add_generation_prompt| {
            let messages = messages.iter().copied().cloned().collect();
            let tools = Some(tools.iter().map(crate::prompt::to_json).collect());
            template
                .render(&ChatInput { messages, tools, add_generation_prompt, ..ChatInput::default() })
                .ok()
        };
        let whole = render(&[&asked, &called], false)?;
        let before = &whole[..whole.find(PROBE)?];
        let at = before.rfind('{')?;
        let at = if before[..at].ends_with('[') { at - 1 } else { at };
        let (before, object) = (before[..at].trim_end(), &whole[at..]);
        let space = whole[before.len()..at].to_owned();
        let (begin, end) = match CALLS.iter().find(|(begin, _)| before.ends_with(begin)) {
            Some(marks) => *marks,
            // The object begins the answer, if not an empty thought does.
            None if before.ends_with("</think>") || render(&[&asked], true)?.starts_with(before) => ("", ""),
            None => return None,
        };
        let mut values = serde_json::Deserializer::from_str(object).into_iter::<Json>();
        let value = values.next()?.ok()?;
        let after = &object[values.byte_offset()..];
        let space_after = &after[..after.len() - after.trim_start().len()];
        if !after.trim_start().starts_with(end) {
            return None;
        }
        // It has to be found again, and as what it is.
        let read = parse_calls(&object[..values.byte_offset()], &[]);
        if read != Some(vec![Piece::Call { name: PROBE.to_owned(), arguments }]) {
            return None;
        }
        let (is_list, call) = match &value {
            Json::Array(calls) => (true, calls.first()?),
            call => (false, call),
        };
        (call.get("name")? == PROBE).then_some(())?;
        let key = ["arguments", "parameters"]
            .into_iter()
            .find(|key| call.get(*key).is_some_and(Json::is_object))?;
        let space_after = if end.is_empty() { String::new() } else { space_after.to_owned() };
        Some(CallForm {
            begin: (begin, if begin.is_empty() { String::new() } else { space }),
            end: (space_after, end),
            is_list,
            key,
        })
    }

    /// In llguidance's language: a thought where there may be one, then calls of the tools.
    fn grammar(
        &self,
        tools: &[&Json],
        one_call: bool,
        control: impl Fn(&str) -> Option<u32>,
        thought: Thought,
    ) -> ApiResult<Grammar> {
        // A control token is no text, so that it is asked for by its id.
        let marker = |text: &str| match control(text).filter(|_| !text.is_empty()) {
            Some(id) => format!("<[{id}]>"),
            None => literal(text),
        };
        let before = marker(self.begin.0) + &literal(&self.begin.1);
        let after = literal(&self.end.0) + &marker(self.end.1);
        let mut grammar = match thought {
            Thought::Never => "start: calls\n".to_owned(),
            Thought::MayBegin => "start: (\"<think>\" thought)? calls\n".to_owned(),
            Thought::HasBegun => "start: thought calls\n".to_owned(),
        };
        if thought != Thought::Never {
            grammar += "thought: thinking /\\s*/\nthinking[suffix=\"</think>\"]: /(?s:.*)/\n";
        }
        // Where nothing that is seen ends a call, no other can follow.
        let is_closed = !self.end.1.is_empty() && before.contains('"') && !after.contains("<[");
        let more = |separator: &str, what: &str| match one_call {
            true => String::new(),
            false => format!(" ({separator} {what}){{0,{}}}", MAX_CALLS - 1),
        };
        grammar += &match (self.is_list, is_closed) {
            (true, _) => format!("calls: {before} \"[\" call{} \"]\" {after}\n", more("\", \"", "call")),
            (false, true) => {
                let more = more("\"\\n\"", "marked");
                format!("calls: marked{more}\nmarked: {before} call {after}\n")
            }
            (false, false) => format!("calls: {before} call {after}\n"),
        };
        let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        let _ = writeln!(grammar, "call: {}", names.join(" | "));
        for (i, tool) in tools.iter().enumerate() {
            let name = name_of(tool).unwrap_or_default();
            let head = literal(&format!("{{\"name\": {}, \"{}\": ", json!(name), self.key));
            let _ = writeln!(grammar, "call_{i}: {head} arguments_{i} \"}}\"");
            let _ = writeln!(grammar, "arguments_{i}: {}", json_rule(arguments_schema(name, tool)?));
        }
        Ok(Grammar::Calls(grammar))
    }
}

/// A text as it stands in a grammar, with a space around it; nothing for an empty one.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {} ", json!(text)) }
}

/// The schema of a tool's arguments: an object, without members that nobody described.
fn arguments_schema(name: &str, tool: &Json) -> ApiResult<Json> {
    let bad = || ApiError::bad(format!("the parameters of the tool {name} are no JSON schema of an object"));
    let mut schema: Map<String, Json> =
        match tool.get("function").and_then(|function| function.get("parameters")) {
            None | Some(Json::Null) => Map::from_iter([("properties".to_owned(), json!({}))]),
            Some(Json::Object(schema)) => schema.clone(),
            Some(_) => return Err(bad()),
        };
    if schema.get("type").is_some_and(|kind| kind != "object") {
        return Err(bad());
    }
    schema.insert("type".to_owned(), json!("object"));
    // What is left open is closed: whatever fits the closed schema fits the open one, too.
    let is_composed = ["$ref", "allOf", "anyOf", "oneOf", "if"].iter().any(|key| schema.contains_key(*key));
    if schema.contains_key("properties") && !is_composed {
        schema.entry("additionalProperties").or_insert(json!(false));
    }
    Ok(Json::Object(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, None, &[]).unwrap()
    }

    const HERMES: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}\
        {% for c in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": \
        {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    const LIST: &str = "{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS] [{\"name\": \"{{ m.tool_calls[0].function.name }}\", \
        \"arguments\": {{ m.tool_calls[0].function.arguments | tojson }}, \"id\": \"{{ m.tool_calls[0].id }}\"}]</s>\
        {% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}";
    const BARE: &str = "{% for m in messages %}<|{{ m.role }}|>\n{% if m.tool_calls %}{\"name\": \"{{ m.tool_calls[0].function.name }}\", \
        \"parameters\": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot|>{% else %}{{ m.content }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>\n{% endif %}";

    #[test]
    fn forms_are_read_from_what_templates_write() {
        let form = |source: &str| CallForm::of(&template(source), &[]);
        let of = |begin: (&'static str, &str), end: (&str, &'static str), is_list, key| {
            Some(CallForm {
                begin: (begin.0, begin.1.to_owned()),
                end: (end.0.to_owned(), end.1),
                is_list,
                key,
            })
        };
        let hermes = of(("<tool_call>", "\n"), ("\n", "</tool_call>"), false, "arguments");
        assert_eq!(form(HERMES), hermes);
        // A thought that is empty in history, and one that the prompt begins.
        let thinking =
            HERMES.replace("{% for c", "{% if m.tool_calls %}<think>\n\n</think>\n\n{% endif %}{% for c");
        assert_eq!(form(&thinking), hermes);
        assert_eq!(form(&HERMES.replace("<|assistant|>{% endif", "<|assistant|><think>\n{% endif")), hermes);
        assert_eq!(form(LIST), of(("[TOOL_CALLS]", " "), ("", ""), true, "arguments"));
        assert_eq!(form(BARE), of(("", ""), ("", ""), false, "parameters"));
    }

    #[test]
    fn forms_that_would_not_be_found_again_are_not_known() {
        for source in [
            "{% for m in messages %}{{ m.content or '' }}{% endfor %}",
            // Not JSON.
            &HERMES.replace("{\"name\": \"{{ c.function.name }}\"", "<function={{ c.function.name }}"),
            &HERMES.replace("\"name\"", "\"tool\""),
            &HERMES.replace("\"arguments\"", "\"input\""),
            &HERMES.replace("</tool_call>", ""),
            &HERMES.replace(
                "{{ c.function.arguments | tojson }}",
                "{{ c.function.arguments | tojson | tojson }}",
            ),
            &BARE.replace("{\"name\"", "call: {\"name\""),
            "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}",
        ] {
            assert_eq!(CallForm::of(&template(source), &[]), None, "{source}");
        }
    }

    fn tool(name: &str, parameters: &Json) -> Json {
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    }

    #[test]
    fn tools_that_make_no_sense_are_refused() {
        let check = |offered: Vec<Json>, choice| Tools { offered, choice, one_call: false }.check();
        let open = json!({});
        assert!(check(vec![tool("a", &open)], ToolChoice::Named("a".to_owned())).is_ok());
        assert!(check(vec![], ToolChoice::Auto).is_ok());
        for (offered, choice) in [
            (vec![], ToolChoice::Required),
            (vec![tool("a", &open)], ToolChoice::Named("b".to_owned())),
            (vec![tool("a", &open), tool("a", &open)], ToolChoice::Auto),
            (vec![tool("", &open)], ToolChoice::Auto),
            (vec![json!({"name": "a"})], ToolChoice::Auto),
            ((0..=MAX_TOOLS).map(|i| tool(&i.to_string(), &open)).collect(), ToolChoice::Auto),
        ] {
            assert!(check(offered, choice).is_err());
        }
    }

    #[test]
    fn arguments_are_objects_and_closed() {
        let schema = |parameters: Json| arguments_schema("a", &tool("a", &parameters)).map_err(|e| e.message);
        let none = json!({"properties": {}, "type": "object", "additionalProperties": false});
        assert_eq!(schema(Json::Null), Ok(none));
        assert_eq!(schema(json!({})), Ok(json!({"type": "object"})));
        let composed = json!({"type": "object", "properties": {}, "allOf": []});
        assert_eq!(schema(composed.clone()), Ok(composed));
        for bad in [json!("object"), json!([]), json!({"type": "string"})] {
            assert!(schema(bad.clone()).is_err(), "{bad}");
        }
    }
}
