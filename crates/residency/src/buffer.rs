//! Anonymous memory that direct reads and writes may use.

use crate::blocks::ALIGNMENT;
use crate::os::{self, Pages};
use std::io;

/// Zeroed anonymous memory, aligned to pages. The system gives it as it is first written to, and takes it back when the
/// buffer is dropped.
#[derive(Debug)]
pub struct Buffer(Pages);

impl Buffer {
    /// `len_bytes` bytes, rounded up to whole blocks of 4096.
    pub fn new(len_bytes: u64) -> io::Result<Buffer> {
        let mut one = Buffer::together(&[len_bytes])?;
        one.pop().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Buffers of so many bytes each, rounded up to whole blocks of 4096, side by side: in large pages where the system
    /// has them. A device has fewer pieces to put a read together from then (a virtual disk read 2.7 instead of 1.6 GB/s),
    /// and who reads them finds them with fewer steps. Only all of them go back to the system, except on Linux.
    pub(crate) fn together(lens_bytes: &[u64]) -> io::Result<Vec<Buffer>> {
        let whole = |len_bytes: &u64| usize::try_from(len_bytes.max(&1).next_multiple_of(ALIGNMENT));
        let lens = lens_bytes.iter().map(whole).collect::<Result<Vec<_>, _>>();
        let lens = lens.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Pages::cut(&lens)?.into_iter().map(Buffer).collect())
    }

    /// Buffers that go back to the system one by one, and are in large pages where that can be had as well.
    pub(crate) fn each(lens_bytes: &[u64]) -> io::Result<Vec<Buffer>> {
        match os::GIVES_BACK_PARTS {
            true => Buffer::together(lens_bytes),
            false => lens_bytes.iter().map(|len_bytes| Buffer::new(*len_bytes)).collect(),
        }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.bytes().len()
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}
