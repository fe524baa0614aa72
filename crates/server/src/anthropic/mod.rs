//! Anthropic's `/v1/messages`.

use crate::answer::Piece;
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::ollama::MAX_STOPS;
use crate::openai::{Ready, Sampling, fresh_id, text_of};
use crate::prompt::{self, Conversation, from_json};
use crate::running::{News, Running};
use crate::state::Shared;
use crate::tools::{ToolChoice, Tools};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use rawrz_engine::{FinishReason, Generated};
use rawrz_text::{Message, ToolCall};
use serde::Deserialize;
use serde_json::{Value as Json, json};

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route("/v1/messages", post(messages))
}

pub(crate) fn error_json(error: &ApiError) -> Json {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.message}})
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MessagesRequest {
    model: String,
    messages: Vec<MessageIn>,
    system: Json,
    stream: Option<bool>,
    stop_sequences: Option<Vec<String>>,
    tools: Option<Vec<ToolIn>>,
    tool_choice: Option<ToolChoiceIn>,
    thinking: Option<Json>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
struct MessageIn {
    role: String,
    content: Json,
}

#[derive(Debug, Deserialize)]
struct ToolIn {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    input_schema: Json,
}

#[derive(Debug, Deserialize)]
struct ToolChoiceIn {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: bool,
}

fn tools(offered: Option<Vec<ToolIn>>, choice: Option<ToolChoiceIn>) -> ApiResult<Tools> {
    let tool = |tool: ToolIn| {
        let ToolIn { name, description, input_schema } = tool;
        json!({"type": "function", "function": {"name": name, "description": description, "parameters": input_schema}})
    };
    let offered = Some(offered.unwrap_or_default().into_iter().map(tool).collect());
    let Some(ToolChoiceIn { kind, name, disable_parallel_tool_use: one_call }) = choice else {
        return Ok(Tools::auto(offered));
    };
    let choice = match (kind.as_str(), name) {
        // What may not be called is not shown.
        ("none", _) => return Ok(Tools::default()),
        ("auto", _) => ToolChoice::Auto,
        ("any", _) => ToolChoice::Required,
        ("tool", Some(name)) => ToolChoice::Named(name),
        _ => return Err(ApiError::bad("tool_choice has a type: auto, any, none, or tool with its name")),
    };
    Ok(Tools { choice, one_call, ..Tools::auto(offered) })
}

/// A message of blocks becomes one of text and calls, and one for each result of a tool.
fn into_messages(message: MessageIn) -> ApiResult<Vec<Message>> {
    let Json::Array(blocks) = message.content else {
        return Ok(vec![Message {
            role: message.role,
            content: text_of(&message.content)?,
            ..Message::default()
        }]);
    };
    let (mut text, mut reasoning, mut tool_calls, mut results) =
        (String::new(), None, Vec::new(), Vec::new());
    for block in blocks {
        let field = |name: &str| block.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        match block.get("type").and_then(Json::as_str) {
            Some("text") => text.push_str(&field("text")),
            Some("thinking") => reasoning = Some(field("thinking")),
            Some("tool_use") => {
                let input = block.get("input").unwrap_or(&Json::Null);
                let call: ToolCall = prompt::tool_call(Some(field("id")), field("name"), input)?;
                tool_calls.push(call);
            }
            Some("tool_result") => results.push(Message {
                role: "tool".to_owned(),
                content: text_of(block.get("content").unwrap_or(&Json::Null))?,
                tool_call_id: Some(field("tool_use_id")),
                ..Message::default()
            }),
            Some(other) => return Err(ApiError::bad(format!("this model does not support {other} content"))),
            None => return Err(ApiError::bad("a block of a message has no type")),
        }
    }
    if !text.is_empty() || !tool_calls.is_empty() || results.is_empty() {
        let content = (!text.is_empty() || tool_calls.is_empty()).then_some(text);
        results.push(Message { role: message.role, content, reasoning, tool_calls, ..Message::default() });
    }
    Ok(results)
}

async fn messages(State(state): State<Shared>, request: Request) -> Response {
    let result = try_messages(&state, request).await;
    result.unwrap_or_else(|error| http::failure(&error, &error_json(&error)))
}

async fn try_messages(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let (body, _room): (MessagesRequest, _) = http::json(state, request).await?;
    if body.messages.is_empty() {
        return Err(ApiError::bad("messages is empty"));
    }
    let mut options = body.sampling.options()?;
    if body.sampling.max_tokens.is_none() {
        return Err(ApiError::bad("max_tokens is required"));
    }
    let stops = body.stop_sequences.unwrap_or_default();
    if stops.len() > MAX_STOPS {
        return Err(ApiError::bad(format!("stop_sequences has at most {MAX_STOPS} texts")));
    }
    options.stop = stops;
    let mut messages = Vec::new();
    messages.extend(text_of(&body.system)?.map(|text| Message::text("system", &text)));
    for message in body.messages {
        messages.extend(into_messages(message)?);
    }
    let tools = tools(body.tools, body.tool_choice)?;
    let thinks = body.thinking.as_ref().and_then(|thinking| thinking.get("type")).and_then(Json::as_str);
    let think = match thinks {
        Some("disabled") => Some(false),
        Some("enabled") => Some(true),
        _ => None,
    };
    let conversation = Conversation { messages, tools, think, truncate: false };
    let ready = Ready::new(state, &body.model, client).await?;
    let make =
        move |ready: &Ready| prompt::chat(&ready.model, &ready.loaded, conversation, ready.context_len());
    let running = ready.run(options, None, make).await?;
    let form = Form { id: fresh_id("msg_"), model: body.model };
    if body.stream == Some(true) {
        return Ok(http::stream(Framing::Sse, move |writer| async move {
            let _ = form.stream(&writer, running).await;
        }));
    }
    let (pieces, _, ended) = running.collect().await?;
    let mut blocks: Vec<Json> = Vec::new();
    for piece in pieces {
        let (kind, text) = match piece {
            Piece::Call { name, arguments } => {
                blocks.push(json!({"type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": from_json(&arguments)}));
                continue;
            }
            Piece::Text(text) => ("text", text),
            Piece::Thinking(text) => ("thinking", text),
        };
        match blocks.last_mut().filter(|last| last["type"] == kind) {
            Some(last) => last[kind] = (last[kind].as_str().unwrap_or_default().to_owned() + &text).into(),
            None => blocks.push(json!({"type": kind, kind: text})),
        }
    }
    let has_calls = blocks.iter().any(|block| block["type"] == "tool_use");
    let mut message = form.message(blocks);
    message["stop_reason"] = stop_reason(&ended.generated, has_calls).into();
    message["usage"] = usage(&ended.generated);
    Ok(http::answer(StatusCode::OK, &message))
}

fn stop_reason(generated: &Generated, has_calls: bool) -> &'static str {
    match generated.finish {
        _ if has_calls => "tool_use",
        FinishReason::Stop => "stop_sequence",
        FinishReason::EndOfGeneration | FinishReason::Cancelled => "end_turn",
        FinishReason::MaxTokens | FinishReason::ContextFull => "max_tokens",
    }
}

fn usage(generated: &Generated) -> Json {
    json!({
        "input_tokens": generated.prompt_tokens - generated.reused_tokens,
        "cache_read_input_tokens": generated.reused_tokens,
        "output_tokens": generated.tokens.len(),
    })
}

struct Form {
    id: String,
    model: String,
}

impl Form {
    fn message(&self, blocks: Vec<Json>) -> Json {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": blocks,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        })
    }

    async fn stream(&self, writer: &Writer, mut running: Running) -> Result<(), Gone> {
        let start = json!({"type": "message_start", "message": self.message(Vec::new())});
        writer.event("message_start", &start).await?;
        // The block under way: its number and kind.
        let mut open: Option<(usize, &str)> = None;
        let (mut n_blocks, mut has_calls) = (0, false);
        loop {
            let news = match running.next().await {
                Ok(Some(news)) => news,
                Ok(None) => return Ok(()),
                Err(error) => return writer.event("error", &error_json(&error)).await,
            };
            match news {
                News::Prompt { .. } => {}
                News::Answer { pieces, .. } => {
                    for piece in pieces {
                        let (kind, block, delta) = match piece {
                            Piece::Text(text) => (
                                "text",
                                json!({"type": "text", "text": ""}),
                                json!({"type": "text_delta", "text": text}),
                            ),
                            Piece::Thinking(text) => (
                                "thinking",
                                json!({"type": "thinking", "thinking": ""}),
                                json!({"type": "thinking_delta", "thinking": text}),
                            ),
                            Piece::Call { name, arguments } => {
                                has_calls = true;
                                let block = json!({"type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": {}});
                                let input = from_json(&arguments).to_string();
                                (
                                    "tool_use",
                                    block,
                                    json!({"type": "input_json_delta", "partial_json": input}),
                                )
                            }
                        };
                        if open.is_none_or(|(_, of)| of != kind || kind == "tool_use") {
                            stop_block(writer, open.take()).await?;
                            let start = json!({"type": "content_block_start", "index": n_blocks, "content_block": block});
                            writer.event("content_block_start", &start).await?;
                            open = Some((n_blocks, kind));
                            n_blocks += 1;
                        }
                        let delta =
                            json!({"type": "content_block_delta", "index": n_blocks - 1, "delta": delta});
                        writer.event("content_block_delta", &delta).await?;
                    }
                }
                News::End(ended) => {
                    stop_block(writer, open.take()).await?;
                    let reason = stop_reason(&ended.generated, has_calls);
                    let delta = json!({
                        "type": "message_delta",
                        "delta": {"stop_reason": reason, "stop_sequence": null},
                        "usage": usage(&ended.generated),
                    });
                    writer.event("message_delta", &delta).await?;
                    writer.event("message_stop", &json!({"type": "message_stop"})).await?;
                }
            }
        }
    }
}

async fn stop_block(writer: &Writer, open: Option<(usize, &str)>) -> Result<(), Gone> {
    match open {
        Some((index, _)) => {
            let stop = json!({"type": "content_block_stop", "index": index});
            writer.event("content_block_stop", &stop).await
        }
        None => Ok(()),
    }
}
