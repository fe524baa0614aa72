//! A model: weights bound to an architecture, and the one way to run tokens of one timeline or several through them.

use crate::arch::{Gemma3, Llama, Qwen2, Qwen3};
use crate::blocks::{Buffers, Pass, round_bytes, routing_bytes_per_token};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::kernels::{
    Activations, AttentionScratch, Isa, KvType, Ops, Pool, Precision, thread_scratch_bytes,
};
use crate::kv_cache::{KvCache, SpillPlan};
use crate::weights::Binder;
use rawrz_gguf::ShardSet;
use rawrz_residency::{PassPlan, Source, Storage};

/// Tokens of one batch, best first. Unpacking weights costs as much for a few tokens as for many, so more are
/// better; a budget may leave room for fewer only.
pub const BATCH_LENS: [usize; 6] = [512, 256, 128, 64, 32, 16];

/// Rows of logits that a pass computes at a time unless it is told otherwise: the output head is often the largest
/// tensor, and one pass over it serves all of them.
pub const OUTPUT_ROWS: usize = 8;

/// What one timeline adds to a pass.
pub struct Sequence<'a> {
    /// Keys and values of the positions before.
    pub cache: &'a mut KvCache,
    /// The tokens that follow; at least one.
    pub tokens: &'a [u32],
    /// What is to come out.
    pub wants: Wants,
}

impl Sequence<'_> {
    fn reborrow(&mut self) -> Sequence<'_> {
        Sequence { cache: self.cache, tokens: self.tokens, wants: self.wants }
    }
}

/// What is wanted of the tokens of a [`Sequence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Only that they are in the cache.
    Nothing,
    /// The logits after each token from the so-manieth on, `[vocab_len]`.
    LogitsFrom(usize),
    /// The residual stream after the last token and the last norm, `[dim]`.
    State,
}

enum Arch {
    Llama(Llama),
    Qwen2(Qwen2),
    Qwen3(Qwen3),
    Gemma3(Gemma3),
}

/// Weights bound to an architecture. It holds places, not bytes: every pass reads through a [`Source`].
pub struct Model {
    arch: Arch,
    config: Config,
    plan: PassPlan,
    /// Reads of all layers, before those of the head.
    n_layer_reads: usize,
}

/// What passes run on: threads, and scratch that is kept from one pass to the next.
pub struct Runner {
    ops: Ops,
    pool: Pool,
    acts: Activations,
    vector: Vec<f32>,
    table_rows: Vec<u8>,
    attention: AttentionScratch,
    buffers: Buffers,
    batch_len: usize,
    output_rows: usize,
}

impl Runner {
    /// Threads and kernels for passes of up to `batch_len` tokens, of which `output_rows` give logits at a time; scratch
    /// grows with the first passes, up to [`Model::scratch_bytes`].
    pub fn new(
        n_threads: usize,
        isa: Isa,
        precision: Precision,
        batch_len: usize,
        output_rows: usize,
    ) -> Runner {
        Runner {
            batch_len: batch_len.max(1),
            output_rows: output_rows.max(1),
            ops: Ops::new(isa),
            pool: Pool::new(n_threads),
            acts: Activations::new(precision),
            vector: Vec::new(),
            table_rows: Vec::new(),
            attention: AttentionScratch::default(),
            buffers: Buffers::default(),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Instructions that passes use.
    pub fn isa(&self) -> Isa {
        self.ops.isa()
    }

    /// Threads that passes use.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }
}

impl Model {
    /// Binds the tensors of `shards`, whose bytes `source` lends, to the architecture that they name.
    pub fn bind(shards: &ShardSet, source: &dyn Source) -> Result<Model, BindError> {
        let gguf = shards.first();
        let key = "general.architecture";
        let name = gguf.get_str(key)?.ok_or_else(|| BindError::MissingKey { key: key.to_owned() })?;
        const NAMES: [&str; 5] = [Llama::NAME, Qwen2::NAME, Qwen3::NAME, Qwen3::NAME_MOE, Gemma3::NAME];
        let Some(architecture) = NAMES.into_iter().find(|n| *n == name) else {
            let (name, supported) = (name.to_owned(), NAMES.join(", "));
            return Err(BindError::UnknownArchitecture { name, supported });
        };
        let keys = Keys::new(gguf, architecture);
        let config = Config::read(gguf, &keys, architecture == Qwen3::NAME_MOE)?;
        let mut binder = Binder::new(shards, architecture);
        let arch = match architecture {
            Qwen2::NAME => Arch::Qwen2(Qwen2::bind(&mut binder, &config, &keys)?),
            Qwen3::NAME | Qwen3::NAME_MOE => Arch::Qwen3(Qwen3::bind(&mut binder, &config, &keys)?),
            Gemma3::NAME => Arch::Gemma3(Gemma3::bind(&mut binder, &config, &keys)?),
            _ => {
                let ops = Ops::new(Isa::Scalar);
                Arch::Llama(Llama::bind(&mut binder, &config, &keys, source, &ops)?)
            }
        };
        let plan = binder.finish()?;
        let n_layer_reads = plan.reads.partition_point(|read| (read.stage as usize) < config.n_layers);
        Ok(Model { arch, plan, n_layer_reads, config })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What every pass reads, in order.
    pub fn plan(&self) -> &PassPlan {
        &self.plan
    }

    /// An error unless a cache can hold this model's keys and values as `ty`.
    pub fn check_kv_type(&self, ty: KvType) -> Result<(), BindError> {
        let Config { head_dim, value_dim, .. } = self.config;
        if ty.fits(head_dim) && ty.fits(value_dim) {
            return Ok(());
        }
        let what = format!(
            "a KV cache of type {ty} for heads of {head_dim} and {value_dim} elements (not multiples of 32)"
        );
        Err(BindError::Unsupported { what })
    }

    /// An empty cache for up to `capacity` positions.
    ///
    /// # Panics
    /// When [`Model::check_kv_type`] refuses `ty`.
    pub fn new_cache(&self, ty: KvType, capacity: usize) -> KvCache {
        KvCache::new(&self.config, ty, capacity)
    }

    /// Bytes of a cache of `capacity` positions, saturating.
    pub fn cache_bytes(&self, ty: KvType, capacity: usize) -> u64 {
        KvCache::bytes(&self.config, ty, capacity)
    }

    /// An empty cache for up to `capacity` positions, with what `plan` does not keep in memory in `storage`.
    ///
    /// # Panics
    /// As [`Model::new_cache`].
    pub fn new_spilled_cache(
        &self,
        ty: KvType,
        capacity: usize,
        plan: &SpillPlan,
        storage: Box<dyn Storage>,
    ) -> Result<KvCache, PassError> {
        KvCache::spilled(&self.config, ty, capacity, plan, storage)
    }

    /// What a spilled cache of `capacity` positions keeps in memory of `budget_bytes`, for passes of up to `batch_len`
    /// tokens: as much as fits, and no less than works.
    pub fn plan_spill(&self, ty: KvType, capacity: usize, batch_len: usize, budget_bytes: u64) -> SpillPlan {
        KvCache::plan_spill(&self.config, ty, capacity, batch_len, budget_bytes)
    }

    /// Bytes of scratch that each token of a batch takes, beside the input of matmuls and what a feed-forward block
    /// makes of it.
    fn scratch_bytes_per_token(&self) -> u64 {
        let c = &self.config;
        let floats = 2 * c.dim + c.query_len() + c.key_len() + c.value_len() + c.attention_len();
        // A rotation table for each of two bases, the buffer of norms in place, and a row of the embedding table, of f32
        // at most.
        let floats = floats + 2 * c.rope_dim + c.query_len() + c.dim;
        let routing = c.experts.map_or(0, |experts| routing_bytes_per_token(experts, c.dim));
        floats as u64 * 4 + routing
    }

    /// The most bytes that a [`Runner`] of `n_threads` threads takes for passes of up to `batch_len` tokens, with
    /// `output_rows` rows of logits at a time.
    pub fn scratch_bytes(&self, n_threads: usize, batch_len: usize, output_rows: usize) -> u64 {
        let c = &self.config;
        let input = Activations::bytes(c.dim.max(c.ffn_dim).max(c.attention_len()), batch_len, 1);
        let hidden = match c.experts {
            None => 2 * (batch_len * c.ffn_dim * 4) as u64,
            Some(experts) => round_bytes(experts, c.dim, c.ffn_dim, batch_len),
        };
        let batch = self.scratch_bytes_per_token() * batch_len as u64 + input + hidden;
        let heads_per_kv = self.config.n_heads / self.config.n_kv_heads;
        // Of any type: what is widened takes the same.
        let layout = self.config.kv_layout(KvType::F16);
        let attention = AttentionScratch::bytes(layout, heads_per_kv, n_threads);
        let logits = (output_rows * self.config.vocab_len * 4) as u64;
        batch + logits + attention + n_threads as u64 * thread_scratch_bytes(batch_len)
    }

    /// One pass: runs the tokens of each sequence through the model after the positions in its cache, and calls
    /// `on_output` with what it wants: the sequence, the position, and logits or state.
    ///
    /// What is computed has the same bits whatever else is in the pass, and for any threads and source. When the pass
    /// fails, what `on_output` was given must not be used, and all caches are as they were.
    ///
    /// # Panics
    /// When a sequence has no tokens, or all have more than the runner's batch.
    pub fn forward(
        &self,
        runner: &mut Runner,
        source: &dyn Source,
        sequences: &mut [Sequence<'_>],
        on_output: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), PassError> {
        let n_tokens: usize = sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        assert!(n_tokens <= runner.batch_len && sequences.iter().all(|sequence| !sequence.tokens.is_empty()));
        for Sequence { cache, tokens, .. } in &*sequences {
            let vocab_len = self.config.vocab_len;
            if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab_len) {
                return Err(PassError::Token { id: *id, vocab_len });
            }
            if tokens.len() > cache.capacity() - cache.len() {
                let (len, capacity) = (cache.len(), cache.capacity());
                return Err(PassError::ContextFull { n_tokens: tokens.len(), len, capacity });
            }
        }
        let starts: Vec<usize> = sequences.iter().map(|sequence| sequence.cache.len()).collect();
        let result = self.run(runner, source, sequences, on_output);
        if result.is_err() {
            sequences.iter_mut().zip(starts).for_each(|(sequence, start)| sequence.cache.truncate(start));
        }
        result
    }

    fn run(
        &self,
        runner: &mut Runner,
        source: &dyn Source,
        sequences: &mut [Sequence<'_>],
        on_output: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), PassError> {
        let wants_logits = |sequence: &Sequence<'_>| match sequence.wants {
            Wants::LogitsFrom(first) => first < sequence.tokens.len(),
            Wants::Nothing | Wants::State => false,
        };
        let wants_state = sequences.iter().any(|sequence| sequence.wants == Wants::State);
        // Without logits the head, the last stage, is not read, but for its norm, which comes first, where a state is
        // wanted.
        let reads = match sequences.iter().any(wants_logits) {
            true => &self.plan.reads[..],
            false => &self.plan.reads[..self.n_layer_reads + usize::from(wants_state)],
        };
        for Sequence { cache, tokens, .. } in &mut *sequences {
            cache.prepare(tokens.len())?;
        }
        source.begin_pass(reads)?;
        let Runner { ops, pool, acts, vector, table_rows, attention, buffers, output_rows, .. } = runner;
        let result = {
            let sequences = sequences.iter_mut().map(Sequence::reborrow).collect();
            let output_rows = *output_rows;
            let pass = &mut Pass {
                source,
                ops: *ops,
                pool,
                acts,
                vector,
                table_rows,
                attention,
                sequences,
                output_rows,
            };
            let config = &self.config;
            match &self.arch {
                Arch::Llama(model) => model.forward(pass, config, buffers, on_output),
                Arch::Qwen2(model) => model.forward(pass, config, buffers, on_output),
                Arch::Qwen3(model) => model.forward(pass, config, buffers, on_output),
                Arch::Gemma3(model) => model.forward(pass, config, buffers, on_output),
            }
        };
        // A fault is the cause of whatever else went wrong, so it is told first.
        source.end_pass()?;
        result?;
        sequences.iter_mut().try_for_each(|sequence| sequence.cache.advance(sequence.tokens.len()))
    }
}
