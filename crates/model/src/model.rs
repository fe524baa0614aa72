//! A model: weights bound to an architecture, and the one way to run a batch of tokens through them.

use crate::arch::{Gemma3, Llama, Qwen2, Qwen3};
use crate::blocks::{Buffers, MAX_OUTPUT_ROWS, Pass, round_bytes, routing_bytes_per_token};
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
}

impl Runner {
    /// Threads and kernels for passes of up to `batch_len` tokens at a time; scratch grows with the first passes, up
    /// to [`Model::scratch_bytes`].
    pub fn new(n_threads: usize, isa: Isa, precision: Precision, batch_len: usize) -> Runner {
        Runner {
            batch_len: batch_len.max(1),
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

    /// The most bytes that a [`Runner`] of `n_threads` threads takes for passes of up to `batch_len` tokens.
    pub fn scratch_bytes(&self, n_threads: usize, batch_len: usize) -> u64 {
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
        let logits = (MAX_OUTPUT_ROWS * self.config.vocab_len * 4) as u64;
        batch + logits + attention + n_threads as u64 * thread_scratch_bytes(batch_len)
    }

    /// Runs `tokens` through the model after the positions in `cache`, and calls `on_logits` with position and
    /// logits of every token from the `first_output`th on.
    ///
    /// The logits of a position have the same bits whatever the batch, the threads and the source. When the
    /// pass fails, what `on_logits` was given must not be used, and the cache holds the tokens of the batches of
    /// the runner's length before the one that failed: a later call can go on from there.
    pub fn forward(
        &self,
        runner: &mut Runner,
        source: &dyn Source,
        cache: &mut KvCache,
        tokens: &[u32],
        first_output: usize,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), PassError> {
        let vocab_len = self.config.vocab_len;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab_len) {
            return Err(PassError::Token { id: *id, vocab_len });
        }
        if tokens.len() > cache.capacity() - cache.len() {
            let (len, capacity) = (cache.len(), cache.capacity());
            return Err(PassError::ContextFull { n_tokens: tokens.len(), len, capacity });
        }
        let batch_len = runner.batch_len;
        for (i, batch) in tokens.chunks(batch_len).enumerate() {
            let first = first_output.saturating_sub(i * batch_len).min(batch.len());
            self.forward_batch(runner, source, cache, batch, first, on_logits)?;
        }
        Ok(())
    }

    fn forward_batch(
        &self,
        runner: &mut Runner,
        source: &dyn Source,
        cache: &mut KvCache,
        tokens: &[u32],
        first_output: usize,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), PassError> {
        // Without logits the head, the last stage, is not read.
        let reads = match first_output < tokens.len() {
            true => &self.plan.reads[..],
            false => &self.plan.reads[..self.n_layer_reads],
        };
        cache.prepare(tokens.len())?;
        source.begin_pass(reads)?;
        let Runner { ops, pool, acts, vector, table_rows, attention, buffers, .. } = runner;
        let pass = &mut Pass { source, ops: *ops, pool, acts, vector, table_rows, attention, cache, tokens };
        let config = &self.config;
        let result = match &self.arch {
            Arch::Llama(model) => model.forward(pass, config, buffers, first_output, on_logits),
            Arch::Qwen2(model) => model.forward(pass, config, buffers, first_output, on_logits),
            Arch::Qwen3(model) => model.forward(pass, config, buffers, first_output, on_logits),
            Arch::Gemma3(model) => model.forward(pass, config, buffers, first_output, on_logits),
        };
        // A fault is the cause of whatever else went wrong, so it is told first.
        source.end_pass()?;
        result?;
        cache.advance(tokens.len())
    }
}
