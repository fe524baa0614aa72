//! `POST /api/rawrz/extract?name=FILE`: the text of a document that is the body.

use crate::error::{ApiError, ApiResult};
use crate::http;
use crate::state::{Shared, blocking};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use percent_encoding::percent_decode_str;
use rawrz_documents::DocumentError;
use serde_json::json;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Documents that are read at a time: one takes the memory that there is for documents.
static READING: Semaphore = Semaphore::const_new(1);

/// How long a document waits for others.
const MAX_WAIT: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route("/api/rawrz/extract", post(extract))
}

async fn extract(State(state): State<Shared>, request: Request) -> Response {
    match try_extract(&state, request).await {
        Ok(response) => response,
        Err(error) => http::failure(&error, &json!({"error": error.message})),
    }
}

async fn try_extract(state: &Shared, request: Request) -> ApiResult<Response> {
    let name = name(request.uri().query().unwrap_or(""));
    let waiting = tokio::time::timeout(MAX_WAIT, READING.acquire());
    let turn = waiting.await.map_err(|_| ApiError::busy("other documents are being read"))?;
    let _turn = turn.map_err(|_| ApiError::internal("documents are no longer read"))?;
    let limits = state.memory.document_limits(state.options.max_body_bytes);
    let bytes = http::bytes(state, request, limits.max_file_bytes).await?;
    // The limits end it in time, whatever the document.
    let document =
        blocking(move || rawrz_documents::extract(&name, &bytes, &limits).map_err(ApiError::from)).await?;
    let mut told = json!({"text": document.text});
    if let Some(pages) = document.pages {
        told["pages"] = pages.into();
    }
    Ok(http::answer(StatusCode::OK, &told))
}

/// The `name` of a query, which only makes messages clearer.
fn name(query: &str) -> String {
    let value = query.split('&').find_map(|part| part.strip_prefix("name=")).unwrap_or("");
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

impl From<DocumentError> for ApiError {
    fn from(error: DocumentError) -> ApiError {
        let status = match error {
            DocumentError::FileTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        ApiError::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded() {
        assert_eq!(name("name=a%20b%C3%A9.pdf"), "a bé.pdf");
        assert_eq!(name("x=1&name=%ff"), "\u{fffd}");
        assert_eq!(name(""), "");
    }
}
