//! Timelines: caches with the tokens in them, counted against the budget, and those that are idle.

use crate::engine::Engine;
use crate::error::RunError;
use crate::saved::{Saved, SavedId};
use rawrz_model::KvCache;
use rawrz_text::TokenId;
use std::collections::VecDeque;

/// A common prefix shorter than this is computed again sooner than copied.
const MIN_FORK_LEN: usize = 16;

/// What is saved is read from the disk when it has so many tokens more of a prompt than what is in memory.
const MIN_LOAD_LEN: usize = 32;

/// A cache and the tokens in it.
pub(super) struct Timeline<'e> {
    pub(super) cache: KvCache,
    pub(super) tokens: Vec<TokenId>,
    engine: &'e Engine,
    reserved_bytes: u64,
    /// What it is saved as, or was before it went on.
    saved: Option<SavedId>,
    /// The disk did not take it.
    save_failed: bool,
}

impl<'e> Timeline<'e> {
    fn new(engine: &'e Engine) -> Result<Timeline<'e>, RunError> {
        let mut timeline = Timeline::of(engine, engine.new_cache(None)?, Vec::new(), 0);
        timeline.reserve(0)?;
        Ok(timeline)
    }

    fn of(engine: &'e Engine, cache: KvCache, tokens: Vec<TokenId>, reserved_bytes: u64) -> Timeline<'e> {
        Timeline { cache, tokens, engine, reserved_bytes, saved: None, save_failed: false }
    }

    /// Counts the memory that the cache takes with `n` more tokens.
    pub(super) fn reserve(&mut self, n: usize) -> Result<(), RunError> {
        let needed_bytes = match self.engine.kv_spill() {
            Some(_) => self.engine.session_kv_bytes(),
            None => self.cache.bytes_for(self.cache.len() + n),
        };
        if let Some(more) = needed_bytes.checked_sub(self.reserved_bytes).filter(|more| *more > 0) {
            self.engine.reserve_kv(more)?;
            self.reserved_bytes = needed_bytes;
        }
        Ok(())
    }

    /// Forgets all tokens from `len` on, and gives back the memory of theirs.
    pub(super) fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
        self.tokens.truncate(len);
        if self.engine.kv_spill().is_none() {
            let needed_bytes = self.cache.bytes_for(self.cache.len());
            self.engine.release_kv(self.reserved_bytes - needed_bytes);
            self.reserved_bytes = needed_bytes;
        }
    }

    fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// A timeline with the first `len` tokens of this one, if there is room for it and its cache can be copied.
    fn fork(&self, len: usize) -> Option<Timeline<'e>> {
        let reserved_bytes = self.cache.bytes_for(len);
        self.engine.reserve_kv(reserved_bytes).ok()?;
        match self.cache.fork(len) {
            Ok(Some(cache)) => {
                Some(Timeline::of(self.engine, cache, self.tokens[..len].to_vec(), reserved_bytes))
            }
            Ok(None) | Err(_) => {
                self.engine.release_kv(reserved_bytes);
                None
            }
        }
    }
}

impl Drop for Timeline<'_> {
    fn drop(&mut self) {
        self.engine.release_kv(self.reserved_bytes);
    }
}

/// Timelines that nobody uses, the least recently used first.
pub(super) struct Shelf<'e> {
    engine: &'e Engine,
    idle: VecDeque<Timeline<'e>>,
    max_idle: usize,
    saved: Option<Saved>,
    /// Why the disk did not take one.
    problem: Option<String>,
}

impl<'e> Shelf<'e> {
    pub(super) fn new(engine: &'e Engine, max_idle: usize, saved: Option<Saved>) -> Shelf<'e> {
        Shelf { engine, idle: VecDeque::new(), max_idle, saved, problem: None }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len()
    }

    /// A timeline for `prompt` that holds as much of its beginning as any idle or `busy` one does, less the last token:
    /// that has to be run for what comes after it. `None` when the budget has no room.
    ///
    /// An idle timeline that goes on as the prompt does is taken; one that goes on otherwise is copied, so that what it
    /// holds beyond the common part stays for others, where there is room for a copy.
    pub(super) fn begin<'a>(
        &mut self,
        prompt: &[TokenId],
        busy: impl Iterator<Item = &'a Timeline<'e>>,
    ) -> Option<Timeline<'e>>
    where
        'e: 'a,
    {
        let wanted = &prompt[..prompt.len() - 1];
        let best = (0..self.idle.len()).map(|i| (self.idle[i].common_prefix(wanted), i)).max();
        let of_busy =
            busy.map(|timeline| (timeline.common_prefix(wanted), timeline)).max_by_key(|(len, _)| *len);
        let in_memory = best.map(|(len, _)| len).max(of_busy.as_ref().map(|(len, _)| *len));
        if let Some(timeline) = self.load(wanted, in_memory.unwrap_or(0)) {
            return Some(timeline);
        }
        // What was loaded may have taken the room of what was found.
        let best =
            best.filter(|(len, i)| self.idle.get(*i).is_some_and(|idle| idle.common_prefix(wanted) == *len));
        if let Some((len, timeline)) = of_busy
            && len >= MIN_FORK_LEN
            && best.is_none_or(|(of_idle, _)| of_idle < len)
            && let Some(fork) = self.with_room(|_| timeline.fork(len))
        {
            return Some(fork);
        }
        if let Some((len, i)) = best.filter(|(len, _)| *len > 0) {
            let goes_on = self.idle[i].tokens.len() - len;
            if goes_on >= MIN_FORK_LEN
                && len >= MIN_FORK_LEN
                && self.idle.len() < self.max_idle
                && let Some(fork) = self.idle[i].fork(len)
            {
                return Some(fork);
            }
            let mut timeline = self.idle.remove(i)?;
            timeline.truncate(len);
            return Some(timeline);
        }
        self.with_room(|engine| Timeline::new(engine).ok())
    }

    /// A timeline that is saved, when it has more of `wanted` than the `best_len` tokens that are in memory.
    fn load(&mut self, wanted: &[TokenId], best_len: usize) -> Option<Timeline<'e>> {
        let (len, id) = self.saved.as_ref()?.best(wanted)?;
        if len < best_len + MIN_LOAD_LEN {
            return None;
        }
        let mut timeline = self.with_room(|engine| Timeline::new(engine).ok())?;
        let n = self.saved.as_ref()?.loaded_len(id, len, timeline.cache.capacity());
        self.make_room(&mut timeline, n).ok()?;
        let loaded = self.saved.as_mut()?.load(id, len, &mut timeline.cache);
        match loaded {
            Ok(tokens) => timeline.tokens = tokens,
            Err(_) => timeline.cache.truncate(0),
        }
        timeline.saved = Some(id);
        timeline.truncate(len.min(timeline.tokens.len()));
        Some(timeline)
    }

    /// Saves one idle timeline that is not; `false` when there is none.
    pub(super) fn save_one(&mut self) -> bool {
        let Some(saved) = &self.saved else { return false };
        let is_due = |t: &Timeline| {
            saved.takes(t.tokens.len())
                && !t.save_failed
                && !t.saved.is_some_and(|id| saved.holds(id, &t.tokens))
        };
        let Some(i) = self.idle.iter().position(is_due) else { return false };
        if let Some(mut timeline) = self.idle.remove(i) {
            self.save(&mut timeline);
            self.idle.insert(i, timeline);
        }
        true
    }

    fn save(&mut self, timeline: &mut Timeline) {
        let Some(saved) = &mut self.saved else { return };
        if timeline.save_failed || !saved.takes(timeline.tokens.len()) {
            return;
        }
        match saved.save(timeline.saved, &timeline.tokens, &timeline.cache) {
            Ok(id) => {
                timeline.saved = id;
                timeline.save_failed = id.is_none();
                self.problem = None;
            }
            Err(error) => {
                timeline.save_failed = true;
                self.problem = Some(error.to_string());
            }
        }
    }

    /// Timelines that are saved, and why the last one was not.
    pub(super) fn saved(&self) -> (usize, Option<&str>) {
        (self.saved.as_ref().map_or(0, Saved::len), self.problem.as_deref())
    }

    /// Lets the least recently used timeline go, to the disk where it may; `false` when there is none.
    fn let_go(&mut self) -> bool {
        let Some(mut timeline) = self.idle.pop_front() else { return false };
        self.save(&mut timeline);
        true
    }

    /// What `make` gives once it has room: idle timelines go until then.
    fn with_room<T>(&mut self, make: impl Fn(&'e Engine) -> Option<T>) -> Option<T> {
        loop {
            if let Some(made) = make(self.engine) {
                return Some(made);
            }
            if !self.let_go() {
                return None;
            }
        }
    }

    /// Makes room for `n` more tokens of `timeline`; idle timelines go where that is needed.
    pub(super) fn make_room(&mut self, timeline: &mut Timeline<'e>, n: usize) -> Result<(), RunError> {
        loop {
            match timeline.reserve(n) {
                Err(RunError::Budget { .. }) if self.let_go() => {}
                other => return other,
            }
        }
    }

    /// Keeps a timeline for requests that begin as it does.
    pub(super) fn keep(&mut self, timeline: Timeline<'e>) {
        if self.max_idle == 0 || timeline.tokens.is_empty() {
            return;
        }
        if self.idle.len() >= self.max_idle {
            self.let_go();
        }
        self.idle.push_back(timeline);
    }
}
