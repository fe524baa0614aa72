//! A loaded model: files mapped, tensors bound, memory accounted for.

use crate::error::{OpenError, RunError};
use crate::files::ModelFiles;
use rawrz_gguf::{Gguf, ShardSet};
use rawrz_model::{BATCH_LENS, Isa, KvCache, KvType, Model, Precision, Runner};
use rawrz_residency::budget::{Ledger, default_budget_bytes};
use rawrz_residency::{MappedSource, Source};
use rawrz_text::{ChatTemplate, TemplateError, Tokenizer};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Positions of a session when nobody says how many: the first of these that the model was trained for and
/// the budget holds.
const DEFAULT_CONTEXTS: [usize; 4] = [4096, 2048, 1024, 512];

/// Resident parts of one thread's stack and of the allocator's caches for it.
const THREAD_BYTES: u64 = 256 << 10;

/// The program itself: its code, libraries, and what small allocations add up to. Measured on Linux as the
/// peak of a run less all other entries of the ledger, rounded up.
const PROGRAM_BYTES: u64 = 16 << 20;

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The ceiling for everything, in bytes. By default what the machine and its control groups allow.
    pub memory_bytes: Option<u64>,
    /// Threads of a pass. By default one for each core that this process may use.
    pub threads: Option<usize>,
    /// Positions of each session. By default up to 4096.
    pub ctx_len: Option<usize>,
    /// Kernels to use. By default the best that this machine runs, or what the `RAWRZ_ISA` environment variable
    /// names.
    pub isa: Option<Isa>,
    /// How inputs of matmuls are held.
    pub precision: Precision,
    /// How KV caches hold keys and values.
    pub kv_type: KvType,
}

/// A loaded model, shared by the threads and sessions that use it.
pub struct Engine {
    model: Model,
    source: Box<dyn Source>,
    shards: ShardSet,
    tokenizer: Tokenizer,
    /// A template that does not compile is an error of those who use it: the model runs without.
    template: Result<Option<ChatTemplate>, TemplateError>,
    runner: Mutex<Runner>,
    n_threads: usize,
    batch_len: usize,
    context_len: usize,
    kv_type: KvType,
    budget_bytes: u64,
    ledger: Ledger,
    /// KV caches of all sessions now.
    kv_in_use: AtomicU64,
    load_time: Duration,
}

impl Engine {
    /// Opens the model that `path` belongs to: a `.gguf`, any shard or raw byte part of one.
    ///
    /// Reads headers only; weights come in when they are used. Refuses a budget below what the run needs before
    /// anything of size is allocated.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<Engine>, OpenError> {
        let started = Instant::now();
        let files = ModelFiles::open(path)?;
        Engine::assemble(files.shards, Box::new(files.source), options, started)
    }

    /// As [`Engine::open`], with the mapped source wrapped by `wrap`: for tests that inject faults.
    pub fn open_through(
        path: &Path,
        options: &OpenOptions,
        wrap: impl FnOnce(MappedSource) -> Box<dyn Source>,
    ) -> Result<Arc<Engine>, OpenError> {
        let started = Instant::now();
        let files = ModelFiles::open(path)?;
        Engine::assemble(files.shards, wrap(files.source), options, started)
    }

    fn assemble(
        shards: ShardSet,
        source: Box<dyn Source>,
        options: &OpenOptions,
        started: Instant,
    ) -> Result<Arc<Engine>, OpenError> {
        let model = Model::bind(&shards, &*source)?;
        model.check_kv_type(options.kv_type)?;
        let isa = match options.isa {
            Some(isa) => isa,
            None => isa_from_environment()?,
        };
        let n_threads = match options.threads {
            Some(0) => return Err(OpenError::Option { problem: "0 threads cannot run a model".to_owned() }),
            Some(n) => n,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let budget_bytes = options.memory_bytes.or_else(default_budget_bytes).unwrap_or(u64::MAX);
        let Plan { context_len, batch_len, ledger } =
            plan_memory(&shards, &model, n_threads, budget_bytes, options)?;
        let tokenizer = Tokenizer::from_gguf(shards.first())?;
        let template = ChatTemplate::from_gguf(shards.first(), &tokenizer);
        Ok(Arc::new(Engine {
            runner: Mutex::new(Runner::new(n_threads, isa, options.precision, batch_len)),
            batch_len,
            model,
            source,
            shards,
            tokenizer,
            template,
            n_threads,
            context_len,
            kv_type: options.kv_type,
            budget_bytes,
            ledger,
            kv_in_use: AtomicU64::new(0),
            load_time: started.elapsed(),
        }))
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
        self.context_len
    }

    /// How KV caches hold keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Threads of a pass.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// The ceiling for everything, in bytes; `u64::MAX` where neither the user nor the system sets one.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// What a run with one session uses, by kind, as it was checked against the budget.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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
    pub(crate) fn batch_len(&self) -> usize {
        self.batch_len
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// An empty KV cache of one session.
    pub(crate) fn new_cache(&self) -> KvCache {
        self.model.new_cache(self.kv_type, self.context_len)
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Passes run one at a time: two on the same cores would only take turns.
    pub(crate) fn runner(&self) -> MutexGuard<'_, Runner> {
        // A pass that panicked left only scratch behind, which the next pass overwrites.
        self.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the KV cache of one more session against the budget.
    pub(crate) fn reserve_kv(&self) -> Result<u64, RunError> {
        let needed_bytes = self.ledger.bytes(KV_CACHE);
        let fixed = self.ledger.total_bytes() - needed_bytes;
        let room = self.budget_bytes.saturating_sub(fixed);
        let add = |used: u64| used.checked_add(needed_bytes).filter(|sum| *sum <= room);
        self.kv_in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(|_| needed_bytes)
            .map_err(|used| RunError::Budget { needed_bytes, left_bytes: room - used })
    }

    pub(crate) fn release_kv(&self, bytes: u64) {
        self.kv_in_use.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Names of ledger lines that are looked up again.
const KV_CACHE: &str = "KV cache";

fn isa_from_environment() -> Result<Isa, OpenError> {
    match std::env::var("RAWRZ_ISA") {
        Ok(name) => name.parse().map_err(|e| OpenError::Option { problem: format!("RAWRZ_ISA: {e}") }),
        Err(_) => Ok(Isa::detect()),
    }
}

/// The most heap that the tokenizer of `gguf` takes, known before it is built: per token an offset, a hash slot
/// and its attributes, per merge a slot of the table of pairs.
fn tokenizer_bytes_bound(gguf: &Gguf) -> u64 {
    let len = |key: &str| match gguf.get(key) {
        Some(rawrz_gguf::Value::Array(array)) => array.len() as u64,
        _ => 0,
    };
    (2 << 20) + 32 * len("tokenizer.ggml.tokens") + 48 * len("tokenizer.ggml.merges")
}

/// What memory is used for.
struct Plan {
    context_len: usize,
    batch_len: usize,
    ledger: Ledger,
}

/// Draws up the ledger and checks it: for the context that was asked for, or the longest default that fits, with
/// batches as long as fit then.
fn plan_memory(
    shards: &ShardSet,
    model: &Model,
    n_threads: usize,
    budget_bytes: u64,
    options: &OpenOptions,
) -> Result<Plan, OpenError> {
    let trained = model.config().context_len;
    let candidates = match options.ctx_len {
        Some(0) => return Err(OpenError::Option { problem: "a context of 0 tokens is empty".to_owned() }),
        Some(n) if n > trained => {
            let problem =
                format!("a context of {n} tokens is longer than the {trained} this model was trained for");
            return Err(OpenError::Option { problem });
        }
        Some(n) => vec![n],
        None => DEFAULT_CONTEXTS.iter().map(|n| *n.min(&trained)).collect(),
    };
    let mut refused = None;
    for context_len in candidates {
        for batch_len in BATCH_LENS {
            let mut ledger = Ledger::default();
            ledger.add("weights (mapped)", shards.shards().iter().map(Gguf::file_len).sum());
            ledger.add(KV_CACHE, model.cache_bytes(options.kv_type, context_len));
            ledger.add("scratch", model.scratch_bytes(n_threads, batch_len));
            ledger.add("tokenizer", tokenizer_bytes_bound(shards.first()));
            ledger.add("threads", n_threads as u64 * THREAD_BYTES);
            ledger.add("program", PROGRAM_BYTES);
            match ledger.check(budget_bytes) {
                Ok(()) => return Ok(Plan { context_len, batch_len, ledger }),
                Err(below) => refused = Some(below),
            }
        }
    }
    match refused {
        Some(below) => Err(below.into()),
        None => unreachable!("there is at least one candidate"),
    }
}
