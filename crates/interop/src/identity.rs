//! What a model's files were when they were registered: enough to tell a later change without reading them.

use rawrz_gguf::{DiscoverError, discover};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// One file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Absolute path.
    pub path: PathBuf,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change of its content, in nanoseconds since 1970; 0 where the file system keeps none.
    pub modified_ns: u64,
}

impl FileRecord {
    /// The file at `path` as it is now.
    pub fn of(path: &Path) -> io::Result<FileRecord> {
        let path = std::path::absolute(path)?;
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(FileRecord { len_bytes: metadata.len(), modified_ns: modified_ns(&metadata), path })
    }

    /// What is different now; `None` when nothing is.
    pub fn change(&self) -> Option<String> {
        let path = self.path.display();
        match FileRecord::of(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("{path} is gone")),
            Err(error) => Some(format!("{path} cannot be looked at: {error}")),
            Ok(now) if now.len_bytes != self.len_bytes => {
                Some(format!("{path} had {} bytes, now {}", self.len_bytes, now.len_bytes))
            }
            Ok(now) if now.modified_ns != self.modified_ns => {
                Some(format!("{path} was written to since it was registered"))
            }
            Ok(_) => None,
        }
    }

    /// Whether the file is there, changed or not.
    pub fn is_there(&self) -> bool {
        self.path.is_file()
    }
}

fn modified_ns(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// All files of a model: for each shard its raw byte parts, one for a plain file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelRecord {
    /// Shards in order, each a list of parts to be read as one file.
    pub shards: Vec<Vec<FileRecord>>,
}

/// Why the files of a model could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// They could not be found.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// One of them could not be looked at.
    #[error("looking at {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ModelRecord {
    /// The files of the model that `path` belongs to, as they are now.
    pub fn of(path: &Path) -> Result<ModelRecord, RecordError> {
        let record = |path: PathBuf| FileRecord::of(&path).map_err(|source| RecordError::Io { path, source });
        let shards = discover(path)?
            .into_iter()
            .map(|parts| parts.into_iter().map(record).collect())
            .collect::<Result<_, _>>()?;
        Ok(ModelRecord { shards })
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        self.shards.iter().flatten()
    }

    /// The path that names the model: its first file.
    pub fn path(&self) -> Option<&Path> {
        self.files().next().map(|file| &*file.path)
    }

    /// The file, where the model is one.
    pub fn single(&self) -> Option<&FileRecord> {
        match &*self.shards {
            [parts] => match &**parts {
                [file] => Some(file),
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes of all files together.
    pub fn len_bytes(&self) -> u64 {
        self.files().map(|file| file.len_bytes).fold(0, u64::saturating_add)
    }

    /// What is different now; `None` when nothing is.
    pub fn change(&self) -> Option<String> {
        self.files().find_map(FileRecord::change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, b"abc").unwrap();
        let record = ModelRecord::of(&path).unwrap();
        assert_eq!((record.len_bytes(), record.change()), (3, None));
        assert_eq!(record.single().unwrap().path, path);

        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(record.change().unwrap().contains("written to"));
        std::fs::write(&path, b"abcd").unwrap();
        assert!(record.change().unwrap().contains("had 3 bytes, now 4"));
        std::fs::remove_file(&path).unwrap();
        assert!(record.change().unwrap().contains("is gone"));
        assert!(ModelRecord::of(&path).is_err());
    }

    #[test]
    fn shards_and_parts_are_all_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf.part0", "m-00002-of-00002.gguf.part1"];
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let record = ModelRecord::of(&dir.path().join(names[0])).unwrap();
        assert_eq!(record.shards.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        assert!(record.single().is_none());
    }
}
