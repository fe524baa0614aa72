//! `/v1/completions`.

use super::chat::StreamOptions;
use super::sampling::{Ready, Sampling, grammar};
use super::{fresh_id, now, ok, respond, usage_of};
use crate::choices::{Choice, Choices, n_choices};
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::ollama::MAX_TOP_LOGPROBS;
use crate::prompt::{self, Prompt};
use crate::registry::InUse;
use crate::running::{News, Whole, finish_reason};
use crate::state::Shared;
use axum::extract::{Request, State};
use axum::response::Response;
use rawrz_engine::{GenerateOptions, Generated, Step};
use rawrz_text::TokenId;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;

/// Tokens that are made when nobody says how many, as OpenAI has it.
const DEFAULT_MAX_TOKENS: usize = 16;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionRequest {
    model: String,
    prompt: Json,
    suffix: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    echo: Option<bool>,
    logprobs: Option<usize>,
    n: Option<usize>,
    best_of: Option<usize>,
    response_format: Option<Json>,
    #[serde(flatten)]
    sampling: Sampling,
}

/// A prompt as it was given.
enum Given {
    Text(String),
    Tokens(Vec<TokenId>),
}

fn given(prompt: Json) -> ApiResult<Given> {
    let bad = || ApiError::bad("prompt is one text, or one list of tokens");
    match prompt {
        Json::String(text) => Ok(Given::Text(text)),
        Json::Array(mut list) => match list.first() {
            Some(Json::String(_)) if list.len() == 1 => given(list.remove(0)),
            Some(Json::Number(_)) => {
                let token =
                    |value: Json| value.as_u64().and_then(|id| TokenId::try_from(id).ok()).ok_or_else(bad);
                Ok(Given::Tokens(list.into_iter().map(token).collect::<ApiResult<_>>()?))
            }
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

pub(super) async fn completions(State(state): State<Shared>, request: Request) -> Response {
    respond(try_completions(&state, request).await)
}

async fn try_completions(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let (body, _room): (CompletionRequest, _) = http::json(state, request).await?;
    let n = n_choices(body.n)?;
    if body.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ApiError::bad("best_of other than n is not supported"));
    }
    if body.logprobs.is_some_and(|k| k > MAX_TOP_LOGPROBS) {
        return Err(ApiError::bad(format!("logprobs is at most {MAX_TOP_LOGPROBS}")));
    }
    let given = given(body.prompt)?;
    let echo = match (&given, body.echo) {
        (Given::Text(text), Some(true)) => text.clone(),
        (Given::Tokens(_), Some(true)) => return Err(ApiError::bad("echo is for prompts of text")),
        _ => String::new(),
    };
    let mut options: GenerateOptions = body.sampling.options()?;
    if options.max_tokens == usize::MAX {
        options.max_tokens = DEFAULT_MAX_TOKENS;
    }
    options.logprobs = body.logprobs;
    let grammar = grammar(body.response_format.as_ref())?;
    let ready = Ready::new(state, &body.model, client).await?;
    let suffix = body.suffix.filter(|suffix| !suffix.is_empty());
    let make = move |ready: &Ready| {
        let tokens = match (given, suffix) {
            (Given::Text(text), Some(suffix)) => prompt::infill(&ready.model, &ready.loaded, &text, &suffix)?,
            (Given::Text(text), None) => prompt::raw(&ready.loaded, &text)?,
            (Given::Tokens(tokens), None) => tokens,
            (Given::Tokens(_), Some(_)) => return Err(ApiError::bad("suffix is for prompts of text")),
        };
        let vocab_len = ready.loaded.engine().config().vocab_len;
        if tokens.iter().any(|id| *id as usize >= vocab_len) {
            return Err(ApiError::bad(format!("a token is outside the vocabulary of {vocab_len}")));
        }
        prompt::check_len(&tokens, ready.context_len())?;
        Ok(Prompt::of(tokens))
    };
    let _answer_room = match body.stream {
        Some(true) => None,
        _ => Some(ready.logprobs_room(&options, n).await?),
    };
    let choices = ready.run_choices(options, grammar, n, make).await?;
    let form = Form { id: fresh_id("cmpl-"), created: now(), model: body.model };
    if body.stream == Some(true) {
        let include_usage = body.stream_options.is_some_and(|options| options.include_usage);
        return Ok(http::stream(Framing::Sse, move |writer| async move {
            let _ = form.stream(&writer, choices, &echo, include_usage).await;
        }));
    }
    let loaded = choices.model().clone();
    let all = choices.collect().await?;
    let usage = usage_of(all.iter().map(|choice| &choice.ended.generated));
    let choice = |(index, choice): (usize, Choice)| {
        let text = echo.clone() + &Whole::of(choice.pieces).text;
        let finish = finish_reason(choice.ended.generated.finish);
        choice_json(index, &text, logprobs_json(&loaded, &choice.steps), Some(finish))
    };
    let mut whole = form.chunk(all.into_iter().enumerate().map(choice).collect());
    whole["usage"] = usage;
    ok(&whole)
}

struct Form {
    id: String,
    created: i64,
    model: String,
}

impl Form {
    fn chunk(&self, choices: Json) -> Json {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    async fn stream(
        &self,
        writer: &Writer,
        mut choices: Choices,
        echo: &str,
        include_usage: bool,
    ) -> Result<(), Gone> {
        let mut all: Vec<Generated> = Vec::new();
        // Whose prompt was repeated.
        let mut echoed = HashSet::new();
        loop {
            let (index, news) = match choices.next().await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    writer.json(&super::error_json(&error)).await?;
                    return Ok(());
                }
            };
            if !echo.is_empty() && echoed.insert(index) {
                writer.json(&self.chunk(json!([choice_json(index, echo, Json::Null, None)]))).await?;
            }
            let choice = match news {
                News::Prompt { .. } => continue,
                News::Answer { pieces, steps } => {
                    let text = Whole::of(pieces).text;
                    choice_json(index, &text, logprobs_json(choices.model(), &steps), None)
                }
                News::End(ended) => {
                    let finish = finish_reason(ended.generated.finish);
                    all.push(ended.generated);
                    choice_json(index, "", Json::Null, Some(finish))
                }
            };
            writer.json(&self.chunk(json!([choice]))).await?;
        }
        if include_usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage_of(all.iter());
            writer.json(&chunk).await?;
        }
        writer.raw("data: [DONE]\n\n".to_owned()).await
    }
}

fn choice_json(index: usize, text: &str, logprobs: Json, finish: Option<&str>) -> Json {
    json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
}

/// The older form: lists beside each other.
fn logprobs_json(loaded: &InUse, steps: &[Step]) -> Json {
    if steps.is_empty() {
        return Json::Null;
    }
    let text = |id: TokenId| {
        let mut bytes = Vec::new();
        loaded.engine().tokenizer().append_piece(id, true, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let top = |step: &Step| {
        let entries = step.top.iter().map(|token| (text(token.id), json!(token.logprob)));
        Json::Object(entries.collect::<Map<_, _>>())
    };
    json!({
        "tokens": steps.iter().map(|step| text(step.chosen.id)).collect::<Vec<_>>(),
        "token_logprobs": steps.iter().map(|step| step.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": steps.iter().map(top).collect::<Vec<_>>(),
    })
}
