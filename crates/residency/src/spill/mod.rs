//! Pages that do not fit in memory: written to a scratch file, and read back ahead of their use.
//!
//! ```text
//!   order   | 0 1 2 3 4 | 9 10 11 | 0 1 2 ...      runs of pages, over and over
//!               ^     ^
//!            leases  readers                       as far ahead as free buffers carry them
//! ```
//!
//! Whoever leases says beforehand in which order. Leases may come in another: then what was read ahead is dropped, and
//! readers go on from there. The content of a page is what was written last, never anything else: a read that fails or
//! comes short is an error of the lease that wanted the page.

mod faulty;
mod file;
mod ring;

#[cfg(test)]
mod tests;

pub use faulty::{FaultyStorage, SpillFault};
pub use file::ScratchFile;

use crate::blocks::{ALIGNMENT, N_READERS, READER_BYTES, ReadFailure, read_until};
use crate::buffer::Buffer;
use crate::readers::{Desk, Readers};
use ring::{Job, Ring};
use std::io;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Why pages could not be put away or had back.
#[derive(Debug, Error)]
pub enum SpillError {
    /// There is no scratch file.
    #[error("creating a scratch file in {folder}", folder = folder.display())]
    Create {
        /// The folder it was to lie in.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A page could not be written; a full disk is one cause.
    #[error("writing to the scratch file at byte {offset}")]
    Write {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A page could not be read.
    #[error("reading from the scratch file at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Fewer bytes came than a page has.
    #[error("reading from the scratch file at byte {offset}: {got} of {wanted} bytes came")]
    Short {
        /// Where.
        offset: u64,
        /// Bytes of a page.
        wanted: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The system gave no memory or no thread.
    #[error("memory and threads for pages")]
    System {
        /// What it said.
        source: io::Error,
    },
}

/// What holds the pages that are not in memory; the place where tests inject what disks do.
///
/// Bytes, offsets and lengths are multiples of 4096.
pub trait Storage: Send + Sync {
    /// Writes at `offset`; fewer bytes than there are may go.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Reads at `offset`; fewer bytes than asked for may come, and none only past the end.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        (**self).write(bytes, offset)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read(buffer, offset)
    }
}

struct Shared {
    desk: Desk<Ring>,
    storage: Box<dyn Storage>,
    page_bytes: usize,
}

impl Shared {
    fn offset(&self, page: u64) -> u64 {
        page * self.page_bytes as u64
    }

    fn read(&self, page: u64, buffer: &mut [u8]) -> Result<(), SpillError> {
        let (offset, wanted) = (self.offset(page), self.page_bytes);
        let read = |buffer: &mut [u8], done: usize| self.storage.read(buffer, offset + done as u64);
        read_until(wanted, &mut buffer[..wanted], ALIGNMENT as usize, read).map_err(|error| match error {
            ReadFailure::Io(source) => SpillError::Read { offset, source },
            ReadFailure::Short(got) => SpillError::Short { offset, wanted, got },
        })
    }
}

/// Pages of one length in a [`Storage`], with a ring of buffers for those that are read back.
pub struct Spill {
    shared: Arc<Shared>,
    n_buffers: usize,
    readers: Readers,
}

impl Spill {
    /// Pages of `page_bytes`, a multiple of 4096, in `storage`; `n_buffers`, at least 2, in memory at a time.
    pub fn new(storage: Box<dyn Storage>, page_bytes: usize, n_buffers: usize) -> Result<Spill, SpillError> {
        assert!(page_bytes.is_multiple_of(ALIGNMENT as usize) && n_buffers >= 2);
        let system = |source| SpillError::System { source };
        let free = (0..n_buffers).map(|_| Buffer::new(page_bytes as u64)).collect::<Result<_, _>>();
        let shared =
            Arc::new(Shared { desk: Desk::new(Ring::new(free.map_err(system)?)), storage, page_bytes });
        let mut spill = Spill { shared: Arc::clone(&shared), n_buffers, readers: Readers::default() };
        for _ in 0..N_READERS {
            let shared = Arc::clone(&shared);
            let serve = move || {
                // A page is at the start of its buffer.
                let read = |job: &mut Job| shared.read(job.page, job.buffer.bytes_mut()).map(|()| 0);
                let panicked = |job: &Job, source| {
                    let offset = shared.offset(job.page);
                    SpillError::Read { offset, source }
                };
                shared.desk.serve(read, panicked);
            };
            spill.readers.start("rawrz-page", serve).map_err(system)?;
        }
        Ok(spill)
    }

    /// Memory that a ring of `n_buffers` pages and its readers take.
    pub fn memory_bytes(page_bytes: usize, n_buffers: usize) -> u64 {
        (page_bytes as u64).saturating_mul(n_buffers as u64) + N_READERS as u64 * READER_BYTES
    }

    /// Pages that may be leased at the same time: while they are in use, as many are read ahead.
    pub fn max_leased(&self) -> usize {
        self.n_buffers / 2
    }

    /// Writes a page. What was read of it before counts no longer.
    pub fn write(&self, page: u64, bytes: &[u8]) -> Result<(), SpillError> {
        assert_eq!(bytes.len(), self.shared.page_bytes);
        let offset = self.shared.offset(page);
        let mut done = 0;
        while done < bytes.len() {
            match self.shared.storage.write(&bytes[done..], offset + done as u64) {
                Ok(n) if n >= ALIGNMENT as usize || n == bytes.len() - done => {
                    // Direct writes go on at a whole block.
                    done = if done + n == bytes.len() { done + n } else { done + align_down(n) };
                }
                Ok(_) => {
                    return Err(SpillError::Write { offset, source: io::ErrorKind::WriteZero.into() });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SpillError::Write { offset, source }),
            }
        }
        // Last, so that reads that began meanwhile are forgotten too.
        self.shared.desk.lock().forget(page);
        Ok(())
    }

    /// Reads a page into memory of the caller's, aligned to 4096 bytes.
    pub fn read(&self, page: u64, bytes: &mut [u8]) -> Result<(), SpillError> {
        assert_eq!(bytes.len(), self.shared.page_bytes);
        self.shared.read(page, bytes)
    }

    /// Says in which order pages will be leased from now on: those of each run in order, then those of the next,
    /// and from the start again. What was read ahead is kept as far as it is wanted first.
    pub fn expect(&self, runs: Vec<Range<u64>>) {
        self.shared.desk.lock().expect(runs);
        self.shared.desk.call_all();
    }

    /// Waits for a page that was written before.
    ///
    /// # Panics
    /// When all buffers are leased already.
    pub fn lease(&self, page: u64) -> Result<SpilledPage<'_>, SpillError> {
        let mut ring = self.shared.desk.lock();
        loop {
            if let Some(taken) = ring.take(page) {
                let buffer = Some(taken?);
                return Ok(SpilledPage { buffer, shared: &self.shared });
            }
            ring = self.shared.desk.wait(ring);
        }
    }
}

fn align_down(n: usize) -> usize {
    n / ALIGNMENT as usize * ALIGNMENT as usize
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("page_bytes", &self.shared.page_bytes).finish_non_exhaustive()
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.shared.desk.stop();
    }
}

/// A page that was read back. Its buffer is free again when it is dropped.
pub struct SpilledPage<'a> {
    /// There until it is dropped.
    buffer: Option<Buffer>,
    shared: &'a Shared,
}

impl Deref for SpilledPage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.bytes()[..self.shared.page_bytes])
    }
}

impl Drop for SpilledPage<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.shared.desk.lock().give_back(buffer);
            self.shared.desk.call_one();
        }
    }
}
