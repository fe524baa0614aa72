//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

use crate::output::printable;
use std::fmt;
use std::process::ExitCode;

/// The command line asks for something that cannot be: exit code 2, as for a flag that does not exist.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

/// Whoever read our standard output went away (`rawrz run .. | head -1`). Nobody is left to tell, and
/// the reader had what it wanted, so this ends the program quietly and counts as done.
#[derive(Debug)]
pub(crate) struct ReaderGone;

/// Ctrl-C or SIGTERM: what was made so far has been printed and reported.
#[derive(Debug)]
pub(crate) struct Interrupted;

/// 128 + SIGINT, as shells count it.
pub(crate) const INTERRUPTED: u8 = 130;

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of standard output went away")
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for ReaderGone {}
impl std::error::Error for Interrupted {}

/// Says what went wrong on standard error, and gives the exit code for it.
pub(crate) fn code_of(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    if error.is::<Interrupted>() {
        return ExitCode::from(INTERRUPTED);
    }
    // Causes may quote names out of a hostile file; they must not reach the terminal as control codes.
    eprintln!("error: {}", printable(&format!("{error:#}")));
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
