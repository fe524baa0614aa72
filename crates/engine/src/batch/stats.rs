//! What the worker did, for those who watch.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rates are over the passes that ended within this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Figures of a [`Scheduler`](super::Scheduler), of now and since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests under way.
    pub n_running: usize,
    /// Requests that wait.
    pub n_queued: usize,
    /// Caches kept for requests that begin alike.
    pub n_idle: usize,
    /// Timelines that are on the disk.
    pub n_saved: usize,
    /// Why the disk did not take the last one; `None` when it did.
    pub save_problem: Option<String>,
    /// Requests that ended, however they did.
    pub n_ended: u64,
    /// Passes.
    pub n_passes: u64,
    /// Tokens of prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in a cache.
    pub reused_tokens: u64,
    /// Tokens made.
    pub made_tokens: u64,
    /// Times that a cache was dropped to make room and computed again.
    pub n_preempted: u64,
    /// Of the last seconds.
    pub rates: Rates,
}

/// Means over the time in passes within the last 10 seconds; 0 where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Tokens of prompts computed in a second.
    pub prompt_tok_s: f64,
    /// Tokens made in a second, by all requests together.
    pub made_tok_s: f64,
    /// Passes in a second.
    pub passes_s: f64,
}

/// One pass.
#[derive(Clone, Copy)]
pub(super) struct PassStats {
    pub(super) time: Duration,
    pub(super) prompt_tokens: usize,
    pub(super) made_tokens: usize,
}

#[derive(Default)]
pub(super) struct Counters(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    stats: SchedulerStats,
    last: VecDeque<(Instant, PassStats)>,
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut SchedulerStats)) {
        change(&mut self.lock().stats);
    }

    pub(super) fn pass(&self, pass: PassStats) {
        let mut inner = self.lock();
        inner.stats.n_passes += 1;
        inner.stats.prompt_tokens += pass.prompt_tokens as u64;
        inner.stats.made_tokens += pass.made_tokens as u64;
        inner.last.push_back((Instant::now(), pass));
        inner.forget_old();
    }

    pub(super) fn n_running(&self) -> usize {
        self.lock().stats.n_running
    }

    pub(super) fn snapshot(&self, n_queued: usize) -> SchedulerStats {
        let mut inner = self.lock();
        inner.forget_old();
        let time: f64 = inner.last.iter().map(|(_, pass)| pass.time.as_secs_f64()).sum();
        let rate = |count: &dyn Fn(&PassStats) -> usize| {
            let n: usize = inner.last.iter().map(|(_, pass)| count(pass)).sum();
            if time > 0.0 { n as f64 / time } else { 0.0 }
        };
        let rates = Rates {
            prompt_tok_s: rate(&|pass| pass.prompt_tokens),
            made_tok_s: rate(&|pass| pass.made_tokens),
            passes_s: rate(&|_| 1),
        };
        SchedulerStats { n_queued, rates, ..inner.stats.clone() }
    }
}

impl Inner {
    fn forget_old(&mut self) {
        // The last pass is kept as long as it would count if it had ended now: passes may take longer than the window.
        let is_old = |(ended, pass): &(Instant, PassStats)| ended.elapsed() > WINDOW.max(pass.time * 2);
        while self.last.front().is_some_and(is_old) {
            self.last.pop_front();
        }
    }
}
