//! `rawrz split MODEL --out PREFIX_OR_DIR`

use crate::cli::SplitArgs;
use crate::exit::{Interrupted, Usage};
use crate::interrupt;
use crate::locate;
use crate::output::Output;
use crate::progress::Watched;
use anyhow::Context;
use rawrz_engine::{ModelFiles, Size};
use rawrz_interop::shards::{self, OnBytes, Report, ShardLimit, ShardsError, SplitOptions};
use rawrz_interop::{OpenModel, OutputError};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(crate) fn main(args: &SplitArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let options = SplitOptions {
        prefix: prefix(&args.out, &path)?,
        limit: args.tensors.map_or(ShardLimit::Bytes(args.shard_size), ShardLimit::Tensors),
        remove_source: args.remove_source,
    };
    work("splitting", &path, args.json, |model, on_bytes| shards::split(model, &options, on_bytes))
}

/// Opens the model at `path`, does `job` with a progress bar, and reports.
pub(super) fn work(
    doing: &str,
    path: &Path,
    as_json: bool,
    job: impl FnOnce(&OpenModel<'_>, &mut OnBytes<'_>) -> Result<Report, ShardsError>,
) -> anyhow::Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let files = ModelFiles::open(path)?;
    let mut watched = Watched::new(doing, &cancel);
    let done = job(&locate::opened(&files), &mut |done, total| watched.at(done, total));
    drop(watched);
    match done {
        Ok(report) => tell(&report, as_json),
        Err(ShardsError::Output(OutputError::Stopped)) => {
            eprintln!("stopped; the same command goes on from here");
            Err(Interrupted.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn tell(report: &Report, as_json: bool) -> anyhow::Result<()> {
    let n_present = report.files.iter().filter(|file| file.was_present).count();
    let bytes: u64 = report.files.iter().map(|file| file.len_bytes).sum();
    match n_present == report.files.len() {
        true => eprintln!("nothing to do: all of it is there already and right"),
        false => eprintln!(
            "{} file(s), {}, compared with the model; {n_present} of them were there already",
            report.files.len(),
            Size(bytes)
        ),
    }
    if report.restores_bytes == Some(false) {
        eprintln!(
            "note: the model's file is not laid out as llama.cpp writes files; merging gives its metadata and tensors again, \
             but not the same bytes"
        );
    }
    for path in &report.removed {
        eprintln!("removed {}", path.display());
    }
    let mut out = Output::new();
    if as_json {
        let files = report.files.iter().map(|file| {
            json!({
                "path": file.path.display().to_string(),
                "bytes": file.len_bytes,
                "was_present": file.was_present,
            })
        });
        let removed = report.removed.iter().map(|path| path.display().to_string());
        return out.json(&json!({
            "files": files.collect::<Vec<_>>(),
            "restores_bytes": report.restores_bytes,
            "removed": removed.collect::<Vec<_>>(),
        }));
    }
    report.files.iter().try_for_each(|file| out.line(&file.path.display().to_string()))
}

/// What the names of the shards begin with: `out`, or the model's name in the folder `out`.
fn prefix(out: &Path, model: &Path) -> anyhow::Result<PathBuf> {
    if !out.is_dir() {
        return match out.as_os_str().as_encoded_bytes().last() {
            None => Err(Usage("--out needs a name or a folder".into()).into()),
            Some(last) if std::path::is_separator(char::from(*last)) => {
                Err(anyhow::anyhow!("there is no folder {}; make it first", out.display()))
            }
            Some(_) => Ok(out.to_owned()),
        };
    }
    let name = model.file_name().and_then(|name| name.to_str()).context("the model has no name to go by")?;
    Ok(out.join(stem(name)))
}

/// A model's name without `.gguf` and what says that it is a part or a shard.
fn stem(name: &str) -> &str {
    let whole = name.rsplit_once(".part").map_or(name, |(whole, _)| whole);
    let Some(stem) = whole.strip_suffix(".gguf") else { return whole };
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let shard = stem.rsplit_once("-of-").filter(|(_, count)| is_number(count));
    let number = shard.and_then(|(rest, _)| rest.rsplit_once('-')).filter(|(_, number)| is_number(number));
    number.map_or(stem, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_come_from_the_model() {
        for (name, expected) in [
            ("m.gguf", "m"),
            ("m.gguf.part00", "m"),
            ("m-00002-of-00003.gguf", "m"),
            ("m-00002-of-00003.gguf.part1of2", "m"),
            ("m-0002-of-00003.gguf", "m-0002-of-00003"),
            ("m-of-00003.gguf", "m-of-00003"),
            ("m", "m"),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let model = Path::new("x/m.gguf");
        assert_eq!(prefix(folder.path(), model).unwrap(), folder.path().join("m"));
        assert_eq!(prefix(&folder.path().join("n"), model).unwrap(), folder.path().join("n"));
        assert!(prefix(&folder.path().join("n/"), model).is_err());
        assert!(prefix(Path::new(""), model).is_err());
    }
}
