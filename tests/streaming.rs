//! Placement changes speed, never tokens: real models mapped, streamed at the smallest budget, and half pinned.

mod common;

use rawrz_engine::{Cancel, Engine, OpenOptions, RunError, Session};
use rawrz_residency::{Fault, FaultySource, Source};
use std::path::Path;
use std::sync::Arc;

const CTX: usize = 256;

fn options(memory_bytes: Option<u64>) -> OpenOptions {
    OpenOptions { memory_bytes, ctx_len: Some(CTX), threads: Some(2), ..OpenOptions::default() }
}

/// Tokens all over the vocabulary.
fn tokens(engine: &Engine, n: usize) -> Vec<u32> {
    let vocab_len = engine.config().vocab_len as u64;
    (0..n as u64).map(|i| ((i * 7919 + 13) % vocab_len) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Bits of the logits after a prompt of 70 tokens, which is several batches where memory is tight, and after each of
/// three tokens more.
fn logits(engine: &Arc<Engine>) -> Vec<Vec<u32>> {
    let mut session = Session::new(engine).unwrap();
    let tokens = tokens(engine, 73);
    (70..=73)
        .map(|n| {
            session.sync(&tokens[..n], &Cancel::default()).unwrap();
            bits(session.logits())
        })
        .collect()
}

fn same_at_every_budget(path: &Path) {
    let mapped = Engine::open(path, &options(None)).unwrap();
    assert!(mapped.placement().is_none());
    let expected = logits(&mapped);
    drop(mapped);
    let floor = Engine::floor(path, &options(None)).unwrap().total_bytes();
    let weights = std::fs::metadata(path).unwrap().len();
    for budget in [floor, floor + weights / 2] {
        let engine = Engine::open(path, &options(Some(budget))).unwrap();
        let placement = engine.placement().expect("the weights do not fit");
        println!(
            "{}: budget {budget}, pinned {}, streamed {}",
            path.display(),
            placement.pinned_bytes,
            placement.streamed_bytes
        );
        assert!(placement.streamed_bytes > weights / 4);
        assert!(engine.ledger().total_bytes() <= budget);
        assert!(logits(&engine) == expected, "{}: other logits at {budget} bytes", path.display());
    }
    let error = Engine::open(path, &options(Some(floor - 1))).err().expect("below the floor").to_string();
    assert!(error.contains("below the floor"), "{error}");
}

#[test]
fn smollm2_gives_the_same_logits_at_every_budget() {
    same_at_every_budget(&common::model("smollm2"));
}

#[test]
fn qwen_gives_the_same_logits_at_every_budget() {
    same_at_every_budget(&common::model("qwen"));
}

#[test]
fn gemma_gives_the_same_logits_at_every_budget() {
    same_at_every_budget(&common::model("gemma"));
}

#[test]
fn a_fault_while_streaming_is_an_error_of_its_pass_and_nothing_is_lost() {
    let path = common::model("smollm2");
    let floor = Engine::floor(&path, &options(None)).unwrap().total_bytes();
    let mut handle = None;
    let wrap = |source: Arc<dyn Source>| -> Arc<dyn Source> {
        let source = Arc::new(FaultySource::new(source));
        handle = Some(Arc::clone(&source));
        source
    };
    let engine = Engine::open_through(&path, &options(Some(floor)), wrap).unwrap();
    assert!(engine.placement().is_some());
    let source = handle.unwrap();
    let none = Cancel::default();
    let all = tokens(&engine, 24);
    let mut session = Session::new(&engine).unwrap();
    session.sync(&all, &none).unwrap();
    let expected = bits(session.logits());
    let moments = (0..600).step_by(23);
    let of_moment =
        |after| [Fault::ReadError { after }, Fault::ShortRead { after }, Fault::WhileHeld { after }];
    let mut n_faults = 0;
    for fault in moments.flat_map(of_moment).chain([Fault::AtBegin, Fault::AtEnd]) {
        session.sync(&all[..1], &none).unwrap();
        session.sync(&all[..8], &none).unwrap();
        source.inject(fault);
        let result = session.sync(&all, &none);
        if source.is_pending() {
            // Beyond the last lease of the pass: let it strike before the next one is set.
            while source.is_pending() {
                session.sync(&all[..2], &none).ok();
                session.sync(&all[..1], &none).ok();
            }
            continue;
        }
        n_faults += 1;
        assert!(matches!(result, Err(RunError::Pass(_))), "{fault:?}: {result:?}");
        assert!(session.logits().is_empty(), "{fault:?}: logits of a failed pass");
        session.sync(&all, &none).unwrap();
        assert_eq!(bits(session.logits()), expected, "{fault:?}");
    }
    assert!(n_faults > 30, "{n_faults} faults struck");
}

#[test]
fn a_budget_that_is_cut_while_the_model_runs_changes_no_logits() {
    let path = common::model("smollm2");
    let floor = Engine::floor(&path, &options(None)).unwrap().total_bytes();
    let engine = Engine::open(&path, &options(Some(floor + (60 << 20)))).unwrap();
    let expected = logits(&engine);
    let before = engine.placement().unwrap();
    engine.lower_budget(floor + (30 << 20)).unwrap();
    let after = engine.placement().unwrap();
    assert!(after.pinned_bytes + (25 << 20) < before.pinned_bytes);
    assert!(after.streamed_bytes > before.streamed_bytes);
    assert!(logits(&engine) == expected);
    // Below what it can do with: refused, and everything goes on as before.
    assert!(matches!(engine.lower_budget(floor / 2), Err(RunError::BudgetCut { .. })));
    assert!(logits(&engine) == expected);
    assert_eq!(engine.budget_bytes(), floor + (30 << 20));
}
