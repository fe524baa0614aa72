//! What a streamed source knows of its memory, behind one lock: pieces of the plan, the ring, alternatives, and
//! what readers are to do next.

use super::alternatives::Alternatives;
use super::pieces::Piece;
use crate::blocks::padded_len;
use crate::buffer::Buffer;
use crate::extent::Extent;
use crate::readers::Jobs;
use crate::source::ReadError;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that were read.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) buffer: Buffer,
    /// Where in the buffer the extent starts.
    pub(crate) head: usize,
    pub(crate) len: usize,
}

impl Filled {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.head..][..self.len]
    }
}

#[derive(Debug)]
pub(crate) enum PieceState {
    Empty,
    /// Under way, in a buffer of the ring or in memory that is to stay.
    Reading,
    /// Read ahead, in a buffer of the ring.
    Ready(Filled),
    /// Held by a lease, which has its buffer.
    Lent,
    /// Here for good.
    Pinned(Arc<Filled>),
    Failed(ReadError),
}

/// What a reader does, with where the bytes go.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) extent: Extent,
    pub(crate) buffer: Buffer,
    pub(crate) target: Target,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Piece(usize),
    /// Range of an alternative.
    Alternative {
        item: usize,
        range: usize,
    },
    /// Range of the call of `copy` that is waiting.
    Copy(usize),
}

/// Ranges that a call of `copy` waits for.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub(crate) queue: VecDeque<(usize, Extent)>,
    /// How many are being read.
    pub(crate) n_reading: usize,
    pub(crate) done: Vec<Option<Result<Filled, ReadError>>>,
}

/// How long a pass takes and waits.
#[derive(Debug)]
pub(crate) struct PassWaits {
    pub(crate) began: Instant,
    /// The time that all leases had waited when it began.
    pub(crate) stalled_before: Duration,
    /// The most leases that waited at the same time: as many as threads compute.
    pub(crate) n_waiting: u32,
}

impl PassWaits {
    pub(crate) fn begin(stalled: Duration) -> PassWaits {
        PassWaits { began: Instant::now(), stalled_before: stalled, n_waiting: 0 }
    }

    /// Whether threads waited for three quarters of the pass. Measured (docs/streaming.md): handing over is a gain at
    /// 0.78, none at 0.72, and a loss at 0.66.
    pub(crate) fn is_mostly_waiting(&self, stalled: Duration) -> bool {
        // Handing over counts as waiting, in a pass, too, in which everything was there when it was leased.
        let n_waiting = self.n_waiting.max(1);
        4 * stalled.saturating_sub(self.stalled_before) > 3 * n_waiting * self.began.elapsed()
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) states: Vec<PieceState>,
    /// Memory of pinned pieces that were not read yet.
    pub(crate) reserved: HashMap<usize, Buffer>,
    /// The pass reads the pieces before this one.
    pub(crate) limit: usize,
    /// The piece that readers look at next.
    pub(crate) cursor: usize,
    /// The piece after the one that was leased last.
    pub(crate) next: usize,
    /// Pieces that leases wait for now.
    pub(crate) awaited: Vec<usize>,
    /// What the pass under way waited, to be judged when it ends.
    pub(crate) waits: PassWaits,
    /// Whether computing is so small a part of a pass that there is time to hand over what a buffer held.
    pub(crate) hands_over: bool,
    /// Buffers of the ring that hold nothing. The one that has been here longest is taken first: what was computed from
    /// last is in the caches of a core, from which a device has to take it away.
    pub(crate) free: VecDeque<Buffer>,
    /// Buffers of the ring that are being read into.
    pub(crate) n_reading: usize,
    pub(crate) alternatives: Alternatives,
    pub(crate) copies: Copies,
    /// There was no memory for a piece or a copy, and nobody was told yet.
    pub(crate) given_up: bool,
}

impl Jobs for State {
    type Job = Job;
    type Error = ReadError;

    fn next_job(&mut self) -> Option<Job> {
        if let Some(job) = self.alternatives.next_job() {
            return Some(job);
        }
        if let Some((index, extent)) = self.copies.queue.pop_front() {
            return match Buffer::new(padded_len(extent.len)) {
                Ok(buffer) => {
                    self.copies.n_reading += 1;
                    Some(Job { extent, buffer, target: Target::Copy(index) })
                }
                Err(source) => {
                    self.copies.done[index] = Some(Err(out_of_memory(extent, source)));
                    self.given_up = true;
                    self.next_job()
                }
            };
        }
        self.next_piece()
    }

    fn take_given_up(&mut self) -> bool {
        std::mem::take(&mut self.given_up)
    }

    fn complete(&mut self, job: Job, result: Result<usize, ReadError>) -> bool {
        let Job { extent, buffer, target } = job;
        let len = extent.len as usize;
        match target {
            Target::Piece(index) => {
                let is_pinned = self.pieces[index].is_pinned;
                self.n_reading -= usize::from(!is_pinned);
                self.states[index] = match result {
                    Ok(head) if is_pinned => PieceState::Pinned(Arc::new(Filled { buffer, head, len })),
                    Ok(head) => PieceState::Ready(Filled { buffer, head, len }),
                    Err(error) => {
                        match is_pinned {
                            true => _ = self.reserved.insert(index, buffer),
                            false => self.free.push_back(buffer),
                        }
                        PieceState::Failed(error)
                    }
                };
                // A lease waits for this piece, or for its turn when nothing is under way; a probe for the latter.
                self.awaited.contains(&index) || self.n_reading == 0
            }
            Target::Alternative { item, range } => {
                self.alternatives.complete(item, range, buffer, len, result);
                true
            }
            Target::Copy(index) => {
                self.copies.n_reading -= 1;
                self.copies.done[index] = Some(result.map(|head| Filled { buffer, head, len }));
                true
            }
        }
    }
}

impl State {
    fn next_piece(&mut self) -> Option<Job> {
        for _ in 0..self.limit {
            let index = self.cursor % self.limit;
            match self.states[index] {
                _ if self.pieces[index].is_covered() => self.cursor = (index + 1) % self.limit,
                PieceState::Pinned(_) => self.cursor = (index + 1) % self.limit,
                PieceState::Empty => {
                    let piece = self.pieces[index];
                    let buffer = match (piece.is_pinned, self.reserved.remove(&index)) {
                        (true, Some(buffer)) => Ok(buffer),
                        (true, None) => Buffer::new(piece.memory_bytes()),
                        (false, _) => Ok(self.free.pop_front()?),
                    };
                    self.cursor = (index + 1) % self.limit;
                    match buffer {
                        Ok(buffer) => {
                            self.states[index] = PieceState::Reading;
                            self.n_reading += usize::from(!piece.is_pinned);
                            return Some(Job { extent: piece.extent, buffer, target: Target::Piece(index) });
                        }
                        Err(e) => {
                            self.states[index] = PieceState::Failed(out_of_memory(piece.extent, e));
                            self.given_up = true;
                        }
                    }
                }
                // A piece that is under way while it is pinned does not hold up those after it.
                PieceState::Reading if self.pieces[index].is_pinned => {
                    self.cursor = (index + 1) % self.limit;
                }
                // Come around to what was read ahead, or to a failure that nobody has been told yet.
                PieceState::Reading | PieceState::Ready(_) | PieceState::Lent | PieceState::Failed(_) => {
                    return None;
                }
            }
        }
        None
    }

    /// Whether readers come to `index` without passing anything that they would stop at.
    fn comes_to(&self, index: usize) -> bool {
        let mut at = self.cursor % self.limit;
        for _ in 0..self.limit {
            if at == index {
                return true;
            }
            let piece = self.pieces[at];
            let is_empty = matches!(self.states[at], PieceState::Empty) && !piece.is_covered();
            if !piece.is_pinned || is_empty {
                return false;
            }
            at = (at + 1) % self.limit;
        }
        false
    }

    /// Makes sure that `index`, which holds nothing, will be read: readers go on from there when they would not
    /// come to it, and what was read ahead for nothing gives its buffers back.
    pub(crate) fn seek(&mut self, index: usize) {
        let starved = self.free.is_empty() && self.n_reading == 0 && !self.pieces[index].is_pinned;
        if !self.comes_to(index) || starved {
            self.forget_read_ahead();
            self.cursor = index;
        }
    }

    /// Drops what was read ahead and is not held.
    pub(crate) fn forget_read_ahead(&mut self) {
        for state in &mut self.states {
            if let PieceState::Ready(_) | PieceState::Failed(_) = state
                && let PieceState::Ready(filled) = std::mem::replace(state, PieceState::Empty)
            {
                self.free.push_back(filled.buffer);
            }
        }
    }

    /// Whether the pass took every piece that it was to take.
    pub(crate) fn is_through(&self) -> bool {
        self.pieces.get(self.next..self.limit).unwrap_or_default().iter().all(|piece| piece.is_pinned)
    }
}

pub(crate) fn out_of_memory(extent: Extent, source: io::Error) -> ReadError {
    ReadError::Io { path: "(memory for weights)".into(), offset: extent.offset, source }
}
