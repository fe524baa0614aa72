//! `rawrz man`

use crate::cli::{Cli, ManArgs};
use crate::output::Output;
use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

pub(crate) fn main(args: &ManArgs) -> anyhow::Result<()> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page)?;
        return Output::new().text(&String::from_utf8(page)?);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("cannot write the pages into {}", folder.display()))?;
    Ok(())
}
