//! `split` and `merge` on a real model: the same bytes come back, shards run, and neither a killed run nor a full disk
//! loses anything.

mod common;

use common::{model, names, rawrz, run};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn sha256(path: &Path) -> [u8; 32] {
    Sha256::digest(fs::read(path).expect("it reads")).into()
}

#[test]
fn a_real_model_comes_back_to_the_byte_and_runs_from_its_shards() {
    let path = model("smollm2");
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    let split = run(["split", "smollm2", "--out", out, "--shard-size", "40MB", "--json"]).json();
    assert_eq!(split["restores_bytes"], true);
    let shards: Vec<PathBuf> =
        split["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().into()).collect();
    assert_eq!(shards.len(), 3);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    assert_eq!(shards[0].file_name().unwrap().to_str().unwrap(), format!("{stem}-00001-of-00003.gguf"));

    let answer = |model: &str| {
        let args = ["run", model, "-p", "Why is the sky blue?", "-n", "24", "--temp", "0", "--json"];
        run(args).json()["tokens"].clone()
    };
    assert_eq!(answer(text(&shards[0])), answer("smollm2"));

    // A second run changes nothing and says so.
    let again = run(["split", "smollm2", "--out", out, "--shard-size", "40MB"]);
    assert!(again.stderr.contains("nothing to do"), "{again:?}");
    assert_eq!(again.ok().lines().collect::<Vec<_>>(), shards.iter().map(|s| text(s)).collect::<Vec<_>>());

    let merged = folder.path().join("merged.gguf");
    let printed = run(["merge", text(&shards[0]), "--out", text(&merged), "--remove-source"]).ok();
    assert_eq!(printed.trim_end(), text(&merged));
    assert_eq!(sha256(&merged), sha256(&path));
    assert_eq!(names(folder.path()), ["merged.gguf"]);
}

/// Kills `args` at moments spread over its run until one run gets to its end. Gives how many were killed.
fn kill_until_done(args: &[&str]) -> u32 {
    // Moments that differ from run to run, from the clock: no moment may matter.
    let mut state = Instant::now().elapsed().as_nanos() as u64 | u64::from(std::process::id()) << 32 | 1;
    for killed in 0.. {
        let mut child =
            rawrz().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Later and later, so that it ends on a machine of any speed.
        std::thread::sleep(Duration::from_millis((state >> 33) % 120 + u64::from(killed) * 5));
        // The kill that no program sees coming.
        let _ = child.kill();
        if child.wait().expect("it ends").success() {
            return killed;
        }
    }
    unreachable!()
}

#[test]
fn killed_runs_are_taken_up_and_lose_nothing() {
    let path = model("smollm2");
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("s");
    let split = ["split", "smollm2", "--out", text(&prefix), "--tensors", "20"];
    let killed = kill_until_done(&split);
    let shards = names(folder.path());
    assert_eq!(shards.len(), 14, "{shards:?}");
    let merged = folder.path().join("merged.gguf");
    let first = folder.path().join(&shards[0]);
    let killed = killed + kill_until_done(&["merge", text(&first), "--out", text(&merged)]);
    assert_eq!(sha256(&merged), sha256(&path));
    assert_eq!(names(folder.path()).len(), 15, "{:?}", names(folder.path()));
    println!("{killed} runs were killed");
    assert!(killed > 0);
}

#[cfg(unix)]
#[test]
fn a_write_that_fails_in_the_middle_leaves_no_half_made_file() {
    model("smollm2");
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("s");
    // A limit on the size of files fails the write as a full disk does, and needs no rights.
    let limited = "trap '' XFSZ; ulimit -f 40000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args([
            "-c",
            limited,
            env!("CARGO_BIN_EXE_rawrz"),
            "split",
            "smollm2",
            "--shard-size",
            "30MB",
            "--out",
        ])
        .arg(&prefix)
        .output()
        .expect("sh starts");
    let error = common::Done::from(output).failed(1);
    assert!(error.contains("cannot write") && error.contains(".part"), "{error}");
    for name in names(folder.path()) {
        assert!(name.starts_with("s-0000") && name.ends_with("-of-00004.gguf"), "{name}");
    }
    let done = run(["split", "smollm2", "--shard-size", "30MB", "--out", text(&prefix)]).ok();
    assert_eq!(done.lines().count(), 4);
    let merged = folder.path().join("merged.gguf");
    run(["merge", done.lines().next().unwrap(), "--out", text(&merged)]).ok();
    assert_eq!(sha256(&merged), sha256(&model("smollm2")));
}

/// A file system of 50 MB; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with the reason printed, where this process may not mount one.
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=50m", "tmpfs"])
            .arg(folder.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(SmallDisk(folder)),
            Ok(output) => {
                println!("skipped, no small disk: {}", String::from_utf8_lossy(&output.stderr).trim_end());
                None
            }
            Err(error) => {
                println!("skipped, no small disk: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_is_written() {
    model("smollm2");
    let Some(disk) = SmallDisk::mount() else { return };
    let prefix = disk.0.path().join("s");
    let error = run(["split", "smollm2", "--out", text(&prefix)]).failed(1);
    assert!(error.contains("more are needed") && error.contains("make room"), "{error}");
    assert!(names(disk.0.path()).is_empty());
}

#[test]
fn what_cannot_be_is_refused() {
    let path = model("smollm2");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let error = run(["merge", "smollm2", "--out", text(&out)]).failed(1);
    assert!(error.contains("one file already"), "{error}");
    assert!(run(["merge", "smollm2", "--out", text(folder.path())]).failed(2).contains("no name of a file"));
    let missing = folder.path().join("no/folder/");
    assert!(run(["split", "smollm2", "--out", text(&missing)]).failed(1).contains("make it first"));
    run(["split", "smollm2", "--out", text(folder.path()), "--shard-size", "0"]).failed(2);
    fs::write(folder.path().join("s-00001-of-00001.gguf"), b"mine").unwrap();
    let error =
        run(["split", "smollm2", "--out", text(&folder.path().join("s")), "--shard-size", "1GB"]).failed(1);
    assert!(error.contains("holds something else"), "{error}");
    assert_eq!(names(folder.path()), ["s-00001-of-00001.gguf"]);
    assert!(path.exists());
}
