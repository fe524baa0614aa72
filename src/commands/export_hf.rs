//! `rawrz export-hf MODEL --out D`

use crate::cli::{ExportHfArgs, Safetensors};
use crate::exit::Interrupted;
use crate::interrupt;
use crate::locate;
use crate::output::Output;
use crate::progress::Watched;
use rawrz_engine::{ModelFiles, Size};
use rawrz_interop::OutputError;
use rawrz_interop::hf_folder::{self, Dtype, ExportError, Kind, Report, Weights};
use serde_json::json;

pub(crate) fn main(args: &ExportHfArgs) -> anyhow::Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    let files = ModelFiles::open(&locate::model(&args.model)?)?;
    let weights = match args.safetensors {
        None => Weights::Linked,
        Some(dtype) => Weights::Safetensors { dtype: dtype.into(), shard_bytes: args.shard_size },
    };
    let mut watched = Watched::new("exporting", &cancel);
    let model = locate::opened(&files);
    let done = hf_folder::export(&model, &args.out, weights, &mut |done, total| watched.at(done, total));
    drop(watched);
    match done {
        Ok(report) => tell(&report, args.json),
        Err(ExportError::Output(OutputError::Stopped)) => {
            eprintln!("stopped; nothing was left");
            Err(Interrupted.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn tell(report: &Report, as_json: bool) -> anyhow::Result<()> {
    if report.was_present {
        eprintln!("nothing to do: all of it is there already");
    }
    let mut out = Output::new();
    if as_json {
        let files = report
            .files
            .iter()
            .map(|file| json!({"name": file.name, "kind": in_words(file.kind), "bytes": file.len_bytes}));
        return out.json(&json!({
            "folder": report.folder.display().to_string(),
            "files": files.collect::<Vec<_>>(),
            "was_present": report.was_present,
        }));
    }
    for file in &report.files {
        eprintln!("  {:<32} {:>12}  {}", file.name, Size(file.len_bytes).to_string(), in_words(file.kind));
    }
    out.line(&report.folder.display().to_string())
}

fn in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Written => "written",
        Kind::HardLink => "hard link",
        Kind::Symlink => "symbolic link",
        Kind::Reflink => "reflink",
    }
}

impl From<Safetensors> for Dtype {
    fn from(dtype: Safetensors) -> Dtype {
        match dtype {
            Safetensors::Fp16 => Dtype::Fp16,
            Safetensors::Bf16 => Dtype::Bf16,
            Safetensors::Fp32 => Dtype::Fp32,
        }
    }
}
