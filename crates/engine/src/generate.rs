//! The generation loop: prompt in, text out as it is made.

use crate::cancel::Cancel;
use crate::error::RunError;
use crate::generation::{Generation, Progress};
use crate::logprobs::Step;
use crate::sampler::SamplerOptions;
use crate::session::Session;
use rawrz_text::TokenId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens to make; also bounded by the context.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Text ends before the first of these that would appear in it.
    pub stop: Vec<String>,
    /// Report the log-probability of each token, with so many of the most likely ones at its place.
    pub logprobs: Option<usize>,
    /// Go on after an end-of-generation token, which then counts as any other.
    pub ignore_eog: bool,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 512,
            sampler: SamplerOptions::default(),
            stop: Vec::new(),
            logprobs: None,
            ignore_eog: false,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    EndOfGeneration,
    /// A stop string appeared.
    Stop,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Somebody asked to stop.
    Cancelled,
}

/// What came out, and how long it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The text, as it was streamed.
    pub text: String,
    /// Its tokens, without the end-of-generation token.
    pub tokens: Vec<TokenId>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache already.
    pub reused_tokens: usize,
    /// Log-probabilities for each token of `tokens`; empty unless asked for.
    pub logprobs: Vec<Step>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Time of the prompt's pass.
    pub prefill: Duration,
    /// Time of the rest.
    pub decode: Duration,
    /// Passes of one token each that `decode` covers.
    pub decode_passes: usize,
}

impl Generated {
    /// Prompt tokens computed in a second; 0 when none were.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Nothing yet, of a prompt of so many tokens.
    pub(crate) fn new(prompt_tokens: usize) -> Generated {
        Generated {
            text: String::new(),
            tokens: Vec::new(),
            prompt_tokens,
            reused_tokens: 0,
            logprobs: Vec::new(),
            finish: FinishReason::MaxTokens,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            decode_passes: 0,
        }
    }

    /// Adds what a token brought and tells its text; `true` when the text ends with it.
    pub(crate) fn take(&mut self, progress: Progress, on_text: &mut dyn FnMut(&str)) -> bool {
        let Progress { text, step, finish } = progress;
        self.logprobs.extend(step);
        if !text.is_empty() {
            self.text.push_str(&text);
            on_text(&text);
        }
        self.finish = finish.unwrap_or(self.finish);
        finish.is_some()
    }

    /// Passes of one token in a second; 0 when there were none.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_passes, self.decode)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 || time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

/// What [`generate`] tells while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many of the prompt's tokens are in the timeline: those that were there already at first, then more with
    /// each batch.
    Prompt {
        /// Tokens of the prompt in the timeline.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next piece of text: whole characters, and nothing that may turn out to be part of a stop string.
    Text(&'a str),
}

/// Continues `prompt` on `session`, calling `on_event` as the prompt is read and with each piece of text as soon as
/// it is known.
///
/// Cancelling ends the generation with what there is. After an error the session stays usable.
pub fn generate(
    session: &mut Session,
    prompt: &[TokenId],
    options: &GenerateOptions,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Generated, RunError> {
    let engine = Arc::clone(session.engine());
    let mut out = Generated::new(prompt.len());
    let started = Instant::now();
    let total = prompt.len();
    match session.sync_watched(prompt, cancel, &mut |done| on_event(Event::Prompt { done, total })) {
        Ok(stats) => out.reused_tokens = stats.reused,
        Err(RunError::Cancelled) => {
            out.prompt_tokens = session.tokens().len();
            out.finish = FinishReason::Cancelled;
            return Ok(out);
        }
        Err(error) => return Err(error),
    }
    out.prefill = started.elapsed();

    let started = Instant::now();
    let context_len = engine.context_len();
    let mut generation = Generation::new(engine.tokenizer(), prompt, options.clone(), None, context_len);
    loop {
        let progress = if generation.is_empty() {
            generation.end(FinishReason::MaxTokens)
        } else {
            let chosen = generation.choose(session.logits())?;
            generation.accept(chosen)?
        };
        if out.take(progress, &mut |text| on_event(Event::Text(text))) {
            break;
        }
        match session.sync(generation.tokens(), cancel) {
            Ok(_) => out.decode_passes += 1,
            Err(RunError::Cancelled) => {
                let rest = generation.end(FinishReason::Cancelled);
                out.take(rest, &mut |text| on_event(Event::Text(text)));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    out.tokens = generation.made().to_vec();
    out.decode = started.elapsed();
    Ok(out)
}
