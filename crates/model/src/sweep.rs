//! Reading all weights of a pass of one token without computing: the bound of a decode that nothing else holds up.

use crate::error::PassError;
use crate::kernels::{Isa, ReadAll};
use crate::model::{Model, Runner};
use rawrz_residency::{Choice, Extent, Lease, PassPlan, Planned, Source};
use std::time::{Duration, Instant};

/// Tasks that each thread gets of one lease, so that a slow core can leave some to the others.
const TASKS_PER_THREAD: usize = 6;

/// The least and the most bytes of a task: long enough that handing it out costs nothing beside it, and short enough
/// that no thread waits long for the last one.
const TASK_BYTES: (usize, usize) = (16 << 10, 256 << 10);

impl Model {
    /// Reads what a pass of one token reads, in its order, on all threads of `runner`, and gives the bytes and the shortest
    /// time. The ways of reading that may be fastest are all tried, since a bound is what can be had.
    pub fn sweep(&self, runner: &Runner, source: &dyn Source) -> Result<(u64, Duration), PassError> {
        let bytes = self.plan().bytes_per_token();
        let mut best = Duration::MAX;
        // The machine's bound, also for passes that are made to run with lesser instructions.
        for read in ReadAll::ways(Isa::detect()) {
            let started = Instant::now();
            self.sweep_once(runner, source, read)?;
            best = best.min(started.elapsed());
        }
        Ok((bytes, best))
    }

    fn sweep_once(&self, runner: &Runner, source: &dyn Source, read: ReadAll) -> Result<(), PassError> {
        source.begin_pass(&self.plan().reads)?;
        let result = self.sweep_plan(runner, source, read);
        source.end_pass()?;
        result
    }

    fn sweep_plan(&self, runner: &Runner, source: &dyn Source, read: ReadAll) -> Result<(), PassError> {
        let PassPlan { reads, choices } = self.plan();
        let mut choices = choices.iter().peekable();
        for Planned { extent, unit, stage } in reads {
            while let Some(choice) = choices.next_if(|choice| choice.stage < *stage) {
                sweep_choice(choice, runner, source, read)?;
            }
            let mut done = 0;
            while done < extent.len {
                let rest = extent.slice(done, extent.len - done);
                let len = source.lease_len(rest, *unit);
                sweep_lease(source.lease(Extent { len, ..rest })?, runner, read)?;
                done += len;
            }
        }
        choices.try_for_each(|choice| sweep_choice(choice, runner, source, read))
    }
}

impl Runner {
    /// Bytes in a second that all threads together read from `len_bytes` of memory, the best of a few times: what
    /// bounds a pass of one token whose weights are there.
    pub fn memory_bandwidth(&self, len_bytes: usize) -> f64 {
        let memory = vec![1u8; len_bytes];
        let mut best = 0.0f64;
        for read in ReadAll::ways(Isa::detect()).into_iter().cycle().take(9) {
            let started = Instant::now();
            let chunks: Vec<&[u8]> = memory.chunks(TASK_BYTES.1).collect();
            self.pool().run(chunks.len(), &|task| read.read(chunks[task]));
            best = best.max(len_bytes as f64 / started.elapsed().as_secs_f64());
        }
        best
    }
}

/// Reads as many alternatives as a token picks, spread over all.
fn sweep_choice(
    choice: &Choice,
    runner: &Runner,
    source: &dyn Source,
    read: ReadAll,
) -> Result<(), PassError> {
    let Choice { alternatives, n_picked, .. } = choice;
    let picked = (0..*n_picked).map(|i| &*alternatives[i * alternatives.len() / n_picked]);
    let mut wanted: Vec<&[Extent]> = picked.collect();
    while !wanted.is_empty() {
        for requested in (1..=source.request(&wanted)?).rev() {
            let arrived = source.take_any(&wanted[..requested])?;
            wanted.remove(arrived.index);
            arrived.leases.into_iter().try_for_each(|lease| sweep_lease(lease, runner, read))?;
        }
    }
    Ok(())
}

fn sweep_lease(lease: Lease<'_>, runner: &Runner, read: ReadAll) -> Result<(), PassError> {
    let bytes = &*lease;
    let share = bytes.len() / (runner.n_threads() * TASKS_PER_THREAD);
    let task_bytes = share.clamp(TASK_BYTES.0, TASK_BYTES.1).next_multiple_of(4096);
    runner.pool().run(bytes.len().div_ceil(task_bytes), &|task| {
        let from = task * task_bytes;
        read.read(&bytes[from..bytes.len().min(from + task_bytes)]);
    });
    Ok(lease.release()?)
}
