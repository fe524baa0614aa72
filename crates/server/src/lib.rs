//! The Ollama, OpenAI and Anthropic APIs over the engine's scheduler; see `docs/api.md`.
//!
//! ```text
//!   guard (Host, Origin, key) -> a dialect's handler -> prompt -> Registry -> Scheduler -> Running -> the dialect's words
//! ```
//!
//! Each dialect owns what it reads and writes (`ollama/`, `openai/`, `anthropic/`); what a conversation, a grammar or an
//! answer is stands beside them, in no dialect.
//!
//! # Invariants
//! - No path of a request reaches the file system: models go by the names that a [`Catalog`] lists.
//! - Nothing of a request is kept without a bound: bodies, prompts, queues, answers and times have limits.
//! - A client that goes away ends its request at the next pass.
#![forbid(unsafe_code)]

mod answer;
mod anthropic;
mod catalog;
mod choices;
mod connections;
mod constrain;
mod details;
mod embedding;
mod error;
mod extract;
mod guard;
mod http;
mod library;
mod memory;
mod ollama;
mod openai;
mod openapi;
mod page;
mod prompt;
mod pulls;
mod registry;
mod running;
mod state;
mod stats;
mod tools;

use crate::error::ApiError;
use crate::state::{Shared, State};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
pub use catalog::{Catalog, CatalogEntry, PullProgress};
pub use registry::KeepAlive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The ceiling for all models together, in bytes. By default what the machine and its control groups allow.
    pub memory_bytes: Option<u64>,
    /// Threads of a pass. By default one for each core.
    pub threads: Option<usize>,
    /// Positions of each request. By default up to 4096.
    pub ctx_len: Option<usize>,
    /// Requests of a model that share its passes.
    pub max_running: usize,
    /// Requests of a model that wait beyond those.
    pub max_queued: usize,
    /// How long a model stays after its last request, where that does not say.
    pub keep_alive: KeepAlive,
    /// The key that requests have to show. Required where others than this machine reach the server.
    pub api_key: Option<String>,
    /// Origins of pages that may use the server beside this machine's; `*` for all.
    pub origins: Vec<String>,
    /// Whether only this machine reaches the server, so that the Host header has to name it.
    pub is_loopback: bool,
    /// Connections of clients at a time, as far as the memory goes.
    pub max_connections: usize,
    /// The time that the head of a request may take to arrive, and that a connection may be without one.
    pub head_timeout: Duration,
    /// Longest body of a request, blobs left out.
    pub max_body_bytes: usize,
    /// The time that a body may take to arrive; of a blob, the time between two pieces.
    pub body_timeout: Duration,
    /// The time that a request may take from its start to its end.
    pub request_timeout: Duration,
    /// The time that requests under way have to end once the server shuts down.
    pub shutdown_timeout: Duration,
    /// A folder for created models; without one nothing can be created.
    pub data_folder: Option<PathBuf>,
    /// A folder for the KV caches of long conversations, and the bytes that those of one model may take there; without it
    /// they go with the model.
    pub saved_caches: Option<(PathBuf, u64)>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            memory_bytes: None,
            threads: None,
            ctx_len: None,
            max_running: 64,
            max_queued: 256,
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
            api_key: None,
            origins: Vec::new(),
            is_loopback: true,
            max_connections: 1024,
            head_timeout: Duration::from_secs(30),
            max_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(24 * 3600),
            shutdown_timeout: Duration::from_secs(10),
            data_folder: None,
            saved_caches: None,
        }
    }
}

/// How often models are looked at whose time may be over.
const EXPIRY_PERIOD: Duration = Duration::from_millis(500);

/// A server that is ready to listen.
pub struct Server {
    state: Shared,
}

impl Server {
    /// A server of the models in `catalog`.
    pub fn new(options: ServerOptions, catalog: Arc<dyn Catalog>) -> Server {
        Server { state: Arc::new(State::new(options, catalog)) }
    }

    /// Loads a model before anybody asks for it. Blocks.
    ///
    /// # Errors
    /// One line that says why.
    pub fn load(&self, name: &str) -> Result<(), String> {
        let load = || {
            let model = self.state.named(name)?;
            self.state.registry.get(&model.base.name, &model.base.path).map(drop)
        };
        load().map_err(|error: ApiError| error.message)
    }

    /// Serves until `end` is done. Requests under way then have the options' time to end, and are cancelled after it.
    pub async fn run(self, listener: TcpListener, end: impl Future<Output = ()> + Send + 'static) {
        let state = self.state;
        let expiry = tokio::spawn(unload_expired(Arc::clone(&state)));
        let (ended, has_ended) = tokio::sync::watch::channel(false);
        let ending = Arc::clone(&state);
        let signal = tokio::spawn(async move {
            end.await;
            ending.is_ending.store(true, Ordering::Relaxed);
            ended.send_replace(true);
        });
        let limits = connections::Limits {
            max_connections: state.memory.connections(state.options.max_connections),
            head_timeout: state.options.head_timeout,
        };
        let serving = connections::serve(listener, router(&state), limits, has_ended.clone());
        tokio::select! {
            () = serving => {}
            () = after_deadline(has_ended, Arc::clone(&state)) => {}
        }
        signal.abort();
        expiry.abort();
        // What still runs sees its scheduler go.
        let _ = tokio::task::spawn_blocking(move || state.registry.clear()).await;
    }
}

/// Is done some time after requests were told that their time is over.
async fn after_deadline(mut has_ended: tokio::sync::watch::Receiver<bool>, state: Shared) {
    let is_ending = has_ended.wait_for(|is_ending| *is_ending).await.is_ok();
    if !is_ending {
        // The serving future decides.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(state.options.shutdown_timeout).await;
    state.deadline.send_replace(true);
    // Long enough to say so to the clients that read.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn unload_expired(state: Shared) {
    loop {
        tokio::time::sleep(EXPIRY_PERIOD).await;
        let state = Arc::clone(&state);
        let _ = tokio::task::spawn_blocking(move || state.registry.unload_expired()).await;
    }
}

fn router(state: &Shared) -> Router {
    Router::new()
        .merge(ollama::routes())
        .merge(openai::routes())
        .merge(anthropic::routes())
        .merge(stats::routes())
        .merge(page::routes())
        .merge(extract::routes())
        .fallback(|request: Request| async move {
            let path = request.uri().path();
            guard::refusal(path, &ApiError::not_found(format!("there is no {} {path}", request.method())))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let problem = format!("{} is not {}", request.uri().path(), request.method());
            guard::refusal(request.uri().path(), &ApiError::new(StatusCode::METHOD_NOT_ALLOWED, problem))
        })
        .layer(from_fn_with_state(Arc::clone(state), guard::guard))
        .with_state(Arc::clone(state))
}
