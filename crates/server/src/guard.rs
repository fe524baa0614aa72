//! Who may ask: keys, and what a browser says about where a request comes from.
//!
//! A page anywhere can make a browser send requests to this machine. Its Origin gives it away, except where its own name
//! was made to point here; then the Host header has that name.

use crate::error::ApiError;
use crate::http;
use crate::page;
use crate::state::Shared;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq;

/// Lets a request through or refuses it, and says to browsers who may read the answer.
pub(crate) async fn guard(State(state): State<Shared>, request: Request, next: Next) -> Response {
    state.n_requests.fetch_add(1, Ordering::Relaxed);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match check(&state, &request) {
        Err(error) => {
            state.n_refused.fetch_add(1, Ordering::Relaxed);
            refusal(&path, &error)
        }
        Ok(()) if method == Method::OPTIONS => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(()) => next.run(request).await,
    };
    tracing::info!(%method, path, status = response.status().as_u16(), "request");
    if let Some(origin) = origin.filter(|_| response.status() != StatusCode::FORBIDDEN) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        let allowed = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE, OPTIONS"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "*, Authorization, Content-Type, X-Api-Key, X-Rawrz-Progress",
            ),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "X-Rawrz-Dropped-Messages"),
        ];
        for (name, value) in allowed {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// An error in the words of the dialect that the path belongs to.
pub(crate) fn refusal(path: &str, error: &ApiError) -> Response {
    let value = match path {
        "/v1/messages" => crate::anthropic::error_json(error),
        path if path.starts_with("/v1/") => crate::openai::error_json(error),
        _ => json!({"error": error.message}),
    };
    http::failure(error, &value)
}

fn check(state: &Shared, request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    let forbidden = |what: &str| ApiError::new(StatusCode::FORBIDDEN, what.to_owned());
    if state.options.is_loopback && !host(headers, request).is_some_and(is_this_machine) {
        return Err(forbidden("the Host header names another machine than this server's"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        if !is_allowed_origin(&state.options.origins, origin) {
            return Err(forbidden("pages of this origin may not use this server; see --origins"));
        }
    }
    // Browsers show no key before they are told that they may, and none for a page that they open.
    let is_open = request.method() == Method::OPTIONS || page::is_page(request.uri().path());
    let Some(expected) = state.options.api_key.as_deref().filter(|_| !is_open) else {
        return Ok(());
    };
    let shown = http::key(headers).unwrap_or("");
    match bool::from(shown.as_bytes().ct_eq(expected.as_bytes())) {
        true => Ok(()),
        false => Err(ApiError::new(StatusCode::UNAUTHORIZED, "a valid API key is required")),
    }
}

fn host<'a>(headers: &'a HeaderMap, request: &'a Request) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri().host(),
    }
}

/// Whether a host, with or without a port, is a name or address of this machine that others cannot give away.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn is_allowed_origin(allowed: &[String], origin: &str) -> bool {
    if allowed.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return true;
    }
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    host.is_some_and(is_this_machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_count() {
        for host in [
            "localhost",
            "localhost:11434",
            "127.0.0.1:1",
            "[::1]:80",
            "[::1]",
            "LOCALHOST.",
            "a.localhost",
            "127.9.9.9",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "192.168.0.1:80",
            "[::2]",
            "evil:11434",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn origins_are_this_machine_or_listed() {
        let listed = ["https://chat.example.com".to_owned()];
        for origin in ["http://localhost:3000", "https://127.0.0.1", "https://chat.example.com"] {
            assert!(is_allowed_origin(&listed, origin), "{origin}");
        }
        for origin in ["null", "https://example.com", "http://chat.example.com", "file://localhost", ""] {
            assert!(!is_allowed_origin(&listed, origin), "{origin}");
        }
        assert!(is_allowed_origin(&["*".to_owned()], "https://example.com"));
    }
}
