//! What making files has in common: why it fails, locks, room on the disk.

use rawrz_residency::{OpenError, ReadError, ScanError};
use std::fs::File;
use std::io::{self, ErrorKind};
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
    /// The caller stopped it.
    #[error("stopped")]
    Stopped,
}

/// The operating system's refusal, with what was tried.
pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.to_owned();
    move |source| OutputError::Io { doing, path, source }
}

/// Whether something has this name; a link that leads nowhere has it as well.
pub(crate) fn exists(path: &Path) -> Result<bool, OutputError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", path)(error)),
    }
}

/// The folder that a path is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` with `suffix` after its name.
pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Brings names in a folder to the disk, where the system has a way to.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Refuses to begin what cannot end.
pub(crate) fn ensure_space(folder: &Path, needed_bytes: u64) -> Result<(), OutputError> {
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
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of what is made at `target`.
    pub(crate) fn take(target: &Path) -> Result<Lock, OutputError> {
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

/// Whether two paths lead to one file; hard links are seen through where the system numbers its files.
pub(crate) fn is_one_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    return crate::files::same_file(a, b);
    #[cfg(not(unix))]
    return matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b);
}
