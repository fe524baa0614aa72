//! Anonymous memory that direct reads and writes may use.

use crate::blocks::ALIGNMENT;
use crate::os;
use memmap2::MmapMut;
use std::io;

/// From this length on memory is asked for in large pages.
const LARGE_PAGES_FROM: usize = 1 << 20;

/// Zeroed anonymous memory, aligned to pages. The system gives it as it is first written to, and takes it back
/// when the buffer is dropped.
#[derive(Debug)]
pub struct Buffer(MmapMut);

impl Buffer {
    /// `len_bytes` bytes, rounded up to whole blocks of 4096.
    pub fn new(len_bytes: u64) -> io::Result<Buffer> {
        let len = usize::try_from(len_bytes.max(1).next_multiple_of(ALIGNMENT));
        let len = len.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = MmapMut::map_anon(len)?;
        if len >= LARGE_PAGES_FROM {
            os::advise_large_anonymous_pages(&map);
        }
        Ok(Buffer(map))
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
