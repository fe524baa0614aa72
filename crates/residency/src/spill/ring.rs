//! Which pages are in the ring or on their way into it, behind one lock.

use super::SpillError;
use crate::buffer::Buffer;
use crate::readers::Jobs;
use std::collections::VecDeque;
use std::ops::Range;

/// A page to be read into `buffer`.
pub(super) struct Job {
    pub(super) page: u64,
    /// Of this read, whatever else is read of the page.
    id: u64,
    pub(super) buffer: Buffer,
}

enum Entry {
    Reading,
    Ready(Buffer),
    Failed(SpillError),
}

pub(super) struct Ring {
    /// The order of leases.
    runs: Vec<Range<u64>>,
    /// Run and page to be read next; none where nothing is expected.
    cursor: Option<(usize, u64)>,
    /// What is read or being read, in the order of leases: page and read.
    queue: VecDeque<(u64, u64, Entry)>,
    /// A page that a lease waits for and nobody reads yet.
    demand: Option<u64>,
    free: Vec<Buffer>,
    n_leased: usize,
    next_id: u64,
    n_buffers: usize,
}

impl Jobs for Ring {
    type Job = Job;
    type Error = SpillError;

    fn next_job(&mut self) -> Option<Job> {
        let (page, is_demand) = match (self.demand, self.cursor) {
            (Some(page), _) => (page, true),
            // A round shorter than the ring is not read twice over.
            (None, Some((_, page))) if !self.is_queued(page) => (page, false),
            _ => return None,
        };
        let buffer = self.free.pop()?;
        match is_demand {
            true => {
                self.demand = None;
                self.cursor = self.after(page).or(self.cursor);
            }
            false => self.cursor = self.after(page),
        }
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push_back((page, id, Entry::Reading));
        Some(Job { page, id, buffer })
    }

    /// A read that was forgotten meanwhile leaves only its buffer.
    fn complete(&mut self, job: Job, result: Result<usize, SpillError>) -> bool {
        let Job { id, buffer, .. } = job;
        match (self.queue.iter_mut().find(|(_, queued, _)| *queued == id), result) {
            (Some((.., entry)), Ok(_)) => *entry = Entry::Ready(buffer),
            (Some((.., entry)), Err(error)) => {
                *entry = Entry::Failed(error);
                self.free.push(buffer);
            }
            (None, _) => self.free.push(buffer),
        }
        true
    }
}

impl Ring {
    pub(super) fn new(free: Vec<Buffer>) -> Ring {
        Ring {
            runs: Vec::new(),
            cursor: None,
            queue: VecDeque::new(),
            demand: None,
            n_buffers: free.len(),
            free,
            n_leased: 0,
            next_id: 0,
        }
    }

    fn is_queued(&self, page: u64) -> bool {
        self.queue.iter().any(|(queued, ..)| *queued == page)
    }

    /// The place after `page`, if it is expected.
    fn after(&self, page: u64) -> Option<(usize, u64)> {
        let run = self.runs.iter().position(|run| run.contains(&page))?;
        if page + 1 < self.runs[run].end {
            return Some((run, page + 1));
        }
        let next = (run + 1) % self.runs.len();
        Some((next, self.runs[next].start))
    }

    pub(super) fn expect(&mut self, mut runs: Vec<Range<u64>>) {
        runs.retain(|run| !run.is_empty());
        self.runs = runs;
        let last = self.queue.back().map(|(page, ..)| *page);
        self.cursor = match last.and_then(|page| self.after(page)) {
            Some(place) => Some(place),
            None => {
                self.clear();
                self.runs.first().map(|run| (0, run.start))
            }
        };
    }

    /// The buffer of `page`, or why there is none; nothing while it is being read. Pages that were to come before
    /// it are given up.
    pub(super) fn take(&mut self, page: u64) -> Option<Result<Buffer, SpillError>> {
        assert!(self.n_leased < self.n_buffers, "all buffers are leased");
        let Some(index) = self.queue.iter().position(|(queued, ..)| *queued == page) else {
            self.clear();
            self.demand = Some(page);
            return None;
        };
        for _ in 0..index {
            self.drop_first();
        }
        if let Some((.., Entry::Reading)) = self.queue.front() {
            return None;
        }
        match self.queue.pop_front() {
            Some((.., Entry::Ready(buffer))) => {
                self.n_leased += 1;
                Some(Ok(buffer))
            }
            Some((.., Entry::Failed(error))) => Some(Err(error)),
            Some((.., Entry::Reading)) | None => None,
        }
    }

    pub(super) fn give_back(&mut self, buffer: Buffer) {
        self.n_leased -= 1;
        self.free.push(buffer);
    }

    fn drop_first(&mut self) {
        if let Some((.., Entry::Ready(buffer))) = self.queue.pop_front() {
            self.free.push(buffer);
        }
    }

    fn clear(&mut self) {
        while !self.queue.is_empty() {
            self.drop_first();
        }
    }

    /// Forgets what was read of `page`, and of all that is to come after it.
    pub(super) fn forget(&mut self, page: u64) {
        if self.is_queued(page) {
            // The order stays whole: readers begin again at what is leased next.
            self.clear();
        }
    }
}
