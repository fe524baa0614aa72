//! What the tests of the program share: the built program, the real models, a place to run.
#![allow(dead_code)] // Each test file uses its own share of it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// The file of a built-in model (`smollm2`, `qwen`, `gemma`), fetched when it is not there yet.
///
/// It lies where the program keeps it: in `$RAWRZ_MODELS` or the user's models folder. `rawrz pull` checks its
/// hash, and its lock makes this safe when many tests ask at the same time.
pub(crate) fn model(alias: &str) -> PathBuf {
    static KNOWN: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = known.get_or_insert_default();
    if let Some(path) = known.get(alias) {
        return path.clone();
    }
    let output = rawrz().args(["pull", alias]).output().expect("rawrz starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rawrz pull {alias} failed: {stderr}");
    let path = PathBuf::from(String::from_utf8(output.stdout).expect("the path is UTF-8").trim_end());
    assert!(path.is_file(), "{} is not there", path.display());
    known.insert(alias.to_owned(), path.clone());
    path
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder reads");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// The program, with no standard input.
pub(crate) fn rawrz() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rawrz"));
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
    rawrz().args(args).output().expect("rawrz starts").into()
}

/// Runs the program to its end with `input` on standard input.
pub(crate) fn run_with_input(args: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &[u8]) -> Done {
    use std::io::Write;
    let mut command = rawrz();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rawrz starts");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // A program that fails early does not read all of its input; that is for the caller to judge.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("rawrz ends").into()
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        }
    }
}

impl Done {
    /// It succeeded; gives standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// It succeeded and printed exactly one JSON value on a line.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).expect("standard output is JSON")
    }

    /// It failed with `code`, printed nothing on standard output, and ended with one line of error; gives that.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let errors: Vec<_> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        if code == 1 {
            assert_eq!(self.stderr.lines().last(), Some(errors[0]), "{self:?}");
        }
        errors[0].to_owned()
    }
}
