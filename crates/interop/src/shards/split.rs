//! One model to several files.

use super::assembly::Output;
use super::content::Content;
use super::{COUNT, NO, ORIGINAL, OnBytes, Report, SPLIT_KEYS, ShardsError, TENSORS_COUNT, make_all};
use crate::OpenModel;
use crate::output::suffixed;
use rawrz_gguf::{Header, TensorInfo};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// llama.cpp counts tensors in multiples of this, whatever the alignment of the file is (`GGUF_DEFAULT_ALIGNMENT`).
const COUNTED_ALIGNMENT: u64 = 32;

/// When the next shard begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardLimit {
    /// Before the tensors of a shard take more than so many bytes; a tensor that does so alone is alone. The metadata,
    /// all in the first shard, is not counted, as in llama.cpp.
    Bytes(u64),
    /// After so many tensors; at least 1.
    Tensors(u64),
}

/// How to split.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Shards are named `PREFIX-00001-of-0000N.gguf`. The folder must exist.
    pub prefix: PathBuf,
    /// When the next shard begins.
    pub limit: ShardLimit,
    /// Remove the files of the model at the end.
    pub remove_source: bool,
}

/// Writes a model as shards. Shards that are there already and right are kept.
///
/// # Errors
/// When the model cannot be split, a file is in the way, the disk is too small, or something fails; shards that are done
/// stay, so that the same call goes on from there.
pub fn split(
    model: &OpenModel<'_>,
    options: &SplitOptions,
    on_bytes: &mut OnBytes<'_>,
) -> Result<Report, ShardsError> {
    let tensors: Vec<_> = model.shards.tensors().collect();
    if tensors.is_empty() {
        return Err(ShardsError::NoTensors);
    }
    let shards = cut(&tensors, options.limit);
    let Ok(n_shards) = u16::try_from(shards.len()) else {
        return Err(ShardsError::TooManyShards { n_shards: shards.len() });
    };
    let mut outputs = Vec::with_capacity(shards.len());
    for (no, shard) in (0..n_shards).zip(shards) {
        let mut header = if no == 0 { first_header(model)? } else { Header::new() };
        header.set(NO, no)?;
        // A reader takes no more tensors than fit an i32.
        header.set(TENSORS_COUNT, tensors.len() as i32)?;
        header.set(COUNT, n_shards)?;
        for (_, tensor) in shard {
            header.add_tensor(tensor.name, tensor.ty, tensor.dims.as_slice())?;
        }
        let content = Content::of_gguf(&header, shard.iter().copied())?;
        outputs.push(Output { path: shard_path(&options.prefix, no, n_shards), content });
    }
    let restores_bytes = match model.shards.shards() {
        [file] => {
            let merged = Content::of_gguf(&Header::copy_of(file)?, tensors.iter().copied())?;
            Some(merged.is_layout_of(model.source, 0)?)
        }
        _ => None,
    };
    let report = make_all(model, &options.prefix, &outputs, options.remove_source, on_bytes)?;
    Ok(Report { restores_bytes, ..report })
}

/// `PREFIX-00001-of-00003.gguf`, for shard `no` counted from 0.
fn shard_path(prefix: &Path, no: u16, n_shards: u16) -> PathBuf {
    suffixed(prefix, &format!("-{:05}-of-{n_shards:05}.gguf", u32::from(no) + 1))
}

/// The metadata of the model, less the keys of its own shards.
fn first_header<'a>(model: &OpenModel<'a>) -> Result<Header<'a>, ShardsError> {
    let mut header = Header::new();
    let is_sharded = model.shards.shards().len() > 1;
    for (key, value) in model.shards.first().metadata() {
        match SPLIT_KEYS.contains(&key) {
            true if is_sharded => {}
            true => header.set(Cow::Owned(format!("{ORIGINAL}{key}")), value)?,
            false => header.set(key, value)?,
        }
    }
    Ok(header)
}

type Placed<'t> = (usize, TensorInfo<'t>);

/// The tensors of each shard.
fn cut<'s, 't>(tensors: &'s [Placed<'t>], limit: ShardLimit) -> Vec<&'s [Placed<'t>]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, (_, tensor)) in tensors.iter().enumerate() {
        let counted = tensor.len_bytes.next_multiple_of(COUNTED_ALIGNMENT);
        let is_full = match limit {
            ShardLimit::Bytes(limit) => bytes.saturating_add(counted) > limit,
            ShardLimit::Tensors(limit) => (i - start) as u64 >= limit,
        };
        if is_full && i > start {
            shards.push(&tensors[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(counted);
    }
    shards.push(&tensors[start..]);
    shards
}
