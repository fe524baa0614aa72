//! Many clients at once, and those that go away.

use crate::common::{Running, options, start};
use rawrz_server::ServerOptions;
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn body(i: usize) -> Json {
    let prompt = ["ab", "cd", "Hello", "x"][i % 4];
    json!({"model": "tiny", "prompt": prompt, "raw": true, "options": {"temperature": 0, "num_predict": 20 + i % 7}})
}

fn text(lines: &[Json]) -> String {
    lines.iter().map(|line| line["response"].as_str().unwrap()).collect()
}

fn stats(server: &Running) -> Json {
    server.get("/api/rawrz/stats").json()["models"][0].clone()
}

#[test]
fn sixty_four_streams_at_once_give_what_each_gives_alone() {
    let server = start(options());
    let alone: Vec<String> = (0..28).map(|i| text(&server.post("/api/generate", &body(i)).lines())).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..64)
            .map(|i| {
                let server = &server;
                scope.spawn(move || server.post("/api/generate", &body(i)).lines())
            })
            .collect();
        for (i, asked) in asked.into_iter().enumerate() {
            let lines = asked.join().unwrap();
            assert_eq!(lines.last().unwrap()["done"], true, "{i}");
            assert_eq!(text(&lines), alone[i % 28], "{i}");
        }
    });
    // A request counts as ended just after its client was told.
    let started = Instant::now();
    while stats(&server)["totals"]["requests"] != 92 && started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = stats(&server);
    assert!(
        stats["totals"]["passes"].as_u64() < stats["totals"]["tokens"].as_u64(),
        "passes are shared: {stats}"
    );
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("rawrz_requests_total{model=\"tiny\"} 92"), "{metrics}");
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let server = start(options());
    server.post("/api/generate", &json!({"model": "tiny"}));
    for i in 0..100 {
        let mut stream = server.connect();
        let body = json!({"model": "tiny", "prompt": "ab", "raw": true, "options": {"num_predict": 100}})
            .to_string();
        let len = body.len();
        write!(
            stream,
            "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .unwrap();
        if i % 2 == 0 {
            let mut first = [0; 64];
            stream.read_exact(&mut first).unwrap();
        }
    }
    let started = Instant::now();
    loop {
        let stats = stats(&server);
        if stats["running"] == 0 && stats["queued"] == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{stats}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.post("/api/generate", &body(0)).status, 200);
}

#[test]
fn those_who_pull_the_same_share_it_and_the_last_one_ends_it() {
    let server = start(options());
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let pulling = || server.catalog.pulling.load(Ordering::SeqCst);
    let pull = |body: &str| {
        let mut stream = server.connect();
        let len = body.len();
        write!(stream, "POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}")
            .unwrap();
        stream
    };
    let mut first = BufReader::new(pull("{\"model\": \"slow\"}")).lines().map(Result::unwrap);
    let line = first.find(|line| line.contains("\"completed\"")).unwrap();
    let line: Json = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["status"], &line["digest"], &line["total"]),
        (&json!("pulling slow"), &json!("sha256:00"), &json!(10))
    );
    let second = pull("{\"model\": \"slow:latest\", \"stream\": false}");
    let mut third = BufReader::new(pull("{\"model\": \"slow\"}")).lines().map(Result::unwrap);
    third.find(|line| line.contains("\"completed\"")).unwrap();
    assert_eq!((pulling(), server.catalog.pulls.load(Ordering::SeqCst)), (1, 1));
    drop((first, third));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(pulling(), 1, "one still waits");
    drop(second);
    wait("it ends", &|| pulling() == 0);
    // The next one begins anew. On a busy machine the second may have come after the others went, and have done so, too.
    let begun = server.catalog.pulls.load(Ordering::SeqCst);
    let again = pull("{\"model\": \"slow\"}");
    wait("it begins", &|| server.catalog.pulls.load(Ordering::SeqCst) > begun);
    drop(again);
    wait("it ends again", &|| pulling() == 0);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = start(ServerOptions { max_running: 1, max_queued: 1, ..options() });
    server.post("/api/generate", &json!({"model": "tiny"}));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let long = json!({"model": "tiny", "prompt": "ab", "raw": true, "options": {"num_predict": 110}});
        let asked: Vec<_> = (0..24)
            .map(|_| {
                let (server, long) = (&server, long.clone());
                scope.spawn(move || server.post("/api/generate", &long))
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!(served + refused.len(), 24);
    assert!(served >= 1 && !refused.is_empty(), "{served} served");
    assert!(refused.iter().all(|answer| answer.head.contains("retry-after: 1")));
}

#[test]
fn a_budget_for_one_model_unloads_the_other() {
    let server = start(options());
    for model in ["tiny", "other"] {
        server.post("/api/generate", &json!({"model": model}));
    }
    let all = server.get("/api/rawrz/stats").json();
    let needed: Vec<u64> = all["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| {
            let entries =
                model["memory"].as_array().unwrap().iter().filter(|entry| entry["what"] != "grammars");
            entries.map(|entry| entry["bytes"].as_u64().unwrap()).sum()
        })
        .collect();
    assert_eq!(needed.len(), 2);
    // In a small budget the server takes 24 MiB, and a model has room for one text that follows a grammar.
    let budget = needed.iter().max().unwrap() + (24 << 20) + (8 << 20) + (4 << 20);
    let small = start(ServerOptions { memory_bytes: Some(budget), ..options() });
    for model in ["tiny", "other", "tiny"] {
        let answer = small
            .post("/api/generate", &json!({"model": model, "prompt": "a", "raw": true, "stream": false}));
        assert_eq!(answer.status, 200, "{answer:?}");
        let loaded = small.get("/api/ps").json();
        assert_eq!(loaded["models"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_server_that_ends_tells_those_who_are_not_done() {
    let mut server = start(options());
    let mut stream = server.connect();
    let body =
        json!({"model": "tiny", "prompt": "ab", "raw": true, "options": {"num_predict": 100}}).to_string();
    let len = body.len();
    write!(stream, "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}").unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).unwrap();
    server.stop();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    let ends_well = rest.contains("\"done\":true") || rest.contains("\"error\"");
    assert!(ends_well, "{rest}");
}
