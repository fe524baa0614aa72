//! Engine and sessions on a tiny model: reuse, cancelling, budgets, and every fault at every moment.

use rawrz_engine::{
    Cancel, Engine, Event, FinishReason, GenerateOptions, KvType, OpenError, OpenOptions, RunError,
};
use rawrz_engine::{Sampler, SamplerOptions, Session, SyncStats, generate};
use rawrz_residency::{Fault, FaultySource, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONTEXT: usize = 64;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/llama-linear.gguf")
}

fn options() -> OpenOptions {
    OpenOptions { ctx_len: Some(CONTEXT), threads: Some(2), ..OpenOptions::default() }
}

fn open() -> Arc<Engine> {
    Engine::open(&tiny(), &options()).unwrap()
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 5 + i * 7 % 200).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

#[test]
fn a_common_prefix_is_reused_and_changes_no_bit() {
    let engine = open();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    let stats = session.sync(&tokens(20), &none).unwrap();
    assert_eq!(stats, SyncStats { reused: 0, computed: 20 });
    let first = bits(session.logits());
    assert_eq!(session.sync(&tokens(20), &none).unwrap(), SyncStats { reused: 20, computed: 0 });
    let mut other = tokens(20);
    other[12] = 3;
    assert_eq!(session.sync(&other, &none).unwrap(), SyncStats { reused: 12, computed: 8 });
    assert_ne!(bits(session.logits()), first);
    assert_eq!(session.sync(&tokens(20), &none).unwrap(), SyncStats { reused: 12, computed: 8 });
    assert_eq!(bits(session.logits()), first);
    // A shorter timeline needs its last token again for the logits.
    assert_eq!(session.sync(&tokens(10), &none).unwrap(), SyncStats { reused: 9, computed: 1 });
    assert_eq!(session.tokens(), tokens(10));
}

#[test]
fn scores_are_the_logits_of_each_position() {
    let engine = open();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    let all = tokens(30);
    let mut scored = Vec::new();
    session.score(&all, 11, &mut |position, logits| scored.push((position, bits(logits))), &none).unwrap();
    assert_eq!(scored.iter().map(|s| s.0).collect::<Vec<_>>(), (11..30).collect::<Vec<_>>());
    for (position, logits) in scored {
        session.sync(&all[..=position], &none).unwrap();
        assert_eq!(bits(session.logits()), logits, "position {position}");
    }
}

/// One head of 64, so that every type of cache fits; more than one block of positions.
fn open_wide(kv_type: KvType, threads: usize) -> Result<Arc<Engine>, OpenError> {
    let path = tiny().with_file_name("gemma3-global.gguf");
    let options = OpenOptions {
        ctx_len: Some(72),
        threads: Some(threads),
        kv_type: Some(kv_type),
        ..OpenOptions::default()
    };
    Engine::open(&path, &options)
}

#[test]
fn every_type_of_cache_gives_the_same_bits_for_every_batch() {
    let none = Cancel::default();
    let mut kv_bytes = Vec::new();
    for kv_type in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        let engine = open_wide(kv_type, 2).unwrap();
        kv_bytes.push(engine.ledger().bytes("KV cache"));
        let mut session = Session::new(&engine).unwrap();
        session.sync(&tokens(72), &none).unwrap();
        let at_once = bits(session.logits());
        // Back to where the first block of positions is not full, and on one by one.
        session.sync(&tokens(50), &none).unwrap();
        for n in 51..=72 {
            session.sync(&tokens(n), &none).unwrap();
        }
        assert_eq!(bits(session.logits()), at_once, "{kv_type}");
        let mut other = Session::new(&open_wide(kv_type, 1).unwrap()).unwrap();
        other.sync(&tokens(72), &none).unwrap();
        assert_eq!(bits(other.logits()), at_once, "{kv_type}");
    }
    // Of so short a context, rounded up to whole pages.
    assert!(kv_bytes[0] > kv_bytes[1] * 15 / 10 && kv_bytes[1] > kv_bytes[2] * 15 / 10, "{kv_bytes:?}");
}

#[test]
fn a_quantized_cache_stays_close_and_is_refused_where_it_does_not_fit() {
    let none = Cancel::default();
    let mut logits = Vec::new();
    for kv_type in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        let mut session = Session::new(&open_wide(kv_type, 2).unwrap()).unwrap();
        session.sync(&tokens(72), &none).unwrap();
        logits.push(session.logits().to_vec());
    }
    let error = |other: &[f32]| {
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
        let difference = squares(&mut logits[0].iter().zip(other).map(|(a, b)| a - b));
        (difference / squares(&mut logits[0].iter().copied())).sqrt()
    };
    let (q8_0, q4_0) = (error(&logits[1]), error(&logits[2]));
    println!("relative error of the logits: q8_0 {q8_0}, q4_0 {q4_0}");
    assert!(q8_0 > 0.0 && q8_0 < 0.02, "{q8_0}");
    assert!(q4_0 > q8_0 && q4_0 < 0.3, "{q4_0}");
    // Heads of 16.
    let refused = Engine::open(&tiny(), &OpenOptions { kv_type: Some(KvType::Q8_0), ..options() });
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("q8_0") && text.contains("16"), "{text}");
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let engine = open();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    assert!(matches!(session.sync(&[], &none), Err(RunError::EmptyPrompt)));
    let long = session.sync(&tokens(CONTEXT as u32 + 1), &none);
    assert!(matches!(long, Err(RunError::PromptTooLong { n_tokens: 65, context_len: CONTEXT })));
    assert!(matches!(session.sync(&[100_000], &none), Err(RunError::Pass(_))));
    session.sync(&tokens(CONTEXT as u32), &none).unwrap();
}

#[test]
fn generation_ends_for_each_reason() {
    let engine = open();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    let greedy = |max_tokens| GenerateOptions {
        max_tokens,
        sampler: SamplerOptions::greedy(),
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let mut streamed = String::new();
    let mut prompt = Vec::new();
    let mut on_event = |event: Event<'_>| match event {
        Event::Prompt { done, total } => prompt.push((done, total)),
        Event::Text(text) => streamed.push_str(text),
    };
    let made = generate(&mut session, &tokens(4), &greedy(12), &none, &mut on_event).unwrap();
    assert_eq!(prompt, [(0, 4), (4, 4)]);
    assert_eq!((made.finish, made.tokens.len()), (FinishReason::MaxTokens, 12));
    assert_eq!(made.text, streamed);
    let full = generate(&mut session, &tokens(4), &greedy(1000), &none, &mut |_| ()).unwrap();
    assert_eq!(full.finish, FinishReason::ContextFull);
    assert_eq!(full.tokens.len(), CONTEXT - 4 + 1, "the last token needs no place of its own");
    assert_eq!(full.tokens[..12], made.tokens);
    assert_eq!(full.reused_tokens, 3, "the prompt is in the cache but for its last token");

    let stop = full.text.chars().skip(5).take(3).collect::<String>();
    let options = GenerateOptions { stop: vec![stop.clone()], ..greedy(1000) };
    let stopped = generate(&mut session, &tokens(4), &options, &none, &mut |_| ()).unwrap();
    assert_eq!(stopped.finish, FinishReason::Stop);
    assert_eq!(stopped.text, full.text[..full.text.find(&stop).unwrap()]);

    let cancel = Cancel::default();
    cancel.cancel();
    let cancelled = generate(&mut session, &tokens(9), &greedy(5), &cancel, &mut |_| ()).unwrap();
    assert_eq!(cancelled.finish, FinishReason::Cancelled);
    assert!(cancelled.tokens.is_empty());
}

#[test]
fn a_budget_is_checked_before_and_holds_for_all_sessions() {
    let with =
        |memory_bytes| Engine::open(&tiny(), &OpenOptions { memory_bytes: Some(memory_bytes), ..options() });
    let Err(OpenError::Budget(refusal)) = with(1) else { panic!("a budget of one byte is refused") };
    let floor = refusal.ledger.total_bytes();
    let error = with(floor - 1).err().unwrap();
    assert!(matches!(error, OpenError::Budget(_)));
    let text = error.to_string();
    assert!(text.contains("weights") && text.contains("KV cache") && text.contains("scratch"), "{text}");
    // Planned before it is known how little the tokenizer takes, so there is room for some sessions.
    let engine = with(floor).unwrap();
    let fixed = engine.ledger().total_bytes() - engine.ledger().bytes("KV cache");
    let n_fit = (floor - fixed) / engine.ledger().bytes("KV cache");
    let mut sessions: Vec<_> = (0..n_fit).map(|_| Session::new(&engine).unwrap()).collect();
    assert!(!sessions.is_empty() && matches!(Session::new(&engine), Err(RunError::Budget { .. })));
    sessions.pop();
    Session::new(&engine).unwrap();
}

#[test]
fn options_without_sense_are_refused() {
    for bad in [
        OpenOptions { threads: Some(0), ..OpenOptions::default() },
        OpenOptions { ctx_len: Some(0), ..OpenOptions::default() },
        OpenOptions { ctx_len: Some(1 << 40), ..OpenOptions::default() },
    ] {
        assert!(matches!(Engine::open(&tiny(), &bad), Err(OpenError::Option { .. })));
    }
}

#[test]
fn every_fault_at_every_moment_is_an_error_and_nothing_is_lost() {
    for path in [tiny(), tiny().with_file_name("qwen3moe.gguf")] {
        inject_every_fault(&path);
    }
}

fn inject_every_fault(path: &Path) {
    let mut handle = None;
    let wrap = |source: Arc<dyn Source>| -> Arc<dyn Source> {
        let source = Arc::new(FaultySource::new(source));
        handle = Some(Arc::clone(&source));
        source
    };
    let engine = Engine::open_through(path, &options(), wrap).unwrap();
    let source = handle.unwrap();
    let none = Cancel::default();
    let mut session = Session::new(&engine).unwrap();
    session.sync(&tokens(24), &none).unwrap();
    let expected = bits(session.logits());

    let mut n_faults = 0;
    let mut faults = vec![Fault::AtBegin, Fault::AtEnd];
    for after in 0.. {
        // The moments of a pass are used up when a fault set beyond its last lease does not strike.
        source.inject(Fault::ReadError { after });
        session.sync(&tokens(8), &none).ok();
        if session.sync(&tokens(24), &none).is_ok() && source.is_pending() {
            break;
        }
        faults.extend([Fault::ReadError { after }, Fault::ShortRead { after }, Fault::WhileHeld { after }]);
        if after > 2000 {
            panic!("a pass of a tiny model does not take so many leases");
        }
    }
    for fault in faults {
        source.inject(Fault::AtBegin);
        session.sync(&tokens(1), &none).ok();
        session.sync(&tokens(8), &none).unwrap();
        source.inject(fault);
        let result = session.sync(&tokens(24), &none);
        if source.is_pending() {
            continue;
        }
        assert!(matches!(result, Err(RunError::Pass(_))), "{fault:?}: {result:?}");
        assert!(session.logits().is_empty(), "{fault:?}: logits of a failed pass");
        assert_eq!(session.tokens(), tokens(8), "{fault:?}");
        let stats = session.sync(&tokens(24), &none).unwrap();
        assert_eq!(stats, SyncStats { reused: 8, computed: 16 }, "{fault:?}");
        assert_eq!(bits(session.logits()), expected, "{fault:?}");
        n_faults += 1;
    }
    println!("{n_faults} faults injected");
    assert!(n_faults > 100);
}

#[cfg(unix)]
#[test]
fn a_model_truncated_while_it_runs_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::copy(tiny(), &path).unwrap();
    let engine = Engine::open(&path, &options()).unwrap();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    session.sync(&tokens(4), &none).unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    let error = session.sync(&tokens(9), &none).unwrap_err();
    assert!(matches!(error, RunError::Pass(_)), "{error}");
    assert!(session.sync(&tokens(9), &none).is_err(), "the file stays refused");
}

#[test]
fn raw_byte_parts_open_as_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(tiny()).unwrap();
    let engine = open();
    let mut session = Session::new(&engine).unwrap();
    let none = Cancel::default();
    session.sync(&tokens(12), &none).unwrap();
    let expected = bits(session.logits());
    // Odd sizes: parts end inside the header, inside rows, inside blocks.
    for part_len in [1001, 7919, 40_009] {
        let folder = dir.path().join(part_len.to_string());
        std::fs::create_dir(&folder).unwrap();
        for (i, part) in bytes.chunks(part_len).enumerate() {
            std::fs::write(folder.join(format!("m.gguf.part{i:02}")), part).unwrap();
        }
        let engine = Engine::open(&folder.join("m.gguf.part00"), &options()).unwrap();
        let mut session = Session::new(&engine).unwrap();
        session.sync(&tokens(12), &none).unwrap();
        assert_eq!(bits(session.logits()), expected, "parts of {part_len} bytes");
    }
}

#[test]
fn the_tokenizer_stays_below_what_the_ledger_counts() {
    let engine = open();
    assert!(engine.tokenizer().heap_bytes() as u64 <= engine.ledger().bytes("tokenizer"));
    let mut sampler = Sampler::new(&SamplerOptions::greedy());
    let logits = vec![0.0; engine.tokenizer().vocab_len()];
    assert_eq!(sampler.sample(&logits, &[]), 0);
}
