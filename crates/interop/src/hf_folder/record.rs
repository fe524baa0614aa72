//! What an export made, noted in the folder itself, so that it can be known again and undone.

use super::{ExportError, Weights};
use crate::ModelRecord;
use crate::output::io_error;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Name of the record in the folder.
pub(super) const RECORD: &str = ".rawrz-export.json";

/// Largest record that is read. Real ones have a few KiB, and a few hundred bytes more for each shard.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// How a file of the folder came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Written by the export.
    Written,
    /// A second name of the model's file.
    HardLink,
    /// A file that names the model's path.
    Symlink,
    /// A file of its own that shares the blocks on the disk with the model's.
    Reflink,
}

/// One file of the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Its name in the folder.
    pub name: String,
    /// How it came to be.
    pub kind: Kind,
    /// Its length, or that of the file that it leads to.
    pub len_bytes: u64,
}

impl Exported {
    /// The file `name` of `folder` as it is now.
    pub(super) fn of(folder: &Path, name: &str, kind: Kind) -> Result<Exported, ExportError> {
        let path = folder.join(name);
        let metadata = std::fs::metadata(&path).map_err(io_error("look at", &path))?;
        Ok(Exported { name: name.to_owned(), kind, len_bytes: metadata.len() })
    }

    /// Whether it is still there as it was made. What a link leads to is not looked at: it is not ours.
    pub(super) fn is_unchanged(&self, folder: &Path) -> bool {
        let is_right = |metadata: &Metadata| match self.kind {
            Kind::Symlink => metadata.is_symlink(),
            _ => metadata.is_file() && metadata.len() == self.len_bytes,
        };
        std::fs::symlink_metadata(folder.join(&self.name)).is_ok_and(|metadata| is_right(&metadata))
    }
}

/// The record of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The version of RawrZ that made it: another may write other files.
    pub(super) rawrz: String,
    pub(super) weights: Weights,
    /// The model's files as they were.
    pub(super) model: ModelRecord,
    pub(super) files: Vec<Exported>,
}

impl Record {
    /// The record in `folder`; `None` when there is none that can be read as one.
    pub(super) fn read(folder: &Path) -> Result<Option<Record>, ExportError> {
        let path = folder.join(RECORD);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(io_error("read", &path)(error).into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        let record: Option<Record> = serde_json::from_slice(&bytes).ok();
        // A name that leads out of the folder was not written by us.
        Ok(record.filter(|record| record.files.iter().all(|file| is_plain_name(&file.name))))
    }

    /// Whether everything that was made is there as it was made.
    pub(super) fn is_whole(&self, folder: &Path) -> bool {
        self.files.iter().all(|file| file.is_unchanged(folder))
    }

    /// Names in `folder` that the export did not make, or that are no longer what it made.
    pub(super) fn foreign(&self, folder: &Path) -> Result<Vec<PathBuf>, ExportError> {
        let mut foreign = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io_error("read", folder))? {
            let name = entry.map_err(io_error("read", folder))?.file_name();
            let ours = self.files.iter().find(|file| *file.name == *name);
            if name != RECORD && !ours.is_some_and(|file| file.is_unchanged(folder)) {
                foreign.push(folder.join(name));
            }
        }
        foreign.sort();
        Ok(foreign)
    }
}

fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(std::path::Component::Normal(part)) if part == name)
        && parts.next().is_none()
        && name != RECORD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_record() {
        assert!(is_plain_name("model.gguf") && is_plain_name("..x"));
        for name in ["", ".", "..", "a/b", "/a", "../a", "a/..", "a/", RECORD] {
            assert!(!is_plain_name(name), "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"files\": 1}", "[]"] {
            std::fs::write(dir.path().join(RECORD), text).unwrap();
            assert!(Record::read(dir.path()).unwrap().is_none(), "{text}");
        }
        let mut record = Record {
            rawrz: "0".to_owned(),
            weights: Weights::Linked,
            model: ModelRecord { shards: Vec::new() },
            files: vec![Exported { name: "x".to_owned(), kind: Kind::Written, len_bytes: 1 }],
        };
        let write = |record: &Record| {
            std::fs::write(dir.path().join(RECORD), serde_json::to_vec(record).unwrap()).unwrap();
        };
        write(&record);
        assert_eq!(Record::read(dir.path()).unwrap().as_ref(), Some(&record));
        record.files[0].name = "../x".to_owned();
        write(&record);
        assert!(Record::read(dir.path()).unwrap().is_none());
    }
}
