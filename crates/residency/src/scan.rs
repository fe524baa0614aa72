//! Reading a whole logical file once, in order, at the disk's speed and past the page cache: for checksums.

use crate::blocks::{Blocks, FileBlocks, N_READERS, padded_len};
use crate::buffer::Buffer;
use crate::extent::Extent;
use crate::file::OpenError;
use crate::mapped::MappedSource;
use crate::source::ReadError;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use thiserror::Error;

/// Bytes of one read.
const BLOCK_BYTES: u64 = 1 << 20;

/// Buffers of one reader: one that is filled while the other is used.
const BUFFERS: usize = 2;

/// Why a scan ended early.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The file could not be opened a second time.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A read failed, or the file changed while it was read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no memory for the buffers.
    #[error("no memory for the buffers to read into")]
    NoMemory(#[source] std::io::Error),
}

/// A block that was read: the buffer and where in it the bytes are.
type Block = (Buffer, std::ops::Range<usize>);

/// One reader's ends, as the consumer holds them.
struct Reader {
    filled: Receiver<Result<Block, ReadError>>,
    empty: SyncSender<Buffer>,
}

impl MappedSource {
    /// Gives `on_bytes` all bytes of logical file `file` in order, in blocks of any length, while other threads read
    /// ahead. Takes 16 MiB. `Ok(Break)` when `on_bytes` ended it.
    ///
    /// # Errors
    /// When a read fails or is short, or the file changed since it was opened: what was given counts for nothing then.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn scan(
        &self,
        file: usize,
        on_bytes: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ScanError> {
        let len = self.file_len_bytes(file);
        let blocks = FileBlocks::open(self.mapped_parts(), N_READERS)?;
        let extent = |index: u64| Extent {
            file: file as u32,
            offset: index * BLOCK_BYTES,
            len: BLOCK_BYTES.min(len - index * BLOCK_BYTES),
        };
        scan(&blocks, len.div_ceil(BLOCK_BYTES), &extent, on_bytes)
    }
}

/// Block `i` is read by reader `i % N_READERS`, so that taking from the readers in turns gives the blocks in order.
fn scan(
    blocks: &dyn Blocks,
    n_blocks: u64,
    extent: &(dyn Fn(u64) -> Extent + Sync),
    on_bytes: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ScanError> {
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(N_READERS);
        let readers: Vec<Reader> = (0..N_READERS)
            .map(|reader| {
                let (filled_in, filled) = sync_channel(BUFFERS);
                let (empty, empty_out) = sync_channel(BUFFERS);
                threads.push(scope.spawn(move || {
                    for index in (reader as u64..n_blocks).step_by(N_READERS) {
                        // The consumer is gone when it wants no more.
                        let Ok(buffer) = empty_out.recv() else { return };
                        let block = read(blocks, reader, extent(index), buffer);
                        let is_bad = block.is_err();
                        if filled_in.send(block).is_err() || is_bad {
                            return;
                        }
                    }
                }));
                Reader { filled, empty }
            })
            .collect();
        let result = consume(&readers, n_blocks, on_bytes);
        drop(readers);
        for thread in threads {
            // The scope itself waits for the work of its threads only, not until they are gone.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let end = result?;
        if end.is_continue() {
            blocks.check()?;
        }
        Ok(end)
    })
}

/// Hands out buffers, and takes the blocks from the readers in turns.
fn consume(
    readers: &[Reader],
    n_blocks: u64,
    on_bytes: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ScanError> {
    for reader in readers {
        for _ in 0..BUFFERS {
            let buffer = Buffer::new(padded_len(BLOCK_BYTES)).map_err(ScanError::NoMemory)?;
            // A reader without a block to read has ended.
            let _ = reader.empty.send(buffer);
        }
    }
    for index in 0..n_blocks {
        let reader = &readers[(index % N_READERS as u64) as usize];
        let Ok(block) = reader.filled.recv() else { unreachable!("a reader sends each of its blocks") };
        let (buffer, range) = block?;
        if on_bytes(&buffer.bytes()[range]).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // A reader that is done takes no more.
        let _ = reader.empty.send(buffer);
    }
    Ok(ControlFlow::Continue(()))
}

fn read(blocks: &dyn Blocks, reader: usize, extent: Extent, mut buffer: Buffer) -> Result<Block, ReadError> {
    let head = blocks.read(reader, extent, buffer.bytes_mut())?;
    Ok((buffer, head..head + extent.len as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartedFile;

    fn content(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect()
    }

    #[test]
    fn a_scan_gives_the_bytes_of_the_parts_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for lens in [
            vec![1],
            vec![BLOCK_BYTES as usize],
            vec![9 * BLOCK_BYTES as usize + 17],
            vec![5000, 3 << 20, 77],
        ] {
            let all = content(lens.iter().sum());
            let mut at = 0;
            let mut paths = Vec::new();
            for (i, len) in lens.iter().enumerate() {
                paths.push(dir.path().join(format!("p{i}")));
                std::fs::write(&paths[i], &all[at..at + len]).unwrap();
                at += len;
            }
            let source = MappedSource::new(vec![PartedFile::open(&paths).unwrap()]).unwrap();
            let mut got = Vec::new();
            let end = source.scan(0, &mut |bytes| {
                got.extend_from_slice(bytes);
                ControlFlow::Continue(())
            });
            assert!(end.unwrap().is_continue());
            assert!(got == all, "{lens:?}");
        }
    }

    #[test]
    fn a_scan_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content(40 << 20)).unwrap();
        let source = MappedSource::new(vec![PartedFile::open(&[path]).unwrap()]).unwrap();
        let mut n = 0;
        let end = source.scan(0, &mut |_| {
            n += 1;
            if n == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(end.unwrap().is_break());
        assert_eq!(n, 3);
    }

    #[test]
    fn a_file_cut_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content(40 << 20)).unwrap();
        let source = MappedSource::new(vec![PartedFile::open(std::slice::from_ref(&path)).unwrap()]).unwrap();
        let mut cut = false;
        let end = source.scan(0, &mut |_| {
            if !std::mem::replace(&mut cut, true) {
                std::fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
            }
            ControlFlow::Continue(())
        });
        assert!(end.is_err());
    }
}
