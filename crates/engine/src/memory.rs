//! The memory plan of a model: what is mapped, pinned and streamed, how long context and batches are, drawn up and
//! checked before anything of size is allocated.

use crate::engine::OpenOptions;
use crate::error::OpenError;
use rawrz_gguf::{Gguf, ShardSet};
use rawrz_model::{BATCH_LENS, KvCache, KvType, Model, OUTPUT_ROWS, SpillPlan};
use rawrz_residency::budget::{BelowFloor, Ledger};
use rawrz_residency::{Choice, Eviction, N_READERS, PassPlan, Placement, StreamedOptions};

/// Positions of a session when nobody says how many: the first of these that the model was trained for and
/// the budget holds.
const DEFAULT_CONTEXTS: [usize; 4] = [4096, 2048, 1024, 512];

/// Resident parts of one thread's stack and of the allocator's caches for it.
const THREAD_BYTES: u64 = 256 << 10;

/// The program itself: its code, libraries, and what small allocations add up to. Measured on Linux as the
/// peak of a run less all other entries of the ledger, rounded up.
const PROGRAM_BYTES: u64 = 16 << 20;

/// What tokenizing a prompt takes for each of its tokens: its text, and symbols in which byte pairs are merged. Measured
/// with long texts: 35.
const PROMPT_BYTES_PER_TOKEN: u64 = 40;

/// Names of ledger lines that are looked up again.
pub(crate) const KV_CACHE: &str = "KV cache";
pub(crate) const FURTHER_KV: &str = "KV cache (shared passes)";
pub(crate) const MAPPED_WEIGHTS: &str = "weights (mapped)";

/// The ring, best first: memory of a buffer, and how many: half are being read into, some wait to be used, a quarter
/// is in use. Measured (docs/streaming.md): a ring of 8 MiB is read into faster than a larger one, and longer or shorter
/// reads are slower.
const RINGS: [(u64, usize); 2] = [(512 << 10, 16), (256 << 10, 16)];

/// When weights are streamed, neither the ring nor scratch for long batches nor a context that nobody asked for takes
/// more than this part of the budget: what they take is streamed again for every token.
const PART: u64 = 8;

/// Where weights are streamed, a pass costs much the same for a few texts as for one. So many have room for a segment each,
/// as far as that takes no more than a quarter of what weights could have. Where nearly all of a pass is streamed anyway
/// it may be half of it, as long as a pass streams no more than an eighth more for it.
const SHARING_SESSIONS: usize = 8;
const SHARING_PART: u64 = 4;
const SHARING_MOST_PART: u64 = 2;
const SHARING_COST_PART: u64 = 8;

/// Rows of logits beyond those of any pass take no more than this part of the budget, and are no more than fill the
/// widest kernels a few times.
const OUTPUT_PART: u64 = 32;
const MAX_OUTPUT_ROWS: u64 = 64;

/// Page tables of anonymous memory: 8 bytes for each page of 4 KiB, and as much again for everything else that the
/// system keeps about it.
const PAGE_TABLE_PART: u64 = 256;

/// How weights are reached.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// All of the file fits beside everything else: the page cache is the memory.
    Mapped,
    /// Part of the weights stays, the rest is read in every pass.
    Streamed(StreamedOptions),
}

/// The KV cache of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvForm {
    pub(crate) context_len: usize,
    pub(crate) ty: KvType,
    /// What stays in memory, where not all of it does.
    pub(crate) spill: Option<SpillPlan>,
    bytes: u64,
}

/// What memory is used for.
pub(crate) struct MemoryPlan {
    pub(crate) kv: KvForm,
    pub(crate) batch_len: usize,
    pub(crate) output_rows: usize,
    pub(crate) route: Route,
    pub(crate) ledger: Ledger,
}

/// What the plan is made for.
pub(crate) struct Planner<'a> {
    shards: &'a ShardSet,
    model: &'a Model,
    n_threads: usize,
    budget_bytes: u64,
    options: &'a OpenOptions,
    tokenizer_bytes: u64,
    output_rows: usize,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        shards: &'a ShardSet,
        model: &'a Model,
        n_threads: usize,
        budget_bytes: u64,
        options: &'a OpenOptions,
    ) -> Planner<'a> {
        let tokenizer_bytes = tokenizer_bytes_bound(shards.first());
        let output_rows = output_rows(model, budget_bytes, options.sessions.unwrap_or(1));
        Planner { shards, model, n_threads, budget_bytes, options, tokenizer_bytes, output_rows }
    }

    /// The tokenizer takes `bytes`, no more than what was planned with.
    pub(crate) fn with_tokenizer(self, bytes: u64) -> Planner<'a> {
        Planner { tokenizer_bytes: bytes.min(self.tokenizer_bytes), ..self }
    }

    /// Draws up the ledger and checks it, for what caches may hold, best first: a budget does not change what a model
    /// says as long as it holds an f16 cache in any way.
    pub(crate) fn plan(&self) -> Result<MemoryPlan, OpenError> {
        let contexts = self.contexts()?;
        match self.kv_types().into_iter().find_map(|ty| self.plan_with(ty, &contexts)) {
            Some(plan) => Ok(plan),
            None => Err(BelowFloor { budget_bytes: self.budget_bytes, ledger: self.smallest()? }.into()),
        }
    }

    /// Mapped where everything fits, with part of the cache in a file where there may be one, else streamed; for the
    /// context that was asked for, or the longest default that fits, with batches as long as fit then.
    fn plan_with(&self, ty: KvType, contexts: &[usize]) -> Option<MemoryPlan> {
        for kv in contexts.iter().map(|len| self.full_kv(ty, *len)) {
            for batch_len in BATCH_LENS {
                let ledger = self.mapped(&kv, batch_len);
                if ledger.check(self.budget_bytes).is_ok() {
                    return Some(self.settled(kv, batch_len, Route::Mapped, ledger));
                }
            }
        }
        for batch_len in BATCH_LENS {
            let Some(least) = self.spilled_kv(ty, batch_len, 0) else { break };
            let fixed = self.mapped(&least, batch_len).total_bytes() - least.bytes;
            let left = self.budget_bytes.saturating_sub(fixed);
            let Some(kv) = self.spilled_kv(ty, batch_len, left).filter(|kv| kv.bytes <= left) else {
                continue;
            };
            let ledger = self.mapped(&kv, batch_len);
            return Some(self.settled(kv, batch_len, Route::Mapped, ledger));
        }
        let part = self.budget_bytes / PART;
        // Of contexts that nobody asked for, the longest that leaves most of the memory to weights.
        let mut forms = contexts.iter().map(|len| self.full_kv(ty, *len));
        let full = forms.clone().find(|kv| kv.bytes <= part).or(forms.next_back())?;
        let scratch_fits =
            |len: &usize| self.model.scratch_bytes(self.n_threads, *len, self.output_rows) <= part;
        let batches = BATCH_LENS.into_iter().filter(scratch_fits).chain([BATCH_LENS[BATCH_LENS.len() - 1]]);
        let spilled = batches.clone().filter_map(|len| Some((self.spilled_kv(ty, len, 0)?, len)));
        for (kv, batch_len) in batches.map(|len| (full, len)).chain(spilled) {
            for ring in RINGS {
                let Some((streamed, ledger)) = self.streamed(&kv, batch_len, ring) else { continue };
                if ring == RINGS[RINGS.len() - 1] || ledger.bytes(RING) <= part {
                    return Some(self.settled(kv, batch_len, Route::Streamed(streamed), ledger));
                }
            }
        }
        None
    }

    fn settled(&self, kv: KvForm, batch_len: usize, route: Route, ledger: Ledger) -> MemoryPlan {
        MemoryPlan { kv, batch_len, output_rows: self.output_rows, route, ledger }
    }

    /// What caches may hold, best first: less than f16 only for a context that was asked for.
    fn kv_types(&self) -> Vec<KvType> {
        let spare = self.asked_context().map(|_| KvType::Q8_0);
        let fits = |ty: &KvType| self.model.check_kv_type(*ty).is_ok();
        match self.options.kv_type {
            Some(ty) => vec![ty],
            None => [KvType::F16].into_iter().chain(spare.filter(fits)).collect(),
        }
    }

    fn full_kv(&self, ty: KvType, context_len: usize) -> KvForm {
        KvForm { context_len, ty, spill: None, bytes: self.model.cache_bytes(ty, context_len) }
    }

    /// The cache of the context that was asked for, with as much of it in `budget_bytes` as fits, at least what works;
    /// `None` when there is no place for the rest.
    fn spilled_kv(&self, ty: KvType, batch_len: usize, budget_bytes: u64) -> Option<KvForm> {
        let context_len = self.options.kv_spill.as_ref().and(self.asked_context())?;
        let spill = self.model.plan_spill(ty, context_len, batch_len, budget_bytes);
        Some(KvForm { context_len, ty, spill: Some(spill), bytes: spill.bytes })
    }

    /// The smallest budget that works, and what makes it up: everything streamed, short batches, the smallest ring, and
    /// as little of the cache in memory as may be.
    pub(crate) fn smallest(&self) -> Result<Ledger, OpenError> {
        let contexts = self.contexts()?;
        let (batch_len, ring) = (BATCH_LENS[BATCH_LENS.len() - 1], RINGS[RINGS.len() - 1]);
        let types = self.kv_types();
        let ty = types[types.len() - 1];
        let full = self.full_kv(ty, contexts[contexts.len() - 1]);
        let kv = self.spilled_kv(ty, batch_len, 0).filter(|kv| kv.bytes < full.bytes).unwrap_or(full);
        let streamed_floor = self.streamed_ledger(&kv, batch_len, &self.least(ring), 0);
        // A model that is smaller than a ring is mapped sooner than streamed.
        let mapped = self.mapped(&kv, batch_len);
        let is_less = mapped.total_bytes() < streamed_floor.total_bytes();
        Ok(if is_less { mapped } else { streamed_floor })
    }

    /// The context that the user wants; with a place for what does not fit, all that the model was trained for.
    fn asked_context(&self) -> Option<usize> {
        let trained = || self.model.config().context_len;
        self.options.ctx_len.or_else(|| self.options.kv_spill.as_ref().map(|_| trained()))
    }

    /// Context lengths to try, longest first.
    fn contexts(&self) -> Result<Vec<usize>, OpenError> {
        let trained = self.model.config().context_len;
        match self.asked_context() {
            Some(0) => Err(OpenError::Option { problem: "a context of 0 tokens is empty".to_owned() }),
            Some(n) if n > trained => {
                let problem = format!(
                    "a context of {n} tokens is longer than the {trained} this model was trained for"
                );
                Err(OpenError::Option { problem })
            }
            Some(n) => Ok(vec![n]),
            None => Ok(DEFAULT_CONTEXTS.iter().map(|n| *n.min(&trained)).collect()),
        }
    }

    /// What both routes use beside weights.
    fn add_rest(&self, ledger: &mut Ledger, kv: &KvForm, batch_len: usize) {
        ledger.add(KV_CACHE, kv.bytes);
        ledger.add("scratch", self.model.scratch_bytes(self.n_threads, batch_len, self.output_rows));
        ledger.add("tokenizer", self.tokenizer_bytes);
        ledger.add("prompt", kv.context_len as u64 * PROMPT_BYTES_PER_TOKEN);
        ledger.add("threads", self.n_threads as u64 * THREAD_BYTES);
        ledger.add("program", PROGRAM_BYTES);
    }

    fn mapped(&self, kv: &KvForm, batch_len: usize) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add(MAPPED_WEIGHTS, self.shards.shards().iter().map(Gguf::file_len).sum());
        self.add_rest(&mut ledger, kv, batch_len);
        ledger
    }

    /// KV caches of the sessions beyond the first that shall share passes over streamed weights: a segment for each.
    fn further_kv(&self, kv: &KvForm) -> u64 {
        let n_more = self.options.sessions.unwrap_or(1).clamp(1, SHARING_SESSIONS) as u64 - 1;
        match kv.spill {
            Some(_) => 0,
            None => n_more * self.model.cache_bytes(kv.ty, kv.context_len.min(KvCache::SEGMENT_LEN)),
        }
    }

    fn streamed_ledger(
        &self,
        kv: &KvForm,
        batch_len: usize,
        options: &StreamedOptions,
        further_kv: u64,
    ) -> Ledger {
        let placement = Placement::of(self.model.plan(), options);
        let mut ledger = Ledger::default();
        ledger.add("weights (pinned)", placement.pinned_bytes);
        ledger.add(RING, placement.ring_bytes);
        if options.cache_bytes > 0 {
            ledger.add("experts (cache)", options.cache_bytes);
        }
        ledger.add("readers", placement.reader_bytes);
        ledger.add("metadata (mapped)", self.shards.shards().iter().map(Gguf::data_offset).sum());
        self.add_rest(&mut ledger, kv, batch_len);
        if further_kv > 0 {
            ledger.add(FURTHER_KV, further_kv);
        }
        ledger.add("page tables", ledger.total_bytes() / PAGE_TABLE_PART);
        ledger
    }

    fn least(&self, (piece_bytes, n_buffers): (u64, usize)) -> StreamedOptions {
        StreamedOptions {
            piece_bytes,
            n_buffers,
            pinned_bytes: 0,
            cache_bytes: self.model.plan().least_cache_bytes(),
            eviction: Eviction::LeastRecent,
            n_readers: N_READERS,
        }
    }

    /// Weights streamed through `ring`, with all memory that is left used to keep some; `None` below the floor.
    fn streamed(
        &self,
        kv: &KvForm,
        batch_len: usize,
        ring: (u64, usize),
    ) -> Option<(StreamedOptions, Ledger)> {
        let mut options = self.least(ring);
        let least = self.streamed_ledger(kv, batch_len, &options, 0);
        let left = self.budget_bytes.checked_sub(least.total_bytes())?;
        let left = left - left / PAGE_TABLE_PART;
        let kept = least.bytes("weights (pinned)");
        let plan = self.model.plan();
        let streamed = plan.bytes_per_token().saturating_sub(kept + left);
        let further_kv = self.further_kv(kv).min(most_for_sharing(left, streamed));
        let left = left - further_kv;
        // What every token reads comes first; experts are read by some tokens only.
        options.pinned_bytes = kept + left;
        let pinned = Placement::of(plan, &options).pinned_bytes;
        options.pinned_bytes = pinned;
        if !plan.choices.is_empty() {
            options.cache_bytes += (left + kept).saturating_sub(pinned);
            options.eviction = eviction(plan, options.cache_bytes);
        }
        let ledger = self.streamed_ledger(kv, batch_len, &options, further_kv);
        ledger.check(self.budget_bytes).ok()?;
        Some((options, ledger))
    }
}

/// The most of `left_bytes` that KV caches of sessions beyond the first take from weights, of which a pass streams
/// `streamed_bytes` when they take nothing.
fn most_for_sharing(left_bytes: u64, streamed_bytes: u64) -> u64 {
    let cheap = (streamed_bytes / SHARING_COST_PART).min(left_bytes / SHARING_MOST_PART);
    cheap.max(left_bytes / SHARING_PART)
}

/// Rows of logits at a time for so many timelines in a pass, as far as they take little of the budget.
fn output_rows(model: &Model, budget_bytes: u64, n_sessions: usize) -> usize {
    let row_bytes = model.config().vocab_len as u64 * 4;
    let within = (budget_bytes / OUTPUT_PART / row_bytes).min(MAX_OUTPUT_ROWS) as usize;
    n_sessions.min(within).max(OUTPUT_ROWS)
}

const RING: &str = "weights (ring)";

/// In a cache smaller than what one token takes, an order by age hardly ever hits, and that by use found most wherever
/// some experts are used more often than others (benches/record/expert-cache.csv).
fn eviction(plan: &PassPlan, cache_bytes: u64) -> Eviction {
    let per_token: u64 = plan.choices.iter().map(Choice::picked_memory_bytes).sum();
    if cache_bytes < per_token + plan.least_cache_bytes() {
        Eviction::LeastFrequent
    } else {
        Eviction::LeastRecent
    }
}

/// The most heap that the tokenizer of `gguf` takes, known before it is built: per token an offset, its attributes, up to
/// 13 bytes of hash slots and what a model of tokens adds; per merge an offset and up to 13 bytes of hash slots.
fn tokenizer_bytes_bound(gguf: &Gguf) -> u64 {
    let len = |key: &str| match gguf.get(key) {
        Some(rawrz_gguf::Value::Array(array)) => array.len() as u64,
        _ => 0,
    };
    (2 << 20) + 32 * len("tokenizer.ggml.tokens") + 17 * len("tokenizer.ggml.merges")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_takes_what_costs_little() {
        const GIB: u64 = 1 << 30;
        // Half of the rest where most is streamed, an eighth of what is streamed where that is less, a quarter of the rest
        // in any case.
        assert_eq!(most_for_sharing(GIB, 39 * GIB), GIB / 2);
        assert_eq!(most_for_sharing(GIB, 3 * GIB), 3 * GIB / 8);
        assert_eq!(most_for_sharing(GIB, GIB), GIB / 4);
        assert_eq!(most_for_sharing(GIB, 0), GIB / 4);
        assert_eq!(most_for_sharing(0, GIB), 0);
    }
}
