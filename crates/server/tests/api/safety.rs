//! What hostile or careless clients send.

use crate::common::{options, start};
use rawrz_server::ServerOptions;
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn malformed_bodies_are_told_in_each_dialect() {
    let server = start(options());
    for path in [
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/show",
        "/api/create",
        "/api/copy",
        "/api/pull",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
    ] {
        for body in ["", "{", "null", "[]", "{\"model\": 5}", "\u{feff}{}", "{\"model\": \"\"}"] {
            let answer = server.ask("POST", path, body);
            assert!((400..500).contains(&answer.status), "{path} {body}: {answer:?}");
            assert!(answer.json().get("error").is_some(), "{path}: {answer:?}");
        }
    }
    let deep = |n: usize| format!("{{\"model\": {}1{}}}", "[".repeat(n), "]".repeat(n));
    assert_eq!(server.ask("POST", "/api/chat", &deep(20_000)).status, 400);
    assert_eq!(server.ask("POST", "/api/chat", &deep(200_000)).status, 413, "more values than memory");
    assert_eq!(server.get("/api/version").status, 200, "alive");
}

#[test]
fn a_body_that_is_too_large_is_refused_also_when_its_length_is_not_said() {
    let server = start(ServerOptions { max_body_bytes: 1000, ..options() });
    let long = json!({"model": "tiny", "prompt": "x".repeat(2000)}).to_string();
    assert_eq!(server.ask("POST", "/api/generate", &long).status, 413);
    let chunked = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    let answer = server.raw(&chunked);
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].as_str()),
        (413, Some("invalid_request_error"))
    );
}

#[test]
fn a_head_that_never_ends_and_more_connections_than_places_are_dropped() {
    let server =
        start(ServerOptions { max_connections: 3, head_timeout: Duration::from_millis(400), ..options() });
    let started = Instant::now();
    // All places are taken by clients that send their head byte by byte, or nothing.
    let mut slow: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| server.get("/api/version"));
        for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: abcdefghijklmnopqrstuvwxyz"
            .iter()
            .cycle()
            .take(300)
        {
            if slow[0].write_all(&[*byte]).is_err() || answer.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        answer.join().unwrap()
    });
    assert_eq!(answer.status, 200);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(350) && waited < Duration::from_secs(10), "{waited:?}");
    for stream in &mut slow {
        let mut rest = Vec::new();
        // Closed with a word or without one.
        assert!(stream.read_to_end(&mut rest).is_err() || !rest.starts_with(b"HTTP/1.1 200"));
    }
    // A long head that comes at once is refused, not kept.
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = server.connect();
    let _ = stream.write_all(long.as_bytes());
    let mut rest = String::new();
    let read = stream.read_to_string(&mut rest);
    assert!(read.is_err() || rest.starts_with("HTTP/1.1 431"), "{rest}");
}

#[test]
fn another_host_or_origin_is_refused() {
    let server = start(ServerOptions { origins: vec!["https://chat.example.com".to_owned()], ..options() });
    let status = |headers: &str| server.with_headers("GET", "/api/tags", headers, "").status;
    assert_eq!(status("Host: 127.0.0.1:11434\r\n"), 200);
    assert_eq!(status("Host: evil.example.com\r\n"), 403);
    assert_eq!(status("Host: localhost\r\nOrigin: https://evil.example.com\r\n"), 403);
    assert_eq!(status("Host: localhost\r\nOrigin: null\r\n"), 403);
    let allowed = server.with_headers(
        "GET",
        "/api/tags",
        "Host: localhost\r\nOrigin: https://chat.example.com\r\n",
        "",
    );
    assert!(
        allowed.status == 200
            && allowed.head.contains("access-control-allow-origin: https://chat.example.com")
    );
    let preflight =
        "Host: localhost\r\nOrigin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = server.with_headers("OPTIONS", "/api/chat", preflight, "");
    assert!(answer.status == 204 && answer.head.contains("access-control-allow-methods"), "{answer:?}");
    let refused = server.with_headers("POST", "/api/generate", "Host: evil\r\n", "{}");
    assert!(refused.json()["error"].is_string() && !refused.head.contains("access-control"));
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let options = ServerOptions { api_key: Some("secret".to_owned()), is_loopback: false, ..options() };
    let server = start(options);
    let status =
        |header: &str| server.with_headers("GET", "/api/tags", &format!("Host: any\r\n{header}"), "").status;
    assert_eq!(status(""), 401);
    assert_eq!(status("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(status("Authorization: secret\r\n"), 401);
    assert_eq!(status("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(status("x-api-key: secret\r\n"), 200);
}

#[test]
fn names_never_become_paths() {
    let server = start(options());
    for name in
        ["../../etc/passwd", "/etc/passwd", "C:\\Windows", "tiny/../tiny", "~", "file:///etc/passwd", "a\0b"]
    {
        for path in ["/api/show", "/api/generate"] {
            let answer = server.post(path, &json!({"model": name, "prompt": "x"}));
            assert_eq!(answer.status, 404, "{name}: {answer:?}");
        }
        let delete = server.ask("DELETE", "/api/delete", &json!({"model": name}).to_string());
        assert_eq!(delete.status, 404, "{name}: {delete:?}");
    }
    for path in ["/api/blobs/..%2f..%2fetc%2fpasswd", "/api/blobs/sha256:00", "/api/blobs/sha256-zz"] {
        assert_eq!(server.ask("HEAD", path, "").status, 400, "{path}");
        assert_eq!(server.ask("POST", path, "x").status, 400, "{path}");
    }
    assert_eq!(server.get("/../../etc/passwd").status, 404);
    for (method, path) in [("GET", "/v1/models/%ff"), ("POST", "/api/blobs/%ff"), ("GET", "/page/%ff")] {
        let answer = server.ask(method, path, "");
        assert!([400, 404].contains(&answer.status) && answer.json().get("error").is_some(), "{answer:?}");
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let server = start(options());
    for options in [
        json!({"temperature": -1}),
        json!({"temperature": "hot"}),
        json!({"top_p": 2}),
        json!({"repeat_penalty": 0}),
        json!({"stop": 5}),
        json!({"num_predict": []}),
    ] {
        let body = json!({"model": "tiny", "prompt": "x", "options": options});
        assert_eq!(server.post("/api/generate", &body).status, 400, "{options}");
    }
}

#[test]
fn every_listed_endpoint_is_there_and_answers() {
    let server = start(options());
    let document = server.get("/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{digest}", "sha256:0").replace("{id}", "tiny");
            let body = if ["get", "head"].contains(&method.as_str()) { "" } else { "{}" };
            let answer = server.ask(&method.to_uppercase(), &path, body);
            let is_missing = answer.status == 404 && answer.body.contains("there is no");
            assert!(
                !is_missing && answer.status != 405 && answer.status < 500,
                "{method} {path}: {answer:?}"
            );
        }
    }
    let missing = server.get("/v1/nothing");
    assert_eq!((missing.status, missing.json()["error"]["type"].as_str()), (404, Some("not_found_error")));
    assert_eq!(server.get("/api/chat").status, 405);
}
