//! Models in memory: loaded when they are asked for, unloaded when nobody has for a while or another needs the room.
//!
//! # Invariants
//! - The budgets of all loaded models, what grammars of theirs take, and the server's own part add up to no more than the
//!   server's budget.
//! - A model that serves a request is not unloaded; one model is loaded at a time.

use crate::constrain::{GrammarPlan, Grammars};
use crate::details::Details;
use crate::error::{ApiError, ApiResult};
use rawrz_engine::{
    Engine, OpenError, OpenOptions, SavedOptions, Scheduler, SchedulerOptions, default_budget_bytes,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// KV caches that the budget of a mapped model has room for beyond the one it must: enough for many to share passes, and
/// not all the memory there is, which other models may want.
const MORE_SESSIONS: u64 = 15;

/// How long the disk is read to measure it.
const PROBE_TIME: Duration = Duration::from_millis(300);

/// Memory that is read to learn its speed: as much as takes a few milliseconds.
const PROBED_MEMORY_BYTES: u64 = 64 << 20;

/// How long a text that follows a grammar waits for others that do.
const MAX_GRAMMAR_WAIT: Duration = Duration::from_secs(30);

/// How long a model stays after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// So long.
    For(Duration),
    /// Until another needs the room or the server ends.
    Forever,
}

/// A model in memory.
pub(crate) struct Loaded {
    /// The name it was loaded by.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) scheduler: Scheduler,
    grammars: OnceLock<Result<Grammars, String>>,
    /// Places for grammars that texts follow at a time, and what they and the vocabulary take of the budget.
    grammar_places: Arc<Semaphore>,
    pub(crate) grammar_plan: GrammarPlan,
    n_users: AtomicUsize,
    stay: Mutex<Stay>,
    /// What the disk (of a streamed model) and the memory deliver, in bytes in a second.
    pub(crate) bandwidth: (Option<f64>, f64),
}

struct Stay {
    keep_alive: KeepAlive,
    last_used: Instant,
}

impl Loaded {
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.scheduler.engine()
    }

    fn stay(&self) -> MutexGuard<'_, Stay> {
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it is to go if nobody uses it; `None` for never.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        let stay = self.stay();
        match stay.keep_alive {
            KeepAlive::For(time) => stay.last_used.checked_add(time),
            KeepAlive::Forever => None,
        }
    }

    /// What makes constraints for its vocabulary; built when first asked for.
    pub(crate) fn grammars(&self) -> ApiResult<&Grammars> {
        let build = || Grammars::new(self.engine().tokenizer()).map_err(|error| error.message);
        self.grammars.get_or_init(build).as_ref().map_err(ApiError::bad)
    }

    /// Places for `n` texts that follow grammars; waits for those that others hold.
    pub(crate) async fn grammar_places(&self, n: usize) -> ApiResult<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.grammar_places);
        let most = self.grammar_plan.n_places;
        if n > most {
            let problem =
                format!("{n} texts that follow a grammar at a time are too many, at most {most} are made");
            return Err(ApiError::bad(problem));
        }
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let waiting = tokio::time::timeout(MAX_GRAMMAR_WAIT, places.acquire_many_owned(n)).await;
        let busy = || ApiError::busy("other texts that follow grammars take the memory there is for them");
        waiting.map_err(|_| busy())?.map_err(|_| busy())
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.n_users.load(Ordering::Relaxed) == 0
    }
}

/// Keeps a model loaded while it lives.
pub(crate) struct InUse(Arc<Loaded>);

impl std::ops::Deref for InUse {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.0
    }
}

impl InUse {
    fn new(loaded: &Arc<Loaded>) -> InUse {
        loaded.n_users.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(loaded))
    }

    /// From now on it stays so long after its last request.
    pub(crate) fn keep(&self, keep_alive: KeepAlive) {
        self.stay().keep_alive = keep_alive;
    }
}

impl Clone for InUse {
    fn clone(&self) -> InUse {
        InUse::new(&self.0)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.stay().last_used = Instant::now();
        self.n_users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How models are loaded.
#[derive(Clone, Debug)]
pub(crate) struct LoadOptions {
    pub(crate) open: OpenOptions,
    pub(crate) scheduler: SchedulerOptions,
    pub(crate) keep_alive: KeepAlive,
    /// See [`ServerOptions`](crate::ServerOptions).
    pub(crate) saved_caches: Option<(PathBuf, u64)>,
    /// What the server takes of the budget beside its models.
    pub(crate) server_bytes: u64,
}

/// The models in memory.
pub(crate) struct Registry {
    options: LoadOptions,
    loaded: Mutex<Vec<Arc<Loaded>>>,
    /// Names of those being loaded, and the right to load.
    loading: Mutex<Vec<String>>,
    load_lock: Mutex<()>,
}

impl Registry {
    pub(crate) fn new(options: LoadOptions) -> Registry {
        let (loaded, loading, load_lock) = Default::default();
        Registry { options, loaded, loading, load_lock }
    }

    /// The ceiling for all models together, in bytes.
    pub(crate) fn budget_bytes(&self) -> Option<u64> {
        self.options.open.memory_bytes.or_else(default_budget_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Loaded>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Models in memory now.
    pub(crate) fn loaded(&self) -> Vec<Arc<Loaded>> {
        self.lock().clone()
    }

    /// Names of models being loaded now.
    pub(crate) fn loading(&self) -> Vec<String> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, path: &Path) -> Option<InUse> {
        self.lock().iter().find(|loaded| loaded.path == path).map(InUse::new)
    }

    /// The model at `path`, loaded if it is not. Blocks until it is there.
    pub(crate) fn get(&self, name: &str, path: &Path) -> ApiResult<InUse> {
        if let Some(loaded) = self.find(path) {
            return Ok(loaded);
        }
        self.change_loading(|loading| loading.push(name.to_owned()));
        let result = self.load(name, path);
        self.change_loading(|loading| {
            if let Some(at) = loading.iter().position(|other| other == name) {
                loading.remove(at);
            }
        });
        result
    }

    fn change_loading(&self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.loading.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn load(&self, name: &str, path: &Path) -> ApiResult<InUse> {
        let _turn = self.load_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever had the turn before may have loaded the same.
        if let Some(loaded) = self.find(path) {
            return Ok(loaded);
        }
        // What is no model is told by opening it.
        let grammar_plan = Details::read(path).map_or_else(
            |_| GrammarPlan::default(),
            |details| GrammarPlan::of(self.budget_bytes(), &details.vocabulary),
        );
        let engine = self.open(name, path, grammar_plan.bytes)?;
        // Before the first pass: what measuring takes is there then.
        let bandwidth = (engine.probe_disk(PROBE_TIME)?, engine.probe_memory(PROBED_MEMORY_BYTES));
        let loaded = Arc::new(Loaded {
            name: name.to_owned(),
            path: path.to_path_buf(),
            scheduler: self.start(name, engine)?,
            grammars: OnceLock::new(),
            grammar_places: Arc::new(Semaphore::new(grammar_plan.n_places)),
            grammar_plan,
            n_users: AtomicUsize::new(0),
            stay: Mutex::new(Stay { keep_alive: self.options.keep_alive, last_used: Instant::now() }),
            bandwidth,
        });
        let in_use = InUse::new(&loaded);
        self.lock().push(loaded);
        Ok(in_use)
    }

    /// Starts the passes of a model, with the caches that an earlier run left on the disk, where that works.
    fn start(&self, name: &str, engine: Arc<Engine>) -> ApiResult<Scheduler> {
        let mut options = self.options.scheduler.clone();
        if let Some((folder, max_bytes)) = &self.options.saved_caches {
            // Names come from the program, which may take them from names of files.
            let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
            let folder = folder.join(name.chars().map(plain).collect::<String>());
            options.saved = Some(SavedOptions { max_bytes: *max_bytes, ..SavedOptions::new(folder) });
        }
        match Scheduler::start(Arc::clone(&engine), &options) {
            Err(problem) if options.saved.is_some() => {
                tracing::warn!(model = name, %problem, "caches are not kept on the disk");
                options.saved = None;
                Scheduler::start(engine, &options)
            }
            other => other,
        }
        .map_err(|error| ApiError::internal(format!("no thread for the model: {error}")))
    }

    /// Opens a model in what the others leave of the budget; idle ones go where that makes it fit, or fit without being
    /// streamed.
    fn open(&self, name: &str, path: &Path, grammar_bytes: u64) -> ApiResult<Arc<Engine>> {
        loop {
            let of_model = |loaded: &Arc<Loaded>| loaded.engine().budget_bytes() + loaded.grammar_plan.bytes;
            let taken: u64 = self.lock().iter().map(of_model).sum();
            let beside = taken + self.options.server_bytes + grammar_bytes;
            let left = self.budget_bytes().map(|budget| budget.saturating_sub(beside));
            let options = OpenOptions {
                memory_bytes: left,
                sessions: Some(self.options.scheduler.max_running),
                ..self.options.open.clone()
            };
            let opened = Engine::open(path, &options);
            let is_tight = match &opened {
                Ok(engine) => engine.is_streamed(),
                Err(OpenError::Budget(_)) => true,
                Err(_) => false,
            };
            if is_tight && self.evict_one() {
                continue;
            }
            let engine = match opened {
                Err(OpenError::Budget(below)) if taken > 0 => {
                    return Err(ApiError::busy(format!("{name} does not fit beside models in use: {below}")));
                }
                other => other?,
            };
            if !engine.is_streamed() {
                let kv_bytes = engine.ledger().bytes("KV cache");
                let wanted =
                    engine.ledger().total_bytes().saturating_add(kv_bytes.saturating_mul(MORE_SESSIONS));
                engine.lower_budget(wanted)?;
            }
            tracing::info!(
                model = name,
                streamed = engine.is_streamed(),
                budget = engine.budget_bytes(),
                "loaded"
            );
            return Ok(engine);
        }
    }

    /// Unloads the idle model that was used longest ago; `false` when all are in use.
    fn evict_one(&self) -> bool {
        let mut loaded = self.lock();
        let idle = (0..loaded.len()).filter(|i| loaded[*i].is_idle());
        let Some(oldest) = idle.min_by_key(|i| loaded[*i].stay().last_used) else { return false };
        let gone = loaded.remove(oldest);
        drop(loaded);
        tracing::info!(model = gone.name, "unloaded to make room");
        drop(gone);
        true
    }

    /// Lets a model go as soon as nobody uses it.
    pub(crate) fn expire(&self, loaded: &Loaded) {
        loaded.stay().keep_alive = KeepAlive::For(Duration::ZERO);
    }

    /// Unloads what expired. Blocks while their last passes end.
    pub(crate) fn unload_expired(&self) {
        let now = Instant::now();
        let is_expired =
            |loaded: &mut Arc<Loaded>| loaded.is_idle() && loaded.expires_at().is_some_and(|at| at <= now);
        let gone: Vec<Arc<Loaded>> = self.lock().extract_if(.., is_expired).collect();
        for loaded in gone {
            tracing::info!(model = loaded.name, "unloaded");
        }
    }

    /// Unloads everything that is idle, and lets the rest go with its last request.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }
}
