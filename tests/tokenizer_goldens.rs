//! Ids against those that llama.cpp gives, on every line of the corpus and for the vocabularies of the real models.
//! How they were recorded: `tests/goldens/tokenizer/record.py`.

mod common;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rawrz_gguf::Gguf;
use rawrz_text::{EncodeOptions, Json, StreamDecoder, TokenId, Tokenizer};

#[test]
fn smollm2_ids_are_the_reference_s() {
    compare("smollm2");
}

#[test]
fn qwen_ids_are_the_reference_s() {
    compare("qwen");
}

#[test]
fn gemma_ids_are_the_reference_s() {
    compare("gemma");
}

fn repo_file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tokenizer(alias: &str) -> Tokenizer {
    // Metadata comes first in the file; the longest, gemma's, has 8 MB.
    let path = common::model(alias);
    let file = std::fs::File::open(&path).expect("the model opens");
    let file_len = file.metadata().expect("it has a length").len();
    let mut header = Vec::new();
    file.take(32 << 20).read_to_end(&mut header).expect("the model reads");
    let gguf = Gguf::parse(Arc::new(header), file_len).expect("the model parses");
    Tokenizer::from_gguf(&gguf).expect("its vocabulary loads")
}

fn corpus() -> Vec<String> {
    let text =
        std::fs::read_to_string(repo_file("crates/text/tests/corpus/lines.jsonl")).expect("the corpus reads");
    let parse =
        |line: &str| Json::parse(line).expect("a line is JSON").as_str().expect("a line is text").to_owned();
    let lines: Vec<String> = text.trim_end_matches('\n').split('\n').map(parse).collect();
    assert!(lines.len() >= 2000);
    lines
}

/// The varints of the recorded ids.
struct Recorded<'b>(&'b [u8]);

impl Recorded<'_> {
    fn number(&mut self) -> u32 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = self.0.split_first().expect("the goldens end early");
            self.0 = rest;
            value |= u32::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }

    fn ids(&mut self) -> Vec<TokenId> {
        (0..self.number()).map(|_| self.number()).collect()
    }
}

fn compare(alias: &str) {
    let tokenizer = tokenizer(alias);
    let lines = corpus();
    let golden = |name: String| repo_file("tests/goldens/tokenizer").join(name);
    let bytes = std::fs::read(golden(format!("{alias}.ids"))).expect("the goldens read");
    let record = std::fs::read_to_string(golden(format!("{alias}.json"))).expect("the record reads");
    let record = Json::parse(&record).expect("the record is JSON");
    assert_eq!(record.get("n_lines"), Some(&Json::Int(lines.len() as i128)), "record the goldens again");

    let encode = |line: &str, add_special, parse_special| {
        tokenizer.encode(line, EncodeOptions { add_special, parse_special }).expect("the line encodes")
    };
    let mut recorded = Recorded(&bytes);
    for (i, line) in lines.iter().enumerate() {
        let plain = recorded.ids();
        let parsed = match recorded.number() {
            0 => plain.clone(),
            _ => recorded.ids(),
        };
        assert_eq!(encode(line, false, false), plain, "line {i} as plain text: {line:?}");
        assert_eq!(encode(line, false, true), parsed, "line {i} with control tokens: {line:?}");
        check_decoding(&tokenizer, line, &plain, &parsed);
    }
    assert!(recorded.0.is_empty(), "the goldens have more lines than the corpus");

    let with_special = record.get("with_special").and_then(Json::as_array).expect("ids with special tokens");
    for (line, expected) in lines.iter().zip(with_special) {
        let ids = Json::Array(encode(line, true, true).into_iter().map(|id| Json::Int(id.into())).collect());
        assert_eq!(&ids, expected, "with special tokens: {line:?}");
        assert_eq!(&Json::parse(&ids.to_string()), &Ok(ids), "printing keeps ids");
    }
}

/// Every line comes back from its ids, at once and in a stream, but for what its vocabulary cannot hold.
fn check_decoding(tokenizer: &Tokenizer, line: &str, plain: &[TokenId], parsed: &[TokenId]) {
    let expected = match tokenizer.find("\u{2581}") {
        // SentencePiece writes spaces as U+2581, so the two cannot be told apart afterwards.
        Some(_) if tokenizer.find("<start_of_turn>").is_some() => line.replace('\u{2581}', " "),
        _ => line.to_owned(),
    };
    if !has_unknown_bytes(tokenizer, line) {
        assert_eq!(tokenizer.decode(plain, true), expected);
        assert_eq!(tokenizer.decode(parsed, true), expected);
    }
    let mut decoder = StreamDecoder::new(tokenizer, true);
    let mut streamed = String::new();
    for &id in parsed {
        streamed.push_str(decoder.push(id));
    }
    streamed.push_str(decoder.finish());
    assert_eq!(streamed, tokenizer.decode(parsed, true));
}

/// Whether a byte of the line is no token of a byte-level vocabulary: the reference drops it, and so do we. Smollm2
/// lacks some control characters and the first byte of some planes.
fn has_unknown_bytes(tokenizer: &Tokenizer, line: &str) -> bool {
    let lost = |c: char| {
        let options = EncodeOptions { add_special: false, parse_special: false };
        let ids = tokenizer.encode(&c.to_string(), options).expect("a character encodes");
        tokenizer.decode(&ids, true).trim_start() != c.to_string().trim_start()
    };
    tokenizer.find("<start_of_turn>").is_none() && line.chars().any(lost)
}

#[test]
fn prompts_get_one_beginning_of_sequence() {
    let gemma = tokenizer("gemma");
    let bos = gemma.bos().expect("gemma has one");
    let bare = gemma.encode_prompt("<start_of_turn>user\nHi").expect("encodes");
    let with_bos = gemma.encode_prompt("<bos><start_of_turn>user\nHi").expect("encodes");
    assert_eq!(bare, with_bos);
    assert_eq!(bare.iter().filter(|id| **id == bos).count(), 1);
    // Qwen adds none.
    let qwen = tokenizer("qwen");
    assert!(!qwen.adds_bos());
    let ids = qwen.encode_prompt("<|im_start|>user\nHi").expect("encodes");
    assert_eq!(ids[0], qwen.find("<|im_start|>").expect("qwen has it"));
}

#[test]
fn generations_end_where_the_reference_ends_them() {
    // The tokens for which llama.cpp's `llama_vocab_is_eog` holds, among them `</s>`, `<repo_name>` and the like.
    let ends: [(&str, &[TokenId]); 3] = [
        ("smollm2", &[0, 2, 4]),
        ("qwen", &[128_247, 151_643, 151_645, 151_662, 151_663, 151_664]),
        ("gemma", &[1, 106, 212]),
    ];
    for (alias, ids) in ends {
        let tokenizer = tokenizer(alias);
        assert_eq!(tokenizer.eog_ids(), ids, "{alias}");
        assert!(tokenizer.is_eog(ids[0]) && !tokenizer.is_eog(300), "{alias}");
    }
}
