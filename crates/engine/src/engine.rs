//! A loaded model: files opened, tensors bound, memory accounted for.

use crate::error::{OpenError, RunError};
use crate::files::ModelFiles;
use crate::memory::{FURTHER_KV, KV_CACHE, KvForm, MAPPED_WEIGHTS, MemoryPlan, Planner, Route};
use rawrz_gguf::ShardSet;
use rawrz_model::{Isa, KvCache, KvType, Model, PassError, Precision, Runner, SpillPlan};
use rawrz_residency::budget::{Ledger, default_budget_bytes};
use rawrz_residency::os::memory_limit;
use rawrz_residency::{
    PassPlan, Placement, ScratchFile, Source, Storage, StreamStats, StreamedOptions, StreamedSource,
};
use rawrz_text::{ChatTemplate, TemplateError, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The ceiling for everything, in bytes. By default what the machine and its control groups allow.
    pub memory_bytes: Option<u64>,
    /// Threads of a pass. By default one for each core that this process may use.
    pub threads: Option<usize>,
    /// Positions of each session. By default up to 4096; with `kv_spill`, as many as the model was trained for.
    pub ctx_len: Option<usize>,
    /// Kernels to use. By default the best that this machine runs, or what the `RAWRZ_ISA` environment variable
    /// names.
    pub isa: Option<Isa>,
    /// How inputs of matmuls are held.
    pub precision: Precision,
    /// How KV caches hold keys and values. By default f16, and q8_0 where the context in `ctx_len` fits in no
    /// other way.
    pub kv_type: Option<KvType>,
    /// A folder for what the budget has no room for of the KV cache of the context in `ctx_len`, or of all positions that
    /// the model was trained for. Each session has a file there that has no name and is gone when the session ends.
    pub kv_spill: Option<PathBuf>,
    /// How many timelines are expected to share a pass, for a [`Scheduler`](crate::Scheduler): with more than a few, more
    /// rows of logits are computed at a time. By default one.
    pub sessions: Option<usize>,
}

/// A loaded model, shared by the threads and sessions that use it.
pub struct Engine {
    model: Model,
    source: Arc<dyn Source>,
    /// The source below, where weights are streamed.
    streamed: Option<Streamed>,
    shards: ShardSet,
    tokenizer: Tokenizer,
    /// A template that does not compile is an error of those who use it: the model runs without.
    template: Result<Option<ChatTemplate>, TemplateError>,
    runner: Mutex<Runner>,
    n_threads: usize,
    batch_len: usize,
    kv: KvForm,
    kv_folder: Option<PathBuf>,
    /// See [`Engine::identity`].
    identity: String,
    device: Option<u64>,
    budget: Budget,
    ledger: Ledger,
    /// What the smallest budget that works is made of.
    floor: Ledger,
    /// KV caches of all sessions now.
    kv_in_use: AtomicU64,
    load_time: Duration,
}

/// Counts changes of what a cache holds for the same tokens: of sums, roundings, orders, or of its layout. To be raised with
/// each, so that no saved cache of another version is used.
const COMPUTATION: u32 = 1;

/// How often the limits of control groups are looked at.
const LIMITS_PERIOD: Duration = Duration::from_secs(1);

/// The ceiling, which may come down while the model runs.
struct Budget {
    bytes: AtomicU64,
    /// Bytes of the ledger that were given back to the system since.
    given_back: AtomicU64,
    looked_at: Mutex<Instant>,
}

impl Budget {
    fn new(bytes: u64) -> Budget {
        let (bytes, given_back) = (AtomicU64::new(bytes), AtomicU64::new(0));
        Budget { bytes, given_back, looked_at: Mutex::new(Instant::now()) }
    }

    fn is_due(&self) -> bool {
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = looked_at.elapsed() >= LIMITS_PERIOD;
        if is_due {
            *looked_at = Instant::now();
        }
        is_due
    }
}

struct Streamed {
    source: Arc<StreamedSource>,
    options: StreamedOptions,
}

/// What a pass of one token reads, and from where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Bytes of weights that it touches.
    pub touched_bytes: u64,
    /// Bytes that it reads from the disk, experts left out.
    pub streamed_bytes: u64,
    /// Bytes of experts that it takes.
    pub picked_bytes: u64,
    /// The part of them that is in memory when all are taken equally often.
    pub expected_hit_rate: f64,
}

impl Traffic {
    /// Bytes that it reads from the disk when `hit_rate` of the experts' bytes are in memory.
    pub fn read_bytes(&self, hit_rate: f64) -> f64 {
        self.streamed_bytes as f64 + self.picked_bytes as f64 * (1.0 - hit_rate)
    }

    /// Tokens in a second that no program exceeds which reads this much, of disk and memory with these bandwidths in
    /// bytes in a second: reading and computing overlap at best.
    pub fn bound(&self, hit_rate: f64, disk: f64, memory: f64) -> f64 {
        let reading = self.read_bytes(hit_rate) / disk;
        1.0 / reading.max(self.touched_bytes as f64 / memory)
    }
}

impl Engine {
    /// Opens the model that `path` belongs to: a `.gguf`, any shard or raw byte part of one.
    ///
    /// Reads headers only; weights come in when they are used. Refuses a budget below what the run needs before
    /// anything of size is allocated.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<Engine>, OpenError> {
        Engine::open_through(path, options, |source| source)
    }

    /// As [`Engine::open`], with the source of weights wrapped by `wrap`: for tests that inject faults.
    pub fn open_through(
        path: &Path,
        options: &OpenOptions,
        wrap: impl FnOnce(Arc<dyn Source>) -> Arc<dyn Source>,
    ) -> Result<Arc<Engine>, OpenError> {
        let started = Instant::now();
        let ModelFiles { shards, source: mapped, .. } = ModelFiles::open(path)?;
        let model = Model::bind(&shards, &mapped)?;
        options.kv_type.map_or(Ok(()), |ty| model.check_kv_type(ty))?;
        let isa = match options.isa {
            Some(isa) => isa,
            None => isa_from_environment()?,
        };
        let n_threads = n_threads(options)?;
        let budget_bytes = budget_bytes(options);
        let planner = Planner::new(&shards, &model, n_threads, budget_bytes, options);
        // Refused, where it must be, before the tokenizer is built.
        let floor = planner.smallest()?;
        floor.check(budget_bytes)?;
        if matches!(planner.plan()?.route, Route::Mapped) {
            // Beside the tokenizer, whose size decides at last.
            mapped.expect_whole_reads();
            mapped.read_ahead(model.plan().reads.iter().map(|read| read.extent));
        }
        let tokenizer = Tokenizer::from_gguf(shards.first())?;
        let planner = planner.with_tokenizer(tokenizer.heap_bytes() as u64);
        let MemoryPlan { kv, batch_len, output_rows, route, ledger } = planner.plan()?;
        let template = ChatTemplate::from_gguf(shards.first(), &tokenizer);
        let device = mapped.device();
        let files: Vec<_> = mapped.identities().collect();
        let identity =
            format!("{COMPUTATION} {files:?} {:?} {:?} {:?}", model.config(), options.precision, kv.ty);
        let (source, streamed): (Arc<dyn Source>, _) = match route {
            Route::Mapped => (Arc::new(mapped), None),
            Route::Streamed(options) => {
                let source = Arc::new(StreamedSource::new(&mapped, model.plan(), &options)?);
                (Arc::clone(&source) as Arc<dyn Source>, Some(Streamed { source, options }))
            }
        };
        Ok(Arc::new(Engine {
            runner: Mutex::new(Runner::new(n_threads, isa, options.precision, batch_len, output_rows)),
            batch_len,
            model,
            source: wrap(source),
            streamed,
            shards,
            tokenizer,
            template,
            n_threads,
            kv,
            kv_folder: options.kv_spill.clone(),
            identity,
            device,
            budget: Budget::new(budget_bytes),
            ledger,
            floor,
            kv_in_use: AtomicU64::new(0),
            load_time: started.elapsed(),
        }))
    }

    /// [`Engine::smallest_ledger`] of the model at `path`, without opening it for running.
    pub fn floor(path: &Path, options: &OpenOptions) -> Result<Ledger, OpenError> {
        let files = ModelFiles::open(path)?;
        let model = Model::bind(&files.shards, &files.source)?;
        let (n_threads, budget_bytes) = (n_threads(options)?, budget_bytes(options));
        Planner::new(&files.shards, &model, n_threads, budget_bytes, options).smallest()
    }

    /// Text that differs where a KV cache would: the model's files, how they are computed with, and how the cache holds it.
    pub(crate) fn identity(&self) -> Vec<u8> {
        self.identity.clone().into_bytes()
    }

    /// Whether weights are streamed; else all are mapped.
    pub fn is_streamed(&self) -> bool {
        self.streamed.is_some()
    }

    /// Where the weights of each stage (layers, then the head) are; `None` when all are mapped.
    pub fn placement(&self) -> Option<Placement> {
        self.streamed.as_ref().map(|streamed| streamed.source.placement())
    }

    /// What was read so far; `None` when all weights are mapped.
    pub fn stream_stats(&self) -> Option<StreamStats> {
        self.streamed.as_ref().map(|streamed| streamed.source.stats())
    }

    /// Whether streamed weights pass by the page cache; `None` when all are mapped.
    pub fn reads_directly(&self) -> Option<bool> {
        self.streamed.as_ref().map(|streamed| streamed.source.is_direct())
    }

    /// Bytes in a second that the disk delivers when it is read as passes read it, measured for `time`; `None` when all
    /// weights are mapped.
    pub fn probe_disk(&self, time: Duration) -> Result<Option<f64>, RunError> {
        let _runner = self.runner();
        let probe = |streamed: &Streamed| streamed.source.probe(time);
        Ok(self.streamed.as_ref().map(probe).transpose().map_err(PassError::from)?)
    }

    /// Bytes in a second that all threads together read from memory. Takes a quarter of the budget, at most
    /// `most_bytes`, which is there before the first pass; what fits the processor's caches is read from there.
    pub fn probe_memory(&self, most_bytes: u64) -> f64 {
        self.runner().memory_bandwidth((self.budget_bytes() / 4).min(most_bytes) as usize)
    }

    /// A number for the device that the model lies on, where the system tells.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// What a pass of one token reads.
    pub fn traffic(&self) -> Traffic {
        let plan: &PassPlan = self.model.plan();
        let of_all = |bytes: u64| {
            let all: u64 = plan.choices.iter().flat_map(|c| &c.alternatives).flatten().map(|e| e.len).sum();
            if all == 0 { 1.0 } else { (bytes as f64 / all as f64).min(1.0) }
        };
        let (streamed_bytes, expected_hit_rate) = match &self.streamed {
            None => (0, 1.0),
            Some(Streamed { source, options }) => {
                (source.placement().streamed_bytes, of_all(options.cache_bytes))
            }
        };
        Traffic {
            touched_bytes: plan.bytes_per_token(),
            streamed_bytes,
            picked_bytes: plan.picked_bytes(),
            expected_hit_rate,
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template that the model names, if it names one.
    ///
    /// # Errors
    /// When it is not valid; the model runs raw prompts all the same.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>, TemplateError> {
        self.template.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// Metadata and tensor directory.
    pub fn shards(&self) -> &ShardSet {
        &self.shards
    }

    /// The hyperparameters.
    pub fn config(&self) -> &rawrz_model::Config {
        self.model.config()
    }

    /// Positions of each session.
    pub fn context_len(&self) -> usize {
        self.kv.context_len
    }

    /// How KV caches hold keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv.ty
    }

    /// What KV caches keep in memory where the rest of them goes to a file; `None` where all of it stays.
    pub fn kv_spill(&self) -> Option<&SpillPlan> {
        self.kv.spill.as_ref()
    }

    /// Threads of a pass.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// The ceiling for everything, in bytes; `u64::MAX` where neither the user nor the system sets one.
    pub fn budget_bytes(&self) -> u64 {
        self.budget.bytes.load(Ordering::Relaxed)
    }

    /// Makes do with a lower ceiling from the next pass on: weights that were kept in memory are streamed. A ceiling that
    /// is not lower than now changes nothing.
    ///
    /// # Errors
    /// When the rest of the ledger does not fit; nothing changed then.
    pub fn lower_budget(&self, bytes: u64) -> Result<(), RunError> {
        let _runner = self.runner();
        self.lower_budget_between_passes(bytes)
    }

    fn lower_budget_between_passes(&self, bytes: u64) -> Result<(), RunError> {
        let in_use = self.ledger.total_bytes() - self.budget.given_back.load(Ordering::Relaxed);
        if let Some(too_much) = in_use.checked_sub(bytes).filter(|too_much| *too_much > 0) {
            let streamed = self.streamed.as_ref().map(|streamed| &streamed.source);
            // What is mapped is the page cache's, and the system takes it when it needs it.
            let mapped = self.ledger.bytes(MAPPED_WEIGHTS);
            let shrinkable = streamed.map_or(mapped, |source| source.shrinkable_bytes());
            if too_much > shrinkable {
                let (limit_bytes, needed_bytes) = (bytes, in_use - shrinkable);
                return Err(RunError::BudgetCut { limit_bytes, needed_bytes });
            }
            if let Some(source) = streamed {
                source.shrink(too_much);
                self.budget.given_back.fetch_add(too_much, Ordering::Relaxed);
            }
        }
        self.budget.bytes.fetch_min(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Looks now and then whether the control groups around this process allow less than when the model was opened.
    pub(crate) fn follow_limits(&self, _runner: &MutexGuard<'_, Runner>) -> Result<(), RunError> {
        if !self.budget.is_due() {
            return Ok(());
        }
        match memory_limit() {
            Some(limit) if limit < self.budget_bytes() => self.lower_budget_between_passes(limit),
            _ => Ok(()),
        }
    }

    /// What a run with one session uses, by kind, as it was checked against the budget.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the smallest budget that works is made of, with all other options as they are.
    pub fn smallest_ledger(&self) -> &Ledger {
        &self.floor
    }

    /// How long opening took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Instructions that passes use.
    pub fn isa(&self) -> Isa {
        self.runner().isa()
    }

    /// Reads all weights of a pass, without computing, in each of the ways that may be fastest, and returns how many
    /// bytes they are and the shortest time: decoding cannot be faster than this.
    pub fn sweep_weights(&self) -> Result<(u64, Duration), RunError> {
        Ok(self.model.sweep(&self.runner(), self.source())?)
    }

    /// Tokens that one pass takes at most.
    pub fn batch_len(&self) -> usize {
        self.batch_len
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// An empty KV cache of one session; what it does not keep in memory goes to `storage`, or a scratch file.
    pub(crate) fn new_cache(&self, storage: Option<Box<dyn Storage>>) -> Result<KvCache, PassError> {
        let KvForm { context_len, ty, spill, .. } = &self.kv;
        let (Some(plan), Some(folder)) = (spill, &self.kv_folder) else {
            return Ok(self.model.new_cache(*ty, *context_len));
        };
        let storage = match storage {
            Some(storage) => storage,
            None => Box::new(ScratchFile::create(folder)?),
        };
        self.model.new_spilled_cache(*ty, *context_len, plan, storage)
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Passes run one at a time: two on the same cores would only take turns.
    pub(crate) fn runner(&self) -> MutexGuard<'_, Runner> {
        // A pass that panicked left only scratch behind, which the next pass overwrites.
        self.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the KV cache of a session whose context is full.
    pub(crate) fn session_kv_bytes(&self) -> u64 {
        self.ledger.bytes(KV_CACHE)
    }

    /// Bytes of KV caches now.
    pub fn kv_bytes_in_use(&self) -> u64 {
        self.kv_in_use.load(Ordering::Relaxed)
    }

    /// Counts `needed_bytes` more of KV caches against the budget, which holds those of one session at least.
    pub(crate) fn reserve_kv(&self, needed_bytes: u64) -> Result<(), RunError> {
        let given_back = self.budget.given_back.load(Ordering::Relaxed);
        let for_caches = self.session_kv_bytes() + self.ledger.bytes(FURTHER_KV);
        let fixed = self.ledger.total_bytes() - given_back - for_caches;
        let room = self.budget_bytes().saturating_sub(fixed);
        let add = |used: u64| used.checked_add(needed_bytes).filter(|sum| *sum <= room);
        self.kv_in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(|_| ())
            .map_err(|used| RunError::Budget { needed_bytes, left_bytes: room.saturating_sub(used) })
    }

    pub(crate) fn release_kv(&self, bytes: u64) {
        self.kv_in_use.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn n_threads(options: &OpenOptions) -> Result<usize, OpenError> {
    match options.threads {
        Some(0) => Err(OpenError::Option { problem: "0 threads cannot run a model".to_owned() }),
        Some(n) => Ok(n),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

fn budget_bytes(options: &OpenOptions) -> u64 {
    options.memory_bytes.or_else(default_budget_bytes).unwrap_or(u64::MAX)
}

fn isa_from_environment() -> Result<Isa, OpenError> {
    match std::env::var("RAWRZ_ISA") {
        Ok(name) => name.parse().map_err(|e| OpenError::Option { problem: format!("RAWRZ_ISA: {e}") }),
        Err(_) => Ok(Isa::detect()),
    }
}
