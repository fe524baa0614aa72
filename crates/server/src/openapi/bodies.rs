//! Schemas of bodies: the fields that are read, with the types they may have.

use crate::choices::MAX_CHOICES;
use crate::embedding::MAX_TEXTS;
use crate::ollama::{MAX_STOPS, MAX_TOP_LOGPROBS};
use serde_json::{Map, Value as Json, json};

/// An object whose members of the names in `required` have to be there.
fn body(required: &[&str], properties: Json) -> Json {
    json!({"type": "object", "required": required, "properties": properties})
}

fn join(mut one: Json, other: Json) -> Json {
    if let (Some(one), Json::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

fn text() -> Json {
    json!({"type": "string"})
}

fn name() -> Json {
    json!({"type": "string", "minLength": 1})
}

/// What may be left out, or be null.
fn optional(kind: &str) -> Json {
    json!({"type": [kind, "null"]})
}

fn number(least: f64, most: f64) -> Json {
    json!({"type": ["number", "null"], "minimum": least, "maximum": most})
}

fn integer(least: u64, most: Option<u64>) -> Json {
    let mut schema = json!({"type": ["integer", "null"], "minimum": least});
    if let Some(most) = most {
        schema["maximum"] = most.into();
    }
    schema
}

fn texts() -> Json {
    json!({"type": "array", "items": text()})
}

fn objects() -> Json {
    json!({"type": ["array", "null"], "items": {"type": "object"}})
}

/// A text, or a list of parts of which those of text are taken.
fn content() -> Json {
    let part = json!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"enum": ["text", "input_text", "output_text"]}, "text": text()},
    });
    json!({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": part}]})
}

fn keep_alive() -> Json {
    json!({"type": ["number", "string", "null"]})
}

fn top_logprobs() -> Json {
    integer(0, Some(MAX_TOP_LOGPROBS as u64))
}

/// What `/api/generate` and `/api/chat` both take.
fn ollama() -> Json {
    json!({
        "model": name(),
        "stream": optional("boolean"),
        "format": {"anyOf": [{"enum": ["", "json", null]}, {"type": "object"}]},
        "options": optional("object"),
        "keep_alive": keep_alive(),
        "think": {"anyOf": [{"type": ["boolean", "null"]}, {"enum": ["low", "medium", "high"]}]},
        "logprobs": optional("boolean"),
        "top_logprobs": top_logprobs(),
    })
}

pub(super) fn generate() -> Json {
    let more = json!({
        "prompt": text(),
        "suffix": optional("string"),
        "system": optional("string"),
        "template": optional("string"),
        "context": {"type": ["array", "null"], "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}},
        "raw": {"type": "boolean"},
        "images": {"type": ["array", "null"], "maxItems": 0, "description": "refused: the models read text"},
    });
    body(&["model"], join(ollama(), more))
}

/// A call within a conversation.
fn call() -> Json {
    let function = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": text(), "arguments": {"type": ["object", "string"]}},
    });
    json!({"type": "object", "required": ["function"], "properties": {"id": optional("string"), "function": function}})
}

fn calls() -> Json {
    json!({"type": ["array", "null"], "items": call()})
}

fn messages_of(properties: Json) -> Json {
    let message = body(&["role"], properties);
    json!({"type": "array", "items": message})
}

pub(super) fn chat() -> Json {
    let messages = messages_of(json!({
        "role": name(),
        "content": text(),
        "thinking": optional("string"),
        "images": {"type": ["array", "null"], "maxItems": 0, "description": "refused: the models read text"},
        "tool_calls": calls(),
        "tool_name": optional("string"),
        "tool_call_id": optional("string"),
    }));
    let more = json!({"messages": messages, "tools": objects(), "truncate": optional("boolean")});
    body(&["model"], join(ollama(), more))
}

pub(super) fn embed() -> Json {
    let input = json!({"anyOf": [text(), {"type": "array", "items": text(), "maxItems": MAX_TEXTS}]});
    let properties = json!({
        "model": name(),
        "input": input,
        "truncate": optional("boolean"),
        "dimensions": integer(1, None),
        "keep_alive": keep_alive(),
        "options": optional("object"),
    });
    body(&["model", "input"], properties)
}

pub(super) fn embeddings() -> Json {
    body(&["model"], json!({"model": name(), "prompt": text(), "keep_alive": keep_alive()}))
}

pub(super) fn show() -> Json {
    body(&["model"], json!({"model": name(), "verbose": {"type": "boolean"}}))
}

pub(super) fn create() -> Json {
    let properties = json!({
        "model": name(),
        "from": text(),
        "files": {"type": "object", "additionalProperties": text()},
        "template": optional("string"),
        "system": optional("string"),
        "license": {"anyOf": [{"type": ["string", "null"]}, texts()]},
        "parameters": optional("object"),
        "messages": objects(),
        "stream": optional("boolean"),
    });
    body(&["model"], properties)
}

pub(super) fn copy() -> Json {
    body(&["source", "destination"], json!({"source": name(), "destination": name()}))
}

pub(super) fn delete() -> Json {
    body(&["model"], json!({"model": name()}))
}

pub(super) fn pull() -> Json {
    body(&["model"], json!({"model": name(), "stream": optional("boolean")}))
}

/// What requests set of sampling.
fn sampling() -> Json {
    json!({
        "temperature": number(0.0, 100.0),
        "top_p": number(0.0, 1.0),
        "top_k": integer(0, None),
        "min_p": number(0.0, 1.0),
        "frequency_penalty": number(-2.0, 2.0),
        "presence_penalty": number(-2.0, 2.0),
        "repeat_penalty": number(0.01, 100.0),
        "seed": optional("integer"),
        "ignore_eos": optional("boolean"),
    })
}

fn stop() -> Json {
    json!({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": text(), "maxItems": MAX_STOPS}]})
}

fn choices() -> Json {
    integer(1, Some(MAX_CHOICES as u64))
}

fn response_format() -> Json {
    let of_schema = body(&["schema"], json!({"name": text(), "schema": {"type": "object"}}));
    json!({"anyOf": [
        {"type": "null"},
        body(&["type"], json!({"type": {"enum": ["text", "json_object"]}})),
        body(&["type", "json_schema"], json!({"type": {"const": "json_schema"}, "json_schema": of_schema})),
        body(&["type", "regex"], json!({"type": {"const": "regex"}, "regex": text()})),
    ]})
}

fn stream_options() -> Json {
    json!({"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}})
}

/// The members of a function: in it, or beside its type.
fn function() -> Map<String, Json> {
    let members = [("name", name()), ("description", optional("string")), ("parameters", optional("object"))];
    members.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect()
}

fn tools() -> Json {
    let function = body(&["name"], function().into());
    let tool = body(&["type", "function"], json!({"type": {"const": "function"}, "function": function}));
    json!({"type": ["array", "null"], "items": tool})
}

fn words_or(named: Json) -> Json {
    json!({"anyOf": [{"enum": ["none", "auto", "required", null]}, named]})
}

pub(super) fn chat_completions() -> Json {
    let messages = messages_of(json!({
        "role": name(),
        "content": content(),
        "name": optional("string"),
        "reasoning_content": optional("string"),
        "tool_calls": calls(),
        "tool_call_id": optional("string"),
    }));
    let function = body(&["name"], json!({"name": name()}));
    let named = body(&["type", "function"], json!({"type": {"const": "function"}, "function": function}));
    let more = json!({
        "model": name(),
        "messages": join(messages, json!({"minItems": 1})),
        "stream": optional("boolean"),
        "stream_options": stream_options(),
        "max_tokens": integer(0, None),
        "max_completion_tokens": integer(0, None),
        "stop": stop(),
        "n": choices(),
        "tools": tools(),
        "tool_choice": words_or(named),
        "parallel_tool_calls": optional("boolean"),
        "response_format": response_format(),
        "logprobs": optional("boolean"),
        "top_logprobs": top_logprobs(),
        "reasoning_effort": optional("string"),
        "chat_template_kwargs": optional("object"),
    });
    body(&["model", "messages"], join(more, sampling()))
}

pub(super) fn completions() -> Json {
    let tokens = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}});
    let one_text = json!({"type": "array", "minItems": 1, "maxItems": 1, "items": text()});
    let more = json!({
        "model": name(),
        "prompt": {"anyOf": [text(), tokens, one_text]},
        "suffix": optional("string"),
        "stream": optional("boolean"),
        "stream_options": stream_options(),
        "max_tokens": integer(0, None),
        "stop": stop(),
        "n": choices(),
        "best_of": choices(),
        "echo": optional("boolean"),
        "logprobs": top_logprobs(),
        "response_format": response_format(),
    });
    body(&["model", "prompt"], join(more, sampling()))
}

pub(super) fn openai_embeddings() -> Json {
    let tokens = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}});
    let many = |items: Json| json!({"type": "array", "minItems": 1, "maxItems": MAX_TEXTS, "items": items});
    let properties = json!({
        "model": name(),
        "input": {"anyOf": [text(), many(text()), tokens.clone(), many(tokens)]},
        "dimensions": integer(1, None),
        "encoding_format": {"enum": ["float", "base64", null]},
    });
    body(&["model", "input"], properties)
}

pub(super) fn responses() -> Json {
    let message =
        body(&["role"], json!({"type": {"const": "message"}, "role": name(), "content": content()}));
    let call =
        json!({"type": {"const": "function_call"}, "call_id": name(), "name": name(), "arguments": text()});
    let output = json!({"type": {"const": "function_call_output"}, "call_id": name(), "output": content()});
    let items = json!({"anyOf": [
        message,
        body(&["type", "call_id", "name", "arguments"], call),
        body(&["type", "call_id", "output"], output),
    ]});
    let tool = join(function().into(), json!({"type": {"const": "function"}, "strict": optional("boolean")}));
    let named = body(&["type", "name"], json!({"type": {"const": "function"}, "name": name()}));
    let format = json!({"anyOf": [
        {"type": "null"},
        body(&["type"], json!({"type": {"enum": ["text", "json_object"]}})),
        body(&["type", "schema"], json!({"type": {"const": "json_schema"}, "name": text(), "schema": {"type": "object"}})),
    ]});
    let more = json!({
        "model": name(),
        "input": {"anyOf": [text(), {"type": "array", "items": items}]},
        "instructions": optional("string"),
        "stream": optional("boolean"),
        "max_output_tokens": integer(0, None),
        "text": {"type": ["object", "null"], "properties": {"format": format}},
        "tools": {"type": ["array", "null"], "items": body(&["type", "name"], tool)},
        "tool_choice": words_or(named),
        "parallel_tool_calls": optional("boolean"),
        "previous_response_id": {"type": "null", "description": "responses are not kept"},
    });
    body(&["model", "input"], join(more, sampling()))
}

pub(super) fn messages() -> Json {
    let blocks = json!({"type": "array", "items": {"anyOf": [
        body(&["type", "text"], json!({"type": {"const": "text"}, "text": text()})),
        body(&["type", "thinking"], json!({"type": {"const": "thinking"}, "thinking": text()})),
        body(
            &["type", "id", "name", "input"],
            json!({"type": {"const": "tool_use"}, "id": name(), "name": name(), "input": {"type": "object"}}),
        ),
        body(
            &["type", "tool_use_id"],
            json!({"type": {"const": "tool_result"}, "tool_use_id": name(), "content": content()}),
        ),
    ]}});
    let message = body(&["role", "content"], json!({"role": name(), "content": {"anyOf": [text(), blocks]}}));
    let tool =
        body(&["name"], json!({"name": name(), "description": text(), "input_schema": {"type": "object"}}));
    let choice = json!({"anyOf": [
        {"type": "null"},
        body(&["type"], json!({"type": {"enum": ["auto", "any", "none"]}, "disable_parallel_tool_use": {"type": "boolean"}})),
        body(&["type", "name"], json!({"type": {"const": "tool"}, "name": name(), "disable_parallel_tool_use": {"type": "boolean"}})),
    ]});
    let more = json!({
        "model": name(),
        "messages": {"type": "array", "minItems": 1, "items": message},
        "max_tokens": {"type": "integer", "minimum": 0},
        "system": content(),
        "stream": optional("boolean"),
        "stop_sequences": {"type": ["array", "null"], "items": text(), "maxItems": MAX_STOPS},
        "tools": {"type": ["array", "null"], "items": tool},
        "tool_choice": choice,
        "thinking": {"type": ["object", "null"], "properties": {"type": {"enum": ["enabled", "disabled"]}}},
    });
    body(&["model", "messages", "max_tokens"], join(more, sampling()))
}
