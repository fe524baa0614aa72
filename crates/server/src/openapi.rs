//! The list of endpoints for programs (OpenAPI 3.1).

use crate::ollama::VERSION;
use serde_json::{Map, Value as Json, json};

/// Method, path, what it does, and the fields that the body must have.
type Endpoint = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

/// All endpoints, in the order of docs/api.md.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    ("get", "/", "Says that the server runs", &[]),
    ("get", "/api/version", "The version", &[]),
    ("get", "/api/tags", "Models there are", &[]),
    ("get", "/api/ps", "Models that are loaded", &[]),
    ("post", "/api/generate", "Continue a prompt", &[("model", "string")]),
    ("post", "/api/chat", "Answer a conversation", &[("model", "string")]),
    ("post", "/api/embed", "Embeddings of texts", &[("model", "string")]),
    ("post", "/api/embeddings", "The embedding of a text", &[("model", "string")]),
    ("post", "/api/show", "Details of a model", &[("model", "string")]),
    ("post", "/api/create", "Make a model of another's weights", &[("model", "string")]),
    ("post", "/api/copy", "Copy a model", &[("source", "string"), ("destination", "string")]),
    ("delete", "/api/delete", "Delete a created model", &[("model", "string")]),
    ("post", "/api/pull", "Fetch a built-in model", &[("model", "string")]),
    ("post", "/api/push", "Refused", &[]),
    ("head", "/api/blobs/{digest}", "Whether a blob is there", &[]),
    ("post", "/api/blobs/{digest}", "Send a GGUF file", &[]),
    ("post", "/v1/chat/completions", "Answer a conversation", &[("model", "string"), ("messages", "array")]),
    ("post", "/v1/completions", "Continue a prompt", &[("model", "string")]),
    ("post", "/v1/embeddings", "Embeddings of texts", &[("model", "string")]),
    ("get", "/v1/models", "Models there are", &[]),
    ("get", "/v1/models/{id}", "A model", &[]),
    ("post", "/v1/responses", "Answer a text or a conversation", &[("model", "string")]),
    (
        "post",
        "/v1/messages",
        "Answer a conversation",
        &[("model", "string"), ("messages", "array"), ("max_tokens", "integer")],
    ),
    ("get", "/api/rawrz/stats", "Figures of now", &[]),
    ("post", "/api/rawrz/extract", "The text of a document", &[]),
    ("get", "/health", "Whether the server is alive", &[]),
    ("get", "/ready", "Whether it takes requests", &[]),
    ("get", "/metrics", "Figures for Prometheus", &[]),
    ("get", "/openapi.json", "This document", &[]),
];

/// The document.
pub(crate) fn document() -> Json {
    let mut paths: Map<String, Json> = Map::new();
    for (method, path, summary, fields) in ENDPOINTS {
        let mut operation = json!({
            "summary": summary,
            "responses": {
                "200": {"description": "done"},
                "4XX": {"description": "the request cannot be served as it is"},
                "5XX": {"description": "it cannot be served now"},
            },
        });
        if let Some(name) =
            path.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name)
        {
            operation["parameters"] =
                json!([{"name": name, "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if *path == "/api/rawrz/extract" {
            let schema = json!({"type": "string"});
            operation["parameters"] =
                json!([{"name": "name", "in": "query", "required": false, "schema": schema}]);
        }
        let is_file = ["/api/blobs/{digest}", "/api/rawrz/extract"].contains(path);
        if is_file && *method == "post" {
            let content =
                json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}});
            operation["requestBody"] = json!({"required": true, "content": content});
        } else if ["post", "delete"].contains(method) {
            let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let properties = fields.iter().map(|(name, kind)| ((*name).to_owned(), json!({"type": kind})));
            let properties: Map<String, Json> = properties.collect();
            let schema = json!({"type": "object", "required": required, "properties": properties});
            operation["requestBody"] =
                json!({"required": !fields.is_empty(), "content": {"application/json": {"schema": schema}}});
        }
        paths.entry(*path).or_insert_with(|| json!({}))[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "RawrZ", "version": VERSION, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    })
}
