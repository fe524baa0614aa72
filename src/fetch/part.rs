//! `NAME.part`: a file on its way, its SHA-256 so far, and where its bytes came from.

use super::hash;
use crate::progress::Progress;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file being fetched. It holds the first `len` bytes of what it will be.
pub(super) struct PartFile {
    file: File,
    path: PathBuf,
    len: u64,
    sha: Sha256,
}

impl PartFile {
    /// Opens what an earlier run left, or an empty file. More than `limit` bytes cannot be the beginning
    /// of the file that is wanted and are dropped.
    pub(super) fn open(path: &Path, limit: Option<u64>) -> anyhow::Result<PartFile> {
        let cannot = || format!("cannot open {}", path.display());
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(path).with_context(cannot)?;
        let mut len = file.metadata().with_context(cannot)?.len();
        if limit.is_some_and(|limit| len > limit) {
            file.set_len(0).with_context(cannot)?;
            len = 0;
        }
        let sha = hash_prefix(&mut file, len).with_context(cannot)?;
        Ok(PartFile { file, path: path.to_owned(), len, sha })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The folder it is in.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// SHA-256 of the bytes so far.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.sha.clone().finalize().into()
    }

    /// Whether the bytes so far begin with `magic`.
    pub(super) fn starts_with(&mut self, magic: &[u8]) -> anyhow::Result<bool> {
        let mut head = vec![0; magic.len()];
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_exact(&mut head));
        let back = self.file.seek(SeekFrom::Start(self.len));
        match read.and(back.map(|_| ())) {
            Ok(()) => Ok(head == magic),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        }
    }

    /// Adds bytes at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.sha.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Keeps the first `len` bytes.
    pub(super) fn truncate(&mut self, len: u64) -> anyhow::Result<()> {
        if len >= self.len {
            return Ok(());
        }
        let cut = || format!("cannot cut {} to {len} bytes", self.path.display());
        self.file.set_len(len).with_context(cut)?;
        self.file.seek(SeekFrom::Start(0)).with_context(cut)?;
        self.len = len;
        self.sha = hash_prefix(&mut self.file, len).with_context(cut)?;
        if len == 0 {
            self.forget_version()?;
        }
        Ok(())
    }

    /// The file moves to its final name, all of it on the disk first.
    pub(super) fn into_file(self, path: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot finish {}", path.display());
        self.forget_version()?;
        self.file.sync_all().with_context(cannot)?;
        fs::rename(&self.path, path).with_context(cannot)
    }

    /// Leaves no empty file behind after a fetch that never began.
    pub(super) fn discard_if_empty(self) {
        if self.len == 0 {
            // It would do no harm either.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Which version of the file the bytes so far are of, if that was noted.
    pub(super) fn version(&self) -> anyhow::Result<Option<Version>> {
        let path = self.version_path();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(16 << 10).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // Not ours, or damaged: as good as none.
            Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        Ok(match text.lines().collect::<Vec<_>>()[..] {
            [address, etag] => Some(Version { address: address.to_owned(), etag: etag.to_owned() }),
            _ => None,
        })
    }

    /// Notes which version the bytes from now on are of.
    pub(super) fn set_version(&self, version: &Version) -> anyhow::Result<()> {
        let text = format!("{}\n{}\n", version.address, version.etag);
        let path = self.version_path();
        if text.lines().count() != 2 || text.len() > 16 << 10 {
            bail!("the address or the ETag of {} cannot be noted", self.path.display());
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Forgets which version the bytes are of; they will not be joined to others without a SHA-256.
    pub(super) fn forget_version(&self) -> anyhow::Result<()> {
        let path = self.version_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn version_path(&self) -> PathBuf {
        {
            let mut path = self.path.clone().into_os_string();
            path.push(".version");
            path.into()
        }
    }
}

/// The SHA-256 state over the `len` bytes that an earlier run left.
fn hash_prefix(file: &mut File, len: u64) -> std::io::Result<Sha256> {
    if len == 0 {
        return Ok(Sha256::new());
    }
    let progress = Progress::bytes("checking what is here already", Some(len), 0);
    hash(file, len, &mut |done| {
        progress.at(done);
        Ok(())
    })
}

/// What makes bytes of two answers parts of one file: the address asked for, and its strong ETag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) address: String,
    pub(super) etag: String,
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn grows_survives_a_restart_and_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf.part");
        let mut part = PartFile::open(&path, None).unwrap();
        part.append(b"ab").unwrap();
        drop(part);

        let mut part = PartFile::open(&path, Some(3)).unwrap();
        assert_eq!(part.len(), 2);
        part.append(b"c").unwrap();
        assert_eq!(hex(&part.sha256()), ABC);
        part.append(b"def").unwrap();
        part.truncate(3).unwrap();
        assert_eq!((part.len(), hex(&part.sha256())), (3, ABC.to_owned()));
        assert!(part.starts_with(b"abc").unwrap());
        assert!(!part.starts_with(b"abcd").unwrap());
        part.append(b"x").unwrap();

        let done = folder.path().join("m.gguf");
        part.into_file(&done).unwrap();
        assert_eq!(fs::read(&done).unwrap(), b"abcx");
        assert!(!path.exists());
    }

    #[test]
    fn more_than_the_file_can_have_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf.part");
        fs::write(&path, b"too long").unwrap();
        assert_eq!(PartFile::open(&path, Some(3)).unwrap().len(), 0);
    }

    #[test]
    fn versions_are_remembered_and_damage_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf.part");
        let mut part = PartFile::open(&path, None).unwrap();
        assert_eq!(part.version().unwrap(), None);
        let version = Version { address: "https://example.org/m.gguf".into(), etag: "\"1\"".into() };
        part.set_version(&version).unwrap();
        assert_eq!(part.version().unwrap(), Some(version));
        fs::write(folder.path().join("m.gguf.part.version"), b"\xff\xfe").unwrap();
        assert_eq!(part.version().unwrap(), None);
        let two_lines = Version { address: "a\nb".into(), etag: "\"1\"".into() };
        assert!(part.set_version(&two_lines).is_err());
        part.append(b"x").unwrap();
        part.truncate(0).unwrap();
        assert!(!folder.path().join("m.gguf.part.version").exists());
        part.discard_if_empty();
        assert!(!path.exists());
    }
}
