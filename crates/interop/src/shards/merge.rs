//! Several files to one.

use super::assembly::Output;
use super::content::Content;
use super::{COUNT, ORIGINAL, OnBytes, Report, SPLIT_KEYS, ShardsError, make_all};
use crate::OpenModel;
use rawrz_gguf::{Gguf, Header};
use std::path::PathBuf;

/// How to merge.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// The file to make. Its folder must exist.
    pub file: PathBuf,
    /// Remove the files of the model at the end.
    pub remove_source: bool,
}

/// Writes a model in shards, or in raw byte parts, as one file.
///
/// # Errors
/// When the model is one file, a file is in the way, the disk is too small, or something fails.
pub fn merge(
    model: &OpenModel<'_>,
    options: &MergeOptions,
    on_bytes: &mut OnBytes<'_>,
) -> Result<Report, ShardsError> {
    let first = model.shards.first();
    // 0 marks a file that llama.cpp merged.
    let is_shard = first.get_u64(COUNT)?.is_some_and(|count| count > 0);
    let content = match (model.paths, is_shard) {
        ([parts], false) if parts.len() == 1 => {
            return Err(ShardsError::AlreadyOne { path: parts[0].clone() });
        }
        ([_], false) => Content::of_file(0, first.file_len()),
        _ => {
            check_no_own_metadata(model.shards.shards())?;
            let mut header = merged_metadata(first)?;
            for (_, tensor) in model.shards.tensors() {
                header.add_tensor(tensor.name, tensor.ty, tensor.dims.as_slice())?;
            }
            Content::of_gguf(&header, model.shards.tensors())?
        }
    };
    let outputs = [Output { path: options.file.clone(), content }];
    make_all(model, &options.file, &outputs, options.remove_source, on_bytes)
}

/// The metadata of the model that was split: without the keys of its shards, and with those that it had itself.
fn merged_metadata(first: &Gguf) -> Result<Header<'_>, ShardsError> {
    let mut header = Header::new();
    for (key, value) in first.metadata() {
        if SPLIT_KEYS.contains(&key) {
            continue;
        }
        let original = key.strip_prefix(ORIGINAL).filter(|key| SPLIT_KEYS.contains(key));
        header.set(original.unwrap_or(key), value)?;
    }
    Ok(header)
}

/// Only the first shard's metadata is kept, so the others may have none but what it has too. How their data is aligned
/// is their own affair.
fn check_no_own_metadata(shards: &[Gguf]) -> Result<(), ShardsError> {
    for (i, shard) in shards.iter().enumerate().skip(1) {
        for (key, value) in shard.metadata() {
            let is_known = SPLIT_KEYS.contains(&key) || key == "general.alignment";
            if !is_known && shards[0].get(key) != Some(value) {
                return Err(ShardsError::OwnMetadata { shard: i + 1, key: key.to_owned() });
            }
        }
    }
    Ok(())
}
