//! One timeline: a KV cache and the tokens that are in it.

use crate::cancel::Cancel;
use crate::engine::Engine;
use crate::error::RunError;
use rawrz_model::{KvCache, Sequence, Wants};
use rawrz_residency::Storage;
use rawrz_text::TokenId;
use std::sync::Arc;

/// What [`Session::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncStats {
    /// Tokens that were in the cache already.
    pub reused: usize,
    /// Tokens that were run through the model.
    pub computed: usize,
}

/// A timeline of tokens, and the logits after its last one.
pub struct Session {
    engine: Arc<Engine>,
    cache: KvCache,
    /// The tokens in the cache.
    tokens: Vec<TokenId>,
    /// Logits after the last token, `[vocab_len]`; empty when they are not known.
    logits: Vec<f32>,
    kv_bytes: u64,
}

impl Session {
    /// An empty timeline of [`Engine::context_len`] positions.
    pub fn new(engine: &Arc<Engine>) -> Result<Session, RunError> {
        Session::assemble(engine, None)
    }

    /// As [`Session::new`], with `storage` for what a spilled KV cache does not keep in memory: for tests that inject
    /// faults.
    pub fn with_storage(engine: &Arc<Engine>, storage: Box<dyn Storage>) -> Result<Session, RunError> {
        Session::assemble(engine, Some(storage))
    }

    fn assemble(engine: &Arc<Engine>, storage: Option<Box<dyn Storage>>) -> Result<Session, RunError> {
        let kv_bytes = engine.session_kv_bytes();
        engine.reserve_kv(kv_bytes)?;
        let cache = engine.new_cache(storage).inspect_err(|_| engine.release_kv(kv_bytes))?;
        Ok(Session { cache, engine: Arc::clone(engine), tokens: Vec::new(), logits: Vec::new(), kv_bytes })
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The tokens that the timeline holds.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Logits after the last token of the last successful [`Session::sync`], `[vocab_len]`; empty before.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Makes the timeline hold exactly `tokens`, with the logits after the last of them. What is cached of a
    /// common prefix is reused.
    ///
    /// When it fails or is cancelled the timeline holds the part of `tokens` that was computed, so that a later
    /// call goes on from there.
    pub fn sync(&mut self, tokens: &[TokenId], cancel: &Cancel) -> Result<SyncStats, RunError> {
        self.sync_watched(tokens, cancel, &mut |_| ())
    }

    /// As [`Session::sync`]; `on_progress` is called with the number of tokens that the timeline holds, at first
    /// and after each batch.
    pub fn sync_watched(
        &mut self,
        tokens: &[TokenId],
        cancel: &Cancel,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<SyncStats, RunError> {
        self.check_len(tokens)?;
        let mut reused = self.common_prefix(tokens);
        if reused == tokens.len() {
            if reused == self.tokens.len() && !self.logits.is_empty() {
                return Ok(SyncStats { reused, computed: 0 });
            }
            // The logits after the last token come only from running it.
            reused -= 1;
        }
        self.truncate(reused);
        on_progress(reused);
        let mut logits = Vec::new();
        let mut on_logits = |_: usize, row: &[f32]| logits.extend_from_slice(row);
        let first_output = tokens.len() - 1 - reused;
        self.advance(&tokens[reused..], first_output, cancel, &mut on_logits, on_progress)?;
        self.logits = logits;
        Ok(SyncStats { reused, computed: tokens.len() - reused })
    }

    /// Makes the timeline hold exactly `tokens` and calls `on_logits` with every position from `first` on and the
    /// logits after it, in order.
    ///
    /// What `on_logits` was given counts only when the call succeeds.
    pub fn score(
        &mut self,
        tokens: &[TokenId],
        first: usize,
        on_logits: &mut dyn FnMut(usize, &[f32]),
        cancel: &Cancel,
    ) -> Result<(), RunError> {
        self.check_len(tokens)?;
        let reused = self.common_prefix(tokens).min(first).min(tokens.len() - 1);
        self.truncate(reused);
        self.advance(&tokens[reused..], first.saturating_sub(reused), cancel, on_logits, &mut |_| ())
    }

    fn check_len(&self, tokens: &[TokenId]) -> Result<(), RunError> {
        let context_len = self.cache.capacity();
        match tokens.len() {
            0 => Err(RunError::EmptyPrompt),
            n_tokens if n_tokens > context_len => Err(RunError::PromptTooLong { n_tokens, context_len }),
            _ => Ok(()),
        }
    }

    fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cache.truncate(len);
        self.logits.clear();
    }

    /// Runs `tokens` after those in the cache, batch by batch; `first_output` counts from the first of them.
    fn advance(
        &mut self,
        tokens: &[TokenId],
        first_output: usize,
        cancel: &Cancel,
        on_logits: &mut dyn FnMut(usize, &[f32]),
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<(), RunError> {
        let model = self.engine.model();
        let batch_len = self.engine.batch_len();
        for (i, batch) in tokens.chunks(batch_len).enumerate() {
            if cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            let first = first_output.saturating_sub(i * batch_len).min(batch.len());
            let mut runner = self.engine.runner();
            self.engine.follow_limits(&runner)?;
            let sequence =
                Sequence { cache: &mut self.cache, tokens: batch, wants: Wants::LogitsFrom(first) };
            let mut on_output = |_: usize, position: usize, logits: &[f32]| on_logits(position, logits);
            model.forward(&mut runner, self.engine.source(), &mut [sequence], &mut on_output)?;
            drop(runner);
            self.tokens.extend_from_slice(batch);
            on_progress(self.tokens.len());
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.release_kv(self.kv_bytes);
    }
}
