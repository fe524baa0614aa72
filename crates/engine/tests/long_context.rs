//! Long contexts with most of the KV cache in a file: the same bits as in memory, and every fault an error.

use rawrz_engine::{Cancel, Engine, KvType, OpenError, OpenOptions, RunError, Session};
use rawrz_model::PassError;
use rawrz_residency::{FaultyStorage, ScratchFile, SpillFault};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Two layers, two heads of 32; 262,144 tokens of context.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/long/llama-262144.gguf")
}

/// Far more than what is filled, so that the smallest budgets do not hold the cache: they are drawn up before it is known
/// how little the tokenizer takes.
const CONTEXT: usize = 16_384;

fn tokens(n: usize) -> Vec<u32> {
    (0..n).map(|i| 5 + (i * i / 3 + i * 7) as u32 % 250).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

fn options(ctx_len: usize, threads: usize) -> OpenOptions {
    OpenOptions { ctx_len: Some(ctx_len), threads: Some(threads), ..OpenOptions::default() }
}

/// An engine whose sessions keep as little of their caches in memory as works, plus `extra_bytes`.
fn open_spilled(folder: &Path, options: OpenOptions, extra_bytes: u64) -> Arc<Engine> {
    let kv_type = Some(options.kv_type.unwrap_or(KvType::F16));
    let options = OpenOptions { kv_spill: Some(folder.to_owned()), kv_type, ..options };
    let floor = Engine::floor(&model(), &options).unwrap().total_bytes();
    let options = OpenOptions { memory_bytes: Some(floor + extra_bytes), ..options };
    let engine = Engine::open(&model(), &options).unwrap();
    assert!(engine.kv_spill().is_some() && engine.ledger().total_bytes() <= floor + extra_bytes);
    engine
}

/// Logits after `prompt`, and after each of `more` that come one by one.
fn run(session: &mut Session, prompt: &[u32], more: &[u32]) -> Vec<Vec<u32>> {
    let none = Cancel::default();
    let mut all = prompt.to_vec();
    session.sync(&all, &none).unwrap();
    let mut results = vec![bits(session.logits())];
    for token in more {
        all.push(*token);
        session.sync(&all, &none).unwrap();
        results.push(bits(session.logits()));
    }
    results
}

#[test]
fn a_cache_that_is_mostly_in_a_file_gives_the_same_bits() {
    const N: usize = 6000;
    let folder = tempfile::tempdir().unwrap();
    let (all, more) = (tokens(N), tokens(6));
    let mut needle = all.clone();
    needle[700] = 3;
    let plain = Engine::open(&model(), &options(CONTEXT, 2)).unwrap();
    assert!(plain.kv_spill().is_none());
    let expected = run(&mut Session::new(&plain).unwrap(), &all, &more);
    let expected_needle = run(&mut Session::new(&plain).unwrap(), &needle, &more);
    for (i, (a, b)) in expected.iter().zip(&expected_needle).enumerate() {
        assert!(a != b, "{i}: the token at 700 is attended to from 6000");
    }
    let mut most = 0;
    for (extra_bytes, threads) in [(0, 2), (0, 1), (1 << 20, 3)] {
        let engine = open_spilled(folder.path(), options(CONTEXT, threads), extra_bytes);
        let resident = engine.kv_spill().unwrap().resident_len();
        println!("{resident} of {N} tokens in memory, {} at a time", engine.batch_len());
        assert!(resident < N / 2 && (extra_bytes > 0 || resident == 0));
        most = most.max(resident);
        let mut session = Session::new(&engine).unwrap();
        assert!(run(&mut session, &all, &more) == expected, "{resident} resident, {threads} threads");
        assert!(run(&mut session, &needle, &more) == expected_needle, "{resident}, {threads} threads");
        // Back into the middle of what is in the file, and on.
        session.sync(&all[..3000], &Cancel::default()).unwrap();
        assert!(run(&mut session, &all, &more) == expected, "{resident} resident, {threads} threads");
    }
    assert!(most > 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Pages that were read ahead while a fault was set fail when they are wanted, once each.
fn sync_at_last(session: &mut Session, tokens: &[u32]) {
    let is_done = (0..20).any(|_| session.sync(tokens, &Cancel::default()).is_ok());
    assert!(is_done, "faults end when none is set");
}

#[test]
fn every_fault_of_the_file_at_every_moment_is_an_error_and_the_session_goes_on() {
    use SpillFault::*;
    let folder = tempfile::tempdir().unwrap();
    let engine = open_spilled(folder.path(), options(CONTEXT, 2), 0);
    let none = Cancel::default();
    let all = tokens(2600);
    let storage = || {
        let file = ScratchFile::create(folder.path()).unwrap();
        Arc::new(FaultyStorage::new(file, Duration::from_micros(100)))
    };
    let file = storage();
    let mut session = Session::with_storage(&engine, Box::new(Arc::clone(&file))).unwrap();
    session.sync(&all, &none).unwrap();
    let expected = bits(session.logits());
    let (mut n_reads, mut n_writes) = (0, 0);
    // A pass over the rest reads and writes fewer pages than this.
    for after in 0..16 {
        for fault in [
            ReadError { after },
            ShortRead { after },
            ReadPanic { after },
            DiskFull { after },
            ShortWrite { after },
        ] {
            // A common prefix that ends in a segment that is in the file.
            let mut other = all[..1800].to_vec();
            other.push(4);
            file.inject(None);
            sync_at_last(&mut session, &other);
            file.inject(Some(fault));
            let result = session.sync(&all, &none);
            let struck = file.n_struck() > 0;
            match &result {
                Err(RunError::Pass(PassError::Spill(error))) => {
                    assert!(struck, "{fault:?}: {error}");
                    let is_write = matches!(fault, DiskFull { .. } | ShortWrite { .. });
                    *(if is_write { &mut n_writes } else { &mut n_reads }) += 1;
                    assert!(session.logits().is_empty(), "{fault:?}: logits of a failed pass");
                    let held = session.tokens();
                    assert!(
                        held.len() >= 1800 && held.len() < all.len() && all.starts_with(held),
                        "{fault:?}"
                    );
                }
                Err(error) => panic!("{fault:?}: {error}"),
                Ok(_) => assert!(bits(session.logits()) == expected, "{fault:?}"),
            }
            file.inject(None);
            sync_at_last(&mut session, &all);
            assert!(bits(session.logits()) == expected, "{fault:?}");
        }
    }
    println!("{n_reads} reads and {n_writes} writes failed");
    assert!(n_reads >= 30 && n_writes >= 4);
    drop(session);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_slow_disk_costs_time_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open_spilled(folder.path(), options(CONTEXT, 2), 0);
    let all = tokens(2100);
    let plain = Engine::open(&model(), &options(CONTEXT, 2)).unwrap();
    let expected = run(&mut Session::new(&plain).unwrap(), &all, &tokens(2));
    let file = ScratchFile::create(folder.path()).unwrap();
    let slow = FaultyStorage::new(file, Duration::from_millis(20));
    let mut session = Session::with_storage(&engine, Box::new(slow)).unwrap();
    assert!(run(&mut session, &all, &tokens(2)) == expected);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_of_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open_spilled(&folder.path().join("missing"), options(CONTEXT, 2), 0);
    let error = Session::new(&engine).err().unwrap();
    assert!(matches!(&error, RunError::Pass(PassError::Spill(_))), "{error}");
    std::fs::create_dir(folder.path().join("missing")).unwrap();
    Session::new(&engine).unwrap();
}

#[test]
fn a_context_that_does_not_fit_as_f16_is_held_as_q8_0_unless_a_type_was_chosen() {
    let ctx_len = 65_536;
    let with = |memory_bytes, kv_type, kv_spill| {
        let options =
            OpenOptions { memory_bytes: Some(memory_bytes), kv_type, kv_spill, ..options(ctx_len, 2) };
        Engine::open(&model(), &options)
    };
    let roomy = with(1 << 30, None, None).unwrap();
    assert_eq!(roomy.kv_type(), KvType::F16);
    let needed = roomy.ledger().total_bytes();
    let kv_bytes = roomy.ledger().bytes("KV cache");
    let tight = needed - kv_bytes / 4;
    let engine = with(tight, None, None).unwrap();
    assert_eq!((engine.kv_type(), engine.context_len()), (KvType::Q8_0, ctx_len));
    assert!(engine.ledger().total_bytes() <= tight);
    assert!(matches!(with(tight, Some(KvType::F16), None), Err(OpenError::Budget(_))));
    assert!(matches!(with(needed - kv_bytes * 3 / 4, None, None), Err(OpenError::Budget(_))));
    // With a folder f16 fits, and q8_0 is not what nobody chose.
    for kv_type in [Some(KvType::F16), None] {
        let spilled = with(tight, kv_type, Some(std::env::temp_dir())).unwrap();
        assert!(spilled.kv_type() == KvType::F16 && spilled.ledger().total_bytes() <= tight);
        assert!(spilled.kv_spill().unwrap().resident_len() > ctx_len / 4);
    }
    // Nobody asked for this context: it gets shorter, and stays f16.
    let options = OpenOptions { memory_bytes: Some(tight), ctx_len: None, ..options(1, 2) };
    assert_eq!(Engine::open(&model(), &options).unwrap().kv_type(), KvType::F16);
}

#[test]
fn with_a_folder_and_no_context_asked_for_it_is_the_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions { ctx_len: None, ..options(1, 2) };
    assert_eq!(Engine::open(&model(), &options).unwrap().context_len(), 4096);
    let engine = open_spilled(folder.path(), options, 0);
    assert_eq!(engine.context_len(), 262_144);
    Session::new(&engine).unwrap().sync(&tokens(700), &Cancel::default()).unwrap();
}

/// The whole context; minutes. `benches/long-context` does the same through the program, under a memory limit.
#[test]
#[ignore = "takes minutes: cargo test --release -p rawrz-engine --test long_context -- --ignored --nocapture"]
fn the_whole_context_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let all = tokens(262_000);
    let timed = |engine: &Arc<Engine>| {
        let started = Instant::now();
        let results = run(&mut Session::new(engine).unwrap(), &all, &tokens(4));
        println!("{:?}: {}", started.elapsed(), engine.ledger());
        results
    };
    let expected = timed(&Engine::open(&model(), &options(262_144, 2)).unwrap());
    assert!(timed(&open_spilled(folder.path(), options(262_144, 2), 0)) == expected);
}
