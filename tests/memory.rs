//! Invariants of memory, as the operating system sees them: weights are file pages, once; the budget is a ceiling.
#![cfg(target_os = "linux")]

mod common;

use rawrz_engine::{Cancel, Engine, GenerateOptions, OpenOptions, SamplerOptions, Session, generate};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Anonymous memory that a run of smollm2 may take beside its KV cache.
const ANONYMOUS_BYTES: u64 = 64 << 20;

/// Sums the `key` lines, in bytes, of all maps in `/proc/self/smaps` that `wanted` accepts by their first line.
fn smaps_bytes(key: &str, wanted: impl Fn(&str) -> bool) -> (usize, u64) {
    let (mut n_maps, mut bytes, mut inside) = (0, 0, false);
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            inside = wanted(line);
            n_maps += usize::from(inside);
        } else if inside && first.strip_suffix(':') == Some(key) {
            let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            bytes += kib * 1024;
        }
    }
    (n_maps, bytes)
}

#[test]
fn weights_are_file_pages_and_appear_once() {
    let path = common::model("smollm2").canonicalize().unwrap();
    let options = OpenOptions { ctx_len: Some(2048), ..OpenOptions::default() };
    let engine = Engine::open(&path, &options).unwrap();
    let prompt = engine.tokenizer().encode_prompt("Once upon a time").unwrap();
    let mut session = Session::new(&engine).unwrap();
    let greedy =
        GenerateOptions { max_tokens: 16, sampler: SamplerOptions::greedy(), ..GenerateOptions::default() };
    generate(&mut session, &prompt, &greedy, &Cancel::default(), &mut |_| ()).unwrap();

    let file_len = fs::metadata(&path).unwrap().len();
    let of_model = |line: &str| line.ends_with(path.to_str().unwrap());
    let (n_maps, resident) = smaps_bytes("Rss", of_model);
    let (_, anonymous_of_model) = smaps_bytes("Anonymous", of_model);
    let (_, anonymous) = smaps_bytes("Anonymous", |_| true);
    let kv = engine.ledger().bytes("KV cache");
    println!(
        "model file {file_len} bytes, {n_maps} map(s), {resident} resident, {anonymous_of_model} of them private; \
         anonymous in all {anonymous}, KV cache at most {kv}"
    );
    assert_eq!(n_maps, 1, "the file is mapped once");
    assert_eq!(anonymous_of_model, 0, "no page of the map was copied");
    assert!(
        resident * 10 >= file_len * 9 && resident <= file_len + 4096,
        "the weights are pages of the file"
    );
    assert!(anonymous <= ANONYMOUS_BYTES + kv, "{anonymous} bytes of anonymous memory");
}

/// Tests run at the same time.
static NEXT_GROUP: AtomicUsize = AtomicUsize::new(0);

/// A memory control group with a hard limit, v2 or v1; `None` where we may not make one.
struct MemoryGroup {
    path: PathBuf,
    join: PathBuf,
    limit: &'static str,
    peak: &'static str,
}

impl MemoryGroup {
    fn new(limit: u64) -> Option<MemoryGroup> {
        let number = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
        let name = format!("rawrz-test-{}-{number}", std::process::id());
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        let (parent, limit_name, join, peak) = if controllers.split_whitespace().any(|c| c == "memory") {
            let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
            (v2.to_path_buf(), "memory.max", "cgroup.procs", "memory.peak")
        } else {
            (v2.join("memory"), "memory.limit_in_bytes", "tasks", "memory.max_usage_in_bytes")
        };
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        let group = MemoryGroup { join: path.join(join), path, limit: limit_name, peak };
        group.set_limit(limit).ok()?;
        let _ = fs::write(group.path.join("memory.swap.max"), "0");
        Some(group)
    }

    fn set_limit(&self, limit: u64) -> std::io::Result<()> {
        fs::write(self.path.join(self.limit), limit.to_string())
    }

    /// A command that joins the group before it becomes `program`, so that every page counts.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"]).arg(&self.join).arg(program);
        command
    }

    /// Memory that the kernel can take from nobody: there is no swap.
    fn anonymous_bytes(&self) -> u64 {
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap();
        let line = |key| stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line("anon").or_else(|| line("rss")).unwrap().trim().parse().unwrap()
    }

    fn peak_bytes(&self) -> u64 {
        fs::read_to_string(self.path.join(self.peak)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Runs the program on a copy of `model` under a control group of `budget` bytes; the peak that the kernel saw and the
/// program's JSON. `None` where we may not make groups.
fn run_in_group(model: &str, budget: u64) -> Option<(u64, serde_json::Value)> {
    // A copy of our own, out of the page cache: pages that others read in are not counted to the group.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("model.gguf");
    fs::copy(common::model(model), &copy).unwrap();
    fs::File::open(&copy).unwrap().sync_all().unwrap();
    let rawrz = env!("CARGO_BIN_EXE_rawrz");
    let Some(group) = MemoryGroup::new(budget) else {
        println!("skipped: making a memory control group takes root");
        return None;
    };
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let output = group
        .command(rawrz)
        .arg("run")
        .arg(&copy)
        .args(["-p", "Name three colours.", "-n", "16", "--temp", "0", "--ctx", "512", "--json"])
        .args(["--memory", &budget.to_string()])
        .output()
        .unwrap();
    let peak = group.peak_bytes();
    println!("{model}: budget {budget}, peak that the kernel saw {peak}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(peak <= budget);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!answer["text"].as_str().unwrap().is_empty());
    Some((peak, answer))
}

#[test]
fn the_budget_is_a_ceiling_that_the_system_enforces() {
    if let Some((peak, _)) = run_in_group("smollm2", 160 << 20) {
        assert!(peak > 64 << 20, "the weights count too");
    }
}

#[test]
fn a_model_larger_than_the_budget_answers_as_it_does_in_memory() {
    let options = OpenOptions { ctx_len: Some(512), ..OpenOptions::default() };
    let floor = Engine::floor(&common::model("qwen"), &options).unwrap().total_bytes();
    let Some((_, whole)) = run_in_group("qwen", 900 << 20) else { return };
    for budget in [floor, 192 << 20] {
        let (_, answer) = run_in_group("qwen", budget).unwrap();
        assert_eq!(answer["tokens"], whole["tokens"]);
    }
}

/// Runs qwen with `args` in a group of 1 GiB that is `cut` when the first text came. `None` where we may not make
/// or cut groups.
fn run_while_cut(
    args: &[&str],
    cut: impl FnOnce(&MemoryGroup) -> std::io::Result<()>,
) -> Option<(Option<i32>, String, String)> {
    let Some(group) = MemoryGroup::new(1 << 30) else {
        println!("skipped: making a memory control group takes root");
        return None;
    };
    let mut child = group
        .command(env!("CARGO_BIN_EXE_rawrz"))
        .arg("run")
        .arg(common::model("qwen"))
        .args(["--raw", "-p", "Once upon a time", "--temp", "0", "--threads", "2"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0];
    stdout.read_exact(&mut text).unwrap();
    // The kernel refuses what cannot be had by giving back pages of files.
    let cut = cut(&group);
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    if let Err(error) = cut {
        println!("skipped: the group cannot be cut: {error}");
        return None;
    }
    let text = String::from_utf8(text).unwrap();
    Some((output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_group_that_is_cut_while_the_model_runs_changes_no_text_or_is_an_error() {
    // Mapped weights are the page cache's: it gives back what the limit takes.
    let Some((code, whole, _)) = run_while_cut(&["-n", "120", "--ctx", "512"], |_| Ok(())) else { return };
    assert_eq!(code, Some(0));
    if let Some((code, text, stderr)) =
        run_while_cut(&["-n", "120", "--ctx", "512"], |group| group.set_limit(400 << 20))
    {
        assert_eq!((code, text), (Some(0), whole.clone()), "{stderr}");
    }
    // A context of 32,768 tokens takes 384 MiB when it is filled, which the limit has no room for any more.
    let cut = |group: &MemoryGroup| group.set_limit(300 << 20);
    if let Some((code, text, stderr)) = run_while_cut(&["-n", "120", "--ctx", "32768"], cut) {
        assert_eq!(code, Some(1), "{stderr}");
        assert!(whole.starts_with(text.trim_end()), "what came before is right: {text}");
        assert!(stderr.contains("this process may use 300.0 MiB now, but the model needs"), "{stderr}");
    }
}

#[test]
fn a_group_that_is_cut_step_by_step_gets_weights_back_that_were_kept_of_a_streamed_model() {
    let Some((_, whole, _)) = run_while_cut(&["-n", "250", "--ctx", "512"], |_| Ok(())) else { return };
    const STEP: u64 = 24 << 20;
    const LEEWAY: u64 = 4 << 20;
    // What is kept cannot be had by the kernel: a step comes within reach when the model has followed the one before.
    let cut = |group: &MemoryGroup| {
        let deadline = Instant::now() + Duration::from_secs(60);
        let first = group.anonymous_bytes() + LEEWAY;
        (0..4).try_for_each(|step| {
            let limit = first - step * STEP;
            while group.anonymous_bytes() + LEEWAY > limit {
                assert!(Instant::now() < deadline, "the model keeps {}: {limit}", group.anonymous_bytes());
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("step {step}: {} bytes, cut to {limit}", group.anonymous_bytes());
            assert!(group.anonymous_bytes() > 50 << 20, "the model still runs");
            group.set_limit(limit)
        })
    };
    let args = ["-n", "250", "--ctx", "512", "--memory", "300MiB"];
    if let Some((code, text, stderr)) = run_while_cut(&args, cut) {
        assert_eq!((code, text), (Some(0), whole), "{stderr}");
    }
}
