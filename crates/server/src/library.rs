//! What `create` and `copy` made: a file for each model in the program's data folder, and blobs that clients sent.
//!
//! Names of files are hashes of what clients say, so no text of a request becomes a path. A file is written beside its
//! place and renamed, so a reader never sees half of one. Weights of the catalog are never written or deleted.

use crate::catalog::CatalogEntry;
use crate::error::{ApiError, ApiResult};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Longest name of a model.
const MAX_NAME_LEN: usize = 256;

/// A model of another's weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Created {
    /// With its tag.
    pub(crate) name: String,
    /// A model of the catalog, or the digest of a blob.
    pub(crate) from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// Jinja, in place of the one in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
    /// Options that requests may override.
    #[serde(default)]
    pub(crate) parameters: Map<String, Json>,
    /// Put before the messages of every conversation.
    #[serde(default)]
    pub(crate) messages: Vec<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) license: Option<Json>,
    /// Seconds since 1970.
    pub(crate) modified_unix_s: i64,
}

/// The folder of created models; without one nothing can be created.
pub(crate) struct Library {
    folder: Option<PathBuf>,
}

impl Library {
    pub(crate) fn new(folder: Option<PathBuf>) -> Library {
        Library { folder }
    }

    fn folder(&self, name: &str) -> ApiResult<PathBuf> {
        let none = || ApiError::bad("this server has no folder for created models");
        Ok(self.folder.as_ref().ok_or_else(none)?.join(name))
    }

    /// All created models whose files are whole.
    pub(crate) fn all(&self) -> Vec<Created> {
        let Ok(folder) = self.folder("models") else { return Vec::new() };
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let read = |path: PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        let mut all: Vec<Created> = files
            .filter(|file| file.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|file| read(file.path()))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The GGUF files that clients sent, named by their digests.
    pub(crate) fn blobs(&self) -> Vec<CatalogEntry> {
        let Ok(folder) = self.folder("blobs") else { return Vec::new() };
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let entry = |path: PathBuf| {
            let hex = path.file_name()?.to_str()?.strip_prefix("sha256-")?.strip_suffix(".gguf")?.to_owned();
            Some(CatalogEntry { name: format!("sha256:{hex}"), path })
        };
        files.filter_map(|file| entry(file.path())).collect()
    }

    fn file(&self, name: &str) -> ApiResult<PathBuf> {
        Ok(self.folder("models")?.join(format!("{}.json", hex(&Sha256::digest(name.as_bytes())))))
    }

    /// Keeps a model under its name, in place of one that had it.
    pub(crate) fn put(&self, created: &Created) -> ApiResult<()> {
        let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        let name = &created.name;
        if name.len() > MAX_NAME_LEN || !name.chars().all(well_formed) || name.contains("..") {
            return Err(ApiError::bad(format!(
                "'{}' is no name for a model: letters, digits and -_./: are",
                name.chars().take(MAX_NAME_LEN).collect::<String>()
            )));
        }
        let path = self.file(name)?;
        let json = serde_json::to_vec_pretty(created).map_err(|e| ApiError::internal(e.to_string()))?;
        write_whole(&path, &json).map_err(|error| cannot("keep the model", &error))
    }

    /// Deletes a created model; `false` when there is none of that name.
    pub(crate) fn delete(&self, name: &str) -> ApiResult<bool> {
        match std::fs::remove_file(self.file(name)?) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(cannot("delete the model", &error)),
        }
    }

    /// Where the blob of a digest, `sha256:` and 64 hexadecimal digits, lies or would lie.
    pub(crate) fn blob(&self, digest: &str) -> ApiResult<PathBuf> {
        let digits = digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256-")).unwrap_or("");
        if digits.len() != 64 || !digits.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err(ApiError::bad("a digest is sha256: and 64 hexadecimal digits"));
        }
        Ok(self.folder("blobs")?.join(format!("sha256-{digits}.gguf")))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn cannot(what: &str, error: &std::io::Error) -> ApiError {
    ApiError::internal(format!("cannot {what}: {error}"))
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
