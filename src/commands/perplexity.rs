//! `rawrz perplexity MODEL FILE`
//!
//! The method is that of llama.cpp's llama-perplexity, so that the figures compare: the text is cut into
//! chunks of `ctx` tokens; in each chunk the first token gives way to the beginning-of-sequence token where
//! the model wants one, and the tokens of the second half are predicted from what precedes them in the chunk.

use crate::cli::PerplexityArgs;
use crate::commands::run;
use crate::exit::Interrupted;
use crate::output::Output;
use crate::progress::Progress;
use crate::{interrupt, locate, report};
use anyhow::{Context, bail};
use rawrz_engine::{Engine, RunError, Session, logprob_of};
use rawrz_text::{EncodeOptions, TokenId};
use serde_json::json;
use std::path::Path;

pub(crate) fn main(args: &PerplexityArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let text = read_text(&args.file)?;
    let engine = run::open(&path, &args.limits, Some(args.ctx))?;
    report::kv_notes(&engine, &args.limits);
    if engine.tokenizer().adds_eos() {
        bail!("this model ends every text with a token of its own, for which perplexity is not defined");
    }
    let tokens =
        engine.tokenizer().encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    if tokens.len() < 2 * args.ctx {
        bail!(
            "{} has {} tokens, but it takes {} (two chunks); give a longer text or a smaller --ctx",
            args.file.display(),
            tokens.len(),
            2 * args.ctx
        );
    }

    let cancel = interrupt::cancel_on_signal()?;
    let mut session = Session::new(&engine)?;
    let n_chunks = tokens.len() / args.ctx;
    let progress = Progress::steps("chunks", n_chunks as u64);
    let mut score = Score::default();
    for (index, chunk) in tokens.chunks_exact(args.ctx).enumerate() {
        match score_chunk(&engine, &mut session, chunk, &mut score, &cancel) {
            Err(error) if matches!(error.downcast_ref(), Some(RunError::Cancelled)) => {
                drop(progress);
                if index > 0 {
                    eprintln!(
                        "stopped after {index} of {n_chunks} chunks, perplexity so far {:.4}",
                        score.perplexity()
                    );
                }
                return Err(Interrupted.into());
            }
            other => other?,
        }
        progress.at(index as u64 + 1);
    }
    drop(progress);

    let mut out = Output::new();
    if args.json {
        return out.json(&json!({
            "perplexity": score.perplexity(),
            "stderr": score.standard_error(),
            "tokens": score.n_tokens,
            "chunks": n_chunks,
            "ctx": args.ctx,
            "kv_type": engine.kv_type().to_string(),
            "kv_resident_tokens": report::kv_resident_tokens(&engine),
        }));
    }
    out.line(&format!(
        "perplexity {:.4} +/- {:.5}, {} tokens scored in {n_chunks} chunks of {}",
        score.perplexity(),
        score.standard_error(),
        score.n_tokens,
        args.ctx
    ))
}

/// The text of a file, less one line end at its end, as llama.cpp reads it.
fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::from_utf8(bytes)
        .with_context(|| format!("{} is not UTF-8; convert it first", path.display()))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn score_chunk(
    engine: &Engine,
    session: &mut Session,
    chunk: &[TokenId],
    score: &mut Score,
    cancel: &rawrz_engine::Cancel,
) -> anyhow::Result<()> {
    let mut input = chunk.to_vec();
    if let Some(bos) = engine.tokenizer().bos().filter(|_| engine.tokenizer().adds_bos()) {
        input[0] = bos;
    }
    // What follows the last token of a chunk is not scored, so that token need not be run.
    input.pop();
    let first = chunk.len() / 2;
    let mut of_chunk = Score::default();
    let mut on_logits =
        |position: usize, logits: &[f32]| of_chunk.add(logprob_of(logits, chunk[position + 1]));
    session.score(&input, first, &mut on_logits, cancel)?;
    // Only now is it known that the pass went well.
    score.merge(&of_chunk);
    Ok(())
}

/// Sums over the tokens scored so far.
#[derive(Debug, Default)]
struct Score {
    n_tokens: u64,
    /// Sum of -ln p.
    nll: f64,
    /// Sum of its squares.
    nll_squares: f64,
}

impl Score {
    fn add(&mut self, logprob: f64) {
        self.n_tokens += 1;
        self.nll -= logprob;
        self.nll_squares += logprob * logprob;
    }

    fn merge(&mut self, other: &Score) {
        self.n_tokens += other.n_tokens;
        self.nll += other.nll;
        self.nll_squares += other.nll_squares;
    }

    fn perplexity(&self) -> f64 {
        (self.nll / self.n_tokens as f64).exp()
    }

    /// Standard error of the mean of -ln p, carried over to its exponential.
    fn standard_error(&self) -> f64 {
        let n = self.n_tokens as f64;
        let mean = self.nll / n;
        let variance = (self.nll_squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0)).sqrt() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_model_has_perplexity_one_and_a_guessing_one_its_choices() {
        let mut sure = Score::default();
        let mut guessing = Score::default();
        for _ in 0..100 {
            sure.add(0.0);
            guessing.add(-(50_f64.ln()));
        }
        assert_eq!((sure.perplexity(), sure.standard_error()), (1.0, 0.0));
        assert!((guessing.perplexity() - 50.0).abs() < 1e-9);
        assert!(guessing.standard_error() < 1e-6);
    }

    #[test]
    fn error_of_the_mean() {
        // -ln p of 1 and 3: mean 2, variance 1, error of the mean 1 / sqrt(2 - 1).
        let mut score = Score::default();
        score.add(-1.0);
        let mut other = Score::default();
        other.add(-3.0);
        score.merge(&other);
        assert!((score.perplexity() - 2_f64.exp()).abs() < 1e-9);
        assert!((score.standard_error() - 2_f64.exp()).abs() < 1e-9);
    }
}
