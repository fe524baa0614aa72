//! SHA-256 of models' files, remembered: that of 40 GB takes most of a minute.

use crate::identity::FileRecord;
use crate::staged::write_whole;
use rawrz_residency::{MappedSource, OpenError, PartedFile, ScanError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// From 64 hexadecimal digits, lower case.
    pub fn parse(text: &str) -> Option<Digest> {
        let mut out = [0; 32];
        if text.len() != 64 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Digest(out))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a digest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The file could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read to its end as it was.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// It is not the file that was meant.
    #[error("{what}; look at it again before going on")]
    Changed {
        /// What is different.
        what: String,
    },
    /// The caller gave up.
    #[error("stopped")]
    Stopped,
    /// The folder of remembered digests does not work.
    #[error("{}", path.display())]
    Memory {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    file: FileRecord,
    sha256: String,
}

/// A folder of remembered digests, a small file for each path.
#[derive(Clone, Debug)]
pub struct Digests {
    folder: PathBuf,
}

impl Digests {
    /// Remembers in `folder`, which is made when it is first needed.
    pub fn new(folder: PathBuf) -> Digests {
        Digests { folder }
    }

    fn path(&self, file: &FileRecord) -> PathBuf {
        let name = Digest::of(file.path.as_os_str().as_encoded_bytes()).to_string();
        self.folder.join(format!("{}.json", &name[..32]))
    }

    /// The digest of `file` if it is remembered, for the same path, length and time of change.
    pub fn known(&self, file: &FileRecord) -> Option<Digest> {
        let bytes = std::fs::read(self.path(file)).ok()?;
        let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
        // A time of 0 tells nothing about a change.
        let is_same = remembered.file == *file && file.modified_ns != 0;
        is_same.then(|| Digest::parse(&remembered.sha256))?
    }

    /// The digest of `file`, read once at the disk's speed where it is not remembered. Several processes that ask for the
    /// same file at once read it once. `on_bytes` is told how many bytes were read so far, and may end it.
    ///
    /// # Errors
    /// When the file is not what `file` says, before or after reading; when it cannot be read; when `on_bytes` breaks.
    pub fn of(
        &self,
        file: &FileRecord,
        on_bytes: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Digest, DigestError> {
        file.change().map_or(Ok(()), |what| Err(DigestError::Changed { what }))?;
        if let Some(digest) = self.known(file) {
            return Ok(digest);
        }
        let memory = |path: &Path| {
            let path = path.to_owned();
            move |source| DigestError::Memory { path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(memory(&self.folder))?;
        let path = self.path(file);
        let lock_path = path.with_extension("lock");
        // Held until the digest is written down; goes with the process that holds it.
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock)).map_err(memory(&lock_path))?;
        if let Some(digest) = self.known(file) {
            return Ok(digest);
        }
        let digest = hash(&file.path, on_bytes)?;
        file.change().map_or(Ok(()), |what| Err(DigestError::Changed { what }))?;
        let remembered = Remembered { file: file.clone(), sha256: digest.to_string() };
        let json = serde_json::to_vec(&remembered).map_err(io::Error::from).map_err(memory(&path))?;
        write_whole(&path, &json).map_err(memory(&path))?;
        drop(lock);
        Ok(digest)
    }
}

fn hash(path: &Path, on_bytes: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Digest, DigestError> {
    let source = MappedSource::new(vec![PartedFile::open(&[path.to_owned()])?])?;
    let (mut sha, mut n_bytes) = (Sha256::new(), 0);
    let end = source.scan(0, &mut |bytes| {
        sha.update(bytes);
        n_bytes += bytes.len() as u64;
        on_bytes(n_bytes)
    })?;
    match end {
        ControlFlow::Continue(()) => Ok(Digest(sha.finalize().into())),
        ControlFlow::Break(()) => Err(DigestError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on(_: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn text_round_trip() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc"), Digest::parse(text).unwrap());
        assert_eq!(Digest::of(b"abc").to_string(), text);
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('b', "é")] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_digest_is_remembered_as_long_as_the_file_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let digests = Digests::new(dir.path().join("digests"));
        let file = FileRecord::of(&path).unwrap();
        assert_eq!(digests.known(&file), None);
        assert_eq!(digests.of(&file, &mut go_on).unwrap(), Digest::of(b"abc"));
        // A second time nothing is read.
        let mut reads = 0;
        let again = digests.of(&file, &mut |_| {
            reads += 1;
            ControlFlow::Break(())
        });
        assert_eq!((again.unwrap(), reads), (Digest::of(b"abc"), 0));

        std::fs::write(&path, b"abcd").unwrap();
        assert!(matches!(digests.of(&file, &mut go_on), Err(DigestError::Changed { .. })));
        let file = FileRecord::of(&path).unwrap();
        assert!(matches!(digests.of(&file, &mut |_| ControlFlow::Break(())), Err(DigestError::Stopped)));
        assert_eq!(digests.known(&file), None);
        assert_eq!(digests.of(&file, &mut go_on).unwrap(), Digest::of(b"abcd"));
    }

    #[test]
    fn a_damaged_memory_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let digests = Digests::new(dir.path().join("digests"));
        let file = FileRecord::of(&path).unwrap();
        digests.of(&file, &mut go_on).unwrap();
        std::fs::write(digests.path(&file), b"{\"file\":").unwrap();
        assert_eq!(digests.known(&file), None);
        assert_eq!(digests.of(&file, &mut go_on).unwrap(), Digest::of(b"abc"));
    }
}
