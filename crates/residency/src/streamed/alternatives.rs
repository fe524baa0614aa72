//! Memory of the alternatives of choices: one budget of bytes for all of them.

use super::cache::{Eviction, EvictionOrder};
use super::state::{Filled, Job, Target};
use crate::blocks::padded_len;
use crate::buffer::Buffer;
use crate::extent::Extent;
use crate::source::{PassPlan, ReadError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
enum ItemState {
    Empty,
    /// Ranges that have come, those that have not, and what went wrong.
    Reading {
        ranges: Vec<Option<Filled>>,
        left: usize,
        error: Option<ReadError>,
    },
    Ready(Vec<Arc<Filled>>),
    Failed(ReadError),
}

#[derive(Debug)]
struct Item {
    ranges: Vec<Extent>,
    /// Items whose ranges are as long are of one kind.
    kind: usize,
    state: ItemState,
    /// Asked for in this pass and not taken yet.
    wanted: bool,
    /// Leases out.
    held: usize,
}

/// What was found in memory and what had to be read, counted in alternatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChoiceStats {
    /// Found in memory.
    pub hits: u64,
    /// Read.
    pub misses: u64,
}

/// All alternatives of all choices.
#[derive(Debug)]
pub(crate) struct Alternatives {
    items: Vec<Item>,
    /// By the first range.
    index: HashMap<Extent, usize>,
    /// Of each kind: an item makes room for one of its kind, whose buffers fit, where it can.
    orders: Vec<EvictionOrder>,
    queue: VecDeque<Job>,
    free: Vec<Buffer>,
    used_bytes: u64,
    budget_bytes: u64,
    /// Below this, the items of one choice would be read one after the other.
    least_bytes: u64,
    pub(crate) stats: ChoiceStats,
}

impl Alternatives {
    pub(crate) fn new(plan: &PassPlan, budget_bytes: u64, eviction: Eviction) -> Alternatives {
        let mut kinds = HashMap::new();
        let mut item = |ranges: &Vec<Extent>| {
            let lens: Vec<u64> = ranges.iter().map(|range| range.len).collect();
            let n_kinds = kinds.len();
            let kind = *kinds.entry(lens).or_insert(n_kinds);
            Item { ranges: ranges.clone(), kind, state: ItemState::Empty, wanted: false, held: 0 }
        };
        let items: Vec<Item> =
            plan.choices.iter().flat_map(|choice| &choice.alternatives).map(&mut item).collect();
        let first = |(i, item): (usize, &Item)| item.ranges.first().map(|extent| (*extent, i));
        Alternatives {
            index: items.iter().enumerate().filter_map(first).collect(),
            orders: kinds.iter().map(|_| EvictionOrder::new(eviction, items.len())).collect(),
            items,
            queue: VecDeque::new(),
            free: Vec::new(),
            used_bytes: 0,
            budget_bytes,
            least_bytes: plan.least_cache_bytes().min(budget_bytes),
            stats: ChoiceStats::default(),
        }
    }

    /// Memory that [`Alternatives::shrink`] can give back, in bytes: all but what the items of one choice take.
    pub(crate) fn shrinkable_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.least_bytes)
    }

    /// Makes do with `bytes` less from now on.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        self.budget_bytes -= bytes.min(self.shrinkable_bytes());
        while self.used_bytes > self.budget_bytes {
            if let Some(buffer) = self.free.pop() {
                self.used_bytes -= buffer.len() as u64;
            } else if let Some(item) = self.evict(0) {
                self.empty(item);
            } else {
                // What is being read goes when it is used.
                break;
            }
        }
    }

    pub(crate) fn next_job(&mut self) -> Option<Job> {
        self.queue.pop_front()
    }

    /// All ranges of all alternatives.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Extent> {
        self.items.iter().flat_map(|item| item.ranges.iter().copied())
    }

    fn find(&self, ranges: &[Extent]) -> Result<usize, ReadError> {
        let found = ranges.first().and_then(|first| self.index.get(first));
        let item = found.copied().filter(|item| self.items[*item].ranges == ranges);
        let first = ranges.first().copied().unwrap_or(Extent { file: 0, offset: 0, len: 0 });
        item.ok_or(ReadError::OutOfRange { file: first.file, offset: first.offset, len: first.len })
    }

    /// Starts to read what is not here; the answer is as [`crate::Source::request`] says.
    pub(crate) fn request(&mut self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        // What is here is kept first: it must not be evicted for what is not.
        let items = wanted.iter().map(|ranges| self.find(ranges)).collect::<Result<Vec<_>, _>>()?;
        for item in &items {
            if let ItemState::Failed(_) = self.items[*item].state {
                self.items[*item].state = ItemState::Empty;
            }
            self.orders[self.items[*item].kind].keep(*item);
        }
        let mut n_taken = 0;
        for item in &items {
            if matches!(self.items[*item].state, ItemState::Empty) {
                let mut started = self.start(*item);
                if !started && n_taken == 0 {
                    // What is here fills all the memory there is: it makes room after all.
                    items[1..].iter().for_each(|item| self.let_go(*item));
                    started = self.start(*item);
                }
                if !started {
                    break;
                }
                self.stats.misses += 1;
            } else {
                self.stats.hits += 1;
            }
            self.items[*item].wanted = true;
            n_taken += 1;
        }
        for item in &items[n_taken..] {
            self.let_go(*item);
        }
        match (n_taken, wanted.first()) {
            (0, Some(ranges)) => {
                let error = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
                Err(super::state::out_of_memory(ranges[0], error))
            }
            _ => Ok(n_taken),
        }
    }

    /// The item that is to make room for one of `kind`.
    fn evict(&mut self, kind: usize) -> Option<usize> {
        let n_kinds = self.orders.len();
        (0..n_kinds).find_map(|i| self.orders[(kind + i) % n_kinds].evict())
    }

    /// Queues the reads of `item`; not, when there is no memory for it.
    fn start(&mut self, item: usize) -> bool {
        let Item { ranges, kind, .. } = &self.items[item];
        let (ranges, kind) = (ranges.clone(), *kind);
        let mut buffers = Vec::with_capacity(ranges.len());
        for range in &ranges {
            match self.buffer(padded_len(range.len), kind) {
                Some(buffer) => buffers.push(buffer),
                None => {
                    self.free.append(&mut buffers);
                    return false;
                }
            }
        }
        self.items[item].state = ItemState::Reading {
            ranges: ranges.iter().map(|_| None).collect(),
            left: ranges.len(),
            error: None,
        };
        let jobs = ranges.iter().zip(buffers).enumerate();
        self.queue.extend(jobs.map(|(range, (extent, buffer))| Job {
            extent: *extent,
            buffer,
            target: Target::Alternative { item, range },
        }));
        true
    }

    /// A buffer of `len` bytes for an item of `kind`, from what is evicted where the budget is used up.
    fn buffer(&mut self, len: u64, kind: usize) -> Option<Buffer> {
        loop {
            if let Some(i) = self.free.iter().position(|buffer| buffer.len() as u64 == len) {
                return Some(self.free.swap_remove(i));
            }
            if self.used_bytes + len <= self.budget_bytes {
                let buffer = Buffer::new(len).ok()?;
                self.used_bytes += buffer.len() as u64;
                return Some(buffer);
            }
            if let Some(item) = self.evict(kind) {
                self.empty(item);
            } else {
                // Of another length: the memory goes back to the system.
                self.used_bytes -= self.free.pop()?.len() as u64;
            }
        }
    }

    fn empty(&mut self, item: usize) {
        if let ItemState::Ready(ranges) = std::mem::replace(&mut self.items[item].state, ItemState::Empty) {
            for range in ranges {
                match Arc::try_unwrap(range) {
                    Ok(filled) => self.free.push(filled.buffer),
                    // Cannot be: what is held is not evicted. Its memory is counted until the lease lets go.
                    Err(shared) => self.used_bytes -= shared.buffer.len() as u64,
                }
            }
        }
    }

    pub(crate) fn complete(
        &mut self,
        item: usize,
        range: usize,
        buffer: Buffer,
        len: usize,
        result: Result<usize, ReadError>,
    ) {
        let ItemState::Reading { ranges, left, error } = &mut self.items[item].state else { return };
        *left -= 1;
        match result {
            Ok(head) => ranges[range] = Some(Filled { buffer, head, len }),
            Err(failure) => {
                self.free.push(buffer);
                error.get_or_insert(failure);
            }
        }
        if *left > 0 {
            return;
        }
        let (ranges, error) = (std::mem::take(ranges), error.take());
        let ranges = ranges.into_iter().flatten();
        match error {
            Some(error) => {
                self.free.extend(ranges.map(|filled| filled.buffer));
                self.items[item].state = ItemState::Failed(error);
            }
            None => {
                self.items[item].state = ItemState::Ready(ranges.map(Arc::new).collect());
                self.let_go(item);
            }
        }
    }

    /// An item that is here may be evicted when nobody wants or holds it.
    fn let_go(&mut self, item: usize) {
        let Item { kind, state, wanted, held, .. } = &self.items[item];
        if matches!(state, ItemState::Ready(_)) && !wanted && *held == 0 {
            self.orders[*kind].used(item);
        }
    }

    /// The first of `wanted` that is here, with its ranges; `None` when all are still being read.
    #[allow(clippy::type_complexity)]
    pub(crate) fn take(
        &mut self,
        wanted: &[&[Extent]],
    ) -> Result<Option<(usize, usize, Vec<Arc<Filled>>)>, ReadError> {
        for (index, ranges) in wanted.iter().enumerate() {
            let item = self.find(ranges)?;
            let entry = &mut self.items[item];
            match &entry.state {
                ItemState::Ready(ranges) => {
                    let ranges = ranges.clone();
                    entry.wanted = false;
                    entry.held += ranges.len();
                    return Ok(Some((index, item, ranges)));
                }
                ItemState::Failed(_) | ItemState::Empty => {
                    entry.wanted = false;
                    return match std::mem::replace(&mut entry.state, ItemState::Empty) {
                        ItemState::Failed(error) => Err(error),
                        // It was never asked for.
                        _ => Err(ReadError::OutOfRange {
                            file: ranges[0].file,
                            offset: ranges[0].offset,
                            len: ranges[0].len,
                        }),
                    };
                }
                ItemState::Reading { .. } => {}
            }
        }
        Ok(None)
    }

    /// A lease on a range of `item` ended.
    pub(crate) fn release(&mut self, item: usize) {
        self.items[item].held -= 1;
        self.let_go(item);
    }

    /// Forgets what a pass asked for and did not take.
    pub(crate) fn forget_wanted(&mut self) {
        for item in 0..self.items.len() {
            if std::mem::take(&mut self.items[item].wanted) {
                self.let_go(item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Choice;

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { file: 0, offset, len }
    }

    /// Asks for an item and has it read, used and let go.
    fn use_once(cache: &mut Alternatives, ranges: &[Extent]) {
        assert_eq!(cache.request(&[ranges]).unwrap(), 1);
        while let Some(Job { extent, buffer, target }) = cache.next_job() {
            let Target::Alternative { item, range } = target else { unreachable!() };
            cache.complete(item, range, buffer, extent.len as usize, Ok(0));
        }
        let (_, item, filled) = cache.take(&[ranges]).unwrap().unwrap();
        let n = filled.len();
        drop(filled);
        (0..n).for_each(|_| cache.release(item));
        assert!(cache.used_bytes <= cache.budget_bytes);
    }

    #[test]
    fn an_item_makes_room_for_one_of_its_kind() {
        let (short, long) = (4096, 4 * 4096);
        let alternatives = |at: u64, last: u64| {
            let of =
                |i: u64| vec![extent(at + i * 1_000_000, short), extent(at + i * 1_000_000 + 500_000, last)];
            (0..4).map(of).collect::<Vec<_>>()
        };
        let choice = |stage, at, last| Choice { stage, n_picked: 1, alternatives: alternatives(at, last) };
        let plan = PassPlan {
            choices: vec![choice(0, 0, short), choice(1, 50_000_000, long)],
            ..PassPlan::default()
        };
        let of_kind = [0, 1].map(|kind: usize| plan.choices[kind].alternatives.clone());
        let item_bytes = |last| padded_len(short) + padded_len(last);
        // Two of each kind.
        let budget = 2 * (item_bytes(short) + item_bytes(long));
        let mut cache = Alternatives::new(&plan, budget, Eviction::LeastRecent);
        for i in 0..2 {
            of_kind.iter().for_each(|items| use_once(&mut cache, &items[i]));
        }
        // The oldest is of the first kind, and stays when one of the second kind needs room, again and again.
        for i in [2, 3, 0, 1] {
            use_once(&mut cache, &of_kind[1][i]);
        }
        cache.stats = ChoiceStats::default();
        (0..2).for_each(|i| use_once(&mut cache, &of_kind[0][i]));
        assert_eq!(cache.stats, ChoiceStats { hits: 2, misses: 0 });
        // Where no item of the kind is left, others go.
        cache.shrink(2 * item_bytes(long));
        use_once(&mut cache, &of_kind[1][2]);
    }
}
