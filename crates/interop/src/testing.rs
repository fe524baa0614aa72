//! What the tests of this crate share.

use crate::OpenModel;
use rawrz_gguf::{Gguf, ShardSet, discover};
use rawrz_residency::{MappedSource, PartedFile};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a model, opened.
pub(crate) struct Files {
    pub(crate) shards: ShardSet,
    source: MappedSource,
    paths: Vec<Vec<PathBuf>>,
}

impl Files {
    pub(crate) fn open(path: &Path) -> Files {
        let paths = discover(path).unwrap();
        let source =
            MappedSource::new(paths.iter().map(|parts| PartedFile::open(parts).unwrap()).collect()).unwrap();
        let shards = (0..paths.len())
            .map(|file| {
                let len = source.file_len_bytes(file);
                Gguf::parse(Arc::new(source.joined_prefix(file, len).unwrap()), len).unwrap()
            })
            .collect();
        Files { shards: ShardSet::new(shards).unwrap(), source, paths }
    }

    pub(crate) fn model(&self) -> OpenModel<'_> {
        OpenModel { shards: &self.shards, source: &self.source, paths: &self.paths }
    }
}

pub(crate) fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}
