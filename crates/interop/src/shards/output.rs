//! A file that appears whole and checked under its final name, or not at all.
//!
//! `NAME.part` grows beside where `NAME` will stand. When all of it is on the disk it is read back, past the page cache
//! where the file system allows it, and compared with what it was made of; only then it is renamed. So whatever stands
//! under a final name was right. A part that a killed run left is compared in the same way, and kept as far as it is
//! right: nothing has to be believed that an earlier run wrote down.

use super::OnBytes;
use super::content::{Content, Cursor};
use rawrz_residency::{MappedSource, OpenError, PartedFile, ReadError, ScanError};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Something else has the name.
    #[error("{} is there already and holds something else; move or delete it, or choose another name", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The file to be made is a file that is read.
    #[error("{} is a file of the model itself; choose another name or folder", path.display())]
    IsSource {
        /// The file.
        path: PathBuf,
    },
    /// Another process is at it.
    #[error("another process is making {} (it holds {})", path.display(), lock.display())]
    Busy {
        /// What is made.
        path: PathBuf,
        /// The file that the other process has locked.
        lock: PathBuf,
    },
    /// Not enough room.
    #[error("the disk of {} has {free_bytes} bytes free, {needed_bytes} more are needed; make room, or choose another folder", folder.display())]
    NoSpace {
        /// The folder.
        folder: PathBuf,
        /// Bytes still to be written.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// What was read back is not what was written.
    #[error("{} was written, but reads back different from byte {offset} on; the disk is not to be trusted", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first wrong bytes are, to within 4 MiB.
        offset: u64,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file of the model could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file that was made could not be opened again.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file that was made could not be read back.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The caller stopped it. What is there is kept; the same call goes on from it.
    #[error("stopped")]
    Stopped,
}

/// The operating system's refusal, with what was tried.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.to_owned();
    move |source| OutputError::Io { doing, path, source }
}

/// A file to be made.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

/// Counts bytes written and bytes checked, and asks the caller whether to go on.
pub(super) struct Work<'a, 'f> {
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) on_bytes: &'a mut OnBytes<'f>,
}

impl Work<'_, '_> {
    fn add(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done_bytes += bytes;
        (self.on_bytes)(self.done_bytes, self.total_bytes)
    }

    fn add_or_stop(&mut self, bytes: u64) -> Result<(), OutputError> {
        match self.add(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(OutputError::Stopped),
        }
    }
}

impl Output {
    fn part_path(&self) -> PathBuf {
        suffixed(&self.path, ".part")
    }

    fn exists(&self) -> Result<bool, OutputError> {
        // A dangling link occupies the name as well.
        match std::fs::symlink_metadata(&self.path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("look at", &self.path)(error)),
        }
    }

    /// Bytes that are still to be written, as far as lengths tell.
    pub(super) fn missing_bytes(&self) -> Result<u64, OutputError> {
        if self.exists()? {
            return Ok(0);
        }
        let there = std::fs::metadata(self.part_path()).map_or(0, |metadata| metadata.len());
        Ok(self.content.len().saturating_sub(there))
    }

    /// Makes the file, or finds that it is there and right: then `true`. The caller keeps other processes away.
    pub(super) fn make(&self, source: &MappedSource, work: &mut Work<'_, '_>) -> Result<bool, OutputError> {
        if self.exists()? {
            let same = self.equal_prefix(&self.path, source, work)?;
            if same != self.content.len() {
                return Err(OutputError::Occupied { path: self.path.clone() });
            }
            work.add_or_stop(same)?;
            return Ok(true);
        }
        let part = self.part_path();
        // Never followed: a link that somebody laid in the way is not written through.
        if std::fs::symlink_metadata(&part).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(OutputError::Occupied { path: part });
        }
        let made = self.write(&part, source, work).and_then(|()| self.publish(&part, source, work));
        match made {
            // What a stopped run leaves, the next one uses.
            Ok(()) | Err(OutputError::Stopped) => {}
            // After a failure nothing half-made stays. The failure is what has to be told.
            Err(_) => drop(std::fs::remove_file(&part)),
        }
        made.map(|()| false)
    }

    /// How many bytes from its start the file at `path` has in common with what it should hold, to within 4 MiB; all
    /// only when it is no longer than that either.
    fn equal_prefix(
        &self,
        path: &Path,
        source: &MappedSource,
        work: &mut Work<'_, '_>,
    ) -> Result<u64, OutputError> {
        let metadata = std::fs::metadata(path).map_err(io_error("look at", path))?;
        if !metadata.is_file() || metadata.len() == 0 || metadata.len() > self.content.len() {
            return Ok(0);
        }
        let made = MappedSource::new(vec![PartedFile::open(&[path.to_owned()])?])?;
        let mut cursor = Cursor::new(&self.content, source, 0);
        let (mut same, mut result) = (0, Ok(()));
        let mut compare = |mut block: &[u8]| -> Result<ControlFlow<()>, OutputError> {
            let len = block.len() as u64;
            while !block.is_empty() {
                let equal = cursor.next(block.len() as u64, |bytes| {
                    let (head, rest) = block.split_at(bytes.len());
                    block = rest;
                    (head == bytes).then_some(bytes.len() as u64)
                })?;
                match equal.flatten() {
                    Some(n) => same += n,
                    None => return Ok(ControlFlow::Break(())),
                }
            }
            work.add_or_stop(len)?;
            Ok(ControlFlow::Continue(()))
        };
        let _ = made.scan(0, &mut |block| {
            compare(block).unwrap_or_else(|error| {
                result = Err(error);
                ControlFlow::Break(())
            })
        })?;
        result.map(|()| same)
    }

    /// Writes what is missing of the part and brings it to the disk.
    fn write(&self, part: &Path, source: &MappedSource, work: &mut Work<'_, '_>) -> Result<(), OutputError> {
        let cannot = || io_error("write", part);
        let options = File::options().write(true).create(true).truncate(false).clone();
        let mut file = options.open(part).map_err(cannot())?;
        let before = work.done_bytes;
        let at = self.equal_prefix(part, source, work)?;
        // Compared bytes are behind as written ones are; those that differ are not.
        work.done_bytes = before + at;
        file.set_len(at).map_err(cannot())?;
        file.seek(SeekFrom::Start(at)).map_err(cannot())?;
        let mut cursor = Cursor::new(&self.content, source, at);
        while let Some(written) =
            cursor.next(u64::MAX, |bytes| file.write_all(bytes).map(|()| bytes.len() as u64))?
        {
            work.add_or_stop(written.map_err(cannot())?)?;
        }
        file.sync_all().map_err(cannot())
    }

    /// Reads the part back, and gives it its name when it is right.
    fn publish(
        &self,
        part: &Path,
        source: &MappedSource,
        work: &mut Work<'_, '_>,
    ) -> Result<(), OutputError> {
        let same = self.equal_prefix(part, source, work)?;
        if same != self.content.len() {
            return Err(OutputError::Damaged { path: part.to_owned(), offset: same });
        }
        if self.exists()? {
            return Err(OutputError::Occupied { path: self.path.clone() });
        }
        std::fs::rename(part, &self.path).map_err(io_error("finish", &self.path))?;
        sync_folder(folder_of(&self.path)).map_err(io_error("finish", &self.path))
    }
}

/// The folder that a path is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` with `suffix` after its name.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Brings names in a folder to the disk, where the system has a way to.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Refuses to begin what cannot end.
pub(super) fn ensure_space(folder: &Path, needed_bytes: u64) -> Result<(), OutputError> {
    // Network file systems may not tell; then the write itself will.
    match fs4::available_space(folder) {
        Ok(free_bytes) if free_bytes < needed_bytes => {
            Err(OutputError::NoSpace { folder: folder.to_owned(), needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// A lock file that keeps other processes from making the same thing. Removed when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of what is made at `target`.
    pub(super) fn take(target: &Path) -> Result<Lock, OutputError> {
        let path = suffixed(target, ".lock");
        loop {
            let options = File::options().write(true).create(true).truncate(false).clone();
            let file = options.open(&path).map_err(io_error("write", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(OutputError::Busy { path: target.to_owned(), lock: path });
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
            }
            // The holder before may have removed it after we opened it; then it keeps nobody away.
            if is_same_file(&path, &file) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Left over it does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_same_file(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((std::fs::metadata(path), file.metadata()), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

#[cfg(not(unix))]
fn is_same_file(path: &Path, _: &File) -> bool {
    path.exists()
}

/// Whether two paths lead to one file.
pub(super) fn is_one_file(a: &Path, b: &Path) -> bool {
    if let (Ok(a), Ok(b)) = (std::fs::canonicalize(a), std::fs::canonicalize(b))
        && a == b
    {
        return true;
    }
    // Hard links.
    #[cfg(unix)]
    return File::open(b).is_ok_and(|file| is_same_file(a, &file));
    #[cfg(not(unix))]
    false
}
