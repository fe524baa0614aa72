//! Reading all weights of a pass without computing: the bound of a decode that nothing else holds up.

use crate::error::PassError;
use crate::kernels::ReadAll;
use crate::model::{Model, Runner};
use rawrz_residency::{Extent, Source};
use std::time::{Duration, Instant};

/// Bytes that one task reads: many tasks for each thread in a matrix of usual size, each long enough that handing
/// it out costs nothing.
const TASK_BYTES: usize = 256 << 10;

/// Rows have no meaning here; leases are cut at multiples of this where the source cuts at all.
const UNIT_BYTES: u64 = 1;

impl Model {
    /// Reads what one pass reads, in its order, on all threads of `runner`, and gives the bytes and the shortest
    /// time. The ways of reading that may be fastest are all tried, since a bound is what can be had.
    pub fn sweep(&self, runner: &Runner, source: &dyn Source) -> Result<(u64, Duration), PassError> {
        let bytes = self.plan().extents.iter().map(|extent| extent.len).sum();
        let mut best = Duration::MAX;
        for read in ReadAll::ways(runner.isa()) {
            let started = Instant::now();
            self.sweep_once(runner, source, read)?;
            best = best.min(started.elapsed());
        }
        Ok((bytes, best))
    }

    fn sweep_once(&self, runner: &Runner, source: &dyn Source, read: ReadAll) -> Result<(), PassError> {
        source.begin_pass(self.plan())?;
        let result = self.plan().extents.iter().try_for_each(|extent| {
            let mut done = 0;
            while done < extent.len {
                let rest = extent.slice(done, extent.len - done);
                let len = source.lease_len(rest, UNIT_BYTES);
                let lease = source.lease(Extent { len, ..rest })?;
                let bytes = &*lease;
                runner.pool().run(bytes.len().div_ceil(TASK_BYTES), &|task| {
                    let from = task * TASK_BYTES;
                    read.read(&bytes[from..bytes.len().min(from + TASK_BYTES)]);
                });
                lease.release()?;
                done += len;
            }
            Ok(())
        });
        source.end_pass()?;
        result
    }
}
