//! `rawrz merge MODEL --out FILE`

use super::split::work;
use crate::cli::MergeArgs;
use crate::exit::Usage;
use crate::locate;
use rawrz_interop::shards::{self, MergeOptions};

pub(crate) fn main(args: &MergeArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    if args.out.is_dir() || args.out.file_name().is_none() {
        return Err(Usage(format!("--out {} is no name of a file", args.out.display())).into());
    }
    let options = MergeOptions { file: args.out.clone(), remove_source: args.remove_source };
    work("merging", &path, args.json, |model, on_bytes| shards::merge(model, &options, on_bytes))
}
