//! A source that fails on demand, for the tests of every layer above.

use crate::extent::Extent;
use crate::lease::Lease;
use crate::source::{Arrived, Planned, ReadError, Source};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What goes wrong, and when: counted in leases (or passes) from the moment the fault is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The `n`th lease from now (0 is the next) is refused with an I/O error.
    ReadError {
        /// Leases that still succeed.
        after: usize,
    },
    /// The `n`th lease from now is refused because fewer bytes came than the extent holds.
    ShortRead {
        /// Leases that still succeed.
        after: usize,
    },
    /// The `n`th lease from now goes bad while it is held: its release fails.
    WhileHeld {
        /// Leases that still succeed.
        after: usize,
    },
    /// The next pass is refused at its start, as when the file was replaced.
    AtBegin,
    /// The next pass fails at its end, as when the file changed meanwhile.
    AtEnd,
}

/// Wraps a source and injects one [`Fault`] at a time; without a fault set it is the wrapped source.
pub struct FaultySource<S> {
    inner: S,
    fault: Mutex<Option<Fault>>,
}

impl<S: Source> FaultySource<S> {
    /// Wraps `inner`, with no fault set.
    pub fn new(inner: S) -> FaultySource<S> {
        FaultySource { inner, fault: Mutex::new(None) }
    }

    /// Sets the fault to come, in place of one that has not struck yet. A fault strikes once.
    pub fn inject(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Whether the injected fault has not struck yet.
    pub fn is_pending(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Counts one lease down; the fault when it strikes now.
    fn strikes(&self) -> Option<Fault> {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_mut()? {
            Fault::ReadError { after } | Fault::ShortRead { after } | Fault::WhileHeld { after } => {
                if *after > 0 {
                    *after -= 1;
                    return None;
                }
            }
            Fault::AtBegin | Fault::AtEnd => return None,
        }
        slot.take()
    }

    /// The error of a lease on `extent` when a fault strikes it, or what its release is to say.
    fn refusal(&self, extent: Extent) -> Result<Option<ReadError>, ReadError> {
        match self.strikes() {
            Some(Fault::ReadError { .. }) => Err(ReadError::Io {
                path: injected(),
                offset: extent.offset,
                source: io::Error::other("input/output error"),
            }),
            Some(Fault::ShortRead { .. }) => Err(ReadError::Short {
                path: injected(),
                offset: extent.offset,
                wanted: extent.len,
                got: extent.len / 2,
            }),
            Some(Fault::WhileHeld { .. }) => Ok(Some(ReadError::Faulted { path: injected() })),
            _ => Ok(None),
        }
    }

    fn strikes_at(&self, moment: Fault) -> Result<(), ReadError> {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot == Some(moment) {
            *slot = None;
            return Err(ReadError::Changed { path: injected(), what: format!("{moment:?}") });
        }
        Ok(())
    }
}

fn poisoned(mut arrived: Arrived<'_>, poison: Option<ReadError>) -> Arrived<'_> {
    if let Some(poison) = poison {
        let first = arrived.leases.remove(0).poisoned(poison);
        arrived.leases.insert(0, first);
    }
    arrived
}

fn injected() -> PathBuf {
    PathBuf::from("(injected fault)")
}

impl<S: Source> Source for FaultySource<S> {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        self.strikes_at(Fault::AtBegin)?;
        self.inner.begin_pass(reads)
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        self.inner.lease_len(extent, unit)
    }

    fn max_held_bytes(&self) -> u64 {
        self.inner.max_held_bytes()
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        match self.refusal(extent)? {
            Some(poison) => Ok(self.inner.lease(extent)?.poisoned(poison)),
            None => self.inner.lease(extent),
        }
    }

    fn copy(&self, extents: &[Extent], out: &mut Vec<u8>) -> Result<(), ReadError> {
        for extent in extents {
            if let Some(poison) = self.refusal(*extent)? {
                return Err(poison);
            }
        }
        self.inner.copy(extents, out)
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        self.inner.request(wanted)
    }

    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        let poison = self.refusal(wanted[0][0])?;
        Ok(poisoned(self.inner.take_any(wanted)?, poison))
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        let Some(arrived) = self.inner.take_ready(wanted)? else { return Ok(None) };
        let poison = self.refusal(wanted[arrived.index][0])?;
        Ok(Some(poisoned(arrived, poison)))
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        self.strikes_at(Fault::AtEnd)?;
        self.inner.end_pass()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MappedSource, PartedFile};

    #[test]
    fn each_fault_strikes_once_at_its_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        std::fs::write(&path, [1u8; 64]).unwrap();
        let mapped = MappedSource::new(vec![PartedFile::open(&[path]).unwrap()]).unwrap();
        let source = FaultySource::new(mapped);
        let extent = Extent { file: 0, offset: 0, len: 64 };
        let pass = |source: &FaultySource<MappedSource>| -> Result<(), ReadError> {
            source.begin_pass(&[])?;
            for _ in 0..3 {
                source.lease(extent)?.release()?;
            }
            source.end_pass()
        };
        pass(&source).unwrap();
        for after in 0..3 {
            source.inject(Fault::ReadError { after });
            assert!(matches!(pass(&source), Err(ReadError::Io { .. })));
            source.inject(Fault::ShortRead { after });
            assert!(matches!(pass(&source), Err(ReadError::Short { .. })));
            source.inject(Fault::WhileHeld { after });
            assert!(matches!(pass(&source), Err(ReadError::Faulted { .. })));
            pass(&source).unwrap();
        }
        for moment in [Fault::AtBegin, Fault::AtEnd] {
            source.inject(moment);
            assert!(matches!(pass(&source), Err(ReadError::Changed { .. })));
            pass(&source).unwrap();
        }
        assert!(!source.is_pending());
    }
}
