//! What a chat template is given.

use crate::json::Json;

/// A conversation to render.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatInput {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Tools that the model may call, each as the JSON object that the OpenAI API defines. `None` and empty are
    /// different to some templates.
    pub tools: Option<Vec<Json>>,
    /// Ends the text where the model's answer starts.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub extra: Vec<(String, Json)>,
    /// What `strftime_now` tells; `None` counts as 1970-01-01 00:00:00.
    pub now: Option<LocalTime>,
}

/// A time of day somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub unix_s: i64,
    /// Local time minus UTC, in seconds.
    pub utc_offset_s: i32,
}

/// One message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` or what else the template knows.
    pub role: String,
    /// The text. `None` where an assistant only calls tools.
    pub content: Option<String>,
    /// What the model thought before it answered.
    pub reasoning: Option<String>,
    /// Tools that the assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// For a tool's result: the call that it answers.
    pub tool_call_id: Option<String>,
    /// For a tool's result: the tool. For others, a name of the speaker.
    pub name: Option<String>,
}

impl Message {
    /// A message of text.
    pub fn text(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: Some(content.to_owned()), ..Message::default() }
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Tells calls apart.
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// What it is given; an object as a rule.
    pub arguments: Json,
}
