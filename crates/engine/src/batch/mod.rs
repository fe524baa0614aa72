//! Continuous batching: many requests share each pass over the weights.
//!
//! ```text
//!   submit -> Queue (bounded, clients in turn) -> Worker: admit, plan a pass, run it, hand out what it gave
//!                                                    |                      ^
//!                                                    +-- Shelf of idle caches, taken or copied by common prefix
//! ```
//!
//! One thread owns the caches of a model and runs its passes. A pass takes the next token of every text that is under way
//! and pieces of prompts beside them, so a streamed model reads its layers once for all of them.
//!
//! # Invariants
//! - What a request gives is, bit by bit, what it gives alone: who shares its passes, whether its prefix was taken from
//!   another, and whether its cache was dropped on the way and computed again, changes when tokens come, never which.
//! - Caches are counted against the engine's budget before they grow. When it is full the least recently used idle cache
//!   goes, then the cache of the request that came last, which is computed again later; the first request always gets on.
//! - A pass that fails is an error of the requests in it, and of no others.

mod queue;
mod shelf;
mod stats;
mod worker;

use crate::cancel::Cancel;
use crate::constraint::Constraint;
use crate::engine::Engine;
use crate::error::RunError;
use crate::generate::{GenerateOptions, Generated};
use crate::logprobs::Step;
use crate::saved::{Saved, SavedOptions};
use queue::Queue;
use rawrz_text::TokenId;
use stats::Counters;
pub use stats::{Rates, SchedulerStats};
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;

/// How requests share a model.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Requests that are under way at a time; also bounded by the tokens of a pass.
    pub max_running: usize,
    /// Requests that wait beyond those.
    pub max_queued: usize,
    /// Caches of ended requests that are kept for others that begin alike, as long as nothing else needs their memory.
    pub max_idle: usize,
    /// Where timelines are kept that outlive the scheduler, if they do.
    pub saved: Option<SavedOptions>,
}

impl Default for SchedulerOptions {
    fn default() -> SchedulerOptions {
        SchedulerOptions { max_running: 64, max_queued: 256, max_idle: 64, saved: None }
    }
}

/// What to do with a prompt.
pub enum Work {
    /// Continue it.
    Generate {
        /// How, and how far.
        options: GenerateOptions,
        /// What the text must look like.
        constraint: Option<Box<dyn Constraint>>,
    },
    /// Give the state after its last token, `[dim]`: the residual stream after the last norm.
    Embed,
}

/// One request.
pub struct Request {
    /// Tokens to read; not empty, and no more than the context holds.
    pub prompt: Vec<TokenId>,
    /// What to do with them.
    pub work: Work,
    /// Who asks: the queue serves clients in turn, however many requests each has.
    pub client: u64,
    /// Ends the request at the next pass.
    pub cancel: Cancel,
    /// Takes what happens, on the thread that runs the passes: it must not wait. `false` ends the request, for nobody
    /// listens any more.
    pub on_update: Box<dyn FnMut(Update) -> bool + Send>,
}

/// What happens to a request. [`Update::Generated`], [`Update::Embedded`] and [`Update::Failed`] are the last.
#[derive(Debug)]
pub enum Update {
    /// So many tokens of the prompt are in a cache: first those that were in one, then more with each pass.
    Prompt {
        /// Tokens of the prompt in the cache.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next piece of text: whole characters, and nothing that may turn out to be part of a stop string.
    Text {
        /// May be empty where only log-probabilities came.
        text: String,
        /// Of the tokens since the last update, where asked for.
        steps: Vec<Step>,
    },
    /// The end of a text, with all of it.
    Generated(Generated),
    /// The state that was asked for.
    Embedded {
        /// `[dim]`
        state: Vec<f32>,
        /// Tokens of the prompt.
        prompt_tokens: usize,
    },
    /// It failed.
    Failed(RunError),
}

/// Why a request was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many wait as may.
    #[error("{n_queued} requests wait already; try again later")]
    QueueFull {
        /// How many wait.
        n_queued: usize,
    },
    /// The prompt cannot be run.
    #[error(transparent)]
    Prompt(#[from] RunError),
    /// The scheduler is about to end.
    #[error("the model is being unloaded")]
    Closed,
}

/// Runs the requests of one model. Dropping it cancels them and waits for the pass that is under way.
pub struct Scheduler {
    engine: Arc<Engine>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    worker: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Starts the thread that runs the passes.
    ///
    /// # Errors
    /// When the system has no thread for it, or the folder of saved timelines cannot be used.
    pub fn start(engine: Arc<Engine>, options: &SchedulerOptions) -> std::io::Result<Scheduler> {
        let saved = options.saved.as_ref().map(|saved| Saved::open(saved, engine.identity())).transpose()?;
        let queue = Arc::new(Queue::new(options.max_queued));
        let counters = Arc::new(Counters::default());
        let worker = std::thread::Builder::new().name("passes".to_owned()).spawn({
            let (engine, queue, counters) = (Arc::clone(&engine), Arc::clone(&queue), Arc::clone(&counters));
            let options = options.clone();
            move || worker::run(&engine, &queue, &counters, &options, saved)
        })?;
        Ok(Scheduler { engine, queue, counters, worker: Some(worker) })
    }

    /// The model.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Puts a request into the queue. What becomes of it is told to its `on_update`.
    pub fn submit(&self, request: Request) -> Result<(), SubmitError> {
        let (n_tokens, context_len) = (request.prompt.len(), self.engine.context_len());
        match n_tokens {
            0 => Err(RunError::EmptyPrompt.into()),
            n if n > context_len => Err(RunError::PromptTooLong { n_tokens, context_len }.into()),
            _ => self.queue.push(request),
        }
    }

    /// Requests that are waiting or under way.
    pub fn n_requests(&self) -> usize {
        self.queue.len() + self.counters.n_running()
    }

    /// Figures of now and since the start.
    pub fn stats(&self) -> SchedulerStats {
        self.counters.snapshot(self.queue.len())
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(worker) = self.worker.take() {
            // A panic there was reported by the thread itself, and its requests saw their sinks dropped.
            let _ = worker.join();
        }
    }
}
