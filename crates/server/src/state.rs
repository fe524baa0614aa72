//! What all handlers share.

use crate::ServerOptions;
use crate::catalog::{Catalog, CatalogEntry};
use crate::error::{ApiError, ApiResult};
use crate::library::{Created, Library};
use crate::memory::ServerMemory;
use crate::pulls::Pulls;
use crate::registry::{InUse, KeepAlive, LoadOptions, Registry};
use rawrz_engine::{OpenOptions, SchedulerOptions, default_budget_bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// The server's state.
pub(crate) struct State {
    pub(crate) options: ServerOptions,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) library: Library,
    pub(crate) registry: Registry,
    pub(crate) pulls: Pulls,
    pub(crate) memory: ServerMemory,
    pub(crate) started: Instant,
    pub(crate) is_ending: AtomicBool,
    /// Set when what is under way has to end.
    pub(crate) deadline: watch::Sender<bool>,
    pub(crate) n_requests: AtomicU64,
    pub(crate) n_refused: AtomicU64,
}

pub(crate) type Shared = Arc<State>;

/// A model as a client names it: weights, and what was set on top of them.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// As it is listed.
    pub(crate) name: String,
    /// Whose weights it has.
    pub(crate) base: CatalogEntry,
    /// What `create` set.
    pub(crate) created: Option<Created>,
}

impl State {
    pub(crate) fn new(options: ServerOptions, catalog: Arc<dyn Catalog>) -> State {
        let memory = ServerMemory::of(options.memory_bytes.or_else(default_budget_bytes));
        let registry = Registry::new(LoadOptions {
            server_bytes: memory.total_bytes(),
            open: OpenOptions {
                memory_bytes: options.memory_bytes,
                threads: options.threads,
                ctx_len: options.ctx_len,
                ..OpenOptions::default()
            },
            scheduler: SchedulerOptions {
                max_running: options.max_running,
                max_queued: options.max_queued,
                ..SchedulerOptions::default()
            },
            keep_alive: options.keep_alive,
            saved_caches: options.saved_caches.clone(),
        });
        State {
            library: Library::new(options.data_folder.clone()),
            registry,
            pulls: Pulls::default(),
            memory,
            catalog,
            started: Instant::now(),
            is_ending: AtomicBool::new(false),
            deadline: watch::channel(false).0,
            n_requests: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
            options,
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// All models there are, created ones last.
    pub(crate) fn models(&self) -> Vec<Named> {
        let bases = self.catalog.models();
        let blobs = self.library.blobs();
        let created = self.library.all().into_iter().filter_map(|created| {
            let base = find(&bases, &created.from).or_else(|| find(&blobs, &created.from))?.clone();
            Some(Named { name: created.name.clone(), base, created: Some(created) })
        });
        let plain =
            bases.iter().map(|base| Named { name: tagged(&base.name), base: base.clone(), created: None });
        plain.chain(created).collect()
    }

    pub(crate) fn named(&self, name: &str) -> ApiResult<Named> {
        if name.trim().is_empty() {
            return Err(ApiError::bad("model is required"));
        }
        let wanted = tagged(name);
        let found = self.models().into_iter().find(|model| model.name == wanted);
        found.ok_or_else(|| ApiError::not_found(format!("model '{name}' not found")))
    }

    /// The model, loaded if it is not. Does not block the caller's thread.
    pub(crate) async fn load(self: &Arc<State>, model: &Named) -> ApiResult<InUse> {
        if self.is_ending() {
            return Err(ApiError::busy("the server is shutting down"));
        }
        let (state, base) = (Arc::clone(self), model.base.clone());
        blocking(move || state.registry.get(&base.name, &base.path)).await
    }

    /// Sets how long a model stays, where the request says.
    pub(crate) fn keep(&self, model: &InUse, keep_alive: Option<KeepAlive>) {
        model.keep(keep_alive.unwrap_or(self.options.keep_alive));
    }
}

fn find<'a>(entries: &'a [CatalogEntry], name: &str) -> Option<&'a CatalogEntry> {
    entries.iter().find(|entry| tagged(&entry.name) == tagged(name))
}

/// A name without a tag means its `latest`.
pub(crate) fn tagged(name: &str) -> String {
    match name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(ApiError::internal("the work on this request failed unexpectedly")))
}
