//! The web page, embedded: `GET /` for browsers, and its files under `/page/`.
//!
//! The page asks this server only, and its Content-Security-Policy sees to that: no script, style or picture of others, none
//! within the document, and no frame around it. The files are the same for everybody, so they are given without a key; the
//! page asks its user for one when the API wants it.

use crate::error::ApiError;
use crate::guard;
use crate::http::{self, NameInPath};
use crate::state::Shared;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A new program has a new page.
    (header::CACHE_CONTROL, "no-cache"),
    // `/` is something else to programs.
    (header::VARY, "Accept"),
];

/// Under `/page/`: a name, its type and its text.
type File = (&'static str, &'static str, &'static str);

macro_rules! files {
    ($($name:literal: $kind:literal,)*) => {
        &[$(($name, $kind, include_str!(concat!("../page/", $name))),)*]
    };
}

const INDEX: &str = include_str!("../page/index.html");

const FILES: &[File] = files! {
    "api.js": "text/javascript",
    "app.js": "text/javascript",
    "chat.js": "text/javascript",
    "composer.js": "text/javascript",
    "conversations.js": "text/javascript",
    "dom.js": "text/javascript",
    "files.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "keys.js": "text/javascript",
    "markdown.js": "text/javascript",
    "models.js": "text/javascript",
    "panel.js": "text/javascript",
    "parameters.js": "text/javascript",
    "progress.js": "text/javascript",
    "shell.js": "text/javascript",
    "store.js": "text/javascript",
    "style.css": "text/css",
    "theme.js": "text/javascript",
};

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route("/", get(root)).route("/page/{name}", get(file))
}

/// Whether a path is a part of the page, which needs no key.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/page/")
}

/// The page for a browser, for programs what Ollama says.
async fn root(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    match accept.contains("text/html") {
        true => answer("text/html; charset=utf-8", INDEX),
        false => ([(header::VARY, "Accept")], "Ollama is running").into_response(),
    }
}

async fn file(name: NameInPath) -> Response {
    let name = http::name_in_path(name).unwrap_or_default();
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => answer(kind, text),
        None => guard::refusal("/page/", &ApiError::not_found("the page has no such file")),
    }
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    let mut response = http::body(StatusCode::OK, kind, Body::from(text));
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_is_named_is_there_and_the_other_way_round() {
        let texts: Vec<&str> = FILES.iter().map(|(.., text)| *text).chain([INDEX]).collect();
        for (name, ..) in FILES {
            let is_used = texts.iter().any(|text| {
                [format!("/page/{name}\""), format!("\"./{name}\"")].iter().any(|way| text.contains(way))
            });
            assert!(is_used, "{name} is used by nothing");
        }
        for text in texts {
            for part in text.split("from \"./").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(FILES.iter().any(|(known, ..)| *known == name), "{name} is not served");
            }
        }
    }

    /// What the policy forbids would be seen in a browser only.
    #[test]
    fn nothing_is_inline_and_nothing_is_from_elsewhere() {
        assert!(!INDEX.contains("style="), "a style within the document");
        assert!(!INDEX.contains("<style"), "a style within the document");
        for part in INDEX.split("<script").skip(1) {
            assert!(
                part.contains("src=\"/page/") && part.contains("></script>"),
                "a script within the document"
            );
        }
        for (name, kind, text) in FILES {
            let is_namespace = |line: &str| line.contains("http://www.w3.org/");
            let elsewhere = text
                .lines()
                .find(|line| line.contains("://") && !is_namespace(line) && !line.contains("https?"));
            assert_eq!(elsewhere, None, "{name} names another machine");
            assert!(
                !text.contains("innerHTML") && !text.contains("insertAdjacentHTML"),
                "{name} parses HTML ({kind})"
            );
        }
    }
}
