//! Files opened for reading: one logical file of one or more raw byte parts, and how to tell that it changed.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;

/// Why a file could not be opened as weights.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("opening {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a regular file, so it has no stable bytes to map.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Nothing to map.
    #[error("{path} is empty", path = path.display())]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// The lengths of the parts add up to more than 64 bits, or more than an address space.
    #[error("{path} is too large to map on this machine", path = path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
    },
    /// The path names another file than before.
    #[error("{path} was replaced while it was opened; open the model again", path = path.display())]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// All slots of the fault guard are taken.
    #[error("more than {limit} files are mapped at once")]
    TooManyMaps {
        /// How many maps one process may hold.
        limit: usize,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> OpenError {
        OpenError::Io { path: path.to_path_buf(), source }
    }
}

/// What a file was when it was opened: enough to tell a later change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change of its content, where the file system keeps one.
    pub modified: Option<SystemTime>,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> FileIdentity {
        FileIdentity { len_bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// One part of a logical file.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) identity: FileIdentity,
    /// Where the part starts in the logical file.
    pub(crate) start: u64,
}

impl Part {
    /// What changed since the part was opened, if anything did. Looks at the open file, not at its path.
    pub(crate) fn change(&self) -> io::Result<Option<String>> {
        let now = FileIdentity::of(&self.file.metadata()?);
        if now.len_bytes != self.identity.len_bytes {
            return Ok(Some(format!("it had {} bytes, now {}", self.identity.len_bytes, now.len_bytes)));
        }
        if now.modified != self.identity.modified {
            return Ok(Some("its content was written to".to_owned()));
        }
        Ok(None)
    }

    /// The device that the file lies on.
    pub(crate) fn device(&self) -> Option<u64> {
        #[cfg(unix)]
        return self.file.metadata().ok().map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        #[cfg(not(unix))]
        None
    }

    /// Whether `file` is this part, opened again.
    pub(crate) fn is_same_file(&self, file: &File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let ours = self.file.metadata()?;
            if (ours.dev(), ours.ino()) != (metadata.dev(), metadata.ino()) {
                return Ok(false);
            }
        }
        Ok(FileIdentity::of(&metadata) == self.identity)
    }
}

/// A logical file, opened read-only: the concatenation of one or more raw byte parts.
#[derive(Debug)]
pub struct PartedFile {
    pub(crate) parts: Vec<Part>,
    len_bytes: u64,
}

impl PartedFile {
    /// Opens the parts at `paths`, in order.
    ///
    /// # Panics
    /// When `paths` is empty.
    pub fn open(paths: &[PathBuf]) -> Result<PartedFile, OpenError> {
        assert!(!paths.is_empty(), "a logical file has at least one part");
        let mut parts = Vec::with_capacity(paths.len());
        let mut start = 0u64;
        for path in paths {
            let file = File::open(path).map_err(|e| OpenError::io(path, e))?;
            let metadata = file.metadata().map_err(|e| OpenError::io(path, e))?;
            if !metadata.is_file() {
                return Err(OpenError::NotAFile { path: path.clone() });
            }
            let identity = FileIdentity::of(&metadata);
            if identity.len_bytes == 0 {
                return Err(OpenError::Empty { path: path.clone() });
            }
            let next = start
                .checked_add(identity.len_bytes)
                .ok_or_else(|| OpenError::TooLarge { path: path.clone() })?;
            parts.push(Part { path: path.clone(), file, identity, start });
            start = next;
        }
        Ok(PartedFile { parts, len_bytes: start })
    }

    /// Length of all parts together, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The path of the first part, for messages.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(PartedFile::open(&[missing]), Err(OpenError::Io { .. })));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(matches!(PartedFile::open(&[empty]), Err(OpenError::Empty { .. })));
        #[cfg(unix)]
        assert!(matches!(PartedFile::open(&[dir.path().to_path_buf()]), Err(OpenError::NotAFile { .. })));
    }

    #[test]
    fn parts_count_through() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..3).map(|i| dir.path().join(format!("p{i}"))).collect();
        for (i, path) in paths.iter().enumerate() {
            std::fs::write(path, vec![i as u8; 10 + i]).unwrap();
        }
        let file = PartedFile::open(&paths).unwrap();
        assert_eq!(file.len_bytes(), 33);
        assert_eq!(file.parts.iter().map(|p| p.start).collect::<Vec<_>>(), [0, 10, 21]);
    }
}
