//! Reading ranges of files past the page cache: direct reads of aligned supersets.

use crate::extent::Extent;
use crate::file::{OpenError, Part};
use crate::mapped::MappedPart;
use crate::os;
use crate::source::ReadError;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Direct reads start, end and land on multiples of this. Devices with 512-byte sectors would do with less; none
/// in use asks for more.
pub const ALIGNMENT: u64 = 4096;

/// Threads that read at the same time. Measured (docs/streaming.md) together with the length of their reads: eight of
/// 512 KiB are faster than four of 1 MiB, and take no more memory.
pub const N_READERS: usize = 8;

/// Memory of a reader thread beside the buffers: touched stack.
pub(crate) const READER_BYTES: u64 = 64 << 10;

/// The most bytes that [`Blocks::read`] writes for an extent of `len` bytes, wherever it lies.
pub(crate) fn padded_len(len: u64) -> u64 {
    // An unaligned start and an unaligned end each take in the rest of their block.
    (len + 2 * ALIGNMENT - 2) / ALIGNMENT * ALIGNMENT
}

/// Reads ranges of logical files into memory of the caller's; the place where tests inject what disks do.
pub(crate) trait Blocks: Send + Sync {
    /// Reads `extent` into `buffer`, which is aligned and at least [`padded_len`] long, and returns where in it the
    /// first byte of the extent is. `reader` numbers the calling thread: some systems want a handle for each.
    fn read(&self, reader: usize, extent: Extent, buffer: &mut [u8]) -> Result<usize, ReadError>;

    /// An error when a file is no longer the one that was opened.
    fn check(&self) -> Result<(), ReadError>;

    /// Whether reads pass by the page cache.
    fn is_direct(&self) -> bool;
}

/// One part of a logical file, open for direct reads where the file system takes them.
struct DirectPart {
    /// The same file, mapped and open for ordinary reads.
    mapped: Arc<MappedPart>,
    /// One for each reader on systems that make the users of a handle wait for each other; else one.
    direct: Vec<File>,
}

impl DirectPart {
    fn open(mapped: Arc<MappedPart>, n_readers: usize) -> Result<DirectPart, OpenError> {
        let part = mapped.part();
        let n_handles = if os::HANDLE_PER_READER { n_readers.max(1) } else { 1 };
        let mut direct = Vec::with_capacity(n_handles);
        for _ in 0..n_handles {
            match os::open_direct(&part.path) {
                Ok(file) => {
                    // The path may name another file by now.
                    let same = part.is_same_file(&file).map_err(|e| OpenError::io(&part.path, e))?;
                    if !same {
                        return Err(OpenError::Replaced { path: part.path.clone() });
                    }
                    direct.push(file);
                }
                Err(_) => break,
            }
        }
        // A file system may take the flag and refuse the reads: only a read tells.
        let takes_reads = direct.len() == n_handles && probe(&direct[0], part.identity.len_bytes);
        Ok(DirectPart { mapped, direct: if takes_reads { direct } else { Vec::new() } })
    }

    fn part(&self) -> &Part {
        self.mapped.part()
    }
}

fn probe(file: &File, file_len: u64) -> bool {
    let Ok(mut buffer) = crate::buffer::Buffer::new(ALIGNMENT) else { return false };
    os::read_at(file, buffer.bytes_mut(), 0).is_ok_and(|n| n as u64 == file_len.min(ALIGNMENT))
}

/// The files themselves.
pub(crate) struct FileBlocks {
    files: Vec<Vec<DirectPart>>,
    /// Cleared for good when a file system refuses a direct read.
    direct: AtomicBool,
}

impl FileBlocks {
    /// Opens the files of `mapped` a second time, for direct reads by `n_readers` threads.
    pub(crate) fn open(mapped: &[Vec<Arc<MappedPart>>], n_readers: usize) -> Result<FileBlocks, OpenError> {
        let open = |part: &Arc<MappedPart>| DirectPart::open(Arc::clone(part), n_readers);
        let files: Vec<Vec<DirectPart>> =
            mapped.iter().map(|parts| parts.iter().map(open).collect()).collect::<Result<_, _>>()?;
        let direct = files.iter().flatten().all(|part| !part.direct.is_empty());
        Ok(FileBlocks { files, direct: AtomicBool::new(direct) })
    }

    fn read_direct(
        &self,
        part: &DirectPart,
        reader: usize,
        local: u64,
        len: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let file = &part.direct[reader % part.direct.len()];
        let from = local / ALIGNMENT * ALIGNMENT;
        let head = (local - from) as usize;
        let end = (local + len).next_multiple_of(ALIGNMENT);
        let buffer = &mut buffer[..(end - from) as usize];
        let needed = head + len as usize;
        read_until(needed, buffer, ALIGNMENT as usize, |buffer, done| {
            os::read_at(file, buffer, from + done as u64)
        })
        .map_err(|e| part.error(e, local, len, head))?;
        Ok(head)
    }
}

impl DirectPart {
    fn error(&self, error: ReadFailure, local: u64, len: u64, head: usize) -> ReadError {
        let (path, offset) = (self.part().path.clone(), self.part().start + local);
        match error {
            ReadFailure::Io(source) => ReadError::Io { path, offset, source },
            ReadFailure::Short(got) => {
                ReadError::Short { path, offset, wanted: len, got: (got.saturating_sub(head)) as u64 }
            }
        }
    }
}

pub(crate) enum ReadFailure {
    Io(io::Error),
    /// So many bytes came.
    Short(usize),
}

/// Fills at least the first `needed` bytes of `buffer`. A read may be short for no reason: it goes on at the last
/// whole block, and only one that brings nothing new ends it.
pub(crate) fn read_until(
    needed: usize,
    buffer: &mut [u8],
    alignment: usize,
    mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>,
) -> Result<(), ReadFailure> {
    let (mut done, mut got) = (0, 0);
    while got < needed {
        match read(&mut buffer[done..], done) {
            Ok(n) if done + n > got => {
                got = done + n;
                done = got / alignment * alignment;
            }
            Ok(_) => return Err(ReadFailure::Short(got)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadFailure::Io(error)),
        }
    }
    Ok(())
}

impl Blocks for FileBlocks {
    fn read(&self, reader: usize, extent: Extent, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let out_of_range =
            || ReadError::OutOfRange { file: extent.file, offset: extent.offset, len: extent.len };
        let parts = self.files.get(extent.file as usize).ok_or_else(out_of_range)?;
        let end = extent.end().ok_or_else(out_of_range)?;
        let part_end = |part: &DirectPart| part.part().start + part.part().identity.len_bytes;
        if parts.last().is_none_or(|last| end > part_end(last)) {
            return Err(out_of_range());
        }
        let inside = |part: &&DirectPart| part.part().start <= extent.offset && end <= part_end(part);
        if let Some(part) = parts.iter().find(inside)
            && self.is_direct()
        {
            let local = extent.offset - part.part().start;
            match self.read_direct(part, reader, local, extent.len, buffer) {
                Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                    self.direct.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        // Through the page cache: where direct reads are refused, and for the rare row that straddles two parts.
        let mut done = 0;
        for part in parts {
            let (from, to) = (extent.offset.max(part.part().start), end.min(part_end(part)));
            if from < to {
                let (local, len) = (from - part.part().start, (to - from) as usize);
                let file = &part.part().file;
                read_until(len, &mut buffer[done..done + len], 1, |buffer, at| {
                    os::read_at(file, buffer, local + at as u64)
                })
                .map_err(|e| part.error(e, local, len as u64, 0))?;
                os::drop_cached(file, local, len as u64);
                done += len;
            }
        }
        Ok(0)
    }

    fn check(&self) -> Result<(), ReadError> {
        self.files.iter().flatten().try_for_each(|part| part.mapped.check_unchanged())
    }

    fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_reads_go_on_at_a_whole_block() {
        let data: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        for most in [1000, 4096, 5000, 9000, 100_000] {
            let mut buffer = vec![0; 40_960];
            let read = |buffer: &mut [u8], at: usize| {
                assert!(at.is_multiple_of(4096), "direct reads start at whole blocks");
                // A read of less than a block brings nothing that a direct read could go on from, except at the end.
                let n = most.max(4096).min(buffer.len()).min(data.len() - at);
                buffer[..n].copy_from_slice(&data[at..at + n]);
                Ok(n)
            };
            assert!(read_until(40_000, &mut buffer, 4096, read).is_ok());
            assert_eq!(buffer[..40_000], data);
        }
    }

    #[test]
    fn reads_that_bring_nothing_more_are_short() {
        let mut buffer = vec![0; 8192];
        let mut calls = 0;
        let result = read_until(8000, &mut buffer, 4096, |_, at| {
            calls += 1;
            Ok(if at == 0 { 5000 } else { 904 })
        });
        assert!(matches!(result, Err(ReadFailure::Short(5000))));
        assert_eq!(calls, 2);
    }
}
