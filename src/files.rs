//! A model's files opened for looking at them, without its weights: shards and raw parts found, headers
//! parsed in place. (`rawrz_engine::Engine` opens a model for running.)

use anyhow::{Context, bail};
use rawrz_engine::Size;
use rawrz_gguf::{Error, Gguf, ShardSet, discover};
use rawrz_residency::{MappedSource, PartedFile};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A header that is spread over several raw parts has to be joined in memory; no real one is larger.
const MAX_JOINED_HEADER_BYTES: u64 = 256 << 20;

/// The files of one model.
pub(crate) struct ModelFiles {
    source: MappedSource,
    shards: ShardSet,
    paths: Vec<Vec<PathBuf>>,
}

impl ModelFiles {
    /// Opens the model that `path` belongs to.
    pub(crate) fn open(path: &Path) -> anyhow::Result<ModelFiles> {
        let paths = discover(path)?;
        let files = paths.iter().map(|parts| PartedFile::open(parts)).collect::<Result<Vec<_>, _>>()?;
        let source = MappedSource::new(files)?;
        let shards = (0..paths.len())
            .map(|file| parse(&source, file).with_context(|| paths[file][0].display().to_string()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let shards = ShardSet::new(shards).with_context(|| path.display().to_string())?;
        Ok(ModelFiles { source, shards, paths })
    }

    pub(crate) fn shards(&self) -> &ShardSet {
        &self.shards
    }

    /// For each shard the raw parts it is read from, one for a plain file.
    pub(crate) fn paths(&self) -> &[Vec<PathBuf>] {
        &self.paths
    }

    /// An error when a file changed since it was opened, so that what was read of it counts for nothing.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        (0..self.paths.len()).try_for_each(|file| self.source.check(file))?;
        Ok(())
    }
}

fn parse(source: &MappedSource, file: usize) -> anyhow::Result<Gguf> {
    let file_len = source.file_len_bytes(file);
    let first = source.first_part(file);
    let mut have = first.as_ref().len() as u64;
    let mut result = Gguf::parse(Arc::new(first), file_len);
    while let Err(Error::Truncated { .. }) = result
        && have < file_len
    {
        if have >= MAX_JOINED_HEADER_BYTES {
            bail!("its header is spread over parts and larger than {}", Size(MAX_JOINED_HEADER_BYTES));
        }
        have = have.saturating_mul(2).clamp(1 << 20, MAX_JOINED_HEADER_BYTES).min(file_len);
        result = Gguf::parse(Arc::new(source.joined_prefix(file, have)?), file_len);
    }
    // A file cut while it was parsed reads as zeros at its end; that is the cause to tell, not the zeros.
    source.check(file)?;
    Ok(result?)
}
