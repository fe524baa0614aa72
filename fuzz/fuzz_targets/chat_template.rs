//! Any template is refused, fails or renders: it does not end the process, and neither time nor memory runs away.
//!
//! Input: the template, a byte 0xFF, and the text of a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_text::{ChatInput, ChatTemplate, Json, Message, ToolCall};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (source, content) = (part(), part());
    let arguments = Json::parse(&content).unwrap_or_else(|_| Json::Str(content.clone()));
    let Ok(template) = ChatTemplate::new(&source, None, &[("bos_token", Some("<s>"))]) else {
        return;
    };
    let call = ToolCall { id: Some("c".to_owned()), name: content.clone(), arguments: arguments.clone() };
    let assistant = Message { role: "assistant".to_owned(), tool_calls: vec![call], ..Message::default() };
    let input = ChatInput {
        messages: vec![Message::text("user", &content), assistant],
        tools: Some(vec![arguments]),
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    if let Ok(prompt) = template.render(&input) {
        assert!(prompt.len() < 8 << 20);
    }
});
