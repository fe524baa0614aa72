//! Whole models against llama.cpp: what was recorded in `tests/goldens` must come out of the engine.
//!
//! Runs that round the inputs of matmuls to 8 bits, ours and the reference's alike, differ by the whole noise of that
//! rounding as soon as one sum is formed in another order (see `tests/goldens/generation/README.md`). So texts and
//! logprobs are compared where neither side rounds: ours with [`Precision::Float`], the reference on the same
//! weights written out as F32. The fast kernels are then held to that by their perplexity and by the size of the
//! noise.
//!
//! The real models are found as [`common::model`] says. Each test prints its figures (`--nocapture` shows them).

mod common;

use rawrz_engine::{
    Cancel, Engine, GenerateOptions, OpenOptions, Precision, SamplerOptions, Session, generate, logprob_of,
    top_logprobs,
};
use rawrz_text::{EncodeOptions, TokenId};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens that were recorded after each prompt.
const N_OUTPUT: usize = 64;

/// Positions in one chunk of a perplexity.
const PERPLEXITY_CONTEXT: usize = 512;

/// Positions of a session on a real model: the longest prompt and its outputs fit.
const CONTEXT: usize = 1024;

/// Positions that the tiny models were made for.
const TINY_CONTEXT: usize = 128;

/// Bounds of the mean and largest |logprob difference| of a tiny model: what is left is that the reference rounds
/// queries, attention weights and (gemma) gates to f16. Wrong models are far outside: qwen3moe with weights of experts
/// that do not sum to 1 has a mean of 0.5.
const TINY_MEAN: f64 = 0.002;
const TINY_MAX: f64 = 0.02;

/// Bound of the mean |logprob difference| that 8-bit inputs may make. The reference differs by 0.07 from itself
/// (smollm2, batches of 512 tokens against single ones).
const ROUNDING_NOISE: f64 = 0.2;

/// Bound of the relative error of the perplexity of the whole text: what 8-bit inputs change in the logprob of a token
/// is noise of about 0.1 (mean of its magnitude 0.07, see above), and this is two standard errors of its mean over the
/// text's 4335 scored tokens. A part of the text would need a wider bound.
const PERPLEXITY_OFF: f64 = 0.003;

#[test]
fn smollm2_continues_as_the_reference() {
    compare_generation("smollm2");
}

#[test]
fn gemma_continues_as_the_reference() {
    compare_generation("gemma");
}

#[test]
fn qwen_continues_as_the_reference() {
    compare_generation("qwen");
}

#[test]
fn perplexity_is_the_reference_s() {
    for alias in ["smollm2", "qwen", "gemma"] {
        compare_perplexity(alias);
    }
}

/// Every architecture and weight type, on models small enough to commit.
#[test]
fn tiny_models_give_the_reference_s_distributions() {
    let mut failed = Vec::new();
    for path in tiny_models() {
        let golden = read_json(&path.with_extension("json"));
        let engine = open(&path, None, TINY_CONTEXT, Precision::Float);
        let tokens = ids(&golden["tokens"]);
        let mut differences = Differences::default();
        score(&engine, &tokens, 0, &mut |position, logits| {
            let n_seen = (position + 1).to_string();
            if let Some(expected) = golden["logprobs"][n_seen].as_array() {
                assert_eq!(logits.len(), expected.len());
                for (id, expected) in (0..).zip(expected) {
                    differences.add(logprob_of(logits, id), number(expected));
                }
            }
        });
        let name = path.file_stem().unwrap().to_string_lossy();
        println!("{name:24} {differences}");
        assert!(differences.n > 0, "{name}: no position was compared");
        if differences.mean() > TINY_MEAN || differences.max > TINY_MAX {
            failed.push(name.into_owned());
        }
    }
    assert!(failed.is_empty(), "too far from the reference: {failed:?}");
}

#[test]
fn batch_width_and_threads_do_not_change_a_bit_of_tiny_models() {
    for path in tiny_models() {
        let tokens = ids(&read_json(&path.with_extension("json"))["tokens"]);
        check_invariance(&path, &tokens, TINY_CONTEXT);
    }
}

#[test]
fn batch_width_and_threads_do_not_change_a_bit_of_a_real_model() {
    let golden = generation_golden("smollm2-f32");
    let medium = golden.iter().find(|record| record.prompt == "medium").unwrap();
    check_invariance(&common::model("smollm2"), &medium.prompt_ids[..72], CONTEXT);
}

/// What was recorded for one prompt.
struct Record {
    prompt: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    /// For each output position the most likely tokens and their logprobs.
    top: Vec<Vec<(TokenId, f64)>>,
}

impl Record {
    /// The prompt and all outputs but the last, whose successor was not recorded.
    fn forced(&self) -> Vec<TokenId> {
        let outputs = &self.output_ids[..self.output_ids.len() - 1];
        [&self.prompt_ids[..], outputs].concat()
    }

    /// How much less likely than its best token the reference holds `id` at an output position; infinite when it
    /// is not among the recorded ones.
    fn gap(&self, at: usize, id: TokenId) -> f64 {
        let top = &self.top[at];
        let found = top.iter().find(|(other, _)| *other == id);
        found.map_or(f64::INFINITY, |(_, logprob)| top[0].1 - logprob)
    }
}

/// Mean and largest of absolute differences.
#[derive(Default)]
struct Differences {
    n: usize,
    sum: f64,
    max: f64,
}

impl Differences {
    fn add(&mut self, ours: f64, expected: f64) {
        let difference = (ours - expected).abs();
        self.n += 1;
        self.sum += difference;
        self.max = if difference.is_nan() { f64::NAN } else { self.max.max(difference) };
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "|logprob difference|: mean {:.6}, max {:.6}, n {}", self.mean(), self.max, self.n)
    }
}

/// Greedy text, and the logprobs along the recorded text, of every recorded prompt.
///
/// A greedy text is the reference's exactly when, along the reference's text, our most likely token is the recorded
/// one at every position; so one pass over prompt and text tells both, and where they part first.
fn compare_generation(alias: &str) {
    let golden = &generation_golden(&format!("{alias}-f32"));
    let n_prompts = golden.len();
    let n_outputs: usize = golden.iter().map(|record| record.output_ids.len()).sum();
    let path = common::model(alias);
    let exact = open(&path, None, CONTEXT, Precision::Float);
    let fast = open(&path, None, CONTEXT, Precision::Quantized);
    let (mut differences, mut noise) = (Differences::default(), Differences::default());
    let mut identical = 0;
    let mut worst_gap = 0.0_f64;
    for (record, (name, text)) in golden.iter().zip(&prompt_texts()) {
        assert_eq!(record.prompt, *name);
        let encode = EncodeOptions { add_special: true, parse_special: false };
        let prompt = exact.tokenizer().encode(text, encode).unwrap();
        assert_eq!(prompt, record.prompt_ids, "{alias}, {name}: tokens of the prompt");

        let (forced, first) = (record.forced(), prompt.len() - 1);
        let mut parted = None;
        score(&exact, &forced, first, &mut |position, logits| {
            let at = position - first;
            let best = top_logprobs(logits, 1)[0].id;
            if best != record.output_ids[at] && parted.is_none() {
                parted = Some((at, record.gap(at, best)));
            }
            for (id, expected) in &record.top[at] {
                differences.add(logprob_of(logits, *id), *expected);
            }
        });
        match parted {
            None => identical += 1,
            Some((at, gap)) => {
                worst_gap = worst_gap.max(gap);
                println!("{alias:8} {name:16} differs first at {at}, gap {gap:.5}");
            }
        }
        score(&fast, &forced, first, &mut |position, logits| {
            for (id, expected) in &record.top[position - first] {
                noise.add(logprob_of(logits, *id), *expected);
            }
        });
    }
    println!("{alias:8} identical {identical} of {n_prompts}, worst gap {worst_gap:.5}, {differences}");
    println!("{alias:8} with 8-bit inputs {noise}");
    assert_eq!(differences.n, n_outputs * 5, "{alias}: every recorded logprob is compared");
    assert!(identical * 10 >= n_prompts * 9, "{alias}: only {identical} texts are the reference's");
    assert!(worst_gap < 0.05, "{alias}: a text leaves the reference's where that was sure ({worst_gap})");
    assert!(differences.mean() <= 0.01, "{alias}: {differences}");
    assert!(noise.mean() <= ROUNDING_NOISE, "{alias}: {noise}");
}

/// What [`compare_generation`] rests on: the text that comes out of the loop is the most likely token at each position.
#[test]
fn greedy_text_is_the_most_likely_token_at_each_position() {
    let engine = open(&common::model("smollm2"), None, CONTEXT, Precision::Quantized);
    let options = GenerateOptions {
        max_tokens: N_OUTPUT,
        sampler: SamplerOptions { temperature: 0.0, ..SamplerOptions::default() },
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    for record in generation_golden("smollm2-f32").iter().take(6) {
        let mut session = Session::new(&engine).unwrap();
        let prompt = &record.prompt_ids;
        let made = generate(&mut session, prompt, &options, &Cancel::default(), &mut |_| ()).unwrap();
        assert_eq!(made.tokens.len(), N_OUTPUT);
        let forced = [&prompt[..], &made.tokens[..N_OUTPUT - 1]].concat();
        let mut best = Vec::new();
        score(&engine, &forced, prompt.len() - 1, &mut |_, logits| best.push(top_logprobs(logits, 1)[0].id));
        assert_eq!(made.tokens, best, "{}", record.prompt);
    }
}

/// Perplexity as llama.cpp defines it: chunks of 512 tokens, the first of each replaced by the start token where
/// the vocabulary has one, and the second half of each chunk counted.
fn compare_perplexity(alias: &str) {
    let golden = read_json(&goldens().join("perplexity").join(format!("{alias}.json")));
    let n_recorded = golden["running"].as_array().unwrap().len();
    let engine = open(&common::model(alias), None, CONTEXT, Precision::Quantized);
    let text = std::fs::read_to_string(goldens().join("perplexity/text.txt")).unwrap();
    let text = text.strip_suffix('\n').unwrap();
    let tokenizer = engine.tokenizer();
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false }).unwrap();
    assert_eq!(tokens.len() as u64, golden["tokens"].as_u64().unwrap(), "{alias}: tokens of the text");
    let n_chunks = tokens.len() / PERPLEXITY_CONTEXT;
    assert_eq!(n_chunks, n_recorded, "{alias}: chunks of the text");
    let (mut nll, mut n) = (0.0, 0);
    for chunk in tokens.chunks_exact(PERPLEXITY_CONTEXT) {
        let mut input = chunk[..PERPLEXITY_CONTEXT - 1].to_vec();
        if tokenizer.adds_bos() {
            input[0] = tokenizer.bos().unwrap();
        }
        score(&engine, &input, PERPLEXITY_CONTEXT / 2, &mut |position, logits| {
            nll -= logprob_of(logits, chunk[position + 1]);
            n += 1;
        });
    }
    assert_eq!(n, n_chunks * (PERPLEXITY_CONTEXT / 2 - 1));
    let ours = (nll / n as f64).exp();
    let theirs = number(&golden["perplexity"]);
    let off = ours / theirs - 1.0;
    println!(
        "{alias:8} perplexity of {n_chunks} chunks {ours:.4}, reference {theirs:.4}, {:+.4} %",
        100.0 * off
    );
    assert!(off.abs() < PERPLEXITY_OFF, "{alias}: perplexity is {ours}, the reference's {theirs}");
}

/// Runs `tokens` in passes of several widths and on several numbers of threads: the last logits must have the
/// same bits every time.
fn check_invariance(path: &Path, tokens: &[TokenId], ctx_len: usize) {
    let mut expected: Option<Vec<u32>> = None;
    for threads in 1..=4 {
        let engine = open(path, Some(threads), ctx_len, Precision::Quantized);
        for width in [1, 2, 7, 64, tokens.len()] {
            let mut session = Session::new(&engine).unwrap();
            let mut end = 0;
            while end < tokens.len() {
                end = (end + width).min(tokens.len());
                session.sync(&tokens[..end], &Cancel::default()).unwrap();
            }
            let bits: Vec<u32> = session.logits().iter().map(|logit| logit.to_bits()).collect();
            assert!(!bits.is_empty());
            assert!(
                *expected.get_or_insert_with(|| bits.clone()) == bits,
                "{}: {threads} threads in passes of {width} give other logits",
                path.display()
            );
        }
    }
}

fn open(path: &Path, threads: Option<usize>, ctx_len: usize, precision: Precision) -> Arc<Engine> {
    let options = OpenOptions { threads, ctx_len: Some(ctx_len), precision, ..OpenOptions::default() };
    Engine::open(path, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn score(engine: &Arc<Engine>, tokens: &[TokenId], first: usize, on_logits: &mut dyn FnMut(usize, &[f32])) {
    let mut session = Session::new(engine).unwrap();
    session.score(tokens, first, on_logits, &Cancel::default()).unwrap();
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn tiny_models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(goldens().join("tiny")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    paths.sort();
    assert_eq!(paths.len(), 12);
    paths
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn ids(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|id| TokenId::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn prompt_texts() -> Vec<(String, String)> {
    let prompts = read_json(&goldens().join("generation/prompts.json"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    prompts.as_array().unwrap().iter().map(|prompt| (text(&prompt["name"]), text(&prompt["text"]))).collect()
}

fn generation_golden(alias: &str) -> Vec<Record> {
    let golden = read_json(&goldens().join("generation").join(format!("{alias}.json")));
    let pairs = |flat: &Value| {
        let flat = flat.as_array().unwrap();
        flat.chunks_exact(2).map(|pair| (pair[0].as_u64().unwrap() as TokenId, number(&pair[1]))).collect()
    };
    let record = |value: &Value| Record {
        prompt: value["prompt"].as_str().unwrap().to_owned(),
        prompt_ids: ids(&value["prompt_ids"]),
        output_ids: ids(&value["output_ids"]),
        top: value["top"].as_array().unwrap().iter().map(pairs).collect(),
    };
    let records: Vec<Record> = golden["records"].as_array().unwrap().iter().map(record).collect();
    assert!(!records.is_empty());
    records
}
