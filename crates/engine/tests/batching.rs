//! Requests that share passes, on tiny models: each gives what it gives alone.

use rawrz_engine::{
    Cancel, Constraint, Engine, FinishReason, GenerateOptions, Generated, OpenOptions, Request, RunError,
    SamplerOptions, Scheduler, SchedulerOptions, Session, SubmitError, Update, Work, generate,
};
use rawrz_residency::{Fault, FaultySource, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny").join(name)
}

fn open(name: &str) -> Arc<Engine> {
    let options = OpenOptions { ctx_len: Some(64), threads: Some(2), ..OpenOptions::default() };
    Engine::open(&tiny(name), &options).unwrap()
}

fn start(engine: &Arc<Engine>, options: SchedulerOptions) -> Scheduler {
    Scheduler::start(Arc::clone(engine), &options).unwrap()
}

/// A prompt of its own for each `seed`; those of equal parity begin alike.
fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| if i < 6 { 5 + seed % 2 } else { 5 + (i * 7 + seed * 31) % 200 }).collect()
}

fn options(seed: u32, max_tokens: usize) -> GenerateOptions {
    let sampler = match seed % 3 {
        0 => SamplerOptions::greedy(),
        _ => SamplerOptions { seed: Some(u64::from(seed)), ..SamplerOptions::default() },
    };
    GenerateOptions { max_tokens, sampler, logprobs: Some(3), ignore_eog: true, ..GenerateOptions::default() }
}

/// Prompts and lengths of request `i`, different enough that texts begin and end among each other.
fn case(i: u32) -> (Vec<u32>, GenerateOptions) {
    (prompt(i, 3 + i * 11 % 40), options(i, 4 + (i as usize * 5) % 17))
}

fn alone(engine: &Arc<Engine>, i: u32) -> Generated {
    let (prompt, options) = case(i);
    let mut session = Session::new(engine).unwrap();
    generate(&mut session, &prompt, &options, &Cancel::default(), &mut |_| ()).unwrap()
}

/// A request that tells everything to the receiver.
fn request(prompt: Vec<u32>, work: Work, cancel: &Cancel) -> (Request, Receiver<Update>) {
    let (sender, receiver): (Sender<Update>, _) = channel();
    let on_update = Box::new(move |update| sender.send(update).is_ok());
    (Request { prompt, work, client: 0, cancel: cancel.clone(), on_update }, receiver)
}

fn generating(options: GenerateOptions) -> Work {
    Work::Generate { options, constraint: None }
}

fn submit(scheduler: &Scheduler, i: u32) -> Receiver<Update> {
    let (prompt, options) = case(i);
    let (request, receiver) = request(prompt, generating(options), &Cancel::default());
    scheduler.submit(request).unwrap();
    receiver
}

/// The end of a request, whose updates have to add up to it.
fn end(receiver: &Receiver<Update>) -> Result<Generated, RunError> {
    let (mut text, mut steps, mut told) = (String::new(), Vec::new(), 0);
    loop {
        match receiver.recv().expect("every request is told its end") {
            Update::Prompt { done, total } => {
                assert!(done >= told && done <= total);
                told = done;
            }
            Update::Text { text: piece, steps: of_piece } => {
                text.push_str(&piece);
                steps.extend(of_piece);
            }
            Update::Generated(generated) => {
                assert_eq!(generated.text, text);
                if generated.finish != FinishReason::Cancelled {
                    assert_eq!(generated.logprobs, steps);
                }
                return Ok(generated);
            }
            Update::Failed(error) => return Err(error),
            Update::Embedded { .. } => panic!("not asked for"),
        }
    }
}

fn assert_same(got: &Generated, expected: &Generated, what: &str) {
    assert_eq!(got.tokens, expected.tokens, "{what}");
    assert_eq!(got.text, expected.text, "{what}");
    assert_eq!(got.finish, expected.finish, "{what}");
    let bits = |of: &Generated| {
        let step =
            |step: &rawrz_engine::Step| (step.chosen.id, step.chosen.logprob.to_bits(), step.top.len());
        of.logprobs.iter().map(step).collect::<Vec<_>>()
    };
    assert_eq!(bits(got), bits(expected), "{what}");
}

#[test]
fn requests_that_share_passes_give_what_they_give_alone() {
    for name in ["llama-linear.gguf", "qwen3moe.gguf", "gemma3-window.gguf", "qwen2-tied.gguf"] {
        let engine = open(name);
        let expected: Vec<Generated> = (0..8).map(|i| alone(&engine, i)).collect();
        for n in 1..=8 {
            for max_idle in [0, 4] {
                let scheduler = start(&engine, SchedulerOptions { max_idle, ..SchedulerOptions::default() });
                let receivers: Vec<_> = (0..n).map(|i| submit(&scheduler, i)).collect();
                for (i, receiver) in receivers.iter().enumerate() {
                    assert_same(&end(receiver).unwrap(), &expected[i], &format!("{name}, {i} of {n}"));
                }
                let again = end(&submit(&scheduler, 7)).unwrap();
                assert_same(&again, &expected[7], &format!("{name}, once more after {n}"));
            }
        }
        assert_eq!(engine.kv_bytes_in_use(), 0, "all caches were given back");
    }
}

#[test]
fn what_a_prompt_has_in_common_with_earlier_ones_is_not_computed_again() {
    let engine = open("llama-linear.gguf");
    let scheduler = start(&engine, SchedulerOptions::default());
    let run = |tokens: &[u32]| {
        let (request, receiver) = request(tokens.to_vec(), generating(options(0, 2)), &Cancel::default());
        scheduler.submit(request).unwrap();
        end(&receiver).unwrap()
    };
    let first = run(&prompt(1, 50));
    assert_eq!(first.reused_tokens, 0);
    // Both go on from it, and so does a third after them, since what they did not need of it stayed.
    for seed in [3, 5, 7] {
        let mut other = prompt(1, 28);
        other.push(200 + seed);
        other.extend(prompt(seed, 12));
        assert_eq!(run(&other).reused_tokens, 28, "{seed}");
    }
    let again = run(&prompt(1, 50));
    assert_eq!(again.reused_tokens, 49, "the last token is run for what follows it");
    assert_eq!(again.tokens, first.tokens);
    assert_eq!(scheduler.stats().reused_tokens, 28 * 3 + 49);
}

#[test]
fn a_budget_that_is_too_small_for_all_makes_some_wait_and_changes_nothing() {
    let floor = {
        let options = OpenOptions { ctx_len: Some(64), threads: Some(2), ..OpenOptions::default() };
        Engine::floor(&tiny("llama-linear.gguf"), &options).unwrap().total_bytes()
    };
    let options = OpenOptions {
        ctx_len: Some(64),
        threads: Some(2),
        memory_bytes: Some(floor),
        ..OpenOptions::default()
    };
    let engine = Engine::open(&tiny("llama-linear.gguf"), &options).unwrap();
    let expected: Vec<Generated> = (0..8).map(|i| alone(&engine, i)).collect();
    let scheduler = start(&engine, SchedulerOptions::default());
    let receivers: Vec<_> = (0..40).map(|i| submit(&scheduler, i % 8)).collect();
    for (i, receiver) in receivers.iter().enumerate() {
        assert_same(&end(receiver).unwrap(), &expected[i % 8], &format!("request {i}"));
    }
    let room = floor - (engine.ledger().total_bytes() - engine.ledger().bytes("KV cache"));
    assert!(engine.kv_bytes_in_use() <= room);
}

/// An engine with room for three caches of 512 positions, and the bytes of those.
fn open_with_three_segments() -> (Arc<Engine>, u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/long/llama-262144.gguf");
    let options = OpenOptions { ctx_len: Some(512), threads: Some(2), ..OpenOptions::default() };
    let ledger = Engine::open(&path, &options).unwrap().ledger().clone();
    let segment_bytes = ledger.bytes("KV cache");
    let memory_bytes = Some(ledger.total_bytes() + 2 * segment_bytes);
    (Engine::open(&path, &OpenOptions { memory_bytes, ..options }).unwrap(), 3 * segment_bytes)
}

/// Submits them so that all are waiting when the first pass is planned, and gives what each made.
fn together(scheduler: &Scheduler, requests: Vec<(Vec<u32>, GenerateOptions)>) -> Vec<Generated> {
    let (go, wait) = channel::<()>();
    let on_update = Box::new(move |_| wait.recv().is_ok());
    let work = generating(options(0, 1));
    // Told that its prompt begins, it holds the worker.
    let gate = Request { prompt: prompt(0, 2), work, client: 0, cancel: Cancel::default(), on_update };
    scheduler.submit(gate).unwrap();
    let submit = |(prompt, options)| {
        let (request, receiver) = request(prompt, generating(options), &Cancel::default());
        scheduler.submit(request).unwrap();
        receiver
    };
    let receivers: Vec<_> = requests.into_iter().map(submit).collect();
    drop(go);
    receivers.iter().map(|receiver| end(receiver).unwrap()).collect()
}

#[test]
fn texts_share_passes_as_far_as_their_blocks_fit() {
    let (engine, room) = open_with_three_segments();
    let short = |i: u32| (prompt(i, 60), options(i, 40));
    let long = |i: u32| (prompt(i, 60 + i * 7), options(i, 250));
    let alone = |(prompt, options): (Vec<u32>, GenerateOptions)| {
        let mut session = Session::new(&engine).unwrap();
        generate(&mut session, &prompt, &options, &Cancel::default(), &mut |_| ()).unwrap()
    };
    let run = |cases: Vec<(Vec<u32>, GenerateOptions)>| {
        let expected: Vec<Generated> = cases.iter().cloned().map(alone).collect();
        let scheduler = start(&engine, SchedulerOptions::default());
        for (i, (got, expected)) in together(&scheduler, cases).iter().zip(&expected).enumerate() {
            assert_same(got, expected, &format!("{i} of eight"));
        }
        assert!((1..=room).contains(&engine.kv_bytes_in_use()), "idle caches, within the budget");
        let stats = scheduler.stats();
        drop(scheduler);
        assert_eq!(engine.kv_bytes_in_use(), 0);
        stats
    };
    // Eight caches of two blocks have room, where whole segments would have for three caches.
    let stats = run((0..8).map(short).collect());
    assert_eq!((stats.n_preempted, stats.made_tokens), (0, 8 * 40), "{stats:?}");
    assert!((40..50).contains(&stats.n_passes), "{stats:?}");
    // Eight of five or six blocks have not: the first go on, others wait, and nothing else changes.
    let stats = run((0..8).map(long).collect());
    assert!(stats.n_preempted > 0 && stats.n_passes < 3 * 250, "{stats:?}");
}

#[test]
fn a_full_queue_refuses_and_a_client_that_went_away_ends_its_request() {
    let engine = open("llama-linear.gguf");
    let options_of_one = SchedulerOptions { max_running: 1, max_queued: 1, max_idle: 0, saved: None };
    let scheduler = start(&engine, options_of_one);
    let forever = || generating(options(0, usize::MAX));
    let cancel = Cancel::default();
    // A sink that holds the worker until it is told to go on, so that what follows is not a race.
    let (go, wait) = channel::<()>();
    let (said, hear) = channel();
    let (ended, end_of_first) = channel();
    let on_update = Box::new(move |update| {
        match update {
            Update::Generated(generated) => ended.send(generated.finish).unwrap(),
            _ => {
                said.send(()).unwrap();
                wait.recv().ok();
            }
        }
        true
    });
    let first =
        Request { prompt: prompt(0, 4), work: forever(), client: 1, cancel: cancel.clone(), on_update };
    scheduler.submit(first).unwrap();
    hear.recv().unwrap();
    let (second, of_second) = request(prompt(1, 4), generating(options(0, 2)), &Cancel::default());
    scheduler.submit(second).unwrap();
    let (third, _) = request(prompt(2, 4), forever(), &Cancel::default());
    assert!(matches!(scheduler.submit(third), Err(SubmitError::QueueFull { n_queued: 1 })));
    cancel.cancel();
    drop(go);
    assert_eq!(end_of_first.recv().unwrap(), FinishReason::Cancelled);
    assert_eq!(end(&of_second).unwrap().tokens.len(), 2);
    // One whose receiver is gone is not run to its end.
    let (deaf, receiver) = request(prompt(3, 4), forever(), &Cancel::default());
    drop(receiver);
    scheduler.submit(deaf).unwrap();
    while scheduler.n_requests() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(end(&submit(&scheduler, 1)).unwrap().tokens, alone(&engine, 1).tokens);
    let too_long = request(prompt(0, 65), forever(), &Cancel::default()).0;
    assert!(matches!(scheduler.submit(too_long), Err(SubmitError::Prompt(RunError::PromptTooLong { .. }))));
    let empty = request(Vec::new(), forever(), &Cancel::default()).0;
    assert!(matches!(scheduler.submit(empty), Err(SubmitError::Prompt(RunError::EmptyPrompt))));
}

#[test]
fn dropping_the_scheduler_ends_what_is_under_way() {
    let engine = open("llama-linear.gguf");
    let scheduler = start(&engine, SchedulerOptions::default());
    let (request, receiver) = request(prompt(0, 4), generating(options(0, usize::MAX)), &Cancel::default());
    scheduler.submit(request).unwrap();
    assert!(matches!(receiver.recv().unwrap(), Update::Prompt { .. }));
    drop(scheduler);
    let last = receiver.iter().last();
    assert!(matches!(last, Some(Update::Generated(_))), "{last:?}");
    assert_eq!(engine.kv_bytes_in_use(), 0);
}

#[test]
fn a_pass_that_fails_is_an_error_of_those_in_it_only() {
    let mut handle = None;
    let wrap = |source: Arc<dyn Source>| -> Arc<dyn Source> {
        let source = Arc::new(FaultySource::new(source));
        handle = Some(Arc::clone(&source));
        source
    };
    let options = OpenOptions { ctx_len: Some(64), threads: Some(2), ..OpenOptions::default() };
    let engine = Engine::open_through(&tiny("llama-linear.gguf"), &options, wrap).unwrap();
    let source = handle.unwrap();
    let expected: Vec<Generated> = (0..4).map(|i| alone(&engine, i)).collect();
    let scheduler = start(&engine, SchedulerOptions::default());
    for fault in [Fault::AtBegin, Fault::AtEnd, Fault::ReadError { after: 9 }, Fault::ShortRead { after: 9 }]
    {
        source.inject(fault);
        let failed = end(&submit(&scheduler, 0)).unwrap_err();
        assert!(matches!(failed, RunError::SharedPass { .. }), "{failed}");
        let receivers: Vec<_> = (0..4).map(|i| submit(&scheduler, i)).collect();
        for (receiver, expected) in receivers.iter().zip(&expected) {
            assert_same(&end(receiver).unwrap(), expected, &format!("after {fault:?}"));
        }
    }
}

/// Only even tokens, and only four of them.
struct FourEven {
    mask: Vec<u32>,
    n: usize,
}

impl Constraint for FourEven {
    fn mask(&mut self) -> Result<&[u32], String> {
        Ok(&self.mask)
    }

    fn accept(&mut self, _: u32) -> Result<bool, String> {
        self.n += 1;
        Ok(self.n == 4)
    }
}

#[test]
fn a_constraint_says_which_tokens_come_and_when_the_text_is_complete() {
    let engine = open("llama-linear.gguf");
    let scheduler = start(&engine, SchedulerOptions::default());
    let n_words = engine.tokenizer().vocab_len().div_ceil(32);
    let run = |mask: Vec<u32>| {
        let constraint: Option<Box<dyn Constraint>> = Some(Box::new(FourEven { mask, n: 0 }));
        let work = Work::Generate { options: options(1, 30), constraint };
        let (request, receiver) = request(prompt(0, 9), work, &Cancel::default());
        scheduler.submit(request).unwrap();
        end(&receiver)
    };
    let generated = run(vec![0x5555_5555; n_words]).unwrap();
    assert_eq!((generated.tokens.len(), generated.finish), (4, FinishReason::EndOfGeneration));
    assert!(generated.tokens.iter().all(|id| id % 2 == 0), "{:?}", generated.tokens);
    assert!(matches!(run(vec![0; n_words]), Err(RunError::Constraint { .. })));
}

#[test]
fn states_do_not_depend_on_who_shares_the_pass() {
    let engine = open("gemma3-window.gguf");
    let embed = |scheduler: &Scheduler, i: u32| {
        let (request, receiver) = request(case(i).0, Work::Embed, &Cancel::default());
        scheduler.submit(request).unwrap();
        receiver
    };
    let state = |receiver: &Receiver<Update>| {
        receiver.iter().find_map(|update| match update {
            Update::Embedded { state, .. } => Some(state),
            _ => None,
        })
    };
    let no_reuse = || start(&engine, SchedulerOptions { max_idle: 0, ..SchedulerOptions::default() });
    let alone: Vec<_> = (0..6).map(|i| state(&embed(&no_reuse(), i)).unwrap()).collect();
    assert!(alone.iter().all(|state| state.len() == engine.config().dim));
    assert_ne!(alone[0], alone[2]);
    let scheduler = start(&engine, SchedulerOptions::default());
    let text = submit(&scheduler, 3);
    let receivers: Vec<_> = (0..6).map(|i| embed(&scheduler, i)).collect();
    for (receiver, alone) in receivers.iter().zip(&alone) {
        assert_eq!(state(receiver).as_ref(), Some(alone));
    }
    end(&text).unwrap();
}
