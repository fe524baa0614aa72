//! The streamed source: a fixed part of the weights stays in memory, the rest passes through a ring of buffers that
//! readers fill ahead of the computation.
//!
//! ```text
//!   plan     | p | s | s | p | s | s | p | s | ...      p pinned: read in the first pass, kept
//!                  ^           ^                        s streamed: read in every pass
//!                  computation readers                  the end of a pass is followed by the start of the next
//! ```
//!
//! A scan that repeats hits nothing in a cache that evicts what is oldest, so what stays is fixed, and spread evenly
//! over the pass; pinned pieces that follow each other are joined. Readers go round and round ahead of the leases, as
//! far as free buffers carry them; they do not stop at the end of a pass. Alternatives of choices (experts) have a cache
//! of their own, since which of them a token takes is known only when it takes them.

mod alternatives;
mod cache;
mod pieces;
mod state;

#[cfg(test)]
mod tests;

pub use alternatives::ChoiceStats;
pub use cache::{Eviction, EvictionOrder};

use crate::blocks::{ALIGNMENT, Blocks, FileBlocks, READER_BYTES, padded_len};
use crate::buffer::Buffer;
use crate::extent::Extent;
use crate::file::OpenError;
use crate::lease::Lease;
use crate::mapped::MappedSource;
use crate::os;
use crate::readers::{Desk, Readers};
use crate::source::{Arrived, PassPlan, Planned, ReadError, Source};
use alternatives::Alternatives;
use pieces::Piece;
use state::{Copies, Filled, Job, PassWaits, PieceState, State, Target};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ranges outside the plan that are read at the same time.
const COPIES_AT_ONCE: usize = 32;

/// How much memory a [`StreamedSource`] has, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamedOptions {
    /// Memory of one buffer of the ring, in bytes; more where a row asks for it.
    pub piece_bytes: u64,
    /// Buffers of the ring.
    pub n_buffers: usize,
    /// The most memory of what is read once and kept, in bytes. Ranges up to 64 KiB are kept in any case.
    pub pinned_bytes: u64,
    /// Memory of alternatives of choices, in bytes.
    pub cache_bytes: u64,
    /// Which alternatives make room for others.
    pub eviction: Eviction,
    /// Threads that read.
    pub n_readers: usize,
}

/// What a [`StreamedSource`] makes of a plan with given options, known before anything is allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Memory of what is kept, in bytes.
    pub pinned_bytes: u64,
    /// Bytes of weights that are kept, and that are read in every pass, for each stage.
    pub stages: Vec<StagePlacement>,
    /// Memory of the ring, in bytes.
    pub ring_bytes: u64,
    /// Memory of the readers and of what they read out of order, in bytes.
    pub reader_bytes: u64,
    /// Bytes read from the disk in every pass, alternatives of choices left out.
    pub streamed_bytes: u64,
}

/// Where the weights of a stage are, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StagePlacement {
    /// Kept in memory.
    pub pinned: u64,
    /// Read in every pass.
    pub streamed: u64,
    /// Alternatives that a pass chooses from.
    pub alternatives: u64,
}

impl Placement {
    /// Places the weights of `plan`.
    pub fn of(plan: &PassPlan, options: &StreamedOptions) -> Placement {
        Placement::of_pieces(&place(plan, options), plan, options)
    }

    fn of_pieces(pieces: &[Piece], plan: &PassPlan, options: &StreamedOptions) -> Placement {
        let mut placement = Placement {
            pinned_bytes: 0,
            streamed_bytes: 0,
            stages: vec![StagePlacement::default(); plan.n_stages() as usize],
            ring_bytes: buffer_bytes(plan, options) * options.n_buffers as u64,
            // A row of a table is no longer than the longest row of a matrix, as far as any model goes.
            reader_bytes: options.n_readers as u64 * READER_BYTES
                + n_staging(plan, options) as u64 * STAGING_BYTES
                + COPIES_AT_ONCE as u64 * padded_len(pieces::longest_row(plan)),
        };
        for choice in &plan.choices {
            let bytes = choice.alternatives.iter().flatten().map(|extent| extent.len).sum::<u64>();
            placement.stages[choice.stage as usize].alternatives += bytes;
        }
        placement.take_in(pieces);
        placement
    }

    /// Counts where `pieces` are.
    fn take_in(&mut self, pieces: &[Piece]) {
        for stage in &mut self.stages {
            (stage.pinned, stage.streamed) = (0, 0);
        }
        for Piece { extent, stage, is_pinned, .. } in pieces.iter().filter(|piece| !piece.is_covered()) {
            let at = &mut self.stages[*stage as usize];
            *(if *is_pinned { &mut at.pinned } else { &mut at.streamed }) += extent.len;
        }
        self.pinned_bytes = pieces::pinned_bytes(pieces);
        self.streamed_bytes = self.stages.iter().map(|stage| stage.streamed).sum();
    }
}

/// Memory of a reader for a part of an alternative, before it is copied to where it stays: disks are slower at memory that
/// is written to now and then, in small pages, than at memory that is used again and again (docs/streaming.md).
const STAGING_BYTES: u64 = 512 << 10;

/// One for each reader, where there are alternatives.
fn n_staging(plan: &PassPlan, options: &StreamedOptions) -> usize {
    if plan.choices.is_empty() { 0 } else { options.n_readers.max(1) }
}

fn buffer_bytes(plan: &PassPlan, options: &StreamedOptions) -> u64 {
    options.piece_bytes.max(padded_len(pieces::longest_row(plan)))
}

fn place(plan: &PassPlan, options: &StreamedOptions) -> Vec<Piece> {
    pieces::place(pieces::cut(plan, buffer_bytes(plan, options)), plan, options.pinned_bytes)
}

/// What a source has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Bytes of weights read from the files.
    pub bytes_read: u64,
    /// Time that leases waited for bytes.
    pub stalled: Duration,
    /// Alternatives of choices.
    pub choices: ChoiceStats,
    /// The stage that the last lease was for.
    pub stage: u32,
}

impl StreamStats {
    /// What was done after `before`.
    pub fn since(&self, before: &StreamStats) -> StreamStats {
        let ChoiceStats { hits, misses } = before.choices;
        StreamStats {
            bytes_read: self.bytes_read - before.bytes_read,
            stalled: self.stalled - before.stalled,
            choices: ChoiceStats { hits: self.choices.hits - hits, misses: self.choices.misses - misses },
            stage: self.stage,
        }
    }
}

struct Shared {
    desk: Desk<State>,
    blocks: Box<dyn Blocks>,
    /// One for each reader, where there are alternatives.
    staging: Vec<Mutex<Buffer>>,
    bytes_read: AtomicU64,
    stalled_nanos: AtomicU64,
    stage: AtomicU32,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.desk.lock()
    }

    /// Waits for a reader to bring something.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let started = Instant::now();
        let state = self.desk.wait(state);
        self.count_stalled(started);
        state
    }

    /// Time that leases have waited.
    fn stalled(&self) -> Duration {
        Duration::from_nanos(self.stalled_nanos.load(Ordering::Relaxed))
    }

    fn count_stalled(&self, since: Instant) {
        self.stalled_nanos.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn read(&self, reader: usize, job: &mut Job) -> Result<usize, ReadError> {
        let buffer = job.buffer.bytes_mut();
        let head = match (job.target, self.staging.get(reader)) {
            (Target::Alternative { .. }, Some(staging)) => {
                self.read_staged(reader, staging, job.extent, buffer)?
            }
            _ => self.blocks.read(reader, job.extent, buffer)?,
        };
        self.bytes_read.fetch_add(job.extent.len, Ordering::Relaxed);
        Ok(head)
    }

    /// Reads `extent` to the start of `buffer`, a part at a time.
    fn read_staged(
        &self,
        reader: usize,
        staging: &Mutex<Buffer>,
        extent: Extent,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let mut staging = staging.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = staging.bytes_mut();
        let mut done = 0;
        while done < extent.len {
            // Parts end at blocks, so that no block is read twice.
            let at = extent.offset + done;
            let end = (at + staging.len() as u64) / ALIGNMENT * ALIGNMENT - ALIGNMENT;
            let part = extent.slice(done, (end - at).min(extent.len - done));
            let head = self.blocks.read(reader, part, staging)?;
            let len = part.len as usize;
            buffer[done as usize..][..len].copy_from_slice(&staging[head..][..len]);
            done += part.len;
        }
        Ok(0)
    }
}

/// Memory of a streamed source that a lease holds.
pub(crate) struct Owned<'a>(Holding<'a>);

enum Holding<'a> {
    Pinned(Arc<Filled>),
    /// A buffer of the ring, which goes back to it; there until the lease is dropped.
    Ring {
        filled: Option<Filled>,
        piece: usize,
        shared: &'a Shared,
    },
    Alternative {
        filled: Arc<Filled>,
        item: usize,
        shared: &'a Shared,
    },
}

impl Owned<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Holding::Pinned(filled) | Holding::Alternative { filled, .. } => filled.bytes(),
            Holding::Ring { filled, .. } => filled.as_ref().map_or(&[], Filled::bytes),
        }
    }
}

impl std::fmt::Debug for Owned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Owned").field(&self.bytes().len()).finish()
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        match &mut self.0 {
            Holding::Pinned(_) => {}
            Holding::Ring { filled, piece, shared } => {
                let mut state = shared.lock();
                if state.hands_over
                    && let Some(filled) = filled
                {
                    drop(state);
                    let started = Instant::now();
                    os::hand_over(filled.bytes());
                    // Time that the computation would have waited for.
                    shared.count_stalled(started);
                    state = shared.lock();
                }
                state.states[*piece] = PieceState::Empty;
                state.free.extend(filled.take().map(|filled| filled.buffer));
                drop(state);
                shared.desk.call_one();
            }
            Holding::Alternative { item, shared, .. } => shared.lock().alternatives.release(*item),
        }
    }
}

/// Lends weights from memory of a fixed size, reading what is not in it.
pub struct StreamedSource {
    shared: Arc<Shared>,
    /// Piece that starts at a place of a file.
    index: HashMap<(u32, u64), usize>,
    /// First piece of each read of the plan, and one more.
    first_pieces: Vec<usize>,
    /// Reads of the plan.
    reads: Vec<Planned>,
    max_held_bytes: u64,
    placement: Mutex<Placement>,
    readers: Readers,
}

impl StreamedSource {
    /// Streams the files of `mapped`, which stays what it is: the map of their headers. Reads no weight yet.
    pub fn new(
        mapped: &MappedSource,
        plan: &PassPlan,
        options: &StreamedOptions,
    ) -> Result<StreamedSource, OpenError> {
        let blocks = FileBlocks::open(mapped.mapped_parts(), options.n_readers)?;
        StreamedSource::with_blocks(Box::new(blocks), plan, options)
    }

    fn with_blocks(
        blocks: Box<dyn Blocks>,
        plan: &PassPlan,
        options: &StreamedOptions,
    ) -> Result<StreamedSource, OpenError> {
        let pieces = place(plan, options);
        let mut index = HashMap::with_capacity(pieces.len());
        for (i, piece) in pieces.iter().enumerate() {
            // A range that a plan reads twice has the pieces of the first time, both times.
            index.entry((piece.extent.file, piece.extent.offset)).or_insert(i);
        }
        let first_pieces = pieces::firsts(&pieces, plan);
        let buffer_bytes = buffer_bytes(plan, options);
        let n_buffers = options.n_buffers.max(2);
        let memory = |e| OpenError::io("(memory for weights)".as_ref(), e);
        let free = Buffer::together(&vec![buffer_bytes; n_buffers]).map_err(memory)?.into();
        let staging = vec![STAGING_BYTES; n_staging(plan, options)];
        let staging = Buffer::together(&staging).map_err(memory)?;
        let pinned: Vec<usize> =
            (0..pieces.len()).filter(|i| pieces[*i].memory_bytes() > 0 && pieces[*i].is_pinned).collect();
        let memory_bytes: Vec<u64> = pinned.iter().map(|i| pieces[*i].memory_bytes()).collect();
        let reserved = pinned.into_iter().zip(Buffer::each(&memory_bytes).map_err(memory)?).collect();
        let placement = Placement::of_pieces(&pieces, plan, options);
        let state = State {
            states: pieces.iter().map(|_| PieceState::Empty).collect(),
            reserved,
            // Nothing is read before the first pass.
            limit: 0,
            pieces,
            cursor: 0,
            next: 0,
            awaited: Vec::new(),
            waits: PassWaits::begin(Duration::ZERO),
            hands_over: false,
            given_up: false,
            free,
            n_reading: 0,
            alternatives: Alternatives::new(plan, options.cache_bytes, options.eviction),
            copies: Copies::default(),
        };
        let shared = Arc::new(Shared {
            desk: Desk::new(state),
            blocks,
            staging: staging.into_iter().map(Mutex::new).collect(),
            bytes_read: AtomicU64::new(0),
            stalled_nanos: AtomicU64::new(0),
            stage: AtomicU32::new(0),
        });
        let mut source = StreamedSource {
            shared: Arc::clone(&shared),
            index,
            first_pieces,
            reads: plan.reads.clone(),
            // The other half is being read while this one is computed.
            max_held_bytes: buffer_bytes * (n_buffers as u64 / 4),
            placement: Mutex::new(placement),
            readers: Readers::default(),
        };
        for number in 0..options.n_readers.max(1) {
            let shared = Arc::clone(&shared);
            let panicked = |job: &Job, source| state::out_of_memory(job.extent, source);
            let serve = move || shared.desk.serve(|job| shared.read(number, job), panicked);
            source.readers.start("rawrz-read", serve).map_err(memory)?;
        }
        Ok(source)
    }

    /// Where the weights are.
    pub fn placement(&self) -> Placement {
        self.placement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether reads pass by the page cache.
    pub fn is_direct(&self) -> bool {
        self.shared.blocks.is_direct()
    }

    /// What was done so far.
    pub fn stats(&self) -> StreamStats {
        StreamStats {
            bytes_read: self.shared.bytes_read.load(Ordering::Relaxed),
            stalled: self.shared.stalled(),
            choices: self.shared.lock().alternatives.stats,
            stage: self.shared.stage.load(Ordering::Relaxed),
        }
    }

    /// Memory that [`StreamedSource::shrink`] can give back, in bytes.
    pub fn shrinkable_bytes(&self) -> u64 {
        let state = self.shared.lock();
        pieces::unpinnable_bytes(&state.pieces) + state.alternatives.shrinkable_bytes()
    }

    /// Gives `bytes` of memory back to the system, or all that can be: what was pinned is streamed from the next pass on.
    /// Between passes only.
    pub fn shrink(&self, bytes: u64) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let from_cache = bytes.min(state.alternatives.shrinkable_bytes());
        state.alternatives.shrink(from_cache);
        for piece in pieces::unpin(&mut state.pieces, bytes - from_cache) {
            if let PieceState::Reading = state.states[piece] {
                // Its memory is not the ring's: it stays.
                state.pieces[piece].is_pinned = true;
                continue;
            }
            state.reserved.remove(&piece);
            pieces::part(&mut state.pieces, piece);
            if let PieceState::Pinned(_) = state.states[piece] {
                state.states[piece] = PieceState::Empty;
            }
        }
        let mut placement = self.placement.lock().unwrap_or_else(PoisonError::into_inner);
        placement.take_in(&state.pieces);
    }

    /// Reads what passes stream, without lending it, for `time`: by as many readers and in as long reads as passes do,
    /// into the buffers of the ring. Bytes in a second; infinite when nothing is streamed. Between passes only.
    pub fn probe(&self, time: Duration) -> Result<f64, ReadError> {
        let (extents, mut buffers) = {
            let mut state = self.shared.lock();
            // Nothing is read ahead meanwhile.
            state.limit = 0;
            while state.n_reading > 0 {
                state = self.shared.wait(state);
            }
            state.forget_read_ahead();
            state.cursor = 0;
            let n_buffers = self.readers.len().min(state.free.len());
            let buffers = state.free.drain(..n_buffers).collect::<Vec<_>>();
            let streamed = state.pieces.iter().filter(|piece| !piece.is_pinned).map(|piece| piece.extent);
            let most = buffers.first().map_or(0, Buffer::len) as u64 - padded_len(1);
            let ranges = streamed.chain(state.alternatives.ranges());
            let short = ranges.flat_map(|range| {
                let cut = (0..range.len).step_by(most as usize);
                cut.map(move |at| range.slice(at, most.min(range.len - at)))
            });
            (short.collect::<Vec<Extent>>(), buffers)
        };
        let result = self.read_for(time, &extents, &mut buffers);
        self.shared.lock().free.extend(buffers);
        result
    }

    fn read_for(&self, time: Duration, extents: &[Extent], buffers: &mut [Buffer]) -> Result<f64, ReadError> {
        if extents.is_empty() {
            return Ok(f64::INFINITY);
        }
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let started = Instant::now();
        let read = |number: usize, buffer: &mut Buffer| -> Result<(), ReadError> {
            while started.elapsed() < time {
                let extent = extents[next.fetch_add(1, Ordering::Relaxed) % extents.len()];
                self.shared.blocks.read(number, extent, buffer.bytes_mut())?;
                bytes.fetch_add(extent.len, Ordering::Relaxed);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let read = &read;
            let readers = buffers.iter_mut().enumerate();
            let readers: Vec<_> = readers.map(|(n, buffer)| scope.spawn(move || read(n, buffer))).collect();
            readers.into_iter().try_for_each(|reader| match reader.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(bytes.into_inner() as f64 / started.elapsed().as_secs_f64())
    }

    /// An alternative that is here.
    fn take(&self, state: &mut State, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        let shared = &*self.shared;
        let taken = state.alternatives.take(wanted)?;
        Ok(taken.map(|(index, item, ranges)| {
            let lease = |filled| Lease::owned(Owned(Holding::Alternative { filled, item, shared }));
            Arrived { index, leases: ranges.into_iter().map(lease).collect() }
        }))
    }

    fn piece(&self, extent: Extent) -> Result<usize, ReadError> {
        let found = self.index.get(&(extent.file, extent.offset)).copied();
        found.ok_or(ReadError::OutOfRange { file: extent.file, offset: extent.offset, len: extent.len })
    }
}

impl Source for StreamedSource {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        self.shared.blocks.check()?;
        assert!(self.reads.starts_with(reads), "a pass reads the plan, from its start");
        let mut state = self.shared.lock();
        if !state.is_through() {
            // The last pass was given up: what was read ahead for it is of no use.
            state.forget_read_ahead();
            state.cursor = 0;
        }
        state.alternatives.forget_wanted();
        state.next = 0;
        state.limit = self.first_pieces[reads.len()];
        state.waits = PassWaits::begin(self.shared.stalled());
        drop(state);
        self.shared.desk.call_all();
        Ok(())
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        debug_assert!(extent.len.is_multiple_of(unit));
        let state = self.shared.lock();
        self.piece(extent).map_or(extent.len, |piece| state.pieces[piece].extent.len)
    }

    fn max_held_bytes(&self) -> u64 {
        self.max_held_bytes
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        let piece = self.piece(extent)?;
        let shared = &*self.shared;
        let mut state = shared.lock();
        let planned = state.pieces[piece];
        if planned.extent.len != extent.len || planned.is_covered() {
            let Extent { file, offset, len } = extent;
            return Err(ReadError::OutOfRange { file, offset, len });
        }
        shared.stage.store(planned.stage, Ordering::Relaxed);
        state.next = piece + 1;
        loop {
            match &state.states[piece] {
                PieceState::Pinned(filled) => {
                    return Ok(Lease::owned(Owned(Holding::Pinned(Arc::clone(filled)))));
                }
                PieceState::Ready(_) => {
                    let PieceState::Ready(filled) =
                        std::mem::replace(&mut state.states[piece], PieceState::Lent)
                    else {
                        unreachable!("looked at above")
                    };
                    let holding = Holding::Ring { filled: Some(filled), piece, shared };
                    return Ok(Lease::owned(Owned(holding)));
                }
                PieceState::Failed(_) => {
                    return match std::mem::replace(&mut state.states[piece], PieceState::Empty) {
                        PieceState::Failed(error) => Err(error),
                        _ => unreachable!("looked at above"),
                    };
                }
                PieceState::Empty => state.seek(piece),
                PieceState::Reading | PieceState::Lent => {}
            }
            state.awaited.push(piece);
            state.waits.n_waiting = state.waits.n_waiting.max(state.awaited.len() as u32);
            state = shared.wait(state);
            if let Some(mine) = state.awaited.iter().position(|awaited| *awaited == piece) {
                state.awaited.swap_remove(mine);
            }
        }
    }

    fn copy(&self, extents: &[Extent], out: &mut Vec<u8>) -> Result<(), ReadError> {
        out.clear();
        let shared = &*self.shared;
        for extents in extents.chunks(COPIES_AT_ONCE) {
            let mut state = shared.lock();
            state.copies.done = extents.iter().map(|_| None).collect();
            state.copies.queue = extents.iter().copied().enumerate().collect();
            for index in 0..extents.len() {
                let filled = loop {
                    match state.copies.done[index].take() {
                        Some(result) => break result,
                        None => state = shared.wait(state),
                    }
                };
                match filled {
                    Ok(filled) => out.extend_from_slice(filled.bytes()),
                    Err(error) => {
                        // What is under way must not come in as part of the next call.
                        state.copies.queue.clear();
                        while state.copies.n_reading > 0 {
                            state = shared.wait(state);
                        }
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        let result = self.shared.lock().alternatives.request(wanted);
        self.shared.desk.call_all();
        result
    }

    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        assert!(!wanted.is_empty());
        let mut state = self.shared.lock();
        loop {
            if let Some(arrived) = self.take(&mut state, wanted)? {
                return Ok(arrived);
            }
            state = self.shared.wait(state);
        }
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        self.take(&mut self.shared.lock(), wanted)
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        let mut state = self.shared.lock();
        state.hands_over = state.waits.is_mostly_waiting(self.shared.stalled());
        drop(state);
        self.shared.blocks.check()
    }
}

impl Drop for StreamedSource {
    fn drop(&mut self) {
        self.shared.desk.stop();
    }
}
