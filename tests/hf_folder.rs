//! `export-hf` on the real models. Hugging Face's own tokenizer library, as a crate, must read the `tokenizer.json` and
//! give the ids that RawrZ gives on every line of the corpus, and text back from them. What takes Python (transformers
//! and torch) is in `tests/interop/transformers`.

mod common;

use common::{model, names, rawrz, run};
use rawrz_engine::ModelFiles;
use rawrz_text::{EncodeOptions, Json, Tokenizer};
use std::fs;
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn corpus() -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crates/text/tests/corpus/lines.jsonl");
    let lines = fs::read_to_string(path).expect("the corpus reads");
    let parse =
        |line: &str| Json::parse(line).expect("a line is JSON").as_str().expect("a line is text").to_owned();
    lines.lines().map(parse).collect()
}

/// Exports the model, and compares on the whole corpus.
fn compare(alias: &str) {
    let path = model(alias);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("hf");
    assert_eq!(run(["export-hf", alias, "--out", text(&folder)]).ok().trim_end(), text(&folder));
    let theirs = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).expect("it loads");
    let files = ModelFiles::open(&path).expect("the model opens");
    let ours = Tokenizer::from_gguf(files.shards().first()).expect("its vocabulary loads");
    assert_eq!(theirs.get_vocab_size(true), ours.vocab_len());
    let lines = corpus();
    assert!(lines.len() >= 3000);
    for (i, line) in lines.iter().enumerate() {
        // What is added around a text does not depend on it much.
        for add_special in [false, true].into_iter().take(if i % 16 == 0 { 2 } else { 1 }) {
            let options = EncodeOptions { add_special, parse_special: true };
            let expected = ours.encode(line, options).expect("the line encodes");
            let found = theirs.encode(line.as_str(), add_special).expect("the line encodes");
            assert_eq!(found.get_ids(), expected, "{line:?}");
        }
    }
    // Decoding is the same for text that the vocabulary can hold.
    for line in lines.iter().filter(|line| line.is_ascii()).step_by(4) {
        let options = EncodeOptions { add_special: false, parse_special: true };
        let ids = ours.encode(line, options).expect("the line encodes");
        assert_eq!(theirs.decode(&ids, false).expect("ids decode"), ours.decode(&ids, true), "{line:?}");
    }
}

#[test]
fn smollm2_gets_the_same_ids() {
    compare("smollm2");
}

#[test]
fn qwen_gets_the_same_ids() {
    compare("qwen");
}

#[test]
fn gemma_gets_the_same_ids() {
    compare("gemma");
}

#[test]
fn a_folder_links_the_model_and_a_second_run_changes_nothing() {
    let path = model("smollm2");
    let dir = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
    let folder = dir.path().join("hf");
    let args = ["export-hf", "smollm2", "--out", text(&folder), "--json"];
    let first = run(args).json();
    assert_eq!(first["was_present"], false);
    let kinds = first["files"].as_array().unwrap().iter();
    let of_model = kinds.clone().find(|file| file["name"] == "model.gguf").unwrap();
    assert!(["hard link", "symbolic link", "reflink"].contains(&of_model["kind"].as_str().unwrap()));
    assert!(kinds.filter(|file| file["kind"] == "written").count() >= 4);
    assert_eq!(
        names(&folder),
        [
            ".rawrz-export.json",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.gguf",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    let second = run(args).json();
    assert_eq!((&second["was_present"], &second["files"]), (&true.into(), &first["files"]));

    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    assert_eq!(json("generation_config.json")["eos_token_id"], serde_json::json!([0, 2, 4]));
    assert_eq!(json("tokenizer_config.json")["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(json("config.json")["model_type"], "llama");
    assert!(fs::read_to_string(folder.join("chat_template.jinja")).unwrap().contains("<|im_start|>"));
}

#[test]
fn real_weights_are_sharded() {
    model("smollm2");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("hf");
    let args =
        ["export-hf", "smollm2", "--out", text(&folder), "--safetensors", "fp16", "--shard-size", "100MB"];
    run(args).ok();
    let shards: Vec<_> = names(&folder).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert_eq!(shards.len(), 3, "{shards:?}");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("model.safetensors.index.json")).unwrap()).unwrap();
    // 134,515,008 weights of two bytes.
    assert_eq!(index["metadata"]["total_size"], 269_030_016);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 272);
    assert!(!folder.join("model.gguf").exists());
}

#[test]
fn a_killed_run_leaves_no_folder() {
    model("smollm2");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("hf");
    let args = ["export-hf", "smollm2", "--out", text(&folder), "--safetensors", "fp16"];
    let mut child = rawrz().args(args).spawn().expect("it starts");
    let staged = dir.path().join(".hf.rawrz-new");
    while !staged.join("tokenizer.json").exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = child.kill();
    assert!(!child.wait().unwrap().success(), "the run ended before it could be killed");
    assert!(!folder.exists());
    assert!(staged.exists());
    run(&args[..4]).ok();
    assert_eq!(names(dir.path()), ["hf"]);
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    model("smollm2");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), b"mine").unwrap();
    let error = run(["export-hf", "smollm2", "--out", text(dir.path())]).failed(1);
    assert!(error.contains("thesis.txt"), "{error}");
    assert_eq!(names(dir.path()), ["thesis.txt"]);
    run(["export-hf", "smollm2", "--out", text(dir.path()), "--shard-size", "1GB"]).failed(2);
}
