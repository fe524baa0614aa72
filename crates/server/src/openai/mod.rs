//! The OpenAI API.

mod chat;
mod completions;
mod list;
mod responses;
mod sampling;
mod tools;

pub(crate) use chat::text_of;
pub(crate) use sampling::{Ready, Sampling, constraints, n_logprobs};

use crate::error::{ApiError, ApiResult};
use crate::http;
use crate::state::Shared;
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use rawrz_engine::Generated;
use serde_json::{Value as Json, json};
use std::hash::{BuildHasher, RandomState};

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(list::embeddings))
        .route("/v1/models", get(list::models))
        .route("/v1/models/{*id}", get(list::model))
        .route("/v1/responses", post(responses::responses))
}

pub(crate) fn error_json(error: &ApiError) -> Json {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": error.message, "type": kind, "param": null, "code": null}})
}

/// A result in OpenAI's words.
fn respond(result: ApiResult<Response>) -> Response {
    result.unwrap_or_else(|error| http::failure(&error, &error_json(&error)))
}

fn ok(value: &Json) -> ApiResult<Response> {
    Ok(http::answer(StatusCode::OK, value))
}

/// Seconds since 1970.
fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// A name that no other answer has.
pub(crate) fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

/// Of answers to one prompt.
fn usage_of<'a>(all: impl Iterator<Item = &'a Generated>) -> Json {
    let (mut prompt_tokens, mut reused, mut tokens) = (0, None, 0);
    for generated in all {
        prompt_tokens = generated.prompt_tokens;
        // What all of them found in a cache was there before the first.
        reused = Some(reused.map_or(generated.reused_tokens, |n: usize| n.min(generated.reused_tokens)));
        tokens += generated.tokens.len();
    }
    usage(prompt_tokens, reused.unwrap_or(0), tokens)
}

fn usage(prompt_tokens: usize, reused: usize, tokens: usize) -> Json {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": reused},
    })
}
