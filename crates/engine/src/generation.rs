//! One text as it is made: from logits to a token, from tokens to text, and when it ends. Who runs the passes is not
//! its business.

use crate::constraint::Constraint;
use crate::error::RunError;
use crate::generate::{FinishReason, GenerateOptions};
use crate::logprobs::{Step, TokenLogprob, logprob_of, top_logprobs};
use crate::sampler::Sampler;
use crate::stop::StopFilter;
use rawrz_text::{StreamDecoder, TokenId, Tokenizer};

/// A text under way.
pub(crate) struct Generation<'t> {
    tokenizer: &'t Tokenizer,
    options: GenerateOptions,
    context_len: usize,
    sampler: Sampler,
    constraint: Option<Box<dyn Constraint>>,
    decoder: StreamDecoder<'t>,
    stops: StopFilter,
    /// The prompt, and what was made.
    tokens: Vec<TokenId>,
    prompt_len: usize,
}

/// A token that was chosen and does not count yet.
pub(crate) struct Chosen {
    id: TokenId,
    step: Option<Step>,
}

/// What a token brought.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Text that is known now; may be empty.
    pub(crate) text: String,
    /// Of a token that counts, where log-probabilities are asked for.
    pub(crate) step: Option<Step>,
    /// Why the text ends here, if it does.
    pub(crate) finish: Option<FinishReason>,
}

impl<'t> Generation<'t> {
    pub(crate) fn new(
        tokenizer: &'t Tokenizer,
        prompt: &[TokenId],
        options: GenerateOptions,
        constraint: Option<Box<dyn Constraint>>,
        context_len: usize,
    ) -> Generation<'t> {
        Generation {
            tokenizer,
            context_len,
            sampler: Sampler::new(&options.sampler),
            constraint,
            decoder: StreamDecoder::new(tokenizer, false),
            stops: StopFilter::new(&options.stop),
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            options,
        }
    }

    /// The prompt, and what was made.
    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// What was made.
    pub(crate) fn made(&self) -> &[TokenId] {
        &self.tokens[self.prompt_len..]
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Whether no token is to be made at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.options.max_tokens == 0
    }

    /// The token after those there are, given the logits after the last of them.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<Chosen, RunError> {
        let constrained = |problem| RunError::Constraint { problem };
        let mask = self.constraint.as_mut().map(|constraint| constraint.mask()).transpose();
        let mask = mask.map_err(constrained)?;
        let id = self.sampler.sample_among(logits, &self.tokens, mask);
        let id = id.ok_or_else(|| constrained("no token can follow".to_owned()))?;
        let step = self.options.logprobs.map(|k| Step {
            chosen: TokenLogprob { id, logprob: logprob_of(logits, id) as f32 },
            top: top_logprobs(logits, k),
        });
        Ok(Chosen { id, step })
    }

    /// Lets a token count.
    pub(crate) fn accept(&mut self, chosen: Chosen) -> Result<Progress, RunError> {
        let Chosen { id, step } = chosen;
        if self.tokenizer.is_eog(id) && !self.options.ignore_eog {
            return Ok(self.end(FinishReason::EndOfGeneration));
        }
        let is_complete = match &mut self.constraint {
            Some(constraint) => constraint.accept(id).map_err(|problem| RunError::Constraint { problem })?,
            None => false,
        };
        self.tokens.push(id);
        let (text, stopped) = self.stops.push(self.decoder.push(id));
        let finish = if stopped {
            return Ok(Progress { text, step, finish: Some(FinishReason::Stop) });
        } else if is_complete {
            FinishReason::EndOfGeneration
        } else if self.made().len() >= self.options.max_tokens {
            FinishReason::MaxTokens
        } else if self.tokens.len() > self.context_len {
            FinishReason::ContextFull
        } else {
            return Ok(Progress { text, step, finish: None });
        };
        let rest = self.end(finish);
        Ok(Progress { text: text + &rest.text, step, finish: rest.finish })
    }

    /// What was held back, when the text ends for `reason` or for a stop string that this completes.
    pub(crate) fn end(&mut self, reason: FinishReason) -> Progress {
        let (mut text, stopped) = self.stops.push(self.decoder.finish());
        let finish = if stopped { FinishReason::Stop } else { reason };
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        Progress { text, step: None, finish: Some(finish) }
    }
}
