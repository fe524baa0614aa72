//! The Ollama API, as its clients speak it.

mod embed;
mod generate;
mod list;
mod manage;
mod options;

use crate::error::{ApiError, ApiResult};
use crate::http;
use crate::registry::KeepAlive;
use crate::state::Shared;
use axum::Router;
use axum::response::Response;
use axum::routing::{delete, get, head, post};
use serde_json::{Value as Json, json};
use std::time::Duration;

pub(crate) use generate::{MAX_TOP_LOGPROBS, logprob_json};
pub(crate) use list::expires_at;
pub(crate) use options::{MAX_STOPS, stops};

/// The version that clients are told, as numbers only: some compare them.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/api/version",
            get(|| async { http::answer(axum::http::StatusCode::OK, &json!({"version": VERSION})) }),
        )
        .route("/api/tags", get(list::tags))
        .route("/api/ps", get(list::ps))
        .route("/api/show", post(list::show))
        .route("/api/generate", post(generate::generate))
        .route("/api/chat", post(generate::chat))
        .route("/api/embed", post(embed::embed))
        .route("/api/embeddings", post(embed::embeddings))
        .route("/api/create", post(manage::create))
        .route("/api/copy", post(manage::copy))
        .route("/api/delete", delete(manage::delete))
        .route("/api/pull", post(manage::pull))
        .route("/api/push", post(manage::push))
        .route("/api/blobs/{digest}", head(manage::has_blob).post(manage::put_blob))
}

pub(crate) fn error_json(error: &ApiError) -> Json {
    json!({"error": error.message})
}

/// A result in Ollama's words.
fn respond(result: ApiResult<Response>) -> Response {
    result.unwrap_or_else(|error| http::failure(&error, &error_json(&error)))
}

fn ok(value: &Json) -> ApiResult<Response> {
    Ok(http::answer(axum::http::StatusCode::OK, value))
}

/// Now, as Ollama writes times.
fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// `keep_alive`: seconds, or a text such as `5m`; below 0 for ever.
fn keep_alive(value: Option<&Json>) -> ApiResult<Option<KeepAlive>> {
    let bad = || ApiError::bad("keep_alive is a number of seconds, or a time such as \"5m\"");
    let seconds = match value {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Number(number)) => number.as_f64().ok_or_else(bad)?,
        Some(Json::String(text)) => seconds(text).ok_or_else(bad)?,
        Some(_) => return Err(bad()),
    };
    Ok(Some(match Duration::try_from_secs_f64(seconds) {
        Ok(time) => KeepAlive::For(time),
        // Below 0, or longer than anybody waits.
        Err(_) => KeepAlive::Forever,
    }))
}

/// A time as Go writes it: `1h30m`, `300ms`, `-1s`, or a plain number of seconds.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        sum += number
            * match &rest[..unit_len] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_len..];
    }
    (!text.is_empty()).then_some(sign * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("-1s", -1.0),
            ("300ms", 0.3),
            ("0", 0.0),
            ("1.5h", 5400.0),
            ("-1", -1.0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["", "m", "5x", "5m3", "abc", "inf", "-"] {
            assert_eq!(seconds(text).filter(|_| text != "-"), None, "{text}");
        }
    }

    #[test]
    fn keep_alive_has_its_three_kinds() {
        let read = |value: Json| keep_alive(Some(&value));
        assert_eq!(keep_alive(None).unwrap(), None);
        assert_eq!(read(json!(null)).unwrap(), None);
        assert_eq!(read(json!(0)).unwrap(), Some(KeepAlive::For(Duration::ZERO)));
        assert_eq!(read(json!("5m")).unwrap(), Some(KeepAlive::For(Duration::from_secs(300))));
        assert_eq!(read(json!(-1)).unwrap(), Some(KeepAlive::Forever));
        assert_eq!(read(json!("-1m")).unwrap(), Some(KeepAlive::Forever));
        assert!(read(json!(true)).is_err() && read(json!("soon")).is_err());
    }
}
