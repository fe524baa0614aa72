//! The list of endpoints for programs (OpenAPI 3.1). It names every status and type of content that an endpoint answers with,
//! and the fields of bodies that are read; others are left alone, as the APIs' own servers do.

mod bodies;

use crate::ollama::VERSION;
use serde_json::{Map, Value as Json, json};

/// What a request carries.
enum Takes {
    Nothing,
    /// JSON that a schema describes.
    Json(fn() -> Json),
    /// The bytes of a file.
    File,
}

/// What a request gives that is served.
enum Gives {
    /// An object of JSON with these members.
    Json(&'static [&'static str]),
    /// The same, or lines of JSON for a stream.
    Lines(&'static [&'static str]),
    /// The same, or server-sent events for a stream.
    Events(&'static [&'static str]),
    /// Texts of these types.
    Text(&'static [&'static str]),
    /// A status and nothing else.
    Status(&'static str),
}

struct Endpoint {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    takes: Takes,
    gives: Gives,
    /// Statuses of failures beside those of every endpoint and of every body.
    failures: &'static [&'static str],
}

const fn get(path: &'static str, summary: &'static str, gives: Gives) -> Endpoint {
    Endpoint { method: "get", path, summary, takes: Takes::Nothing, gives, failures: &[] }
}

const fn post(path: &'static str, summary: &'static str, body: fn() -> Json, gives: Gives) -> Endpoint {
    Endpoint { method: "post", path, summary, takes: Takes::Json(body), gives, failures: OF_MODEL }
}

/// Where a model is asked for: it is not there, fails, or takes too long.
const OF_MODEL: &[&str] = &["404", "500", "504"];

/// All endpoints, in the order of docs/api.md.
const ENDPOINTS: &[Endpoint] = &[
    get("/", "Says that the server runs, or is the page", Gives::Text(&["text/plain", "text/html"])),
    get("/api/version", "The version", Gives::Json(&["version"])),
    get("/api/tags", "Models there are", Gives::Json(&["models"])),
    get("/api/ps", "Models that are loaded", Gives::Json(&["models"])),
    post(
        "/api/generate",
        "Continue a prompt",
        bodies::generate,
        Gives::Lines(&["model", "response", "done"]),
    ),
    post("/api/chat", "Answer a conversation", bodies::chat, Gives::Lines(&["model", "message", "done"])),
    post("/api/embed", "Embeddings of texts", bodies::embed, Gives::Json(&["model", "embeddings"])),
    post("/api/embeddings", "The embedding of a text", bodies::embeddings, Gives::Json(&["embedding"])),
    post(
        "/api/show",
        "Details of a model",
        bodies::show,
        Gives::Json(&["details", "model_info", "capabilities"]),
    ),
    post("/api/create", "Make a model of another's weights", bodies::create, Gives::Lines(&["status"])),
    Endpoint {
        gives: Gives::Status("200"),
        ..post("/api/copy", "Copy a model", bodies::copy, Gives::Json(&[]))
    },
    Endpoint {
        method: "delete",
        gives: Gives::Status("200"),
        ..post("/api/delete", "Delete a created model", bodies::delete, Gives::Json(&[]))
    },
    post("/api/pull", "Fetch a built-in model", bodies::pull, Gives::Lines(&["status"])),
    Endpoint {
        method: "post",
        failures: &["400"],
        ..get("/api/push", "Refused: there is no registry", Gives::Status("400"))
    },
    Endpoint {
        method: "head",
        failures: &["400", "404"],
        ..get("/api/blobs/{digest}", "Whether a blob is there", Gives::Status("200"))
    },
    Endpoint {
        method: "post",
        takes: Takes::File,
        failures: &["400", "408", "500"],
        ..get("/api/blobs/{digest}", "Send a GGUF file", Gives::Status("201"))
    },
    post(
        "/v1/chat/completions",
        "Answer a conversation",
        bodies::chat_completions,
        Gives::Events(&["choices", "usage"]),
    ),
    post("/v1/completions", "Continue a prompt", bodies::completions, Gives::Events(&["choices", "usage"])),
    post("/v1/embeddings", "Embeddings of texts", bodies::openai_embeddings, Gives::Json(&["data", "usage"])),
    get("/v1/models", "Models there are", Gives::Json(&["object", "data"])),
    Endpoint {
        failures: &["400", "404"],
        ..get("/v1/models/{id}", "A model", Gives::Json(&["id", "object"]))
    },
    post(
        "/v1/responses",
        "Answer a text or a conversation",
        bodies::responses,
        Gives::Events(&["output", "usage"]),
    ),
    post("/v1/messages", "Answer a conversation", bodies::messages, Gives::Events(&["content", "usage"])),
    get("/api/rawrz/stats", "Figures of now", Gives::Json(&["version", "memory", "models"])),
    Endpoint {
        method: "post",
        takes: Takes::File,
        failures: &["400", "408", "413", "500", "503"],
        ..get("/api/rawrz/extract", "The text of a document", Gives::Json(&["text"]))
    },
    get("/health", "Whether the server is alive", Gives::Json(&["status"])),
    Endpoint { failures: &["503"], ..get("/ready", "Whether it takes requests", Gives::Json(&["status"])) },
    get("/metrics", "Figures for Prometheus", Gives::Text(&["text/plain"])),
    get("/openapi.json", "This document", Gives::Json(&["openapi", "paths"])),
];

/// The document.
pub(crate) fn document() -> Json {
    let mut paths: Map<String, Json> = Map::new();
    for endpoint in ENDPOINTS {
        paths.entry(endpoint.path).or_insert_with(|| json!({}))[endpoint.method] = endpoint.operation();
    }
    let text = json!({"type": "string"});
    let object = |members: &[&str]| {
        let properties: Map<String, Json> =
            members.iter().map(|member| ((*member).to_owned(), text.clone())).collect();
        json!({"type": "object", "required": members, "properties": properties})
    };
    let mut openai = object(&["message", "type"]);
    openai["required"] = json!(["message", "type", "param", "code"]);
    json!({
        "openapi": "3.1.0",
        "info": {"title": "RawrZ", "version": VERSION, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": object(&["error"]),
                "OpenAiError": {"type": "object", "required": ["error"], "properties": {"error": openai}},
                "AnthropicError": {
                    "type": "object",
                    "required": ["type", "error"],
                    "properties": {"type": {"const": "error"}, "error": object(&["type", "message"])},
                },
                "Status": object(&["status"]),
            },
        },
    })
}

impl Endpoint {
    fn operation(&self) -> Json {
        let mut operation = json!({"summary": self.summary, "responses": self.responses()});
        let parameter = |name: &str, place: &str| {
            let schema = json!({"type": "string"});
            json!([{"name": name, "in": place, "required": place == "path", "schema": schema}])
        };
        if let Some((name, _)) = self.path.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            operation["parameters"] = parameter(name, "path");
        } else if self.path == "/api/rawrz/extract" {
            operation["parameters"] = parameter("name", "query");
        }
        let content = match self.takes {
            Takes::Nothing => return operation,
            Takes::Json(schema) => json!({"application/json": {"schema": schema()}}),
            Takes::File => {
                json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}})
            }
        };
        operation["requestBody"] = json!({"required": true, "content": content});
        operation
    }

    fn responses(&self) -> Json {
        let object = |members: &[&str]| json!({"schema": {"type": "object", "required": members}});
        let text = || json!({"schema": {"type": "string"}});
        let (status, content) = match self.gives {
            Gives::Json(members) => ("200", json!({"application/json": object(members)})),
            Gives::Lines(members) => {
                ("200", json!({"application/json": object(members), "application/x-ndjson": text()}))
            }
            Gives::Events(members) => {
                ("200", json!({"application/json": object(members), "text/event-stream": {}}))
            }
            Gives::Text(kinds) => ("200", kinds.iter().map(|kind| ((*kind).to_owned(), text())).collect()),
            Gives::Status(status) => (status, Json::Null),
        };
        let mut responses = json!({status: {"description": "done"}});
        if !content.is_null() {
            responses[status]["content"] = content;
        }
        let of_body: &[&str] = match self.takes {
            Takes::Json(_) => &["400", "408", "413", "503"],
            Takes::Nothing | Takes::File => &[],
        };
        let of_all = ["401", "403"].into_iter().filter(|status| *status != "401" || self.path != "/");
        for status in of_all.chain(of_body.iter().copied()).chain(self.failures.iter().copied()) {
            let mut response = json!({"description": description(status)});
            // An answer to HEAD has no body.
            if self.method != "head" {
                let schema = match self.path {
                    "/v1/messages" => "AnthropicError",
                    "/ready" if status == "503" => "Status",
                    path if path.starts_with("/v1/") => "OpenAiError",
                    _ => "Error",
                };
                let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
                response["content"] = json!({"application/json": {"schema": schema}});
            }
            responses[status] = response;
        }
        responses
    }
}

fn description(status: &str) -> &'static str {
    match status {
        "400" => "the request cannot be served as it is",
        "401" => "a key is missing or wrong",
        "403" => "the Host header or the Origin is not allowed",
        "404" => "there is no such model or blob",
        "408" => "the body did not arrive in time",
        "413" => "the body is too large, or has more values than there is memory for",
        "503" => "it cannot be served now; Retry-After says when to come again",
        "504" => "it took too long",
        _ => "the server failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_and_every_required_member_is_there() {
        fn check(value: &Json, document: &Json) {
            match value {
                Json::Object(members) => {
                    if let Some(to) = members.get("$ref").and_then(Json::as_str) {
                        let found = document.pointer(to.trim_start_matches('#'));
                        assert!(found.is_some(), "{to}");
                    }
                    members.values().for_each(|member| check(member, document));
                }
                Json::Array(elements) => elements.iter().for_each(|element| check(element, document)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                for name in schema["required"].as_array().into_iter().flatten() {
                    assert!(schema["properties"].get(name.as_str().unwrap()).is_some(), "{path}: {name}");
                }
            }
        }
    }
}
