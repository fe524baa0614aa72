//! `/v1/responses`: text and calls of tools, with the events that clients build a response from.

use super::chat::{ChatMessage, into_message, text_of};
use super::sampling::{Ready, Sampling, grammar};
use super::tools::tools;
use super::{fresh_id, now, ok, respond};
use crate::answer::Piece;
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::prompt::{self, Conversation, from_json};
use crate::running::{News, Running, finish_reason};
use crate::state::Shared;
use axum::extract::{Request, State};
use axum::response::Response;
use rawrz_engine::Generated;
use rawrz_text::Message;
use serde::Deserialize;
use serde_json::{Value as Json, json};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponsesRequest {
    model: String,
    input: Json,
    instructions: Option<String>,
    stream: Option<bool>,
    text: Option<Json>,
    tools: Option<Vec<Json>>,
    tool_choice: Option<Json>,
    parallel_tool_calls: Option<bool>,
    previous_response_id: Option<String>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
struct CallIn {
    call_id: String,
    name: String,
    #[serde(default)]
    arguments: Json,
}

#[derive(Debug, Deserialize)]
struct CallOutputIn {
    call_id: String,
    output: Json,
}

pub(super) async fn responses(State(state): State<Shared>, request: Request) -> Response {
    respond(try_responses(&state, request).await)
}

async fn try_responses(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let (body, _room): (ResponsesRequest, _) = http::json(state, request).await?;
    if body.previous_response_id.is_some() {
        return Err(ApiError::bad(
            "previous_response_id: responses are not kept; send the whole conversation",
        ));
    }
    let mut messages: Vec<Message> =
        body.instructions.iter().map(|text| Message::text("system", text)).collect();
    match body.input {
        Json::String(text) => messages.push(Message::text("user", &text)),
        Json::Array(items) => {
            for item in items {
                add_item(&mut messages, item)?;
            }
        }
        _ => return Err(ApiError::bad("input is a text or a list of items")),
    }
    let form = Form {
        id: fresh_id("resp_"),
        created: now(),
        model: body.model.clone(),
        tools: body.tools.clone().unwrap_or_default().into(),
        tool_choice: body.tool_choice.clone().unwrap_or_else(|| json!("auto")),
        parallel_tool_calls: body.parallel_tool_calls != Some(false),
    };
    let options = body.sampling.options()?;
    let grammar = grammar(body.text.as_ref().and_then(|text| text.get("format")))?;
    let tools = tools(body.tools, body.tool_choice.as_ref(), body.parallel_tool_calls)?;
    let conversation = Conversation { messages, tools, ..Conversation::default() };
    let ready = Ready::new(state, &body.model, client).await?;
    let make =
        move |ready: &Ready| prompt::chat(&ready.model, &ready.loaded, conversation, ready.context_len());
    let running = ready.run(options, grammar, make).await?;
    if body.stream == Some(true) {
        return Ok(http::stream(Framing::Sse, move |writer| async move {
            let _ = form.stream(&writer, running).await;
        }));
    }
    let (pieces, _, ended) = running.collect().await?;
    let (mut output, mut events) = (Output::default(), Vec::new());
    for piece in pieces {
        output.piece(piece, &mut events);
        events.clear();
    }
    output.finish(&mut events);
    ok(&form.response(output.items, Some(&ended.generated)))
}

/// Adds what an item of the input says to the conversation.
fn add_item(messages: &mut Vec<Message>, item: Json) -> ApiResult<()> {
    let bad = |error: serde_json::Error| ApiError::bad(format!("input: {error}"));
    match item.get("type").and_then(Json::as_str).unwrap_or("message") {
        "message" => {
            let message: ChatMessage = serde_json::from_value(item).map_err(bad)?;
            messages.push(into_message(message)?);
        }
        "function_call" => {
            let CallIn { call_id, name, arguments } = serde_json::from_value(item).map_err(bad)?;
            let call = prompt::tool_call(Some(call_id), name, &arguments)?;
            // What was said and called in one turn is one message.
            match messages.last_mut().filter(|last| last.role == "assistant") {
                Some(last) => last.tool_calls.push(call),
                None => messages.push(Message {
                    role: "assistant".to_owned(),
                    tool_calls: vec![call],
                    ..Message::default()
                }),
            }
        }
        "function_call_output" => {
            let CallOutputIn { call_id, output } = serde_json::from_value(item).map_err(bad)?;
            let mut calls = messages.iter().flat_map(|message| &message.tool_calls);
            let call = calls.find(|call| call.id.as_deref() == Some(&call_id));
            let unknown =
                || ApiError::bad(format!("input: there is no function_call {call_id} before its output"));
            messages.push(Message {
                role: "tool".to_owned(),
                name: Some(call.ok_or_else(unknown)?.name.clone()),
                content: text_of(&output)?,
                tool_call_id: Some(call_id),
                ..Message::default()
            });
        }
        other => return Err(ApiError::bad(format!("input items of type {other} are not supported"))),
    }
    Ok(())
}

/// What happens to a response, and what is told of it.
type Events = Vec<(&'static str, Json)>;

/// The items of a response as they are made.
#[derive(Default)]
struct Output {
    /// Those that are whole.
    items: Vec<Json>,
    /// Id and text of the message under way.
    message: Option<(String, String)>,
}

impl Output {
    fn piece(&mut self, piece: Piece, events: &mut Events) {
        match piece {
            // There is no place for it without encryption or a summary.
            Piece::Thinking(_) => {}
            Piece::Text(more) => {
                let index = self.items.len();
                let (id, text) = self.message.get_or_insert_with(|| open_message(index, events));
                text.push_str(&more);
                events.push(("response.output_text.delta", in_message(id, index, json!({"delta": more}))));
            }
            Piece::Call { name, arguments } => {
                self.close(events);
                let (id, arguments) = (fresh_id("fc_"), from_json(&arguments).to_string());
                let mut item = json!({
                    "type": "function_call",
                    "id": id,
                    "call_id": fresh_id("call_"),
                    "name": name,
                    "arguments": "",
                    "status": "in_progress",
                });
                let index = self.items.len();
                let place = |mut value: Json| {
                    value["item_id"] = id.clone().into();
                    value["output_index"] = index.into();
                    value
                };
                events.push(("response.output_item.added", json!({"output_index": index, "item": item})));
                let delta = place(json!({"delta": arguments}));
                events.push(("response.function_call_arguments.delta", delta));
                let done = place(json!({"name": name, "arguments": arguments}));
                events.push(("response.function_call_arguments.done", done));
                item["arguments"] = arguments.into();
                item["status"] = "completed".into();
                events.push(("response.output_item.done", json!({"output_index": index, "item": item})));
                self.items.push(item);
            }
        }
    }

    /// Ends the message under way.
    fn close(&mut self, events: &mut Events) {
        let Some((id, text)) = self.message.take() else { return };
        let index = self.items.len();
        let item = message_item(&id, "completed", &[part(&text)]);
        events.push(("response.output_text.done", in_message(&id, index, json!({"text": text}))));
        events.push(("response.content_part.done", in_message(&id, index, json!({"part": part(&text)}))));
        events.push(("response.output_item.done", json!({"output_index": index, "item": item})));
        self.items.push(item);
    }

    /// Ends all. A response has one item at least, if only an empty message.
    fn finish(&mut self, events: &mut Events) {
        if self.items.is_empty() {
            self.message.get_or_insert_with(|| open_message(0, events));
        }
        self.close(events);
    }
}

/// The id of a message that begins, and its text so far.
fn open_message(index: usize, events: &mut Events) -> (String, String) {
    let id = fresh_id("msg_");
    let item = message_item(&id, "in_progress", &[]);
    events.push(("response.output_item.added", json!({"output_index": index, "item": item})));
    events.push(("response.content_part.added", in_message(&id, index, json!({"part": part("")}))));
    (id, String::new())
}

fn message_item(id: &str, status: &str, content: &[Json]) -> Json {
    json!({"type": "message", "id": id, "status": status, "role": "assistant", "content": content})
}

fn part(text: &str) -> Json {
    json!({"type": "output_text", "text": text, "annotations": []})
}

fn in_message(id: &str, index: usize, mut value: Json) -> Json {
    value["item_id"] = id.into();
    value["output_index"] = index.into();
    value["content_index"] = 0.into();
    value
}

struct Form {
    id: String,
    created: i64,
    model: String,
    /// As the request has them.
    tools: Json,
    tool_choice: Json,
    parallel_tool_calls: bool,
}

impl Form {
    /// The response, at its start or with what was generated.
    fn response(&self, output: Vec<Json>, generated: Option<&Generated>) -> Json {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": "in_progress",
            "output": output,
            "error": null,
            "incomplete_details": null,
            "parallel_tool_calls": self.parallel_tool_calls,
            "tool_choice": self.tool_choice,
            "tools": self.tools,
        });
        if let Some(generated) = generated {
            let is_cut = finish_reason(generated.finish) == "length";
            response["status"] = if is_cut { "incomplete" } else { "completed" }.into();
            if is_cut {
                response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            let (input, output) = (generated.prompt_tokens, generated.tokens.len());
            response["usage"] = json!({
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": generated.reused_tokens},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": input + output,
            });
        }
        response
    }

    async fn stream(&self, writer: &Writer, mut running: Running) -> Result<(), Gone> {
        let begun = json!({"response": self.response(Vec::new(), None)});
        let mut events: Events = vec![("response.created", begun.clone()), ("response.in_progress", begun)];
        let mut output = Output::default();
        let (mut number, mut is_over) = (0, false);
        loop {
            for (kind, mut value) in events.drain(..) {
                value["type"] = kind.into();
                value["sequence_number"] = number.into();
                number += 1;
                writer.event(kind, &value).await?;
            }
            if is_over {
                return Ok(());
            }
            match running.next().await {
                Ok(Some(News::Prompt { .. })) => {}
                Ok(Some(News::Answer { pieces, .. })) => {
                    pieces.into_iter().for_each(|piece| output.piece(piece, &mut events));
                }
                Ok(Some(News::End(ended))) => {
                    output.finish(&mut events);
                    let items = std::mem::take(&mut output.items);
                    let response = self.response(items, Some(&ended.generated));
                    let is_whole = response["status"] == "completed";
                    let last = if is_whole { "response.completed" } else { "response.incomplete" };
                    events.push((last, json!({"response": response})));
                    is_over = true;
                }
                Ok(None) => is_over = true,
                Err(error) => {
                    events.push(("error", json!({"message": error.message, "code": null, "param": null})));
                    is_over = true;
                }
            }
        }
    }
}
