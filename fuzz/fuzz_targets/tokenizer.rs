//! Any vocabulary is refused or encodes any text, to ids that it has, and decodes them alike at once and in a stream.
//!
//! Input: a byte for the model, one for the pre-tokenizer, one for flags; then parts that bytes 0xFF end: the text,
//! the merges (by lines) and the tokens (by lines, each after a byte for its type and one for its score).
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_gguf::{Gguf, Header, Writer};
use rawrz_text::{EncodeOptions, StreamDecoder, Tokenizer};

const MODELS: &[&str] = &["gpt2", "llama", "bert", "t5", "gemma4", "rwkv"];
const PRES: &[&str] = &[
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "qwen35",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "spark2_5",
    "youtu",
    "falcon",
    "smollm",
    "poro-chat",
    "viking",
    "tekken",
    "chameleon",
    "gpt-4o",
    "granite-embed-multi-97m",
    "tiny_aya",
    "kimi-k2",
    "superbpe",
    "bailingmoe",
    "seed-coder",
    "ufakzeka",
    "afmoe",
    "laguna",
    "exaone-moe",
    "gemma4",
    "sarvam-moe",
    "mmbert",
    "minicpm5",
    "whitespace",
    "jais-2",
    "default",
    "no-such",
];

fuzz_target!(|data: &[u8]| {
    let [model, pre, flags, rest @ ..] = data else {
        return;
    };
    let mut parts = rest.splitn(3, |byte| *byte == 0xff);
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (text, merges, tokens) = (part(), part(), part());
    let mut texts = Vec::new();
    let (mut types, mut scores) = (Vec::new(), Vec::new());
    for line in tokens.split('\n') {
        let mut chars = line.chars();
        types.push(chars.next().map_or(1, |c| c as i32 % 8));
        scores.push(chars.next().map_or(0.0, |c| c as u32 as f32 - 64.0));
        texts.push(chars.as_str().to_owned());
    }
    if flags & 1 != 0 {
        // With a token for every byte nothing is lost.
        for byte in 0..=255u8 {
            texts.push(format!("<0x{byte:02X}>"));
            types.push(6);
            scores.push(-1000.0);
        }
    }
    let merges: Vec<&str> = merges.split('\n').collect();
    let mut header = Header::new();
    header.set("tokenizer.ggml.model", MODELS[usize::from(*model) % MODELS.len()]).expect("distinct");
    header.set("tokenizer.ggml.pre", PRES[usize::from(*pre) % PRES.len()]).expect("distinct");
    header.set("tokenizer.ggml.tokens", &texts[..]).expect("distinct");
    header.set("tokenizer.ggml.token_type", &types[..]).expect("distinct");
    header.set("tokenizer.ggml.scores", &scores[..]).expect("distinct");
    header.set("tokenizer.ggml.merges", &merges[..]).expect("distinct");
    header.set("tokenizer.ggml.add_bos_token", flags & 2 != 0).expect("distinct");
    header.set("tokenizer.ggml.add_eos_token", flags & 4 != 0).expect("distinct");
    header.set("tokenizer.ggml.add_space_prefix", flags & 8 != 0).expect("distinct");
    header.set("tokenizer.ggml.remove_extra_whitespaces", flags & 16 != 0).expect("distinct");
    for (i, key) in ["bos", "eos", "unknown", "seperator", "padding"].into_iter().enumerate() {
        header.set(format!("tokenizer.ggml.{key}_token_id"), i as u32).expect("distinct");
    }
    let name = if flags & 32 != 0 { "phi-3" } else { "other" };
    header.set("general.name", name).expect("distinct");
    let file = Writer::start(Vec::new(), &header).and_then(Writer::finish).expect("it is written");
    let gguf = Gguf::from_vec(file).expect("what is written parses");
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else {
        return;
    };
    for id in 0..tokenizer.vocab_len() as u32 + 2 {
        assert_eq!(tokenizer.token_text(id).is_some(), (id as usize) < tokenizer.vocab_len());
    }
    for (add_special, parse_special) in [(false, false), (false, true), (true, true)] {
        let Ok(ids) = tokenizer.encode(&text, EncodeOptions { add_special, parse_special }) else {
            continue;
        };
        let mut bytes = Vec::new();
        let mut decoder = StreamDecoder::new(&tokenizer, true);
        let mut streamed = String::new();
        for &id in &ids {
            assert!((id as usize) < tokenizer.vocab_len());
            tokenizer.append_piece(id, true, &mut bytes);
            streamed.push_str(decoder.push(id));
        }
        streamed.push_str(decoder.finish());
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
        let _ = tokenizer.decode(&ids, false);
    }
    let _ = tokenizer.encode_prompt(&text);
});
