//! `/api/embed` and `/api/embeddings`.

use super::{keep_alive, options, respond};
use crate::embedding::{Inputs, embed as run};
use crate::error::{ApiError, ApiResult};
use crate::http;
use crate::state::Shared;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::time::Instant;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EmbedRequest {
    model: String,
    input: Json,
    truncate: Option<bool>,
    dimensions: Option<usize>,
    keep_alive: Option<Json>,
    options: Option<Map<String, Json>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EmbeddingsRequest {
    model: String,
    prompt: String,
    keep_alive: Option<Json>,
}

#[derive(Serialize)]
struct EmbedAnswer {
    model: String,
    embeddings: Vec<Vec<f32>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

#[derive(Serialize)]
struct EmbeddingAnswer {
    embedding: Vec<f32>,
}

pub(super) async fn embed(State(state): State<Shared>, request: Request) -> Response {
    respond(try_embed(&state, request).await)
}

async fn try_embed(state: &Shared, request: Request) -> ApiResult<Response> {
    let started = Instant::now();
    let client = http::client(&request);
    let (body, _room): (EmbedRequest, _) = http::json(state, request).await?;
    let texts = match body.input {
        Json::String(text) => vec![text],
        Json::Array(texts) => texts
            .into_iter()
            .map(|text| {
                text.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| ApiError::bad("input is a text or a list of texts"))
            })
            .collect::<ApiResult<_>>()?,
        Json::Null => Vec::new(),
        _ => return Err(ApiError::bad("input is a text or a list of texts")),
    };
    let num_ctx = options::options(&Map::new(), body.options.as_ref().unwrap_or(&Map::new()))?.num_ctx;
    let inputs = Inputs {
        texts: texts.into_iter().map(Into::into).collect(),
        truncate: body.truncate != Some(false),
        dimensions: body.dimensions,
        num_ctx,
    };
    let model = state.named(&body.model)?;
    let keep_alive = keep_alive(body.keep_alive.as_ref())?;
    let embedded = run(state, &model, inputs, keep_alive, client).await?;
    let answer = EmbedAnswer {
        model: model.name,
        embeddings: embedded.vectors,
        total_duration: started.elapsed().as_nanos() as u64,
        load_duration: embedded.load.as_nanos() as u64,
        prompt_eval_count: embedded.n_tokens,
    };
    http::held(&answer, embedded.room)
}

pub(super) async fn embeddings(State(state): State<Shared>, request: Request) -> Response {
    respond(try_embeddings(&state, request).await)
}

async fn try_embeddings(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let (body, _room): (EmbeddingsRequest, _) = http::json(state, request).await?;
    let texts = if body.prompt.is_empty() { Vec::new() } else { vec![body.prompt.into()] };
    let inputs = Inputs { texts, truncate: true, dimensions: None, num_ctx: None };
    let model = state.named(&body.model)?;
    let keep_alive = keep_alive(body.keep_alive.as_ref())?;
    let embedded = run(state, &model, inputs, keep_alive, client).await?;
    let embedding = embedded.vectors.into_iter().next().unwrap_or_default();
    http::held(&EmbeddingAnswer { embedding }, embedded.room)
}
