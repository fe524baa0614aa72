//! A model's files: shards and raw byte parts found and mapped, headers parsed in place. No weight is read.

use crate::error::OpenError;
use rawrz_gguf::{Error, Gguf, ShardSet, discover};
use rawrz_residency::{MappedSource, PartedFile, ReadError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A header that is spread over several raw parts has to be joined in memory; no real one is larger.
const MAX_JOINED_HEADER_BYTES: u64 = 256 << 20;

/// The files of one model, for looking at them; [`Engine`](crate::Engine) opens a model for running.
pub struct ModelFiles {
    pub(crate) source: MappedSource,
    pub(crate) shards: ShardSet,
    paths: Vec<Vec<PathBuf>>,
}

impl ModelFiles {
    /// Opens the model that `path` belongs to: a `.gguf`, any shard or raw byte part of one.
    pub fn open(path: &Path) -> Result<ModelFiles, OpenError> {
        let paths = discover(path)?;
        let files = paths.iter().map(|parts| PartedFile::open(parts)).collect::<Result<_, _>>()?;
        let source = MappedSource::new(files)?;
        let headers = paths.iter().enumerate().map(|(file, parts)| read_header(&source, file, &parts[0]));
        let shards = ShardSet::new(headers.collect::<Result<_, _>>()?)
            .map_err(|source| OpenError::Gguf { path: path.to_path_buf(), source })?;
        Ok(ModelFiles { source, shards, paths })
    }

    /// Metadata and tensor directory.
    pub fn shards(&self) -> &ShardSet {
        &self.shards
    }

    /// The mapped files, for reading tensors.
    pub fn source(&self) -> &MappedSource {
        &self.source
    }

    /// For each shard the raw parts it is read from, one for a plain file.
    pub fn paths(&self) -> &[Vec<PathBuf>] {
        &self.paths
    }

    /// An error when a file changed since it was opened, so that what was read of it counts for nothing.
    pub fn check(&self) -> Result<(), ReadError> {
        (0..self.paths.len()).try_for_each(|file| self.source.check(file))
    }
}

/// Parses the header of logical file `file`: in place, or from a joined copy when it runs past the first part.
fn read_header(source: &MappedSource, file: usize, path: &Path) -> Result<Gguf, OpenError> {
    let file_len = source.file_len_bytes(file);
    let first = source.first_part(file);
    let mut have = first.as_ref().len() as u64;
    let mut result = Gguf::parse(Arc::new(first), file_len);
    while let Err(Error::Truncated { .. }) = result
        && have < file_len
    {
        if have >= MAX_JOINED_HEADER_BYTES {
            let (path, limit_bytes) = (path.to_path_buf(), MAX_JOINED_HEADER_BYTES);
            return Err(OpenError::HeaderTooLong { path, limit_bytes });
        }
        have = have.saturating_mul(2).clamp(1 << 20, MAX_JOINED_HEADER_BYTES).min(file_len);
        result = Gguf::parse(Arc::new(source.joined_prefix(file, have)?), file_len);
    }
    // A file cut while it was parsed reads as zeros at its end; that is the cause to tell, not the zeros.
    source.check(file)?;
    result.map_err(|source| OpenError::Gguf { path: path.to_path_buf(), source })
}
