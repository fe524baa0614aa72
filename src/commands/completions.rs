//! `rawrz completions SHELL`

use crate::cli::{Cli, CompletionsArgs, Shell};
use crate::output::Output;
use clap::CommandFactory;
use clap_complete::{generate, shells};

pub(crate) fn main(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, "rawrz", &mut script),
        Shell::Elvish => generate(shells::Elvish, &mut command, "rawrz", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "rawrz", &mut script),
        Shell::Powershell => generate(shells::PowerShell, &mut command, "rawrz", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "rawrz", &mut script),
    }
    Output::new().text(&String::from_utf8(script)?)
}
