//! What a document may still cost.

use crate::{DocumentError, Limits};
use std::time::Instant;

/// Bytes of work between two looks at the clock.
const WORK_BETWEEN_LOOKS: usize = 1 << 18;

/// Counts what a document costs against its limits.
pub(crate) struct Budget {
    limits: Limits,
    started: Instant,
    unpacked_bytes: usize,
    kept_bytes: usize,
    text_bytes: usize,
    work: usize,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Budget {
        Budget { limits, started: Instant::now(), unpacked_bytes: 0, kept_bytes: 0, text_bytes: 0, work: 0 }
    }

    /// `bytes` are about to be looked at, or something that takes as long is about to be done.
    pub(crate) fn work(&mut self, bytes: usize) -> Result<(), DocumentError> {
        self.work += bytes;
        if self.work >= WORK_BETWEEN_LOOKS {
            self.work = 0;
            if self.started.elapsed() >= self.limits.max_time {
                return Err(DocumentError::TooSlow { limit: self.limits.max_time });
            }
        }
        Ok(())
    }

    /// `bytes` more of a part that has `part_bytes` with them were unpacked.
    pub(crate) fn unpacked(&mut self, bytes: usize, part_bytes: usize) -> Result<(), DocumentError> {
        self.work(bytes)?;
        self.unpacked_bytes += bytes;
        let limits = &self.limits;
        match (part_bytes > limits.max_part_bytes, self.unpacked_bytes > limits.max_unpacked_bytes) {
            (true, _) => Err(DocumentError::UnpacksTooFar { limit: limits.max_part_bytes }),
            (_, true) => Err(DocumentError::UnpacksTooFar { limit: limits.max_unpacked_bytes }),
            _ => Ok(()),
        }
    }

    /// Something that takes `bytes` of memory is kept until the end.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), DocumentError> {
        self.kept_bytes += bytes;
        match self.kept_bytes > self.limits.max_kept_bytes {
            true => Err(DocumentError::UnpacksTooFar { limit: self.limits.max_kept_bytes }),
            false => Ok(()),
        }
    }

    /// `bytes` of text are about to be kept.
    pub(crate) fn text(&mut self, bytes: usize) -> Result<(), DocumentError> {
        self.text_bytes += bytes;
        match self.text_bytes > self.limits.max_text_bytes {
            true => Err(DocumentError::TooMuchText { limit: self.limits.max_text_bytes }),
            false => Ok(()),
        }
    }
}
