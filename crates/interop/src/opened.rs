//! A model that the caller has opened.

use rawrz_gguf::ShardSet;
use rawrz_residency::MappedSource;
use std::path::PathBuf;

/// The files of one model: what is in them and how they are read. Borrowed from whoever opened them.
#[derive(Clone, Copy)]
pub struct OpenModel<'a> {
    /// Metadata and tensor directories.
    pub shards: &'a ShardSet,
    /// The mapped files; logical file `i` is shard `i`.
    pub source: &'a MappedSource,
    /// For each shard the raw parts it is read from, one for a plain file.
    pub paths: &'a [Vec<PathBuf>],
}

impl std::fmt::Debug for OpenModel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenModel").field("paths", &self.paths).finish_non_exhaustive()
    }
}
