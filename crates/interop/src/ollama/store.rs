//! The folders of a store, and the rules for touching them.

use super::OllamaError;
use super::manifest::Manifest;
use super::name::OllamaName;
use crate::digest::Digest;
use crate::staged::write_whole_by;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of a manifest that are read; real ones have less than two thousand.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Most manifests that are looked through.
const MAX_MANIFESTS: usize = 100_000;

/// A store of Ollama's: `blobs/sha256-..`, and `manifests/HOST/NAMESPACE/MODEL/TAG` that name them.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    locks: PathBuf,
}

impl Store {
    /// The store in the folder `root`, which need not be there yet. `locks` is a folder of ours: what keeps two of our
    /// processes apart must not lie in a folder that Ollama clears.
    pub fn new(root: PathBuf, locks: PathBuf) -> Store {
        Store { root, locks }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blob(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(format!("sha256-{digest}"))
    }

    pub(super) fn manifest(&self, name: &OllamaName) -> PathBuf {
        self.root.join("manifests").join(name.manifest_path())
    }

    /// An error when a folder between the root and `path` is a link, or no folder: what we write or delete must be in the
    /// store. The root itself may be one, that is how stores are moved to other disks.
    pub(super) fn check_inside(&self, path: &Path) -> Result<(), OllamaError> {
        let below =
            path.strip_prefix(&self.root).map_err(|_| OllamaError::Outside { path: path.to_owned() })?;
        let mut at = self.root.clone();
        for part in below.parent().into_iter().flat_map(Path::components) {
            at.push(part);
            match std::fs::symlink_metadata(&at) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(OllamaError::Outside { path: at }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(source) => return Err(OllamaError::Io { path: at, source }),
            }
        }
        Ok(())
    }

    /// Whoever holds this may change the store, among our processes.
    pub(super) fn lock(&self) -> Result<File, OllamaError> {
        let io = |path: &Path, source| OllamaError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(&self.locks).map_err(|e| io(&self.locks, e))?;
        let root = std::path::absolute(&self.root).map_err(|e| io(&self.root, e))?;
        let id = Digest::of(root.as_os_str().as_encoded_bytes()).to_string();
        let path = self.locks.join(format!("ollama-{}.lock", &id[..16]));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        file.and_then(|file| file.lock().map(|()| file)).map_err(|e| io(&path, e))
    }

    /// A manifest; `None` when there is none of that name.
    pub(super) fn read_manifest(&self, name: &OllamaName) -> Result<Option<Manifest>, OllamaError> {
        let path = self.manifest(name);
        self.check_inside(&path)?;
        read_manifest(&path)
    }

    /// All manifests with their names, and the paths of those that could not be read.
    pub(super) fn manifests(&self) -> Result<Found, OllamaError> {
        let mut found = Found::default();
        let root = self.root.join("manifests");
        let mut level: Vec<(PathBuf, Vec<String>)> = vec![(root, Vec::new())];
        for depth in 0..4 {
            let mut next = Vec::new();
            for (folder, parts) in level {
                let entries = match std::fs::read_dir(&folder) {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(OllamaError::Io { path: folder, source }),
                };
                for entry in entries {
                    let entry = entry.map_err(|source| OllamaError::Io { path: folder.clone(), source })?;
                    // Links are followed by Ollama, so a manifest behind one may need a blob as well.
                    let is_folder = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
                    let Ok(part) = entry.file_name().into_string() else { continue };
                    if is_folder == (depth < 3) && next.len() < MAX_MANIFESTS {
                        next.push((entry.path(), parts.iter().cloned().chain([part]).collect()));
                    }
                }
            }
            level = next;
        }
        for (path, parts) in level {
            let [host, namespace, model, tag] = &*parts else { continue };
            let name = OllamaName::parse(&format!("{host}/{namespace}/{model}:{tag}"));
            match (read_manifest(&path), name) {
                (Ok(Some(manifest)), Ok(name)) => found.manifests.push((name, manifest)),
                (Ok(Some(manifest)), Err(_)) => found.unnamed.push(manifest),
                (Ok(None), _) => {}
                (Err(_), _) => found.unreadable.push(path),
            }
        }
        found.manifests.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Writes a small blob, unless it is there. Says whether it was written.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<(Digest, bool), OllamaError> {
        let digest = Digest::of(bytes);
        let path = self.blob(digest);
        if std::fs::metadata(&path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes.len() as u64)
        {
            return Ok((digest, false));
        }
        self.write(&path, bytes)?;
        Ok((digest, true))
    }

    /// Writes a file below the root: beside the folders that Ollama clears, then renamed.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), OllamaError> {
        // Readable by all, since a service that runs as another user reads these.
        write_whole_by(&self.root, path, bytes)
            .map_err(|source| OllamaError::Io { path: path.to_owned(), source })
    }

    /// Makes the folder `path` and those above it that are missing, and gives the ones that were made, outermost first.
    pub(super) fn make_folder(&self, path: &Path) -> Result<Vec<PathBuf>, OllamaError> {
        let missing: Vec<_> = path.ancestors().take_while(|at| !at.exists()).map(Path::to_owned).collect();
        let mut made = Vec::new();
        for folder in missing.into_iter().rev() {
            match std::fs::create_dir(&folder) {
                Ok(()) => made.push(folder),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    remove_folders(&made);
                    return Err(OllamaError::Io { path: folder, source });
                }
            }
        }
        Ok(made)
    }

    /// Removes the folders of a manifest that became empty, up to the folder of all manifests.
    pub(super) fn remove_empty_folders(&self, manifest: &Path) {
        let top = self.root.join("manifests");
        for folder in
            manifest.ancestors().skip(1).take_while(|folder| *folder != top && folder.starts_with(&top))
        {
            // Not empty: another model is in it.
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Removes folders that were made, innermost first, as far as they are empty.
pub(super) fn remove_folders(made: &[PathBuf]) {
    for folder in made.iter().rev() {
        let _ = std::fs::remove_dir(folder);
    }
}

/// What is in the folder of manifests.
#[derive(Default)]
pub(super) struct Found {
    pub(super) manifests: Vec<(OllamaName, Manifest)>,
    /// Manifests whose place is no name.
    unnamed: Vec<Manifest>,
    /// Files that are no manifests, or cannot be read.
    pub(super) unreadable: Vec<PathBuf>,
}

impl Found {
    /// Digests of all blobs that a manifest needs; `None` when that cannot be told, since one could not be read.
    pub(super) fn needed_blobs(&self) -> Option<HashSet<Digest>> {
        let all = self.manifests.iter().map(|(_, manifest)| manifest).chain(&self.unnamed);
        self.unreadable.is_empty().then(|| all.flat_map(Manifest::blobs).collect())
    }
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>, OllamaError> {
    use io::Read;
    let io = |source| OllamaError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(io(source)),
    };
    let mut json = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut json).map_err(io)?;
    Manifest::parse(&json).map(Some).map_err(|source| OllamaError::Manifest { path: path.to_owned(), source })
}
