//! The thread that owns a model's caches and runs its passes.

use super::queue::{Next, Queue};
use super::shelf::{Shelf, Timeline};
use super::stats::{Counters, PassStats};
use super::{Request, SchedulerOptions, Update, Work};
use crate::cancel::Cancel;
use crate::engine::Engine;
use crate::error::RunError;
use crate::generate::{FinishReason, Generated};
use crate::generation::{Chosen, Generation};
use crate::logprobs::Step;
use crate::saved::Saved;
use rawrz_model::{Sequence, Wants};
use rawrz_text::TokenId;
use std::collections::VecDeque;
use std::time::Instant;

/// Tokens of prompts in a pass that also takes texts on, where weights need not be read from the disk: more would make
/// those who read along wait.
const PROMPT_TOKENS_BESIDE_TEXTS: usize = 256;

/// A request under way.
struct Running<'e> {
    job: Job<'e>,
    /// Dropped, where memory was needed, and begun anew.
    timeline: Option<Timeline<'e>>,
    cancel: Cancel,
    on_update: Box<dyn FnMut(Update) -> bool + Send>,
    /// Tokens of the prompt that were told to be in the cache.
    told: usize,
    began: Instant,
    out: Generated,
    /// Log-probabilities that no text was there for yet.
    steps: Vec<Step>,
}

enum Job<'e> {
    Generate(Box<Generation<'e>>),
    Embed(Vec<TokenId>),
}

impl Job<'_> {
    /// Tokens whose keys and values the next output needs.
    fn tokens(&self) -> &[TokenId] {
        match self {
            Job::Generate(generation) => generation.tokens(),
            Job::Embed(prompt) => prompt,
        }
    }

    fn prompt_len(&self) -> usize {
        match self {
            Job::Generate(generation) => generation.prompt_len(),
            Job::Embed(prompt) => prompt.len(),
        }
    }

    fn wants(&self, n_tokens: usize) -> Wants {
        match self {
            Job::Generate(_) => Wants::LogitsFrom(n_tokens - 1),
            Job::Embed(_) => Wants::State,
        }
    }
}

/// What a pass gave a request.
enum Output {
    Chosen(Result<Chosen, RunError>),
    State(Vec<f32>),
}

/// Runs until the queue is closed.
pub(super) fn run(
    engine: &Engine,
    queue: &Queue,
    counters: &Counters,
    options: &SchedulerOptions,
    saved: Option<Saved>,
) {
    let mut worker = Worker {
        engine,
        queue,
        counters,
        shelf: Shelf::new(engine, options.max_idle, saved),
        running: Vec::new(),
        waiting: VecDeque::new(),
        max_running: options.max_running.clamp(1, engine.batch_len()),
    };
    while worker.admit() {
        worker.drop_cancelled();
        worker.pass();
    }
    for mut running in worker.running.drain(..).chain(worker.waiting.drain(..)) {
        running.timeline.take().into_iter().for_each(|timeline| worker.shelf.keep(timeline));
        running.end_cancelled();
    }
    while worker.shelf.save_one() {}
}

struct Worker<'e> {
    engine: &'e Engine,
    queue: &'e Queue,
    counters: &'e Counters,
    shelf: Shelf<'e>,
    /// The longest under way first.
    running: Vec<Running<'e>>,
    /// Those that have no room now, the longest under way first; none of them has a timeline.
    waiting: VecDeque<Running<'e>>,
    max_running: usize,
}

impl<'e> Worker<'e> {
    /// Begins what there is room for, and waits for a request when there is nothing to do; `false` at the end.
    fn admit(&mut self) -> bool {
        while self.running.len() < self.max_running {
            let next = match self.waiting.pop_front() {
                Some(waiting) => waiting,
                None => match self.next() {
                    Next::Request(request) => match Running::new(self.engine, request) {
                        Some(running) => running,
                        None => {
                            self.counters.change(|stats| stats.n_ended += 1);
                            continue;
                        }
                    },
                    Next::Empty => break,
                    Next::Closed => return false,
                },
            };
            if let Some(waiting) = self.begin(next) {
                self.waiting.push_front(waiting);
                break;
            }
        }
        self.count();
        !self.queue.is_closed()
    }

    /// The next request. With nothing under way it waits for one, and saves what is not saved before that.
    fn next(&mut self) -> Next {
        if !self.running.is_empty() {
            return self.queue.pop(false);
        }
        loop {
            match self.queue.pop(false) {
                Next::Empty if self.shelf.save_one() => self.count(),
                Next::Empty => return self.queue.pop(true),
                next => return next,
            }
        }
    }

    /// Takes `running` on, or gives it back when there is no room for its prompt now.
    fn begin(&mut self, mut running: Running<'e>) -> Option<Running<'e>> {
        if running.cancel.is_cancelled() {
            running.end_cancelled();
            self.counters.change(|stats| stats.n_ended += 1);
            return None;
        }
        let busy = self.running.iter().filter_map(|running| running.timeline.as_ref());
        let Some(mut timeline) = self.shelf.begin(running.job.tokens(), busy) else {
            return self.later(running);
        };
        let n_new = running.job.tokens().len() - timeline.tokens.len();
        // A request that is alone gets on as far as there is room; others do not begin what would have to end others.
        if !self.running.is_empty() && self.shelf.make_room(&mut timeline, n_new).is_err() {
            self.shelf.keep(timeline);
            return self.later(running);
        }
        let reused = timeline.tokens.len();
        if running.out.reused_tokens == 0 && running.told == 0 {
            running.out.reused_tokens = reused;
            self.counters.change(|stats| stats.reused_tokens += reused as u64);
        }
        running.timeline = Some(timeline);
        let at = reused.min(running.job.prompt_len());
        if running.tell_prompt(at) {
            self.running.push(running);
        } else {
            self.counters.change(|stats| stats.n_ended += 1);
        }
        None
    }

    /// With nothing else under way there will never be more room.
    fn later(&mut self, running: Running<'e>) -> Option<Running<'e>> {
        if !self.running.is_empty() {
            return Some(running);
        }
        let needed_bytes = self.engine.session_kv_bytes();
        running.fail(RunError::Budget { needed_bytes, left_bytes: 0 });
        self.counters.change(|stats| stats.n_ended += 1);
        None
    }

    fn drop_cancelled(&mut self) {
        let is_cancelled = |running: &mut Running<'e>| running.cancel.is_cancelled();
        let mut cancelled: Vec<Running<'e>> = self.running.extract_if(.., is_cancelled).collect();
        let (gone, rest): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|waiting| waiting.cancel.is_cancelled());
        self.waiting = rest.into();
        cancelled.extend(gone);
        self.counters.change(|stats| stats.n_ended += cancelled.len() as u64);
        for mut running in cancelled {
            running.timeline.take().into_iter().for_each(|timeline| self.shelf.keep(timeline));
            running.end_cancelled();
        }
        self.count();
    }

    fn count(&self) {
        let (n_running, n_idle) = (self.running.len() + self.waiting.len(), self.shelf.len());
        let (n_saved, problem) = self.shelf.saved();
        self.counters.change(|stats| {
            (stats.n_running, stats.n_idle, stats.n_saved) = (n_running, n_idle, n_saved);
            stats.save_problem = problem.map(str::to_owned);
        });
    }

    /// How many tokens of each running request the next pass takes: one of each text that is under way, the longest
    /// waiting prompts beside them.
    fn plan(&self) -> Vec<usize> {
        let todo: Vec<usize> = self.running.iter().map(Running::n_todo).collect();
        let n_texts = todo.iter().filter(|n| **n == 1).count();
        let mut room = self.engine.batch_len() - n_texts;
        if n_texts > 0 && !self.engine.is_streamed() {
            room = room.min(PROMPT_TOKENS_BESIDE_TEXTS);
        }
        let take = |n: &usize| match n {
            1 => 1,
            n => {
                let taken = room.min(*n);
                room -= taken;
                taken
            }
        };
        todo.iter().map(take).collect()
    }

    /// Plans a pass for which there is room: where there is none, the request that came last waits.
    fn plan_in_budget(&mut self) -> Vec<usize> {
        loop {
            let plan = self.plan();
            let Some(short) = (0..plan.len()).find(|i| {
                let timeline = self.running[*i].timeline.as_mut();
                timeline.is_some_and(|timeline| self.shelf.make_room(timeline, plan[*i]).is_err())
            }) else {
                return plan;
            };
            match self.running.len() {
                1 => {
                    let running = self.running.remove(short);
                    let needed_bytes = self.engine.session_kv_bytes();
                    running.fail(RunError::Budget { needed_bytes, left_bytes: 0 });
                    self.counters.change(|stats| stats.n_ended += 1);
                }
                n => {
                    let mut last = self.running.remove(n - 1);
                    last.timeline = None;
                    self.waiting.push_front(last);
                    self.counters.change(|stats| stats.n_preempted += 1);
                }
            }
        }
    }

    fn pass(&mut self) {
        let plan = self.plan_in_budget();
        if self.running.is_empty() {
            return;
        }
        let started = Instant::now();
        let mut outputs: Vec<Option<Output>> = plan.iter().map(|_| None).collect();
        let result = self.forward(&plan, &mut outputs);
        if result.is_ok() {
            let of_prompt = |(running, n): (&Running<'e>, &usize)| if running.is_prompt() { *n } else { 0 };
            self.counters.pass(PassStats {
                time: started.elapsed(),
                prompt_tokens: self.running.iter().zip(&plan).map(of_prompt).sum(),
                made_tokens: outputs.iter().flatten().count(),
            });
        }
        let failure = result.err().map(|error| error.to_string());
        let all = std::mem::take(&mut self.running);
        for ((mut running, n), output) in all.into_iter().zip(&plan).zip(outputs) {
            let goes_on = match (&failure, *n) {
                (_, 0) => true,
                (Some(_), _) => false,
                (None, n) => running.advance(n, output),
            };
            if goes_on {
                self.running.push(running);
                continue;
            }
            if let Some(problem) = &failure {
                let problem = problem.clone();
                running.timeline.take().into_iter().for_each(|timeline| self.shelf.keep(timeline));
                running.fail(RunError::SharedPass { problem });
            } else if let Some(timeline) = running.timeline.take() {
                self.shelf.keep(timeline);
            }
            self.counters.change(|stats| stats.n_ended += 1);
        }
        self.count();
    }

    fn forward(&mut self, plan: &[usize], outputs: &mut [Option<Output>]) -> Result<(), RunError> {
        let mut runner = self.engine.runner();
        self.engine.follow_limits(&runner)?;
        let (mut sequences, mut jobs) = (Vec::with_capacity(plan.len()), Vec::with_capacity(plan.len()));
        for (i, (Running { job, timeline, .. }, n)) in self.running.iter_mut().zip(plan).enumerate() {
            let Some(Timeline { cache, tokens, .. }) = timeline.as_mut().filter(|_| *n > 0) else { continue };
            let (first, all) = (tokens.len(), job.tokens());
            tokens.extend_from_slice(&all[first..first + n]);
            let wants = if first + n == all.len() { job.wants(*n) } else { Wants::Nothing };
            sequences.push(Sequence { cache, tokens: &tokens[first..], wants });
            jobs.push((i, job));
        }
        let mut on_output = |sequence: usize, _: usize, row: &[f32]| {
            let (i, job) = &mut jobs[sequence];
            outputs[*i] = Some(match job {
                Job::Generate(generation) => Output::Chosen(generation.choose(row)),
                Job::Embed(_) => Output::State(row.to_vec()),
            });
        };
        let result =
            self.engine.model().forward(&mut runner, self.engine.source(), &mut sequences, &mut on_output);
        drop((sequences, runner));
        for timeline in self.running.iter_mut().filter_map(|running| running.timeline.as_mut()) {
            // After a pass that failed caches hold what they held before.
            timeline.tokens.truncate(timeline.cache.len());
        }
        Ok(result?)
    }
}

impl<'e> Running<'e> {
    /// `None` when it has ended already.
    fn new(engine: &'e Engine, request: Request) -> Option<Running<'e>> {
        let Request { prompt, work, cancel, on_update, .. } = request;
        let out = Generated::new(prompt.len());
        let job = match work {
            Work::Embed => Job::Embed(prompt),
            Work::Generate { options, constraint } => {
                let context_len = engine.context_len();
                let tokenizer = engine.tokenizer();
                Job::Generate(Box::new(Generation::new(tokenizer, &prompt, options, constraint, context_len)))
            }
        };
        let began = Instant::now();
        let mut running =
            Running { job, timeline: None, cancel, on_update, told: 0, began, out, steps: Vec::new() };
        if let Job::Generate(generation) = &running.job
            && generation.is_empty()
        {
            running.out.finish = FinishReason::MaxTokens;
            (running.on_update)(Update::Generated(running.out));
            return None;
        }
        Some(running)
    }

    /// Tokens that are to run before something comes out.
    fn n_todo(&self) -> usize {
        let in_cache = self.timeline.as_ref().map_or(0, |timeline| timeline.tokens.len());
        self.job.tokens().len() - in_cache
    }

    /// Whether its prompt was not read to its end yet.
    fn is_prompt(&self) -> bool {
        self.told < self.job.prompt_len()
    }

    /// Tells how much of the prompt is in the cache; `false` when nobody listens.
    fn tell_prompt(&mut self, done: usize) -> bool {
        let total = self.job.prompt_len();
        if done < self.told || !self.is_prompt() {
            return true;
        }
        self.told = done;
        (self.on_update)(Update::Prompt { done, total })
    }

    /// Takes note of a pass with `n` tokens of this request and of what it gave; `false` when the request has ended.
    fn advance(&mut self, n: usize, output: Option<Output>) -> bool {
        let in_cache = self.timeline.as_ref().map_or(n, |timeline| timeline.tokens.len());
        let is_prompt = self.is_prompt();
        if is_prompt && !self.tell_prompt(in_cache.min(self.job.prompt_len())) {
            return false;
        }
        let chosen = match output {
            None => return true,
            Some(Output::State(state)) => {
                let prompt_tokens = self.job.prompt_len();
                (self.on_update)(Update::Embedded { state, prompt_tokens });
                return false;
            }
            Some(Output::Chosen(chosen)) => chosen,
        };
        if is_prompt {
            self.out.prefill = self.began.elapsed();
            self.began = Instant::now();
        } else {
            self.out.decode_passes += 1;
        }
        let Job::Generate(generation) = &mut self.job else { return false };
        let progress = match chosen.and_then(|chosen| generation.accept(chosen)) {
            Ok(progress) => progress,
            Err(error) => {
                (self.on_update)(Update::Failed(error));
                return false;
            }
        };
        self.steps.extend(progress.step.clone());
        let mut text = String::new();
        let has_ended = self.out.take(progress, &mut |piece| text.push_str(piece));
        let has_news = !text.is_empty() || (has_ended && !self.steps.is_empty());
        let steps = if has_news { std::mem::take(&mut self.steps) } else { Vec::new() };
        if has_news && !(self.on_update)(Update::Text { text, steps }) {
            return false;
        }
        if has_ended {
            self.finish();
        }
        !has_ended
    }

    fn finish(&mut self) {
        if let Job::Generate(generation) = &self.job {
            self.out.tokens = generation.made().to_vec();
        }
        self.out.decode = self.began.elapsed();
        let out = std::mem::replace(&mut self.out, Generated::new(0));
        (self.on_update)(Update::Generated(out));
    }

    fn end_cancelled(mut self) {
        if let Job::Generate(generation) = &mut self.job {
            let rest = generation.end(FinishReason::Cancelled);
            self.out.take(rest, &mut |_| ());
            self.finish();
        } else {
            self.fail(RunError::Cancelled);
        }
    }

    fn fail(mut self, error: RunError) {
        (self.on_update)(Update::Failed(error));
    }
}
