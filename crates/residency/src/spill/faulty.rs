//! A storage that fails on demand, for the tests of every layer above.

use super::Storage;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What goes wrong, and when: counted in reads or writes from the moment the fault is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpillFault {
    /// The `n`th read from now (0 is the next) fails.
    ReadError {
        /// Reads that still succeed.
        after: usize,
    },
    /// The `n`th read from now, and all after it, bring less than was written, as from a file that was cut.
    ShortRead {
        /// Reads that still succeed.
        after: usize,
    },
    /// The `n`th read from now panics.
    ReadPanic {
        /// Reads that still succeed.
        after: usize,
    },
    /// The `n`th write from now fails, as on a disk that is full.
    DiskFull {
        /// Writes that still succeed.
        after: usize,
    },
    /// The `n`th write from now writes a part, and nothing is written after it.
    ShortWrite {
        /// Writes that still succeed.
        after: usize,
    },
}

/// Wraps a storage and injects one [`SpillFault`] at a time; without a fault set it is the wrapped storage.
pub struct FaultyStorage<S> {
    inner: S,
    fault: Mutex<Option<SpillFault>>,
    struck: AtomicUsize,
    n_reads: AtomicUsize,
    delay: Duration,
}

impl<S: Storage> FaultyStorage<S> {
    /// Wraps `inner`, with no fault set; every read and write takes `delay` longer.
    pub fn new(inner: S, delay: Duration) -> FaultyStorage<S> {
        let (struck, n_reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
        FaultyStorage { inner, fault: Mutex::new(None), struck, n_reads, delay }
    }

    /// Sets the fault to come, or none, in place of one that is set.
    pub fn inject(&self, fault: Option<SpillFault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.struck.store(0, Ordering::Relaxed);
    }

    /// How often the fault that was set last has struck.
    pub fn n_struck(&self) -> usize {
        self.struck.load(Ordering::Relaxed)
    }

    /// Reads so far.
    pub fn n_reads(&self) -> usize {
        self.n_reads.load(Ordering::Relaxed)
    }

    /// Counts one read or write down; the fault when it strikes now.
    fn strikes(&self, is_read: bool) -> Option<SpillFault> {
        use SpillFault::{DiskFull, ReadError, ReadPanic, ShortRead, ShortWrite};
        std::thread::sleep(self.delay);
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = slot.as_mut()?;
        let (of_reads, after) = match fault {
            ReadError { after } | ShortRead { after } | ReadPanic { after } => (true, after),
            DiskFull { after } | ShortWrite { after } => (false, after),
        };
        if of_reads != is_read {
            return None;
        }
        if *after > 0 {
            *after -= 1;
            return None;
        }
        self.struck.fetch_add(1, Ordering::Relaxed);
        match *fault {
            // A cut stays a cut.
            ShortRead { .. } | ShortWrite { .. } => Some(*fault),
            _ => slot.take(),
        }
    }
}

impl<S: Storage> Storage for FaultyStorage<S> {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.strikes(false) {
            Some(SpillFault::DiskFull { .. }) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) if self.n_struck() == 1 => self.inner.write(&bytes[..bytes.len() / 8192 * 4096], offset),
            Some(_) => Ok(0),
            None => self.inner.write(bytes, offset),
        }
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        match self.strikes(true) {
            Some(SpillFault::ReadError { .. }) => Err(io::Error::other("input/output error")),
            Some(SpillFault::ReadPanic { .. }) => panic!("injected"),
            Some(_) if self.n_struck() == 1 => {
                let half = buffer.len() / 8192 * 4096;
                self.inner.read(&mut buffer[..half], offset)
            }
            Some(_) => Ok(0),
            None => self.inner.read(buffer, offset),
        }
    }
}
