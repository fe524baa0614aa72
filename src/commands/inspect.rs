//! `rawrz inspect MODEL`

use crate::cli::InspectArgs;
use crate::locate;
use crate::output::{Output, printable};
use rawrz_engine::{ModelFiles, Size};
use rawrz_gguf::{Array, ShardSet, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// Elements of an array that are shown; vocabularies have hundreds of thousands.
const SHOWN_ELEMENTS: usize = 8;
/// Characters of a text that are shown on a line; chat templates have thousands.
const SHOWN_CHARS: usize = 72;

pub(crate) fn main(args: &InspectArgs) -> anyhow::Result<()> {
    let files = ModelFiles::open(&locate::model(&args.model)?)?;
    let mut out = Output::new();
    if args.json {
        let object = as_json(&files, args.tensors);
        files.check()?;
        return out.json(&object);
    }
    let text = as_text(&files, args.tensors);
    files.check()?;
    out.text(&printable(&text))
}

/// Tensors and bytes of one element type.
#[derive(Default)]
struct Share {
    n_tensors: u64,
    len_bytes: u64,
}

fn shares(shards: &ShardSet) -> BTreeMap<&'static str, Share> {
    let mut shares = BTreeMap::<_, Share>::new();
    for (_, tensor) in shards.tensors() {
        let share = shares.entry(tensor.ty.name()).or_default();
        share.n_tensors += 1;
        share.len_bytes += tensor.len_bytes;
    }
    shares
}

fn n_parameters(shards: &ShardSet) -> u64 {
    shards.tensors().map(|(_, tensor)| tensor.dims.n_elements()).fold(0, u64::saturating_add)
}

fn file_bytes(shards: &ShardSet) -> u64 {
    shards.shards().iter().map(|shard| shard.file_len()).sum()
}

fn architecture(shards: &ShardSet) -> Option<&str> {
    shards.first().get("general.architecture").and_then(|value| value.as_str())
}

fn as_json(files: &ModelFiles, with_tensors: bool) -> Json {
    let shards = files.shards();
    let first = shards.first();
    let paths: Vec<_> = files.paths().iter().flatten().map(|path| path.display().to_string()).collect();
    let types: Map<_, _> = shares(shards)
        .into_iter()
        .map(|(name, share)| (name.to_owned(), json!({"tensors": share.n_tensors, "bytes": share.len_bytes})))
        .collect();
    let metadata: Map<_, _> =
        first.metadata().map(|(key, value)| (key.to_owned(), value_as_json(value))).collect();
    let mut object = json!({
        "files": paths,
        "file_bytes": file_bytes(shards),
        "version": first.version(),
        "alignment": first.alignment(),
        "architecture": architecture(shards),
        "parameters": n_parameters(shards),
        "n_tensors": shards.n_tensors(),
        "types": types,
        "metadata": metadata,
    });
    if with_tensors {
        let tensors: Vec<_> = shards
            .tensors()
            .map(|(shard, tensor)| {
                json!({
                    "name": tensor.name,
                    "type": tensor.ty.name(),
                    "shape": tensor.dims.as_slice(),
                    "shard": shard,
                    "file_offset": tensor.file_offset,
                    "bytes": tensor.len_bytes,
                })
            })
            .collect();
        object["tensors"] = tensors.into();
    }
    object
}

/// A scalar as itself; of an array its kind, its length and the first few elements.
fn value_as_json(value: Value<'_>) -> Json {
    match value {
        Value::Array(array) => json!({
            "element_type": array.element_type().name(),
            "length": array.len(),
            "first": array.iter().take(SHOWN_ELEMENTS).map(value_as_json).collect::<Vec<_>>(),
        }),
        Value::Str(text) => text.into(),
        Value::Bool(truth) => truth.into(),
        // The shortest decimal that is this f32, not the digits of its neighbourhood in f64.
        Value::F32(number) => number.to_string().parse::<f64>().map_or(Json::Null, Json::from),
        Value::F64(number) => number.into(),
        Value::U64(number) => number.into(),
        integer => integer.as_integer().and_then(|number| i64::try_from(number).ok()).into(),
    }
}

fn as_text(files: &ModelFiles, with_tensors: bool) -> String {
    let shards = files.shards();
    let first = shards.first();
    let mut lines = Vec::new();
    for path in files.paths().iter().flatten() {
        lines.push(path.display().to_string());
    }
    lines.push(format!(
        "GGUF version {}, {} in {} file(s), alignment {}",
        first.version(),
        Size(file_bytes(shards)),
        files.paths().iter().flatten().count(),
        first.alignment()
    ));
    lines.push(format!(
        "architecture {}, {:.1} M parameters, {} tensors",
        architecture(shards).unwrap_or("not named"),
        n_parameters(shards) as f64 / 1e6,
        shards.n_tensors()
    ));
    for (name, share) in shares(shards) {
        lines.push(format!("  {name:<8} {:>5} tensors  {}", share.n_tensors, Size(share.len_bytes)));
    }

    lines.push(format!("\nmetadata, {} entries", first.n_keys()));
    let width = first.metadata().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(48);
    for (key, value) in first.metadata() {
        lines.push(format!("  {key:<width$}  {}", value_as_text(value)));
    }
    if with_tensors {
        lines.push("\ntensors: type, bytes, offset in the file, shape (row first), name".to_owned());
        for (shard, tensor) in shards.tensors() {
            let place =
                if shards.shards().len() > 1 { format!(" (file {})", shard + 1) } else { String::new() };
            lines.push(format!(
                "  {:<8} {:>12} {:>14}  {:<20}  {}{place}",
                tensor.ty.name(),
                tensor.len_bytes,
                tensor.file_offset,
                tensor.dims.to_string(),
                tensor.name
            ));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn value_as_text(value: Value<'_>) -> String {
    match value {
        Value::Array(array) => array_as_text(array),
        Value::Str(text) => quoted(text),
        Value::Bool(truth) => truth.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        integer => integer.as_integer().map(|number| number.to_string()).unwrap_or_default(),
    }
}

fn array_as_text(array: Array<'_>) -> String {
    let mut shown: Vec<_> = array.iter().take(SHOWN_ELEMENTS).map(value_as_text).collect();
    if array.len() > shown.len() {
        shown.push("..".into());
    }
    format!("{} x {} [{}]", array.len(), array.element_type(), shown.join(", "))
}

/// Text on one line, cut where it gets long.
fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_they_are() {
        assert_eq!(value_as_json(Value::F32(1e-5)).to_string(), "0.00001");
        assert_eq!(value_as_json(Value::U64(u64::MAX)).to_string(), "18446744073709551615");
        assert_eq!(value_as_json(Value::I8(-3)).to_string(), "-3");
        assert_eq!(value_as_json(Value::F32(f32::NAN)), Json::Null);
    }

    #[test]
    fn long_text_is_cut_and_stays_on_one_line() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        let long = quoted(&"é".repeat(100));
        assert_eq!(long.chars().count(), SHOWN_CHARS + 3);
        assert!(long.ends_with("…\""));
    }
}
