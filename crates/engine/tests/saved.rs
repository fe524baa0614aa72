//! Timelines that outlive the scheduler: a conversation goes on from the disk with the same bits, or is computed again.

use rawrz_engine::{
    Cancel, Engine, GenerateOptions, Generated, OpenOptions, Precision, Request, SamplerOptions,
    SavedOptions, Scheduler, SchedulerOptions, SchedulerStats, Update, Work,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A tiny model that says it was made for long texts.
fn write_model(path: &Path) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/llama-linear.gguf");
    let mut bytes = fs::read(tiny).unwrap();
    let key = b"llama.context_length";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    // Type 4 is u32.
    assert_eq!(bytes[at..at + 8], [4, 0, 0, 0, 128, 0, 0, 0]);
    bytes[at + 4..at + 8].copy_from_slice(&2048u32.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

fn open_as(path: &Path, precision: Precision) -> Arc<Engine> {
    let options = OpenOptions { ctx_len: Some(1600), threads: Some(2), precision, ..OpenOptions::default() };
    Engine::open(path, &options).unwrap()
}

fn start(engine: &Arc<Engine>, saved: &SavedOptions) -> Scheduler {
    let options = SchedulerOptions { saved: Some(saved.clone()), ..SchedulerOptions::default() };
    Scheduler::start(Arc::clone(engine), &options).unwrap()
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 5 + (i * 7 + seed * 31 + i * i % 11) % 200).collect()
}

fn ask(scheduler: &Scheduler, prompt: &[u32]) -> Generated {
    let (sender, receiver) = channel();
    let options = GenerateOptions {
        max_tokens: 8,
        sampler: SamplerOptions::greedy(),
        logprobs: Some(2),
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let request = Request {
        prompt: prompt.to_vec(),
        work: Work::Generate { options, constraint: None },
        client: 0,
        cancel: Cancel::default(),
        on_update: Box::new(move |update| sender.send(update).is_ok()),
    };
    scheduler.submit(request).unwrap();
    loop {
        match receiver.recv().unwrap() {
            Update::Generated(generated) => return generated,
            Update::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

fn assert_same(got: &Generated, expected: &Generated) {
    assert_eq!(got.tokens, expected.tokens);
    let bits =
        |of: &Generated| of.logprobs.iter().map(|step| step.chosen.logprob.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(expected));
}

/// Waits until the scheduler says so: it saves when it has nothing else to do.
fn wait(scheduler: &Scheduler, until: impl Fn(&SchedulerStats) -> bool) {
    let began = Instant::now();
    while !until(&scheduler.stats()) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", scheduler.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "kv")).collect()
}

struct Fixture {
    _dir: tempfile::TempDir,
    model: PathBuf,
    saved: SavedOptions,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("m.gguf");
        write_model(&model);
        let saved = SavedOptions { min_len: 16, ..SavedOptions::new(dir.path().join("saved")) };
        Fixture { _dir: dir, model, saved }
    }

    fn open(&self) -> Arc<Engine> {
        open_as(&self.model, Precision::Quantized)
    }
}

#[test]
fn a_conversation_goes_on_after_a_restart() {
    let f = Fixture::new();
    let engine = f.open();
    let plain = Scheduler::start(Arc::clone(&engine), &SchedulerOptions::default()).unwrap();
    // Within a segment, at its end, over two of them.
    for len in [40, 503, 520, 1100] {
        let first = prompt(len, len);
        let scheduler = start(&engine, &f.saved);
        let answer = ask(&scheduler, &first);
        let mut second = [&first[..], &answer.tokens, &prompt(1, 20)].concat();
        drop(scheduler);

        let scheduler = start(&engine, &f.saved);
        let got = ask(&scheduler, &second);
        // All but the last token that was made, which nothing was computed for, came from the disk.
        assert_eq!(got.reused_tokens, first.len() + 7, "{len}");
        assert_same(&got, &ask(&plain, &second));
        // Again, with what was added since.
        second.extend(&got.tokens);
        second.push(9);
        drop(scheduler);
        let got = ask(&start(&engine, &f.saved), &second);
        assert_eq!(got.reused_tokens, second.len() - 2, "{len}");
        assert_same(&got, &ask(&plain, &second));
    }
    assert_eq!(files(&f.saved.folder).len(), 4);
}

#[test]
fn it_saves_while_it_has_nothing_else_to_do_and_adds_what_is_new() {
    let f = Fixture::new();
    let engine = f.open();
    let scheduler = start(&engine, &f.saved);
    let first = prompt(1, 1030);
    let answer = ask(&scheduler, &first);
    wait(&scheduler, |stats| stats.n_saved == 1);
    let path = files(&f.saved.folder).pop().unwrap();
    let len = fs::metadata(&path).unwrap().len();
    ask(&scheduler, &[&first[..], &answer.tokens, &[7, 8, 9]].concat());
    wait(&scheduler, |_| fs::metadata(&path).is_ok_and(|now| now.len() > len));
    // Two segments of 512 tokens stay as they are, a little of the third is written.
    drop(scheduler);
    assert!(fs::metadata(&path).unwrap().len() < len + len / 10);
    assert_eq!(files(&f.saved.folder), [path]);
}

#[test]
fn damaged_files_are_computed_again_and_never_believed() {
    let f = Fixture::new();
    let engine = f.open();
    let first = prompt(3, 600);
    let expected = ask(&start(&engine, &f.saved), &first);
    let path = files(&f.saved.folder).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for (what, reused) in
        [("cut", 512), ("changed", 0), ("changed later", 512), ("empty", 0), ("not ours", 0)]
    {
        for path in files(&f.saved.folder) {
            fs::remove_file(path).unwrap();
        }
        let mut bytes = whole.clone();
        match what {
            "cut" => bytes.truncate(whole.len() - 1),
            "changed" => bytes[5000] ^= 1,
            "changed later" => *bytes.last_mut().unwrap() ^= 1,
            "empty" => bytes.clear(),
            _ => bytes = b"something else".repeat(1000),
        }
        fs::write(&path, &bytes).unwrap();
        let got = ask(&start(&engine, &f.saved), &first);
        assert_eq!(got.reused_tokens, reused, "{what}");
        assert_same(&got, &expected);
    }
}

#[test]
fn caches_of_another_model_or_kind_are_not_used() {
    let f = Fixture::new();
    let path = &f.model;
    let first = prompt(4, 100);
    ask(&start(&f.open(), &f.saved), &first);
    let again = ask(&start(&f.open(), &f.saved), &first);
    assert_eq!(again.reused_tokens, 99);
    // The same file, touched: it may have other weights.
    let later = std::time::SystemTime::now() + Duration::from_secs(9);
    fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    assert_eq!(ask(&start(&f.open(), &f.saved), &first).reused_tokens, 0);
    // Computed otherwise.
    assert_eq!(ask(&start(&open_as(path, Precision::Float), &f.saved), &first).reused_tokens, 0);
    assert_eq!(files(&f.saved.folder).len(), 1);
}

#[test]
fn the_least_recently_used_go_when_the_limit_is_reached() {
    let f = Fixture::new();
    let engine = f.open();
    ask(&start(&engine, &f.saved), &prompt(0, 300));
    let one = fs::metadata(files(&f.saved.folder).pop().unwrap()).unwrap().len();
    let saved = SavedOptions { max_bytes: one * 3, ..f.saved.clone() };
    for seed in 1..6 {
        ask(&start(&engine, &saved), &prompt(seed, 300));
        let total: u64 = files(&saved.folder).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(total <= saved.max_bytes);
    }
    let scheduler = start(&engine, &saved);
    assert_eq!(ask(&scheduler, &prompt(5, 300)).reused_tokens, 299);
    assert_eq!(ask(&scheduler, &prompt(0, 300)).reused_tokens, 0);
}

#[test]
fn a_second_process_is_told_and_short_texts_are_left() {
    let f = Fixture::new();
    let engine = f.open();
    let scheduler = start(&engine, &f.saved);
    let options = SchedulerOptions { saved: Some(f.saved.clone()), ..SchedulerOptions::default() };
    assert!(Scheduler::start(Arc::clone(&engine), &options).is_err());
    ask(&scheduler, &prompt(1, 5));
    drop(scheduler);
    assert!(files(&f.saved.folder).is_empty());
}

#[test]
fn a_disk_that_fails_costs_no_answer() {
    let f = Fixture::new();
    let engine = f.open();
    let scheduler = start(&engine, &f.saved);
    // What cannot be written to is no folder any more.
    fs::remove_dir_all(&f.saved.folder).unwrap();
    let first = prompt(1, 200);
    let answer = ask(&scheduler, &first);
    wait(&scheduler, |stats| stats.save_problem.is_some());
    assert_same(&ask(&scheduler, &first), &answer);
}
