//! What targets that need files share.

use rawrz_gguf::{Gguf, ShardSet, discover};
use rawrz_interop::OpenModel;
use rawrz_residency::{MappedSource, PartedFile};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder for one run, in memory where the system has a place for that.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).expect("a folder can be made")
}

/// The files of a model, opened.
pub struct Files {
    pub shards: ShardSet,
    source: MappedSource,
    paths: Vec<Vec<PathBuf>>,
}

impl Files {
    /// `bytes` as the file `m.gguf` of `folder`; `None` when they are no model.
    pub fn open(folder: &Path, bytes: &[u8]) -> Option<Files> {
        let path = folder.join("m.gguf");
        std::fs::write(&path, bytes).expect("it can be written");
        Files::of_path(&path)
    }

    /// The model at `path`; `None` when it is none.
    pub fn of_path(path: &Path) -> Option<Files> {
        let paths = discover(path).ok()?;
        let files = paths.iter().map(|parts| PartedFile::open(parts)).collect::<Result<_, _>>().ok()?;
        let source = MappedSource::new(files).ok()?;
        let parse = |file| Gguf::parse(Arc::new(source.first_part(file)), source.file_len_bytes(file)).ok();
        let shards = ShardSet::new((0..paths.len()).map(parse).collect::<Option<_>>()?).ok()?;
        Some(Files { shards, source, paths })
    }

    pub fn model(&self) -> OpenModel<'_> {
        OpenModel { shards: &self.shards, source: &self.source, paths: &self.paths }
    }
}
