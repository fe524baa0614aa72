//! Models cut into shards and put together again, in the format of llama.cpp's `llama-gguf-split` (b11434).
//!
//! Shards are GGUF files `PREFIX-00001-of-0000N.gguf`. Tensors stay in their order; the first shard has all metadata;
//! each has `split.no` (u16, from 0), `split.tensors.count` (i32, of all shards) and `split.count` (u16) as its last
//! keys. [`split`] gives the bytes that `llama-gguf-split` gives (a golden test compares), but for tensors larger than
//! the limit, which it refuses and we give a shard of their own.
//!
//! [`merge`] undoes it to the byte where the model was laid out as llama.cpp writes files: without gaps, each tensor
//! padded with zeros to the alignment. A model that has `split.*` keys of its own (one that `llama-gguf-split` merged)
//! keeps them in its shards as `rawrz.original.split.*`, in their places.
//!
//! # Invariants
//! - A file under its final name was whole, brought to the disk, read back and equal to what it is made of.
//! - Memory does not grow with the model.
//! - A run that was stopped or killed is taken up where it was by the same call.
//! - Files of the model are removed only when asked, after everything that is made was compared with them in this run.

mod assembly;
mod content;
mod merge;
mod split;

pub use merge::{MergeOptions, merge};
pub use split::{ShardLimit, SplitOptions, split};

use crate::OpenModel;
use crate::output::{Lock, OutputError, ensure_space, folder_of, io_error, is_one_file};
use assembly::{Output, Work};
use rawrz_gguf::WriteError;
use rawrz_residency::{Extent, Planned, ReadError, Source};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Told how many bytes of how many are behind (each is counted when it is written and when it is checked); may end the
/// work.
pub type OnBytes<'f> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'f;

/// The keys that make a file a shard, in the order in which llama.cpp leaves them.
const NO: &str = "split.no";
const TENSORS_COUNT: &str = "split.tensors.count";
const COUNT: &str = "split.count";
const SPLIT_KEYS: [&str; 3] = [NO, TENSORS_COUNT, COUNT];

/// What the name of a `split.*` key that the model had itself begins with in its shards.
const ORIGINAL: &str = "rawrz.original.";

/// Why a model could not be split or merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardsError {
    /// There is nothing to put into shards.
    #[error("the model has no tensors, so there is nothing to split")]
    NoTensors,
    /// More shards than their numbers can count.
    #[error("that would be {n_shards} shards, at most {limit} can be numbered; choose larger ones", limit = u16::MAX)]
    TooManyShards {
        /// How many it would be.
        n_shards: usize,
    },
    /// The model is one file.
    #[error("{} is one file already, so there is nothing to merge", path.display())]
    AlreadyOne {
        /// The file.
        path: PathBuf,
    },
    /// A shard after the first has metadata that would be lost.
    #[error("shard {shard} has metadata of its own ({key:?}), which merging would lose")]
    OwnMetadata {
        /// Its number, from 1.
        shard: usize,
        /// The key.
        key: String,
    },
    /// The header is not readable.
    #[error(transparent)]
    Gguf(#[from] rawrz_gguf::Error),
    /// The header of a file to be made is not writable.
    #[error(transparent)]
    Header(#[from] WriteError),
    /// A file could not be made.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl From<ReadError> for ShardsError {
    fn from(error: ReadError) -> ShardsError {
        ShardsError::Output(error.into())
    }
}

/// A file that stands under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
    /// It was there before and right.
    pub was_present: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// All files, in order.
    pub files: Vec<Made>,
    /// Whether merging the shards gives the bytes of the model again, and not only its metadata and tensors; `None` where
    /// that has no meaning: after merging, and for a model that was in shards before.
    pub restores_bytes: Option<bool>,
    /// Files of the model that were removed.
    pub removed: Vec<PathBuf>,
}

/// Makes `outputs`, which all lie in one folder; `target` names the whole, for the lock.
fn make_all(
    model: &OpenModel<'_>,
    target: &Path,
    outputs: &[Output],
    remove_source: bool,
    on_bytes: &mut OnBytes<'_>,
) -> Result<Report, ShardsError> {
    let sources = || model.paths.iter().flatten();
    for output in outputs {
        if sources().any(|source| is_one_file(&output.path, source)) {
            return Err(OutputError::IsSource { path: output.path.clone() }.into());
        }
    }
    let _lock = Lock::take(target)?;
    let mut missing_bytes = 0;
    for output in outputs {
        missing_bytes += output.missing_bytes()?;
    }
    ensure_space(folder_of(target), missing_bytes)?;

    // What is read is read in this order; the source has it read ahead.
    let tensors = model.shards.tensors().filter(|(_, tensor)| tensor.len_bytes > 0);
    let reads: Vec<Planned> = tensors
        .map(|(shard, tensor)| {
            let extent = Extent { file: shard as u32, offset: tensor.file_offset, len: tensor.len_bytes };
            Planned { extent, unit: 1, stage: 0 }
        })
        .collect();
    model.source.begin_pass(&reads)?;
    let total_bytes = outputs.iter().map(|output| output.content.len() * 2).sum();
    let mut work = Work { done_bytes: 0, total_bytes, on_bytes };
    let mut files = Vec::with_capacity(outputs.len());
    for output in outputs {
        let was_present = output.make(model.source, &mut work)?;
        // A file that was written to while it was read is no source.
        (0..model.paths.len()).try_for_each(|file| model.source.check(file))?;
        files.push(Made { path: output.path.clone(), len_bytes: output.content.len(), was_present });
    }
    model.source.end_pass()?;

    let mut removed = Vec::new();
    if remove_source {
        for path in sources() {
            std::fs::remove_file(path).map_err(io_error("remove", path))?;
            removed.push(path.clone());
        }
    }
    Ok(Report { files, restores_bytes: None, removed })
}

#[cfg(test)]
mod tests;
