//! `inspect` and `tokenize` on the real models, and every command on files that are not what they should be.

mod common;

use common::{model, run, run_with_input};
use std::fs;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

#[test]
fn inspect_tells_what_is_in_a_real_model() {
    let path = model("smollm2");
    let object = run(["inspect", "smollm2", "--json", "--tensors"]).json();
    assert_eq!(object["architecture"], "llama");
    assert_eq!(object["files"][0], text(&path));
    assert_eq!(object["file_bytes"], fs::metadata(&path).unwrap().len());
    assert_eq!(object["version"], 3);
    assert_eq!(object["metadata"]["llama.block_count"], 30);
    assert_eq!(object["metadata"]["tokenizer.ggml.tokens"]["length"], 49152);
    assert_eq!(object["metadata"]["tokenizer.ggml.tokens"]["element_type"], "string");
    assert_eq!(object["metadata"]["tokenizer.ggml.tokens"]["first"][1], "<|im_start|>");
    let tensors = object["tensors"].as_array().unwrap();
    assert_eq!(object["n_tensors"], tensors.len());
    let embedding = tensors.iter().find(|tensor| tensor["name"] == "token_embd.weight").unwrap();
    assert_eq!(embedding["shape"], serde_json::json!([576, 49152]));
    let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    let by_type: u64 =
        object["types"].as_object().unwrap().values().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, by_type);

    let shown = run(["inspect", text(&path)]).ok();
    assert!(shown.contains("architecture llama, 134.5 M parameters, 272 tensors"), "{shown}");
    assert!(!shown.contains("blk.0.attn_q.weight"));
    assert!(run(["inspect", text(&path), "--tensors"]).ok().contains("blk.0.attn_q.weight"));
}

#[test]
fn tokenize_gives_the_ids_of_the_text_as_it_is() {
    model("smollm2");
    let ids = |args: &[&str], input: &str| run_with_input(args, input.as_bytes()).json();
    // The ids that llama.cpp gives, too.
    assert_eq!(ids(&["tokenize", "smollm2", "--json"], "Hello"), serde_json::json!([19556]));
    assert_eq!(ids(&["tokenize", "smollm2", "--json"], ""), serde_json::json!([]));
    let with = ids(&["tokenize", "smollm2", "--json"], "a<|im_start|>b");
    assert_eq!(with[1], 1);
    let without = ids(&["tokenize", "smollm2", "--json", "--no-special"], "a<|im_start|>b");
    assert!(!without.as_array().unwrap().contains(&1.into()), "{without}");
    let shown = run_with_input(["tokenize", "smollm2"], b"Hello world\n").ok();
    assert_eq!(shown, "  19556  \"Hello\"\n    905  \" world\"\n    198  \"\\n\"\n");
    assert!(run_with_input(["tokenize", "smollm2"], b"\xff").failed(1).contains("not UTF-8"));
}

#[test]
fn tokenize_adds_what_the_model_wants_at_the_start() {
    model("gemma");
    let ids = |args: &[&str]| run_with_input(args, b"Hello").json();
    let with = ids(&["tokenize", "gemma", "--json"]);
    let without = ids(&["tokenize", "gemma", "--json", "--no-bos"]);
    assert_eq!(with[0], 2);
    assert_eq!(with.as_array().unwrap()[1..], without.as_array().unwrap()[..]);
}

/// A GGUF header: magic, version 3, counts, then whatever follows.
fn header(n_tensors: u64, n_keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(n_tensors.to_le_bytes());
    bytes.extend(n_keys.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// A metadata entry of type string.
fn string_entry(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = (key.len() as u64).to_le_bytes().to_vec();
    bytes.extend(key.as_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

#[test]
fn files_that_are_no_models_are_refused_by_every_command() {
    let real = fs::read(model("smollm2")).unwrap();
    let mut unknown_architecture = header(0, 1, &string_entry("general.architecture", "no\u{1b}[2Jsuch"));
    unknown_architecture.resize(4096, 0);
    let mut huge_string = u64::MAX.to_le_bytes().to_vec();
    huge_string.resize(64, 0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("one byte", b"G".to_vec()),
        ("text", b"this is not a model\n".repeat(100)),
        ("web page", b"<!DOCTYPE html><html>".to_vec()),
        ("version 1", b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("big-endian", b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("version 99", b"GGUF\x63\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("counts beyond the file", header(u64::MAX, u64::MAX, &[])),
        ("a string beyond the file", header(0, 1, &huge_string)),
        ("cut in the metadata", real[..100_000].to_vec()),
        ("cut in the directory", real[..1_750_000].to_vec()),
        ("cut in the weights", real[..50_000_000].to_vec()),
        ("no vocabulary", unknown_architecture),
    ];
    let folder = tempfile::tempdir().unwrap();
    let words = folder.path().join("words.txt");
    fs::write(&words, "word ".repeat(3000)).unwrap();
    for (what, bytes) in cases {
        let path = folder.path().join(format!("{what}.gguf"));
        fs::write(&path, bytes).unwrap();
        let path = text(&path);
        let mut refused = vec![
            run_with_input(["tokenize", path], b"text").failed(1),
            run(["run", path, "-p", "hello"]).failed(1),
            run(["run", path, "-p", "hello", "--json"]).failed(1),
            run(["perplexity", path, text(&words)]).failed(1),
        ];
        // A header alone can be looked at.
        if what != "no vocabulary" {
            refused.push(run(["inspect", path]).failed(1));
            refused.push(run(["inspect", path, "--json"]).failed(1));
        }
        for error in refused {
            assert!(!error.contains('\u{1b}'), "{what}: {error:?}");
            assert!(error.len() > "error: ".len() + 10, "{what}: {error:?}");
        }
    }
}

#[test]
fn control_codes_in_a_file_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("title.gguf");
    let mut entries = string_entry("general.name", "\u{1b}]0;owned\u{7}\u{202e}");
    entries.extend(string_entry("evil\u{1b}[31mkey", "\u{9b}2J"));
    fs::write(&path, header(0, 2, &entries)).unwrap();
    let shown = run(["inspect", text(&path)]).ok();
    assert!(shown.contains("owned") && shown.contains("key"), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{shown:?}");
    let object = run(["inspect", text(&path), "--json"]).json();
    assert_eq!(object["metadata"]["general.name"], "\u{1b}]0;owned\u{7}\u{202e}");
}

#[test]
fn raw_parts_open_as_the_file_they_came_from() {
    let real = fs::read(model("smollm2")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The first cut lies within the metadata, so the header itself is in parts.
    let cuts = [0, 700_000, 30_000_000, real.len()];
    for (index, range) in cuts.windows(2).enumerate() {
        fs::write(folder.path().join(format!("m.gguf.part0{index}")), &real[range[0]..range[1]]).unwrap();
    }
    let whole = run(["inspect", "smollm2", "--json", "--tensors"]).json();
    let parts = run(["inspect", text(&folder.path().join("m.gguf.part00")), "--json", "--tensors"]).json();
    assert_eq!(parts["files"].as_array().unwrap().len(), 3);
    for field in ["metadata", "tensors", "types", "file_bytes"] {
        assert_eq!(parts[field], whole[field], "{field}");
    }
    fs::remove_file(folder.path().join("m.gguf.part01")).unwrap();
    let error = run(["inspect", text(&folder.path().join("m.gguf.part00"))]).failed(1);
    assert!(error.contains("part"), "{error}");
}

#[test]
fn a_cause_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    std::fs::write(&path, b"GGUF\x63\0\0\0").unwrap();
    for command in ["run", "inspect", "tokenize"] {
        let error = run([command, text(&path)]).failed(1);
        assert_eq!(error.matches("GGUF version 99").count(), 1, "{command}: {error}");
        assert_eq!(error.matches("bad.gguf").count(), 1, "{command}: {error}");
    }
}
