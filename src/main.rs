//! The `rawrz` program: one match over the subcommands. What each of them does is in [`commands`], the
//! flags as typed are in [`cli`].
#![forbid(unsafe_code)]

mod catalog;
mod chat;
mod cli;
mod commands;
mod disks;
mod exit;
mod fetch;
mod interrupt;
mod locate;
mod ollama;
mod output;
mod progress;
mod prompt;
mod report;
mod size;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo => commands::demo::main(),
        Command::Run(args) => commands::run::main(&args),
        Command::Chat(args) => commands::chat::main(&args),
        Command::Serve(args) => commands::serve::main(&args),
        Command::Bench(args) => commands::bench::main(&args),
        Command::Plan(args) => commands::plan::main(&args),
        Command::Inspect(args) => commands::inspect::main(&args),
        Command::Tokenize(args) => commands::tokenize::main(&args),
        Command::Perplexity(args) => commands::perplexity::main(&args),
        Command::Pull(args) => commands::pull::main(&args),
        Command::Up(args) => commands::up::main(&args),
        Command::Down(args) => commands::down::main(&args),
        Command::Maps(command) => commands::maps::main(&command),
        Command::Ollama(command) => commands::ollama::main(&command),
        Command::ExportHf(args) => commands::export_hf::main(&args),
        Command::Split(args) => commands::split::main(&args),
        Command::Merge(args) => commands::merge::main(&args),
        Command::Completions(args) => commands::completions::main(&args),
        Command::Man(args) => commands::man::main(&args),
    };
    exit::code_of(result)
}
