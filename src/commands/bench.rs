//! `rawrz bench MODEL`
//!
//! The pages of the file are in memory: a run before the first repetition brings them in. Each repetition maps it
//! anew, so that the time to the first token has the page faults of a fresh start, and prefill and decode have none.

use crate::cli::BenchArgs;
use crate::commands::run;
use crate::exit::Interrupted;
use crate::output::Output;
use crate::{interrupt, locate};
use anyhow::Context;
use rawrz_engine::{Cancel, Engine, Isa, RunError, Session, Size, process_memory};
use rawrz_text::TokenId;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of the run that warms up.
const WARM_UP_TOKENS: usize = 8;

pub(crate) fn main(args: &BenchArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let cancel = interrupt::cancel_on_signal()?;
    let measured = match measure(&path, args, &cancel) {
        Err(error) if matches!(error.downcast_ref(), Some(RunError::Cancelled)) => {
            return Err(Interrupted.into());
        }
        other => other?,
    };
    let mut out = Output::new();
    let peak = process_memory().peak_resident;
    if args.json {
        // Rates of what was left out are null.
        return out.json(&json!({
            "load_ms": measured.load_ms,
            "first_token_ms": measured.first_token_ms,
            "prefill_tok_s": measured.prefill_tok_s,
            "decode_tok_s": measured.decode_tok_s,
            "bound_decode_tok_s": measured.bound_decode_tok_s(),
            "share_of_bound": measured.share_of_bound(),
            "read_bytes_per_s": measured.read_bytes_per_s,
            "weight_bytes_per_token": measured.weight_bytes,
            // A model that is mapped as a whole is neither streamed nor pinned.
            "streamed_bytes_per_token": 0,
            "pinned_bytes": 0,
            "peak_memory_bytes": peak,
            "prompt_tokens": args.prompt,
            "tokens": args.tokens,
            "reps": args.reps,
            "threads": measured.threads,
            "kernels": measured.isa.name(),
        }));
    }
    let Measured { load_ms, first_token_ms, weight_bytes, read_bytes_per_s, threads, isa, .. } = measured;
    out.line(&format!("medians of {}, {threads} threads, {isa} kernels", args.reps))?;
    out.line(&format!("  load         {load_ms:10.1} ms"))?;
    out.line(&format!(
        "  first token  {first_token_ms:10.1} ms from the start of loading, prompt of 1 token"
    ))?;
    if let Some(rate) = measured.prefill_tok_s {
        out.line(&format!("  prefill      {rate:10.1} tok/s, {} tokens", args.prompt))?;
    }
    if let Some(rate) = measured.decode_tok_s {
        out.line(&format!("  decode       {rate:10.1} tok/s, {} tokens", args.tokens))?;
    }
    out.line(&format!(
        "  bound        {:10.1} tok/s: {} of weights for each token, read at {:.1} GB/s",
        measured.bound_decode_tok_s(),
        Size(weight_bytes),
        read_bytes_per_s / 1e9
    ))?;
    if let Some(share) = measured.share_of_bound() {
        out.line(&format!("  share        {:10.1} % of the bound", share * 100.0))?;
    }
    if let Some(peak) = peak {
        out.line(&format!("  peak memory  {:>10}", Size(peak).to_string()))?;
    }
    Ok(())
}

/// Medians over the repetitions.
struct Measured {
    load_ms: f64,
    first_token_ms: f64,
    prefill_tok_s: Option<f64>,
    decode_tok_s: Option<f64>,
    weight_bytes: u64,
    /// The best of the repetitions: a bound is what can be had.
    read_bytes_per_s: f64,
    threads: usize,
    isa: Isa,
}

impl Measured {
    fn bound_decode_tok_s(&self) -> f64 {
        self.read_bytes_per_s / self.weight_bytes as f64
    }

    fn share_of_bound(&self) -> Option<f64> {
        self.decode_tok_s.map(|rate| rate / self.bound_decode_tok_s())
    }
}

fn measure(path: &Path, args: &BenchArgs, cancel: &Cancel) -> anyhow::Result<Measured> {
    let ctx = args.prompt.max(args.tokens).max(WARM_UP_TOKENS);
    let open = || run::open(path, &args.limits, Some(ctx));
    let warm = open()?;
    prefill(&warm, WARM_UP_TOKENS, cancel)?;
    let (threads, isa) = (warm.n_threads(), warm.isa());
    drop(warm);

    let (mut loads, mut first_tokens) = (Vec::new(), Vec::new());
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    let (mut weight_bytes, mut read_bytes_per_s) = (0, 0.0f64);
    for _ in 0..args.reps {
        let started = Instant::now();
        let engine = open()?;
        prefill(&engine, 1, cancel)?;
        first_tokens.push(started.elapsed().as_secs_f64() * 1e3);
        loads.push(engine.load_time().as_secs_f64() * 1e3);
        if args.prompt > 0 {
            prefills.push(args.prompt as f64 / prefill(&engine, args.prompt, cancel)?.as_secs_f64());
        }
        if args.tokens > 0 {
            decodes.push(args.tokens as f64 / decode(&engine, args.tokens, cancel)?.as_secs_f64());
        }
        let (bytes, time) = engine.sweep_weights()?;
        weight_bytes = bytes;
        read_bytes_per_s = read_bytes_per_s.max(bytes as f64 / time.as_secs_f64());
    }
    let at_least_one = "there is at least one repetition";
    Ok(Measured {
        load_ms: median(loads).context(at_least_one)?,
        first_token_ms: median(first_tokens).context(at_least_one)?,
        prefill_tok_s: median(prefills),
        decode_tok_s: median(decodes),
        weight_bytes,
        read_bytes_per_s,
        threads,
        isa,
    })
}

/// Time to read a prompt of `n_tokens` into an empty context, with the logits after it.
fn prefill(engine: &Arc<Engine>, n_tokens: usize, cancel: &Cancel) -> anyhow::Result<Duration> {
    let mut session = Session::new(engine)?;
    let tokens = tokens(engine, n_tokens);
    let started = Instant::now();
    session.sync(&tokens, cancel)?;
    Ok(started.elapsed())
}

/// Time to run `n_tokens` tokens one by one from an empty context, after one that maps what was not mapped yet.
/// Sampling is left out. Both as in llama-bench.
fn decode(engine: &Arc<Engine>, n_tokens: usize, cancel: &Cancel) -> anyhow::Result<Duration> {
    let mut session = Session::new(engine)?;
    let tokens = tokens(engine, n_tokens);
    session.sync(&tokens[n_tokens - 1..], cancel)?;
    let started = Instant::now();
    for n in 1..=n_tokens {
        session.sync(&tokens[..n], cancel)?;
    }
    Ok(started.elapsed())
}

/// Tokens all over the vocabulary: which ones has no influence on the time.
fn tokens(engine: &Engine, n: usize) -> Vec<TokenId> {
    let vocab_len = engine.config().vocab_len as u64;
    (0..n as u64).map(|i| ((i * 7919 + 13) % vocab_len) as TokenId).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0, 4.0]), Some(4.5));
    }
}
