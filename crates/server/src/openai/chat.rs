//! `/v1/chat/completions`.

use super::sampling::{Ready, Sampling, grammar, logprobs};
use super::tools::tools;
use super::{fresh_id, now, ok, respond, usage_of};
use crate::answer::Piece;
use crate::choices::{Choice, Choices, n_choices};
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::ollama::logprob_json;
use crate::prompt::{self, Conversation, from_json};
use crate::registry::InUse;
use crate::running::{News, Whole, finish_reason};
use crate::state::Shared;
use axum::extract::{Request, State};
use axum::response::Response;
use rawrz_engine::{Generated, Step};
use rawrz_text::{Json as TextJson, Message};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatRequest {
    model: String,
    messages: Vec<ChatMessage>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    tools: Option<Vec<Json>>,
    tool_choice: Option<Json>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Json>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    n: Option<usize>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Json>>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChatMessage {
    pub(super) role: String,
    pub(super) content: Json,
    name: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCallIn>>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToolCallIn {
    id: Option<String>,
    function: FunctionIn,
}

#[derive(Debug, Deserialize)]
struct FunctionIn {
    name: String,
    #[serde(default)]
    arguments: Json,
}

/// A text, or the text of a list of parts; other parts are refused by name.
pub(crate) fn text_of(content: &Json) -> ApiResult<Option<String>> {
    match content {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.clone())),
        Json::Array(parts) => {
            let mut text = String::new();
            for part in parts {
                match part.get("type").and_then(Json::as_str) {
                    Some("text" | "input_text" | "output_text") => {
                        text.push_str(part.get("text").and_then(Json::as_str).unwrap_or_default());
                    }
                    Some(other) => {
                        return Err(ApiError::bad(format!("this model does not support {other} content")));
                    }
                    None => return Err(ApiError::bad("a part of a message has no type")),
                }
            }
            Ok(Some(text))
        }
        _ => Err(ApiError::bad("the content of a message is a text or a list of parts")),
    }
}

pub(super) fn into_message(message: ChatMessage) -> ApiResult<Message> {
    if message.role.is_empty() {
        return Err(ApiError::bad("a message has no role"));
    }
    let calls = message.tool_calls.unwrap_or_default().into_iter();
    let calls = calls.map(|call| prompt::tool_call(call.id, call.function.name, &call.function.arguments));
    Ok(Message {
        // The newer word for it.
        role: if message.role == "developer" { "system".to_owned() } else { message.role },
        content: text_of(&message.content)?,
        reasoning: message.reasoning_content,
        tool_calls: calls.collect::<ApiResult<_>>()?,
        tool_call_id: message.tool_call_id,
        name: message.name,
    })
}

pub(super) async fn completions(State(state): State<Shared>, request: Request) -> Response {
    respond(try_completions(&state, request).await)
}

async fn try_completions(state: &Shared, request: Request) -> ApiResult<Response> {
    let (client, progress) = (http::client(&request), http::wants_progress(request.headers()));
    let (body, _room): (ChatRequest, _) = http::json(state, request).await?;
    if body.messages.is_empty() {
        return Err(ApiError::bad("messages is empty"));
    }
    let n = n_choices(body.n)?;
    let mut options = body.sampling.options()?;
    options.logprobs = logprobs(body.logprobs == Some(true), body.top_logprobs)?;
    let grammar = grammar(body.response_format.as_ref())?;
    let messages: Vec<Message> = body.messages.into_iter().map(into_message).collect::<ApiResult<_>>()?;
    let kwargs = body.chat_template_kwargs.unwrap_or_default();
    let think = match body.reasoning_effort.as_deref() {
        Some("none" | "minimal") => Some(false),
        _ => kwargs.get("enable_thinking").and_then(Json::as_bool),
    };
    let tools = tools(body.tools, body.tool_choice.as_ref(), body.parallel_tool_calls)?;
    let conversation = Conversation { messages, tools, think, truncate: false };
    let ready = Ready::new(state, &body.model, client).await?;
    let form = Form { id: fresh_id("chatcmpl-"), created: now(), model: body.model };
    let make =
        move |ready: &Ready| prompt::chat(&ready.model, &ready.loaded, conversation, ready.context_len());
    let _answer_room = match body.stream {
        Some(true) => None,
        _ => Some(ready.logprobs_room(&options, n).await?),
    };
    let choices = ready.run_choices(options, grammar, n, make).await?;
    if body.stream == Some(true) {
        let include_usage = body.stream_options.is_some_and(|options| options.include_usage);
        return Ok(http::stream(Framing::Sse, move |writer| async move {
            let _ = form.stream(&writer, choices, n, include_usage, progress).await;
        }));
    }
    let loaded = choices.model().clone();
    ok(&form.whole(choices.collect().await?, &loaded))
}

/// How answers look.
struct Form {
    id: String,
    created: i64,
    model: String,
}

impl Form {
    fn whole(&self, all: Vec<Choice>, loaded: &InUse) -> Json {
        let usage = usage_of(all.iter().map(|choice| &choice.ended.generated));
        let choices = all.into_iter().enumerate().map(|(index, choice)| choice_json(index, choice, loaded));
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices.collect::<Vec<_>>(),
            "usage": usage,
        })
    }

    fn chunk(&self, choices: Json) -> Json {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn delta(&self, index: usize, delta: &Json, logprobs: Json, finish: Option<&str>) -> Json {
        self.chunk(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]))
    }

    async fn stream(
        &self,
        writer: &Writer,
        mut choices: Choices,
        n: usize,
        include_usage: bool,
        progress: bool,
    ) -> Result<(), Gone> {
        // Calls of each answer; `None` before its first chunk.
        let mut n_calls: Vec<Option<usize>> = vec![None; n];
        let mut all: Vec<Generated> = Vec::new();
        loop {
            let (index, news) = match choices.next().await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    writer.json(&super::error_json(&error)).await?;
                    return Ok(());
                }
            };
            match news {
                News::Prompt { done, total } => {
                    if progress && index == 0 {
                        let mut chunk = self.chunk(json!([]));
                        chunk["rawrz_progress"] = json!({"prompt_done": done, "prompt_total": total});
                        writer.json(&chunk).await?;
                    }
                }
                News::Answer { pieces, steps } => {
                    if n_calls[index].is_none() {
                        let first = json!({"role": "assistant", "content": ""});
                        writer.json(&self.delta(index, &first, Json::Null, None)).await?;
                    }
                    let n_calls = n_calls[index].get_or_insert(0);
                    let mut logprobs = logprobs_json(choices.model(), &steps);
                    if pieces.is_empty() {
                        writer.json(&self.delta(index, &json!({}), logprobs.take(), None)).await?;
                    }
                    for piece in pieces {
                        let delta = match piece {
                            Piece::Text(text) => json!({"content": text}),
                            Piece::Thinking(text) => json!({"reasoning_content": text}),
                            Piece::Call { name, arguments } => {
                                let mut call = call_json(&name, &arguments);
                                call["index"] = (*n_calls).into();
                                *n_calls += 1;
                                json!({"tool_calls": [call]})
                            }
                        };
                        writer.json(&self.delta(index, &delta, logprobs.take(), None)).await?;
                    }
                }
                News::End(ended) => {
                    let has_calls = n_calls[index].is_some_and(|n| n > 0);
                    let finish = if has_calls { "tool_calls" } else { finish_reason(ended.generated.finish) };
                    writer.json(&self.delta(index, &json!({}), Json::Null, Some(finish))).await?;
                    all.push(ended.generated);
                }
            }
        }
        if include_usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage_of(all.iter());
            writer.json(&chunk).await?;
        }
        writer.raw("data: [DONE]\n\n".to_owned()).await
    }
}

fn choice_json(index: usize, choice: Choice, loaded: &InUse) -> Json {
    let whole = Whole::of(choice.pieces);
    let mut message = json!({"role": "assistant", "content": whole.text});
    if !whole.thinking.is_empty() {
        message["reasoning_content"] = whole.thinking.into();
    }
    let mut finish = finish_reason(choice.ended.generated.finish);
    if !whole.calls.is_empty() {
        let calls = whole.calls.iter().map(|(name, arguments)| call_json(name, arguments));
        message["tool_calls"] = calls.collect();
        if whole.text.is_empty() {
            message["content"] = Json::Null;
        }
        finish = "tool_calls";
    }
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs_json(loaded, &choice.steps),
        "finish_reason": finish,
    })
}

fn call_json(name: &str, arguments: &TextJson) -> Json {
    json!({
        "id": fresh_id("call_"),
        "type": "function",
        "function": {"name": name, "arguments": from_json(arguments).to_string()},
    })
}

fn logprobs_json(loaded: &InUse, steps: &[Step]) -> Json {
    if steps.is_empty() {
        return Json::Null;
    }
    let step = |step: &Step| {
        let mut json = logprob_json(loaded, &step.chosen);
        json["top_logprobs"] = step.top.iter().map(|token| logprob_json(loaded, token)).collect();
        json
    };
    json!({"content": steps.iter().map(step).collect::<Vec<_>>(), "refusal": null})
}
