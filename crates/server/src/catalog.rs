//! Which models there are. The program that serves knows; the server asks it.

use rawrz_engine::Cancel;
use std::path::PathBuf;

/// A model that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// What clients call it, such as `smollm2`; `smollm2:latest` means the same.
    pub name: String,
    /// Its file, or the first of them. It exists.
    pub path: PathBuf,
}

/// What a fetch tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub status: String,
    /// Of what is fetched, such as `sha256:..`.
    pub digest: Option<String>,
    /// Bytes there will be, when known.
    pub total: Option<u64>,
    /// Bytes there are.
    pub completed: Option<u64>,
}

impl PullProgress {
    /// Tells what is being done, and no bytes.
    pub fn of_status(status: String) -> PullProgress {
        PullProgress { status, digest: None, total: None, completed: None }
    }
}

/// The models of the program. Names come from clients: an implementation looks them up and never takes them for paths.
pub trait Catalog: Send + Sync {
    /// The models that are there now.
    fn models(&self) -> Vec<CatalogEntry>;

    /// Fetches the model that the program knows by `name`, or finds it there. Blocks until that is done or `cancel` is set;
    /// what came until then is kept, so that the next fetch goes on from there.
    ///
    /// # Errors
    /// One line that says why, also where the program knows no such model.
    fn pull(&self, name: &str, cancel: &Cancel, on_progress: &dyn Fn(PullProgress)) -> Result<(), String>;
}
