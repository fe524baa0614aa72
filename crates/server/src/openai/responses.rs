//! `/v1/responses`: text in and text out, with the events that clients build a response from.

use super::chat::{ChatMessage, into_message};
use super::sampling::{Ready, Sampling, grammar};
use super::{fresh_id, now, ok, respond};
use crate::answer::Piece;
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::prompt::{self, Conversation};
use crate::running::{News, Running, Whole, finish_reason};
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
    previous_response_id: Option<String>,
    #[serde(flatten)]
    sampling: Sampling,
}

pub(super) async fn responses(State(state): State<Shared>, request: Request) -> Response {
    respond(try_responses(&state, request).await)
}

async fn try_responses(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let body: ResponsesRequest = http::json(state, request).await?;
    if body.previous_response_id.is_some() {
        return Err(ApiError::bad(
            "previous_response_id: responses are not kept; send the whole conversation",
        ));
    }
    if body.tools.is_some_and(|tools| !tools.is_empty()) {
        return Err(ApiError::bad("tools are not supported here; /v1/chat/completions has them"));
    }
    let mut messages: Vec<Message> =
        body.instructions.iter().map(|text| Message::text("system", text)).collect();
    match body.input {
        Json::String(text) => messages.push(Message::text("user", &text)),
        Json::Array(items) => {
            for item in items {
                if let Some(other) = item.get("type").and_then(Json::as_str).filter(|kind| *kind != "message")
                {
                    return Err(ApiError::bad(format!("input items of type {other} are not supported")));
                }
                let message: ChatMessage =
                    serde_json::from_value(item).map_err(|error| ApiError::bad(format!("input: {error}")))?;
                messages.push(into_message(message)?);
            }
        }
        _ => return Err(ApiError::bad("input is a text or a list of messages")),
    }
    let options = body.sampling.options()?;
    let grammar = grammar(body.text.as_ref().and_then(|text| text.get("format")))?;
    let conversation = Conversation { messages, ..Conversation::default() };
    let ready = Ready::new(state, &body.model, client).await?;
    let make =
        move |ready: &Ready| prompt::chat(&ready.model, &ready.loaded, conversation, ready.context_len());
    let running = ready.run(options, grammar, make).await?;
    let form = Form { id: fresh_id("resp_"), item: fresh_id("msg_"), created: now(), model: body.model };
    if body.stream == Some(true) {
        return Ok(http::stream(Framing::Sse, move |writer| async move {
            let _ = form.stream(&writer, running).await;
        }));
    }
    let (pieces, _, ended) = running.collect().await?;
    ok(&form.response(&Whole::of(pieces).text, Some(&ended.generated)))
}

struct Form {
    id: String,
    item: String,
    created: i64,
    model: String,
}

impl Form {
    fn part(text: &str) -> Json {
        json!({"type": "output_text", "text": text, "annotations": []})
    }

    fn item(&self, text: &str, status: &str) -> Json {
        let content = if status == "completed" { json!([Form::part(text)]) } else { json!([]) };
        json!({"type": "message", "id": self.item, "status": status, "role": "assistant", "content": content})
    }

    /// The response, at its start or with what was generated.
    fn response(&self, text: &str, generated: Option<&Generated>) -> Json {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": "in_progress",
            "output": [],
            "error": null,
            "incomplete_details": null,
            "parallel_tool_calls": false,
            "tool_choice": "auto",
            "tools": [],
        });
        if let Some(generated) = generated {
            let is_cut = finish_reason(generated.finish) == "length";
            response["status"] = if is_cut { "incomplete" } else { "completed" }.into();
            if is_cut {
                response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            response["output"] = json!([self.item(text, "completed")]);
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
        let mut number = 0;
        let mut event = |kind: &str, mut value: Json| {
            value["type"] = kind.into();
            value["sequence_number"] = number.into();
            number += 1;
            (kind.to_owned(), value)
        };
        let place = |mut value: Json| {
            value["item_id"] = self.item.clone().into();
            value["output_index"] = 0.into();
            value["content_index"] = 0.into();
            value
        };
        for (kind, value) in [
            event("response.created", json!({"response": self.response("", None)})),
            event("response.in_progress", json!({"response": self.response("", None)})),
            event(
                "response.output_item.added",
                json!({"output_index": 0, "item": self.item("", "in_progress")}),
            ),
            event("response.content_part.added", place(json!({"part": Form::part("")}))),
        ] {
            writer.event(&kind, &value).await?;
        }
        let mut text = String::new();
        loop {
            match running.next().await {
                Ok(Some(News::Prompt { .. })) => {}
                Ok(Some(News::Answer { pieces, .. })) => {
                    for piece in pieces {
                        let Piece::Text(more) = piece else { continue };
                        text.push_str(&more);
                        let (kind, value) =
                            event("response.output_text.delta", place(json!({"delta": more})));
                        writer.event(&kind, &value).await?;
                    }
                }
                Ok(Some(News::End(ended))) => {
                    let response = self.response(&text, Some(&ended.generated));
                    let is_whole = response["status"] == "completed";
                    let last = if is_whole { "response.completed" } else { "response.incomplete" };
                    for (kind, value) in [
                        event("response.output_text.done", place(json!({"text": text}))),
                        event("response.content_part.done", place(json!({"part": Form::part(&text)}))),
                        event(
                            "response.output_item.done",
                            json!({"output_index": 0, "item": self.item(&text, "completed")}),
                        ),
                        event(last, json!({"response": response})),
                    ] {
                        writer.event(&kind, &value).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let (kind, value) =
                        event("error", json!({"message": error.message, "code": null, "param": null}));
                    return writer.event(&kind, &value).await;
                }
            }
        }
    }
}
