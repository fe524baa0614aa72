//! The command line itself: help, exit codes, completions, manual pages.

mod common;

use common::{run, run_with_input};

const COMMANDS: [&str; 9] =
    ["demo", "run", "bench", "inspect", "tokenize", "perplexity", "pull", "completions", "man"];

#[test]
fn help_and_version_succeed() {
    let help = run(["--help"]).ok();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in: {help}");
        let own = run([command, "--help"]).ok();
        assert!(own.contains("Usage: rawrz"), "{own}");
    }
    assert!(help.contains("Exit codes: 0 done, 1 failed"));
    assert_eq!(run(["--version"]).ok(), format!("rawrz {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_code_2() {
    for args in [
        &["frobnicate"][..],
        &["run"],
        &["run", "m", "--memory", "1XB"],
        &["run", "m", "--memory", "-1"],
        &["run", "m", "--threads", "0"],
        &["run", "m", "--temp", "hot"],
        &["run", "m", "--logprobs", "3"],
        &["run", "m", "--raw", "--system", "s"],
        &["run", "m", "--bogus"],
        &["perplexity", "m"],
        &["perplexity", "m", "f", "--ctx", "3"],
        &["pull", "nonsense"],
        &["pull", "hf:owner"],
        &["pull", "http://example.org/m.gguf"],
        &["pull", "smollm2", "--sha256", "12"],
        &["pull", "smollm2", "--sha256", &"0".repeat(64)],
        &["completions", "tcsh"],
    ] {
        run(args).failed(2);
    }
}

#[test]
fn no_command_shows_the_help() {
    let done = run([""; 0]);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("Usage: rawrz <COMMAND>"), "{done:?}");
}

#[test]
fn failures_are_code_1_and_say_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let missing = |args: &[&str]| {
        let output = common::rawrz().args(args).env("RAWRZ_MODELS", empty.path()).output().unwrap();
        common::Done::from(output).failed(1)
    };
    for command in ["inspect", "tokenize"] {
        assert!(missing(&[command, "no-such-model"]).contains("smollm2, qwen, gemma"));
        assert!(missing(&[command, "smollm2"]).contains("run `rawrz pull smollm2`"));
    }
    assert!(missing(&["run", "gemma", "-p", "x"]).contains("run `rawrz pull gemma`"));
    let folder = empty.path().to_str().unwrap();
    assert!(missing(&["run", folder, "-p", "x"]).contains("is a folder"));
    // Only looked for, never made.
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(["completions", shell]).ok();
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("--repeat-penalty") || script.contains("repeat-penalty"), "{shell}");
    }
}

#[test]
fn manual_pages_come_from_the_same_definitions() {
    let page = run(["man"]).ok();
    assert!(page.contains(".TH rawrz 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man");
    assert_eq!(run(["man", "--out", out.to_str().unwrap()]).ok(), "");
    for command in COMMANDS {
        let page = std::fs::read_to_string(out.join(format!("rawrz-{command}.1"))).unwrap();
        assert!(page.starts_with(".ie"), "{page}");
    }
    let run_page = std::fs::read_to_string(out.join("rawrz-run.1")).unwrap();
    assert!(run_page.contains(r"\-\-memory"), "{run_page}");
    // A file in the way is a failure, not a panic.
    run(["man", "--out", out.join("rawrz.1").to_str().unwrap()]).failed(1);
}

#[test]
fn a_prompt_that_is_not_text_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let error = run_with_input(["run", path], b"\xff\xfe").failed(1);
    assert!(error.contains("not UTF-8"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = common::rawrz().args(["completions", "bash"]).stdout(full).output().unwrap();
    let error = common::Done::from(output).failed(1);
    assert!(error.contains("cannot write to standard output"), "{error}");
}
