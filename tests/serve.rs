//! `rawrz serve` with a real model: what it answers is what `rawrz run` prints.

mod common;

use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A server that ends with the test.
struct Serve {
    child: Child,
    addr: String,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(args: &[&str]) -> Serve {
    serve_with(args, &[])
}

fn serve_with(args: &[&str], environment: &[(&str, &str)]) -> Serve {
    common::model("smollm2");
    let data = std::env::temp_dir();
    let mut command = common::rawrz();
    command
        .args(["serve", "--addr", "127.0.0.1:0"])
        .args(args)
        .env("XDG_DATA_HOME", data)
        .envs(environment.iter().copied());
    if std::env::var_os("RAWRZ_MODELS").is_none() {
        let folder = common::model("smollm2").parent().unwrap().to_path_buf();
        command.env("RAWRZ_MODELS", folder);
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.by_ref().map(Result::unwrap).find_map(|line| {
        let (_, addr) = line.split_once("serving on http://")?;
        Some(addr.to_owned())
    });
    std::thread::spawn(move || lines.for_each(drop));
    Serve { child, addr: said.expect("it serves") }
}

impl Serve {
    /// What is answered, head and body. HTTP/1.0 is answered without chunks.
    fn ask(&self, request: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let len = body.len();
        write!(stream, "{request} HTTP/1.0\r\nHost: localhost\r\n{headers}Content-Length: {len}\r\n\r\n")
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, body: &Json) -> Json {
        let answer = self.ask(&format!("POST {path}"), "", body.to_string().as_bytes());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

fn run_text(args: &[&str]) -> String {
    let args = [&["run", "smollm2", "--temp", "0", "-n", "24", "--json", "-p", "Name three colours."], args]
        .concat();
    common::run(args).json()["text"].as_str().unwrap().to_owned()
}

fn chat(model: &str, stream: bool) -> Json {
    json!({
        "model": model, "stream": stream, "options": {"temperature": 0, "num_predict": 24},
        "messages": [{"role": "user", "content": "Name three colours."}],
    })
}

#[test]
fn an_answer_is_that_of_run_however_many_ask() {
    let server = serve(&["smollm2", "--threads", "2"]);
    let expected = run_text(&[]);
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..8).map(|_| scope.spawn(|| server.post("/api/chat", &chat("smollm2", false)))).collect();
        for asked in asked {
            let answer = asked.join().unwrap();
            assert_eq!(answer["message"]["content"], expected, "{answer}");
        }
    });
    let raw = json!({"model": "smollm2", "prompt": "The capital of France is", "raw": true, "stream": false,
        "options": {"temperature": 0, "num_predict": 8}});
    let of_run = common::run([
        "run",
        "smollm2",
        "--raw",
        "--temp",
        "0",
        "-n",
        "8",
        "--json",
        "-p",
        "The capital of France is",
    ]);
    assert_eq!(server.post("/api/generate", &raw)["response"], of_run.json()["text"]);
}

#[test]
fn a_streamed_model_reads_its_weights_once_for_all() {
    let server = serve(&["smollm2", "--memory", "240MiB", "--ctx", "4096", "--threads", "2"]);
    let expected = run_text(&[]);
    let stats = || {
        let answer = server.ask("GET /api/rawrz/stats", "", b"");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Json>(body).unwrap()["models"][0].clone()
    };
    assert_eq!(stats()["streamed"], true, "{}", stats());
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..8).map(|_| scope.spawn(|| server.post("/api/chat", &chat("smollm2", false)))).collect();
        for asked in asked {
            assert_eq!(asked.join().unwrap()["message"]["content"], expected);
        }
    });
    let (passes, tokens) = (stats()["totals"]["passes"].clone(), stats()["totals"]["tokens"].clone());
    assert!(passes.as_u64().unwrap() * 3 < tokens.as_u64().unwrap(), "{passes} passes for {tokens} tokens");
}

#[test]
fn an_open_address_takes_a_key() {
    let refused = common::run(["serve", "--addr", "0.0.0.0:0"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("RAWRZ_API_KEY"), "{}", refused.stderr);
    let server = serve_with(&[], &[("RAWRZ_API_KEY", "hidden")]);
    assert!(server.ask("GET /api/tags", "", b"").starts_with("HTTP/1.0 401"));
    assert!(server.ask("GET /api/tags", "x-api-key: hidden\r\n", b"").starts_with("HTTP/1.0 200"));
}

#[test]
fn browsers_get_a_page_and_the_text_of_documents() {
    let server = serve(&["--api-key", "secret"]);
    let page = server.ask("GET /", "Accept: text/html,*/*;q=0.8\r\n", b"");
    assert!(page.starts_with("HTTP/1.0 200") && page.contains("<!doctype html>"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{page}");
    assert!(server.ask("GET /", "", b"").ends_with("\r\n\r\nOllama is running"));
    let script = server.ask("GET /page/app.js", "", b"");
    assert!(script.contains("content-type: text/javascript") && script.contains("nosniff"), "{script}");
    assert!(server.ask("GET /page/..%2fapp.js", "", b"").starts_with("HTTP/1.0 404"));

    let extract = "POST /api/rawrz/extract?name=a%20b.txt";
    assert!(server.ask(extract, "", b"text").starts_with("HTTP/1.0 401"), "what costs wants the key");
    let key = "Authorization: Bearer secret\r\n";
    assert!(server.ask(extract, key, "gr\u{fc}n".as_bytes()).ends_with("{\"text\":\"gr\u{fc}n\"}"));
    let refused = server.ask(extract, key, b"\xff");
    assert!(refused.starts_with("HTTP/1.0 400") && refused.contains("a b.txt: it is not text"), "{refused}");
}
