//! The scratch file: without a name, so that it is gone with its handle whatever happens to the program.

use super::{SpillError, Storage};
use crate::blocks::ALIGNMENT;
use crate::buffer::Buffer;
use crate::os;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of this process alone, past the page cache where the file system allows it.
#[derive(Debug)]
pub struct ScratchFile {
    file: File,
    /// Cleared for good when the file system refuses a direct read or write.
    direct: AtomicBool,
}

impl ScratchFile {
    /// An empty file in `folder`, on its file system.
    pub fn create(folder: &Path) -> Result<ScratchFile, SpillError> {
        let create = |source| SpillError::Create { folder: folder.to_path_buf(), source };
        let file = tempfile::tempfile_in(folder).map_err(create)?;
        // A file system may take the flag and refuse what it stands for: only doing it tells.
        let direct = os::set_direct(&file, true).is_ok() && probe(&file).is_ok();
        if !direct {
            os::set_direct(&file, false).map_err(create)?;
        }
        Ok(ScratchFile { file, direct: AtomicBool::new(direct) })
    }

    /// Whether the page cache is passed by.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// Does `io`, again through the page cache where it is refused without.
    fn retry<R>(&self, mut io: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        match io() {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.is_direct() => {
                os::set_direct(&self.file, false)?;
                self.direct.store(false, Ordering::Relaxed);
                io()
            }
            result => result,
        }
    }
}

/// Writes a block and reads it back.
fn probe(file: &File) -> io::Result<()> {
    let mut buffer = Buffer::new(ALIGNMENT)?;
    let written = os::write_at(file, buffer.bytes(), 0)?;
    let read = os::read_at(file, buffer.bytes_mut(), 0)?;
    if (written, read) == (buffer.len(), buffer.len()) { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
}

impl Storage for ScratchFile {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.retry(|| os::write_at(&self.file, bytes, offset))?;
        if !self.is_direct() {
            // What was not written yet cannot leave the page cache, nor tell of a full disk.
            self.file.sync_data()?;
            os::drop_cached(&self.file, offset, written as u64);
        }
        Ok(written)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.retry(|| os::read_at(&self.file, buffer, offset))?;
        if !self.is_direct() {
            os::drop_cached(&self.file, offset, read as u64);
        }
        Ok(read)
    }
}
