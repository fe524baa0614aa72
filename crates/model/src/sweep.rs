//! Reading all weights of a pass without computing: the bound of a decode that nothing else holds up.

use crate::error::PassError;
use crate::model::{Model, Runner};
use rawrz_residency::{Extent, Source};
use std::hint::black_box;

/// Bytes that one task reads.
const TASK_BYTES: usize = 256 << 10;

/// Rows have no meaning here; leases are cut at multiples of this where the source cuts at all.
const UNIT_BYTES: u64 = 1;

impl Model {
    /// Reads what one pass reads, in its order, on all threads of `runner`, and returns the number of bytes.
    pub fn sweep(&self, runner: &Runner, source: &dyn Source) -> Result<u64, PassError> {
        source.begin_pass(self.plan())?;
        let read = self.plan().extents.iter().try_fold(0, |sum, extent| {
            let mut done = 0;
            while done < extent.len {
                let rest = extent.slice(done, extent.len - done);
                let len = source.lease_len(rest, UNIT_BYTES);
                let lease = source.lease(Extent { len, ..rest })?;
                let bytes = &*lease;
                runner.pool().run(bytes.len().div_ceil(TASK_BYTES), &|task| {
                    let from = task * TASK_BYTES;
                    black_box(add_up(&bytes[from..bytes.len().min(from + TASK_BYTES)]));
                });
                lease.release()?;
                done += len;
            }
            Ok(sum + extent.len)
        });
        source.end_pass()?;
        read
    }
}

/// A sum that needs every byte and costs far less than reading it.
fn add_up(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let (groups, rest) = bytes.as_chunks::<64>();
    for group in groups {
        for (lane, word) in lanes.iter_mut().zip(group.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    lanes.iter().copied().chain(rest.iter().map(|b| u64::from(*b))).fold(0, u64::wrapping_add)
}
