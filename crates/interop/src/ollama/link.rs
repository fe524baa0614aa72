//! Making a model appear in the store.

use super::OllamaError;
use super::manifest::{Layer, MODEL, Manifest, Origin, PARAMS, TEMPLATE};
use super::name::OllamaName;
use super::store::{Store, remove_folders};
use crate::about::About;
use crate::digest::Digest;
#[cfg(unix)]
use crate::files::same_file;
use crate::files::{Shared, share};
use crate::identity::FileRecord;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// How the bytes of a model are in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A second name of the same file.
    HardLink,
    /// A file that names the model's path.
    Symlink,
    /// A file of its own that shares the blocks on the disk.
    Reflink,
    /// A second copy.
    Copy,
    /// They were there before, as Ollama's own copy.
    Present,
}

impl LinkKind {
    /// The kind in words, as it is noted.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkKind::HardLink => "hard link",
            LinkKind::Symlink => "symbolic link",
            LinkKind::Reflink => "reflink",
            LinkKind::Copy => "copy",
            LinkKind::Present => "Ollama's own copy",
        }
    }

    pub(super) fn parse(text: &str) -> Option<LinkKind> {
        use LinkKind::*;
        [HardLink, Symlink, Reflink, Copy, Present].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A model to link.
#[derive(Debug)]
pub struct LinkRequest<'a> {
    /// The name it gets.
    pub name: &'a OllamaName,
    /// Its file, which holds all of the model.
    pub file: &'a FileRecord,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// What it is.
    pub about: &'a About,
    /// Template in Ollama's language; without, Ollama gives the model the plain prompt.
    pub template: Option<&'a str>,
    /// Texts that end an answer.
    pub stops: &'a [String],
    /// Tokens of context.
    pub context_len: u64,
    /// Take a copy where no link works.
    pub may_copy: bool,
}

/// What [`Store::link`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// How the bytes of the model are in the store.
    pub how: LinkKind,
    /// All was there already, and nothing was changed.
    pub was_there: bool,
}

/// How often a model is linked again that Ollama cleared away before its manifest stood.
const TRIES: usize = 3;

/// What was made so far, undone when it is dropped before it is all there.
struct Undo {
    blobs: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    is_armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.is_armed {
            for blob in &self.blobs {
                let _ = std::fs::remove_file(blob);
            }
            remove_folders(&self.folders);
        }
    }
}

impl Store {
    /// Links a model: its file as a blob, small blobs that describe it, and a manifest that names them. A model that is
    /// linked from the same file already is brought up to date.
    ///
    /// # Errors
    /// [`OllamaError::Taken`] when the name stands for something else, [`OllamaError::NoLink`] when no link works and no
    /// copy is allowed. Nothing is left behind.
    pub fn link(&self, request: &LinkRequest) -> Result<Linked, OllamaError> {
        let _lock = self.lock()?;
        let manifest_path = self.manifest(request.name);
        self.check_inside(&manifest_path)?;
        self.check_inside(&self.blob(request.digest))?;
        let there = self.read_manifest(request.name)?;
        if let Some(manifest) = &there {
            match manifest.origin() {
                Some(origin) if origin.source.path == request.file.path => {}
                Some(origin) => {
                    let what = format!("linked from {}", origin.source.path.display());
                    return Err(OllamaError::Taken { name: request.name.clone(), what });
                }
                None => {
                    let what = "made by Ollama".to_owned();
                    return Err(OllamaError::Taken { name: request.name.clone(), what });
                }
            }
        }
        let mut undo = Undo { blobs: Vec::new(), folders: Vec::new(), is_armed: true };
        for folder in [self.root().to_owned(), self.root().join("blobs"), parent(&manifest_path).to_owned()] {
            undo.folders.extend(self.make_folder(&folder)?);
        }
        let mut tries = 0;
        loop {
            let linked = self.link_once(request, there.as_ref(), &manifest_path, &mut undo)?;
            // Ollama clears blobs that no manifest names when it starts: it may have come between.
            let missing = self.missing_blob(request.name)?;
            match missing {
                None => {
                    undo.is_armed = false;
                    return Ok(linked);
                }
                Some(path) => {
                    tries += 1;
                    if tries == TRIES {
                        let _ = std::fs::remove_file(&manifest_path);
                        let source =
                            io::Error::new(io::ErrorKind::NotFound, "it was cleared away as it was made");
                        return Err(OllamaError::Io { path, source });
                    }
                }
            }
        }
    }

    fn link_once(
        &self,
        request: &LinkRequest,
        there: Option<&Manifest>,
        manifest_path: &Path,
        undo: &mut Undo,
    ) -> Result<Linked, OllamaError> {
        let mut is_new = false;
        let mut put = |bytes: &[u8]| -> Result<(Digest, u64), OllamaError> {
            let (digest, is_written) = self.put(bytes)?;
            if is_written {
                is_new = true;
                undo.blobs.push(self.blob(digest));
            }
            Ok((digest, bytes.len() as u64))
        };
        let mut layers = Vec::new();
        if let Some(template) = request.template {
            let (digest, len) = put(template.as_bytes())?;
            layers.push(Layer::new(TEMPLATE, digest, len));
        }
        let (digest, len) = put(params(request).as_bytes())?;
        layers.push(Layer::new(PARAMS, digest, len));
        layers.insert(0, Layer::new(MODEL, request.digest, request.file.len_bytes));
        let config = put(config(request, &layers).as_bytes())?;

        let blob = self.blob(request.digest);
        let noted = there.and_then(Manifest::origin).map(|origin| origin.how);
        let how = match how_present(&blob, request.file)? {
            // A file of its own may be what was made the last time, or for another file with the same content.
            Some(LinkKind::Present) => match noted {
                Some(how) => how,
                None => self.how_made(request.digest)?.unwrap_or(LinkKind::Present),
            },
            Some(kind) => kind,
            None => {
                is_new = true;
                let how = self.link_file(request, &blob)?;
                undo.blobs.push(blob);
                how
            }
        };
        let manifest = Manifest::new(config, layers, &Origin { source: request.file.clone(), how });
        if !is_new && there == Some(&manifest) {
            return Ok(Linked { how, was_there: true });
        }
        let json = serde_json::to_vec(&manifest)
            .map_err(|source| OllamaError::Manifest { path: manifest_path.to_owned(), source })?;
        self.write(manifest_path, &json)?;
        Ok(Linked { how, was_there: false })
    }

    /// How RawrZ put the weights of that digest into the store, if it did.
    fn how_made(&self, digest: Digest) -> Result<Option<LinkKind>, OllamaError> {
        let manifests = self.manifests()?.manifests.into_iter().map(|(_, manifest)| manifest);
        let with_it = manifests.filter(|manifest| manifest.model().and_then(Layer::digest) == Some(digest));
        Ok(with_it
            .filter_map(|manifest| manifest.origin())
            .map(|o| o.how)
            .find(|how| *how != LinkKind::Present))
    }

    fn missing_blob(&self, name: &OllamaName) -> Result<Option<PathBuf>, OllamaError> {
        let Some(manifest) = self.read_manifest(name)? else { return Ok(Some(self.manifest(name))) };
        Ok(manifest.blobs().map(|digest| self.blob(digest)).find(|blob| !blob.exists()))
    }

    fn link_file(&self, request: &LinkRequest, blob: &Path) -> Result<LinkKind, OllamaError> {
        let file = &request.file.path;
        let io = |source| OllamaError::Io { path: blob.to_owned(), source };
        // A link that leads nowhere is in the way of a new one.
        match std::fs::symlink_metadata(blob) {
            Ok(metadata) if metadata.is_symlink() => std::fs::remove_file(blob).map_err(io)?,
            Ok(_) => return Err(OllamaError::DamagedBlob { path: blob.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        // Where the path is a link itself, the file is what is linked, so that the blob outlives the link.
        let target =
            std::fs::canonicalize(file).map_err(|source| OllamaError::Io { path: file.clone(), source })?;
        // Files with bytes of their own appear in the store when they are whole.
        let staged = self.root().join(format!(".rawrz-{}", request.digest));
        let _ = std::fs::remove_file(&staged);
        match share(&target, blob, &staged) {
            Ok(Shared::HardLink) => Ok(LinkKind::HardLink),
            Ok(Shared::Symlink) => Ok(LinkKind::Symlink),
            Ok(Shared::Reflink) => Ok(LinkKind::Reflink),
            Err(_) if request.may_copy => {
                let copied = self.copy(&target, &staged, blob);
                if copied.is_err() {
                    let _ = std::fs::remove_file(&staged);
                }
                copied
            }
            Err(source) => {
                Err(OllamaError::NoLink { file: file.clone(), root: self.root().to_owned(), source })
            }
        }
    }

    fn copy(&self, target: &Path, staged: &Path, blob: &Path) -> Result<LinkKind, OllamaError> {
        let io = |source| OllamaError::Io { path: blob.to_owned(), source };
        let needed = std::fs::metadata(target).map_err(io)?.len();
        // A file system that does not tell refuses the write itself.
        if let Ok(free) = fs4::available_space(self.root())
            && free < needed
        {
            return Err(OllamaError::NoSpace { root: self.root().to_owned(), needed, free });
        }
        std::fs::copy(target, staged).and_then(|_| std::fs::rename(staged, blob)).map_err(io)?;
        Ok(LinkKind::Copy)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// How the bytes of `file` are at `blob` already; `None` when they are not.
fn how_present(blob: &Path, file: &FileRecord) -> Result<Option<LinkKind>, OllamaError> {
    let Ok(metadata) = std::fs::metadata(blob) else { return Ok(None) };
    if metadata.len() != file.len_bytes {
        return Err(OllamaError::DamagedBlob { path: blob.to_owned() });
    }
    let is_link = std::fs::symlink_metadata(blob).is_ok_and(|metadata| metadata.is_symlink());
    Ok(Some(match same_file(blob, &file.path) {
        true if is_link => LinkKind::Symlink,
        true => LinkKind::HardLink,
        false => LinkKind::Present,
    }))
}

/// Windows tells the number of a file to programs that ask its kernel. The time of change, to 100 ns, of a file with a
/// name that is its SHA-256 tells as much: a copy has the time at which it was made.
#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    let id =
        |path| std::fs::metadata(path).and_then(|metadata| Ok((metadata.len(), metadata.modified()?))).ok();
    id(a).is_some() && id(a) == id(b)
}

/// Settings that Ollama loads the model with: mapped, not read into memory.
fn params(request: &LinkRequest) -> String {
    let mut params = json!({ "num_ctx": request.context_len, "use_mmap": true });
    if !request.stops.is_empty() {
        params["stop"] = json!(request.stops);
    }
    params.to_string()
}

/// What Ollama shows of the model.
fn config(request: &LinkRequest, layers: &[Layer]) -> String {
    let about = request.about;
    json!({
        "model_format": "gguf",
        "model_family": about.architecture,
        "model_families": [about.architecture],
        "model_type": about.parameters(),
        "file_type": about.file_type,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| &l.digest).collect::<Vec<_>>() },
    })
    .to_string()
}

/// What keeps users other than the file's owner from reading it: a folder that they may not enter, or the file itself. A
/// service that runs as a user of its own cannot load such a model. `None` where nothing does, or the system has no such
/// permissions.
pub fn hidden_from_others(file: &Path) -> Option<PathBuf> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::canonicalize(file).ok()?;
        let lacks = |path: &Path, bit: u32| {
            std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bit == 0)
        };
        if lacks(&file, 0o004) {
            return Some(file);
        }
        file.ancestors().skip(1).find(|folder| lacks(folder, 0o001)).map(Path::to_owned)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}
