//! The Ollama API.

use crate::common::{Answer, Running, options, start};
use rawrz_engine::{Cancel, Engine, GenerateOptions, OpenOptions, SamplerOptions, Session, generate};
use serde_json::{Value as Json, json};
use std::path::Path;

fn text_of(lines: &[Json]) -> String {
    lines.iter().map(|line| line["response"].as_str().unwrap_or_default()).collect()
}

fn greedy(n: usize) -> Json {
    json!({"temperature": 0, "num_predict": n})
}

#[test]
fn a_raw_prompt_gives_the_text_of_the_engine_alone_streamed_or_not() {
    let server = start(options());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/llama-linear.gguf");
    let engine = Engine::open(&path, &OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
    let prompt = engine.tokenizer().encode_prompt("Hello there").unwrap();
    let expected = generate(
        &mut Session::new(&engine).unwrap(),
        &prompt,
        &GenerateOptions { max_tokens: 20, sampler: SamplerOptions::greedy(), ..GenerateOptions::default() },
        &Cancel::default(),
        &mut |_| (),
    )
    .unwrap();
    let mut body = json!({"model": "tiny", "prompt": "Hello there", "raw": true, "options": greedy(20)});
    let lines = server.post("/api/generate", &body).lines();
    assert_eq!(text_of(&lines), expected.text);
    assert!(lines[..lines.len() - 1].iter().all(|line| line["done"] == false));
    let last = lines.last().unwrap();
    assert_eq!((&last["done"], &last["model"]), (&json!(true), &json!("tiny:latest")));
    assert_eq!(last["eval_count"], expected.tokens.len());
    assert_eq!(last["prompt_eval_count"], prompt.len());
    for field in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[field].is_u64(), "{field}: {last}");
    }
    body["stream"] = json!(false);
    let whole = server.post("/api/generate", &body).json();
    assert_eq!(whole["response"], expected.text);
    assert_eq!(whole["done_reason"], last["done_reason"]);
}

#[test]
fn context_goes_on_where_the_last_answer_ended() {
    let server = start(options());
    let ask = |prompt: &str, context: Json| {
        let body = json!({
            "model": "tiny", "prompt": prompt, "stream": false, "options": greedy(5), "context": context,
        });
        server.post("/api/generate", &body).json()
    };
    let first = ask("ab", Json::Null);
    let context = first["context"].as_array().unwrap();
    assert_eq!(
        context.len() as u64,
        first["prompt_eval_count"].as_u64().unwrap() + first["eval_count"].as_u64().unwrap()
    );
    let second = ask("cd", first["context"].clone());
    assert!(second["prompt_eval_count"].as_u64().unwrap() > context.len() as u64);
    assert_eq!(&second["context"].as_array().unwrap()[..context.len()], &context[..]);
    let body = json!({"model": "tiny", "prompt": "x", "context": [99999]});
    assert_eq!(server.post("/api/generate", &body).status, 400);
}

#[test]
fn logprobs_and_progress_come_to_those_who_ask() {
    let server = start(options());
    let body = json!({
        "model": "tiny", "prompt": "Hello there", "raw": true, "logprobs": true, "top_logprobs": 3,
        "options": {"temperature": 0, "num_predict": 6, "rawrz_progress": true},
    });
    let lines = server.post("/api/generate", &body).lines();
    assert!(lines.iter().any(|line| line["rawrz_progress"]["prompt_total"].is_u64()));
    let steps: Vec<&Json> = lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().collect();
    assert_eq!(steps.len() as u64, lines.last().unwrap()["eval_count"].as_u64().unwrap());
    for step in steps {
        let top = step["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (3, &step["token"], &step["logprob"]));
    }
    let plain = json!({"model": "tiny", "prompt": "x", "options": greedy(2)});
    assert!(
        server.post("/api/generate", &plain).lines().iter().all(|line| line.get("rawrz_progress").is_none())
    );
    let too_many = json!({"model": "tiny", "prompt": "x", "logprobs": true, "top_logprobs": 99});
    assert_eq!(server.post("/api/generate", &too_many).status, 400);
}

/// A model with a template, made through the API.
fn create_chat(server: &Running) -> Answer {
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}\
        {% if tools %}{{ tools | length }}{% endif %}a:";
    let body = json!({
        "model": "chatty", "from": "tiny", "template": template, "system": "Be short.", "stream": false,
        "parameters": {"temperature": 0, "num_predict": 4, "stop": ["~"]},
    });
    server.post("/api/create", &body)
}

#[test]
fn models_are_created_shown_copied_and_deleted() {
    let server = start(options());
    assert_eq!(create_chat(&server).json(), json!({"status": "success"}));
    let names = || {
        let tags = server.get("/api/tags").json();
        let names =
            tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["tiny:latest", "other:latest", "chatty:latest"]);
    let shown = server.post("/api/show", &json!({"model": "chatty"})).json();
    assert_eq!(shown["system"], "Be short.");
    assert_eq!(shown["details"]["parent_model"], "tiny");
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert!(shown["parameters"].as_str().unwrap().contains("num_predict"));
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    let copy = json!({"source": "chatty", "destination": "again:v1"});
    assert_eq!(server.post("/api/copy", &copy).status, 200);
    let chat = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": false});
        server.post("/api/chat", &body).json()
    };
    let (one, other) = (chat("chatty"), chat("again:v1"));
    assert_eq!(one["message"], other["message"]);
    assert_eq!(one["message"]["role"], "assistant");
    assert!(one["eval_count"].as_u64().unwrap() <= 4, "{one}");
    let delete = |name: &str| server.ask("DELETE", "/api/delete", &json!({"model": name}).to_string()).status;
    assert_eq!(delete("again:v1"), 200);
    assert_eq!(delete("again:v1"), 404);
    assert_eq!(delete("tiny"), 400, "the user's file is not deleted");
    assert_eq!(names(), ["tiny:latest", "other:latest", "chatty:latest"]);
}

#[test]
fn what_cannot_be_created_is_refused() {
    let server = start(options());
    for body in [
        json!({"model": "x", "from": "nothing"}),
        json!({"model": "x"}),
        json!({"model": "../x", "from": "tiny"}),
        json!({"model": "x y", "from": "tiny"}),
        json!({"model": "tiny", "from": "other"}),
        json!({"model": "x", "from": "tiny", "template": "{{ .System }}"}),
        json!({"model": "x", "from": "tiny", "quantize": "q4_0"}),
        json!({"model": "x", "from": "tiny", "parameters": {"temperature": -1}}),
        json!({"model": "x", "files": {"a.gguf": "sha256:../../etc/passwd"}}),
    ] {
        let answer = server.post("/api/create", &body);
        assert!(answer.status == 400 || answer.status == 404, "{body}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let push = server.post("/api/push", &json!({"model": "tiny"}));
    assert_eq!(push.status, 400);
}

#[test]
fn a_blob_that_was_sent_runs() {
    let server = start(options());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/gemma3-global.gguf");
    let bytes = std::fs::read(path).unwrap();
    let digest = {
        use sha2::{Digest, Sha256};
        let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    let blob = format!("/api/blobs/{digest}");
    assert_eq!(server.ask("HEAD", &blob, "").status, 404);
    let send = |path: &str, bytes: &[u8]| {
        use std::io::{Read, Write};
        let mut stream = server.connect();
        let len = bytes.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(send(&blob, &bytes[1..]).starts_with("HTTP/1.1 400"), "of another digest");
    assert_eq!(server.ask("HEAD", &blob, "").status, 404);
    assert!(send(&blob, &bytes).starts_with("HTTP/1.1 201"));
    assert_eq!(server.ask("HEAD", &blob, "").status, 200);
    let create = json!({"model": "sent", "files": {"m.gguf": digest}, "stream": false});
    assert_eq!(server.post("/api/create", &create).status, 200);
    let body = json!({"model": "sent", "prompt": "ab", "raw": true, "stream": false, "options": greedy(3)});
    assert_eq!(server.post("/api/generate", &body).json()["done"], true);
}

#[test]
fn models_load_stay_and_go() {
    let server = start(options());
    let running = || server.get("/api/ps").json()["models"].as_array().unwrap().len();
    assert_eq!(running(), 0);
    let load = server.post("/api/generate", &json!({"model": "tiny"})).json();
    assert_eq!((&load["done_reason"], &load["done"]), (&json!("load"), &json!(true)));
    let ps = server.get("/api/ps").json();
    assert_eq!(ps["models"][0]["name"], "tiny:latest");
    assert_eq!(ps["models"][0]["context_length"], 128);
    let unload = server.post("/api/generate", &json!({"model": "tiny", "keep_alive": 0})).json();
    assert_eq!(unload["done_reason"], "unload");
    assert_eq!(running(), 0);
    let short =
        json!({"model": "tiny", "prompt": "x", "keep_alive": "100ms", "stream": false, "options": greedy(1)});
    server.post("/api/generate", &short);
    let started = std::time::Instant::now();
    while running() > 0 {
        assert!(started.elapsed().as_secs() < 10, "it expires");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn embeddings_have_length_one_and_do_not_depend_on_the_others() {
    let server = start(options());
    let many = server.post("/api/embed", &json!({"model": "tiny", "input": ["one", "two", "one"]})).json();
    let vectors = many["embeddings"].as_array().unwrap();
    assert_eq!(vectors.len(), 3);
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    let length: f64 = vectors[1].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    let one = server.post("/api/embed", &json!({"model": "tiny", "input": "two"})).json();
    assert_eq!(one["embeddings"][0], vectors[1]);
    let old = server.post("/api/embeddings", &json!({"model": "tiny", "prompt": "two"})).json();
    assert_eq!(old["embedding"], vectors[1]);
    let short = server.post("/api/embed", &json!({"model": "tiny", "input": "two", "dimensions": 4})).json();
    assert_eq!(short["embeddings"][0].as_array().unwrap().len(), 4);
    let long = "long ".repeat(200);
    let cut = server.post("/api/embed", &json!({"model": "tiny", "input": long}));
    assert_eq!(cut.status, 200);
    let refused = server.post("/api/embed", &json!({"model": "tiny", "input": long, "truncate": false}));
    assert_eq!(refused.status, 400);
}

#[test]
fn formats_are_followed_and_bad_ones_refused() {
    let server = start(options());
    let ask = |format: Json, options: Json| {
        let body = json!({
            "model": "tiny", "prompt": "ab", "raw": true, "stream": false, "format": format, "options": options,
        });
        server.post("/api/generate", &body)
    };
    for seed in 0..10 {
        let options = json!({"seed": seed, "temperature": 1.5});
        let choice = ask(json!({"enum": ["yes", "no"]}), options.clone()).json();
        let text = choice["response"].as_str().unwrap();
        assert!(text == "\"yes\"" || text == "\"no\"", "{choice}");
        assert_eq!(choice["done_reason"], "stop");
        let mut with_regex = options;
        with_regex["regex"] = json!("[ab]{3}c");
        let matched = ask(Json::Null, with_regex).json();
        let text = matched["response"].as_str().unwrap();
        assert!(
            text.len() == 4 && text.ends_with('c') && text[..3].bytes().all(|c| c == b'a' || c == b'b'),
            "{text}"
        );
    }
    for (format, options) in [
        (json!("yaml"), json!({})),
        (json!({"type": "nonsense"}), json!({})),
        (json!({"$ref": "https://example.com/schema"}), json!({})),
        (Json::Null, json!({"regex": "(unclosed"})),
        (json!("json"), json!({"regex": "a"})),
    ] {
        let refused = ask(format.clone(), options);
        assert_eq!(refused.status, 400, "{format}: {refused:?}");
    }
}

#[test]
fn what_the_model_cannot_do_is_said_by_name() {
    let server = start(options());
    let images = json!({"model": "tiny", "prompt": "x", "images": ["aGk="]});
    let refused = server.post("/api/generate", &images);
    assert!(refused.status == 400 && refused.body.contains("images"), "{refused:?}");
    let infill = json!({"model": "tiny", "prompt": "a", "suffix": "b"});
    let refused = server.post("/api/generate", &infill);
    assert!(refused.status == 400 && refused.body.contains("insert"), "{refused:?}");
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}]});
    let refused = server.post("/api/chat", &chat);
    assert!(refused.status == 400 && refused.body.contains("template"), "{refused:?}");
    let missing = server
        .post("/api/chat", &json!({"model": "nothing", "messages": [{"role": "user", "content": "x"}]}));
    assert_eq!((missing.status, missing.json()), (404, json!({"error": "model 'nothing' not found"})));
    let long = json!({"model": "tiny", "prompt": "long ".repeat(200), "raw": true});
    assert_eq!(server.post("/api/generate", &long).status, 400);
}

#[test]
fn a_conversation_that_is_too_long_loses_its_oldest_turns_and_keeps_the_system() {
    let server = start(options());
    create_chat(&server);
    let mut messages = vec![json!({"role": "system", "content": "S"})];
    for i in 0..40 {
        messages.push(
            json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": format!("{i} abc")}),
        );
    }
    messages.push(json!({"role": "user", "content": "last"}));
    let mut body = json!({"model": "chatty", "messages": messages, "stream": false});
    let answer = server.post("/api/chat", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let dropped: usize = answer
        .head
        .lines()
        .find_map(|line| line.strip_prefix("x-rawrz-dropped-messages: "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(dropped > 0 && dropped < 41, "{dropped}");
    assert!(answer.json()["prompt_eval_count"].as_u64().unwrap() < 128);
    body["truncate"] = json!(false);
    assert_eq!(server.post("/api/chat", &body).status, 400);
}

#[test]
fn small_things_answer_as_clients_expect() {
    let server = start(options());
    assert_eq!(server.get("/").body, "Ollama is running");
    assert_eq!(server.ask("HEAD", "/", "").status, 200);
    let version = server.get("/api/version").json()["version"].as_str().unwrap().to_owned();
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    let pulled = server.post("/api/pull", &json!({"model": "tiny"})).lines();
    assert_eq!(pulled[0], json!({"status": "pulling manifest"}));
    assert_eq!(pulled.last().unwrap(), &json!({"status": "success"}));
    let failed = server.post("/api/pull", &json!({"model": "nothing", "stream": false}));
    assert_eq!((failed.status, failed.json()), (400, json!({"error": "nothing is not known"})));
}
