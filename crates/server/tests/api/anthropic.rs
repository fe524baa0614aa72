//! Anthropic's messages.

use crate::common::{options, start};
use serde_json::{Value as Json, json};

#[test]
fn messages_come_whole_and_in_events() {
    let server = start(options());
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";
    server.post(
        "/api/create",
        &json!({"model": "chatty", "from": "tiny", "template": template, "stream": false}),
    );
    let mut body = json!({
        "model": "chatty", "system": "S", "max_tokens": 6, "temperature": 0,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    });
    let whole = server.post("/v1/messages", &body).json();
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert!(whole["usage"]["output_tokens"].as_u64().unwrap() <= 6);
    let text: String =
        whole["content"].as_array().unwrap().iter().filter_map(|block| block["text"].as_str()).collect();
    body["stream"] = json!(true);
    let events = server.post("/v1/messages", &body).events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], *kinds.last().unwrap()), ("message_start", "message_stop"));
    let deltas: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(deltas, text);
    let reason = events.iter().find_map(|event| event["delta"]["stop_reason"].as_str());
    assert_eq!(reason, whole["stop_reason"].as_str());
    for bad in [
        json!({"max_tokens": null}),
        json!({"messages": []}),
        json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
    ] {
        let mut body: Json = body.clone();
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        let refused = server.post("/v1/messages", &body);
        assert_eq!(
            (refused.status, &refused.json()["error"]["type"]),
            (400, &json!("invalid_request_error"))
        );
    }
}
