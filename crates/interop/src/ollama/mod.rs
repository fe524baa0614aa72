//! Ollama's store: a model of the user's own file appears in it without a second copy of its bytes.
//!
//! Layout of the store and meaning of the files: Ollama's source, v0.17 to v0.33.
//!
//! # Invariants
//! - The model's file is never written to; of the store only what RawrZ made is removed.
//! - A model appears when its manifest does, after all of its blobs, or not at all.
//! - Nothing is written behind a link that leads out of the store.

mod link;
mod manifest;
mod name;
mod store;
mod template;

pub use link::{LinkKind, LinkRequest, Linked, hidden_from_others};
pub use manifest::Origin;
pub use name::{OllamaName, OllamaNameError};
pub use store::Store;
pub use template::{GoTemplate, for_ollama};

use std::io;
use std::path::PathBuf;

/// Why the store could not be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OllamaError {
    /// The operating system refused.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A folder of the store is a link or no folder.
    #[error("{}: not a folder of the store but a link or a file; nothing is written there", path.display())]
    Outside {
        /// Where.
        path: PathBuf,
    },
    /// A manifest is damaged.
    #[error("{}: not a manifest of Ollama's", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The name is in use.
    #[error("{name} is in Ollama's store already, {what}; take another name, or remove it first")]
    Taken {
        /// The name.
        name: OllamaName,
        /// What it is there.
        what: String,
    },
    /// RawrZ did not make it.
    #[error("{name} in Ollama's store was not linked by RawrZ; `ollama rm {name}` removes it")]
    NotOurs {
        /// The name.
        name: OllamaName,
    },
    /// Nothing of that name.
    #[error("there is no {name} in Ollama's store {}", root.display())]
    Unknown {
        /// The name.
        name: OllamaName,
        /// The store.
        root: PathBuf,
    },
    /// A blob of that digest is there and is something else.
    #[error("{}: has another length than the model with this digest; remove it", path.display())]
    DamagedBlob {
        /// The blob.
        path: PathBuf,
    },
    /// No kind of link works between the file and the store.
    #[error(
        "{} cannot be linked into {} ({source}); allow a copy, or keep the store on the file's disk",
        file.display(),
        root.display()
    )]
    NoLink {
        /// The model.
        file: PathBuf,
        /// The store.
        root: PathBuf,
        /// Why the last kind failed.
        source: io::Error,
    },
    /// A copy would not fit.
    #[error("a copy needs {needed} bytes on the disk of {}, where {free} are free", root.display())]
    NoSpace {
        /// The store.
        root: PathBuf,
        /// Bytes of the model.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

/// A model in the store.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: OllamaName,
    /// Bytes of all its blobs, as Ollama shows it.
    pub len_bytes: u64,
    /// Where it came from, if RawrZ linked it.
    pub origin: Option<Origin>,
    /// What is wrong with it: the source changed or is gone, a blob is missing.
    pub trouble: Option<String>,
}

/// The models of a store.
#[derive(Clone, Debug)]
pub struct Listing {
    /// In order of their names.
    pub models: Vec<Model>,
    /// Files among the manifests that cannot be read. Ollama clears nothing while there is one.
    pub unreadable: Vec<PathBuf>,
}

/// What [`Store::unlink`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// Blobs that were removed; those that another model needs stay.
    pub n_blobs: usize,
    /// The manifests were not all readable, so all blobs stay until Ollama clears them.
    pub blobs_kept: bool,
}

impl Store {
    /// All models.
    ///
    /// # Errors
    /// When the store cannot be read. No store is one without models.
    pub fn list(&self) -> Result<Listing, OllamaError> {
        let found = self.manifests()?;
        let models = found
            .manifests
            .into_iter()
            .map(|(name, manifest)| {
                let origin = manifest.origin();
                let missing = manifest.blobs().map(|digest| self.blob(digest)).find(|blob| !blob.is_file());
                let missing = missing.map(|blob| format!("{} is missing", blob.display()));
                let changed = origin.as_ref().and_then(|origin| origin.source.change());
                Model { name, len_bytes: manifest.len_bytes(), trouble: missing.or(changed), origin }
            })
            .collect();
        Ok(Listing { models, unreadable: found.unreadable })
    }

    /// Removes a model that RawrZ linked: its manifest, and the blobs that no other model needs. The model's own file
    /// stays.
    ///
    /// # Errors
    /// [`OllamaError::Unknown`] when it is not there, [`OllamaError::NotOurs`] when Ollama made it.
    pub fn unlink(&self, name: &OllamaName) -> Result<Unlinked, OllamaError> {
        let _lock = self.lock()?;
        let Some(manifest) = self.read_manifest(name)? else {
            return Err(OllamaError::Unknown { name: name.clone(), root: self.root().to_owned() });
        };
        let Some(origin) = manifest.origin() else { return Err(OllamaError::NotOurs { name: name.clone() }) };
        let path = self.manifest(name);
        std::fs::remove_file(&path).map_err(|source| OllamaError::Io { path: path.clone(), source })?;
        self.remove_empty_folders(&path);
        let Some(needed) = self.manifests()?.needed_blobs() else {
            return Ok(Unlinked { n_blobs: 0, blobs_kept: true });
        };
        // Weights that Ollama had fetched before are its own.
        let own =
            manifest.model().and_then(|layer| layer.digest()).filter(|_| origin.how == LinkKind::Present);
        let mut n_blobs = 0;
        for digest in manifest.blobs().filter(|digest| !needed.contains(digest) && Some(*digest) != own) {
            let blob = self.blob(digest);
            self.check_inside(&blob)?;
            match std::fs::remove_file(&blob) {
                Ok(()) => n_blobs += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(OllamaError::Io { path: blob, source }),
            }
        }
        Ok(Unlinked { n_blobs, blobs_kept: false })
    }
}

#[cfg(test)]
mod tests;
