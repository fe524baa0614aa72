//! The chat templates of the real models against what Python's jinja2 makes of them.
//! How that was recorded, and where llama-server differs: `tests/goldens/templates/record.py`.

mod common;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rawrz_gguf::Gguf;
use rawrz_text::{ChatInput, ChatTemplate, Json, Message, Tokenizer, ToolCall};

#[test]
fn smollm2_prompts_are_those_of_jinja2() {
    compare("smollm2");
}

#[test]
fn qwen_prompts_are_those_of_jinja2() {
    compare("qwen");
}

#[test]
fn gemma_names_no_template() {
    assert!(template("gemma").is_none());
}

fn template(alias: &str) -> Option<ChatTemplate> {
    let path = common::model(alias);
    let file = std::fs::File::open(&path).expect("the model opens");
    let file_len = file.metadata().expect("it has a length").len();
    let mut header = Vec::new();
    file.take(32 << 20).read_to_end(&mut header).expect("the model reads");
    let gguf = Gguf::parse(Arc::new(header), file_len).expect("the model parses");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("its vocabulary loads");
    ChatTemplate::from_gguf(&gguf, &tokenizer).expect("its template is valid")
}

fn text(json: &Json, key: &str) -> Option<String> {
    json.get(key).and_then(Json::as_str).map(str::to_owned)
}

fn message(json: &Json) -> Message {
    let calls = json.get("tool_calls").and_then(Json::as_array).unwrap_or_default();
    let call = |call: &Json| {
        let function = call.get("function").expect("a call has a function");
        ToolCall {
            id: text(call, "id"),
            name: text(function, "name").expect("a function has a name"),
            arguments: function.get("arguments").expect("a call has arguments").clone(),
        }
    };
    Message {
        role: text(json, "role").expect("a message has a role"),
        content: text(json, "content"),
        reasoning: text(json, "reasoning_content"),
        tool_calls: calls.iter().map(call).collect(),
        tool_call_id: text(json, "tool_call_id"),
        name: text(json, "name"),
    }
}

fn compare(alias: &str) {
    let template = template(alias).expect("the model names a template");
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/templates/{alias}.json"));
    let record = std::fs::read_to_string(path).expect("the goldens read");
    let record = Json::parse(&record).expect("the goldens are JSON");
    let conversations = record.get("conversations").and_then(Json::as_array).expect("conversations");
    assert!(conversations.len() >= 16);
    for conversation in conversations {
        let name = text(conversation, "name").expect("a conversation has a name");
        let messages = conversation.get("messages").and_then(Json::as_array).expect("messages");
        let input = ChatInput {
            messages: messages.iter().map(message).collect(),
            tools: conversation.get("tools").and_then(Json::as_array).map(<[Json]>::to_vec),
            add_generation_prompt: conversation.get("add_generation_prompt") == Some(&Json::Bool(true)),
            ..ChatInput::default()
        };
        let expected = text(conversation, "jinja2").expect("the recorded prompt");
        assert_eq!(template.render(&input).expect("it renders"), expected, "{alias}: {name}");
        // The server leaves the assistant's last message open, and is the same but for that.
        if let Some(reference) = text(conversation, "llama_server") {
            assert!(expected.starts_with(&reference), "{alias}: {name}");
            assert_eq!(input.messages.last().map(|m| m.role.as_str()), Some("assistant"), "{alias}: {name}");
        }
    }
}
