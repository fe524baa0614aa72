//! A model as a folder that Hugging Face's libraries load.
//!
//! `config.json`, `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` are made
//! from the metadata of the GGUF. The weights are the GGUF itself, linked and not copied, or safetensors, decoded.
//!
//! # Invariants
//! - A folder appears whole under its name: it is built beside it, brought to the disk and renamed.
//! - A folder that this module did not make, or that somebody added to, is neither changed nor removed.
//! - Memory does not grow with the weights. It grows with the vocabulary, by some 60 bytes for each token and merge.
//! - What cannot be said in the other format (an architecture, a pre-tokenizer, a tensor) is refused by name.

mod error;
mod hyper;
mod json;
mod link;
mod record;
mod rope;
mod tensors;
mod tokenizer;
mod weights;

pub use error::ExportError;
pub use record::{Exported, Kind};
pub use weights::Dtype;

use crate::output::{Lock, OutputError, ensure_space, exists, folder_of, io_error, suffixed, sync_folder};
use crate::{FileRecord, ModelRecord, OpenModel};
use rawrz_text::Tokenizer;
use record::{RECORD, Record};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Bytes that the files beside the weights take at most, for the check of the disk: as the longest vocabularies do.
const TEXT_BYTES: u64 = 64 << 20;

/// What the weights in the folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// The GGUF as `model.gguf`: a hard link, else a symbolic link, else a reflink; never a copy.
    Linked,
    /// Decoded, as safetensors.
    Safetensors {
        /// The type of all weights.
        dtype: Dtype,
        /// Most bytes of weights in a file.
        shard_bytes: u64,
    },
}

/// What an export made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// Its files, without the record.
    pub files: Vec<Exported>,
    /// All of it was there, made of the same model with the same options; nothing was changed.
    pub was_present: bool,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Files that were removed.
    pub removed: Vec<PathBuf>,
    /// What stays in the folder: files of others, and ours that were changed since.
    pub kept: Vec<PathBuf>,
}

/// Makes `folder` out of a model, or finds that it is there. The folder that it is in must exist. `on_bytes` is told how
/// many bytes of weights of how many are written, and may end it; then, as after an error, nothing is left.
///
/// # Errors
/// When the model cannot be said in the other format, the folder is not one that this function made, the disk is too
/// small, or something fails.
pub fn export(
    model: &OpenModel<'_>,
    folder: &Path,
    weights: Weights,
    on_bytes: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Report, ExportError> {
    let folder = &named(folder)?;
    let now = model_record(model)?;
    let _lock = Lock::take(folder)?;
    let (staging, old) = (hidden(folder, "new"), hidden(folder, "old"));
    // Left by runs that were killed. The old folder was ours before it was moved.
    remove_leftover(&staging)?;
    remove_leftover(&old)?;
    let there = whats_there(folder)?;
    if let There::Ours(record) = &there {
        let is_same =
            record.rawrz == env!("CARGO_PKG_VERSION") && record.weights == weights && record.model == now;
        if is_same && record.is_whole(folder) {
            return Ok(Report { folder: folder.to_owned(), files: record.files.clone(), was_present: true });
        }
    }
    std::fs::create_dir(&staging).map_err(io_error("make", &staging))?;
    let built = build(model, &staging, weights, on_bytes)
        .and_then(|files| finish(model, &staging, weights, now, files))
        .and_then(|files| swap(&staging, folder, &old, there).map(|()| files));
    if built.is_err() {
        // The failure is what has to be told.
        let _ = remove_leftover(&staging);
    }
    Ok(Report { folder: folder.to_owned(), files: built?, was_present: false })
}

/// Removes what [`export`] made: exactly the files that it noted, as far as they are as they were, and the folder when
/// nothing else is in it. A folder that is not there is removed already.
///
/// # Errors
/// When the folder has no record of an export, or something fails.
pub fn remove(folder: &Path) -> Result<Removal, ExportError> {
    let folder = &named(folder)?;
    if !exists(folder)? {
        return Ok(Removal { removed: Vec::new(), kept: Vec::new() });
    }
    let _lock = Lock::take(folder)?;
    let Some(record) = Record::read(folder)? else {
        return Err(ExportError::NotOurs { folder: folder.to_owned(), foreign: folder.to_owned() });
    };
    let kept = record.foreign(folder)?;
    let mut removed = Vec::new();
    for file in record.files.iter().filter(|file| file.is_unchanged(folder)) {
        let path = folder.join(&file.name);
        std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        removed.push(path);
    }
    let path = folder.join(RECORD);
    std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
    if kept.is_empty() {
        std::fs::remove_dir(folder).map_err(io_error("remove", folder))?;
    }
    Ok(Removal { removed, kept })
}

fn model_record(model: &OpenModel<'_>) -> Result<ModelRecord, ExportError> {
    let record = |path: &PathBuf| FileRecord::of(path).map_err(io_error("look at", path));
    let shards = model
        .paths
        .iter()
        .map(|parts| parts.iter().map(record).collect())
        .collect::<Result<_, OutputError>>()?;
    Ok(ModelRecord { shards })
}

/// The path without a separator at its end; it must end in a name.
fn named(folder: &Path) -> Result<PathBuf, ExportError> {
    let folder: PathBuf = folder.components().collect();
    match folder.file_name() {
        Some(_) => Ok(folder),
        None => Err(io_error("take the name", &folder)(io::ErrorKind::InvalidFilename.into()).into()),
    }
}

/// A name beside `folder` that listings do not show.
fn hidden(folder: &Path, what: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    suffixed(&folder.with_file_name(name), &format!(".rawrz-{what}"))
}

fn remove_leftover(folder: &Path) -> Result<(), ExportError> {
    if exists(folder)? {
        std::fs::remove_dir_all(folder).map_err(io_error("remove", folder))?;
    }
    Ok(())
}

enum There {
    Nothing,
    EmptyFolder,
    Ours(Record),
}

/// What has the name of the folder. An error when it is not ours.
fn whats_there(folder: &Path) -> Result<There, ExportError> {
    if !exists(folder)? {
        return Ok(There::Nothing);
    }
    let not_ours = |foreign: PathBuf| ExportError::NotOurs { folder: folder.to_owned(), foreign };
    // A link to a folder is not replaced by a folder.
    let metadata = std::fs::symlink_metadata(folder).map_err(io_error("look at", folder))?;
    if !metadata.is_dir() {
        return Err(not_ours(folder.to_owned()));
    }
    if let Some(record) = Record::read(folder)? {
        return match record.foreign(folder)?.into_iter().next() {
            Some(foreign) => Err(not_ours(foreign)),
            None => Ok(There::Ours(record)),
        };
    }
    match std::fs::read_dir(folder).map_err(io_error("read", folder))?.next() {
        None => Ok(There::EmptyFolder),
        Some(entry) => Err(not_ours(entry.map_err(io_error("read", folder))?.path())),
    }
}

/// Writes all files into `staging`.
fn build(
    model: &OpenModel<'_>,
    staging: &Path,
    weights: Weights,
    on_bytes: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Vec<Exported>, ExportError> {
    let gguf = model.shards.first();
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let kind = tokenizer::Kind::of(gguf)?;
    let dtype = match weights {
        Weights::Linked => "float32",
        Weights::Safetensors { dtype, .. } => dtype.in_config(),
    };
    let (hyper, config) = hyper::read(model.shards, model.source, &tokenizer, dtype)?;
    // Also where the GGUF is linked: what says that its tensors are those of the config.
    let tensors = tensors::of_model(model.shards, &hyper)?;

    let mut files = Vec::new();
    let mut done = |name: &str, kind: Kind| -> Result<(), ExportError> {
        files.push(Exported::of(staging, name, kind)?);
        Ok(())
    };
    ensure_space(staging, TEXT_BYTES.min(gguf.header_len().saturating_mul(8)))?;
    write_file(staging, "tokenizer.json", |out| tokenizer::write(&kind, &tokenizer, out))?;
    done("tokenizer.json", Kind::Written)?;
    let mut texts = vec![
        ("config.json", pretty(&config)?),
        ("tokenizer_config.json", pretty(&tokenizer::config(&tokenizer, hyper.context_len))?),
        ("generation_config.json", pretty(&tokenizer::generation_config(&tokenizer))?),
    ];
    if let Some(template) = gguf.get_str("tokenizer.chat_template")? {
        texts.push(("chat_template.jinja", template.as_bytes().to_vec()));
    }
    drop(tokenizer);
    match weights {
        Weights::Linked => {
            for (name, path) in linked_names(model.paths) {
                let kind = link::link(path, &staging.join(&name))?;
                done(&name, kind)?;
            }
        }
        Weights::Safetensors { dtype, shard_bytes } => {
            let layout = weights::Layout::new(tensors, dtype, shard_bytes);
            let total = layout.total_bytes();
            ensure_space(staging, total)?;
            let mut written = 0;
            let names = layout.write(staging, model.source, &mut |bytes| {
                written += bytes;
                match on_bytes(written, total) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(OutputError::Stopped),
                }
            })?;
            names.iter().try_for_each(|name| done(name, Kind::Written))?;
            if let Some(index) = layout.index() {
                texts.push(("model.safetensors.index.json", pretty(&index)?));
            }
        }
    }
    for (name, text) in texts {
        write_file(staging, name, |out| out.write_all(&text).map_err(ExportError::Write))?;
        done(name, Kind::Written)?;
    }
    Ok(files)
}

/// Notes what was made, and brings all of it to the disk.
fn finish(
    model: &OpenModel<'_>,
    staging: &Path,
    weights: Weights,
    now: ModelRecord,
    files: Vec<Exported>,
) -> Result<Vec<Exported>, ExportError> {
    // A file that was written to while it was read is no source.
    (0..model.paths.len()).try_for_each(|file| model.source.check(file))?;
    let record = Record { rawrz: env!("CARGO_PKG_VERSION").to_owned(), weights, model: now, files };
    let json = serde_json::to_vec(&record).map_err(|error| ExportError::Write(error.into()))?;
    write_file(staging, RECORD, |out| out.write_all(&json).map_err(ExportError::Write))?;
    sync_folder(staging).map_err(io_error("write", staging))?;
    Ok(record.files)
}

/// Puts the new folder in the place of what is there.
fn swap(staging: &Path, folder: &Path, old: &Path, there: There) -> Result<(), ExportError> {
    match there {
        There::Nothing => {}
        There::EmptyFolder => std::fs::remove_dir(folder).map_err(io_error("replace", folder))?,
        There::Ours(_) => std::fs::rename(folder, old).map_err(io_error("replace", folder))?,
    }
    if let Err(error) = std::fs::rename(staging, folder) {
        // What was there comes back.
        let _ = std::fs::rename(old, folder);
        return Err(io_error("finish", folder)(error).into());
    }
    sync_folder(folder_of(folder)).map_err(io_error("finish", folder))?;
    remove_leftover(old)
}

fn write_file(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let path = folder.join(name);
    let file = File::create_new(&path).map_err(io_error("write", &path))?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    write(&mut out)?;
    let file = out.into_inner().map_err(|error| io_error("write", &path)(error.into_error()))?;
    Ok(file.sync_all().map_err(io_error("write", &path))?)
}

fn pretty(json: &Json) -> Result<Vec<u8>, ExportError> {
    let mut text = serde_json::to_vec_pretty(json).map_err(|error| ExportError::Write(error.into()))?;
    text.push(b'\n');
    Ok(text)
}

/// `model.gguf`, or names of shards and raw parts that readers know.
fn linked_names(paths: &[Vec<PathBuf>]) -> impl Iterator<Item = (String, &PathBuf)> {
    let n_shards = paths.len();
    paths.iter().enumerate().flat_map(move |(shard, parts)| {
        let name = match n_shards {
            1 => "model.gguf".to_owned(),
            _ => format!("model-{:05}-of-{n_shards:05}.gguf", shard + 1),
        };
        let is_whole = parts.len() == 1;
        parts.iter().enumerate().map(move |(part, path)| match is_whole {
            true => (name.clone(), path),
            false => (format!("{name}.part{part:04}"), path),
        })
    })
}

#[cfg(test)]
mod tests;
