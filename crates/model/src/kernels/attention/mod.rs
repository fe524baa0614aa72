//! Attention over cached keys and values.
//!
//! # Definition
//! The positions of a timeline are cut into blocks of [`BLOCK`] and segments of [`SEGMENT_BLOCKS`] blocks, counted
//! from position 0 whatever the batch. For one query head at one position:
//!
//! ```text
//! for each segment that it sees any of, in order:
//!     largest, sum, out = -inf, 0, 0
//!     for each block of the segment that it sees any of, in order:
//!         score[p] = scale * (q[0] * k[p][0] + q[1] * k[p][1] + ..)     one chain of fma over the head
//!         if a score that it sees is above `largest`: scale `sum` and `out` to the new one
//!         w[p] = exp(score[p] - largest), 0 where it does not see
//!         sum += w in 16 lanes by place in the block, then the fixed tree
//!         out[v] = w[p] * value[p][v] + out[v]                          one chain of fma over positions it sees
//!     join them to those of the segments before (`softmax::merge`)
//! result = out / sum
//! ```
//!
//! Nothing in it depends on other queries, and it has no sums across the lanes of a vector but that of `w`: the
//! lanes of a score are positions (keys lie across in the cache, see [`layout`]), those of `out` are elements of a
//! value. So any number of queries can share the work on a block, and segments can be computed by different threads.
//!
//! # Work
//! A task has a [`Tile`]: all query heads of one key-value head for a few tokens. It takes a block at a time, widens
//! its keys and values once into scratch that stays in the L1 and L2 caches, and multiplies all its rows by them.
//! Where a batch makes fewer tasks than keep the threads busy (one token, a long context), tasks take a segment each.
//!
//! The cache lends blocks, of whole segments but for the last. Where it lends only some segments at a time, all tiles take
//! those, one wave after the other, and joining goes on where the wave before it ended.

mod layout;
pub(super) mod product;
pub(super) mod softmax;
#[cfg(test)]
mod tests;

pub(crate) use layout::KvLayout;
pub use layout::KvType;
pub(super) use layout::{
    store_halves, store_q4_0, store_q8_0, widen_halves, widen_q4_0_keys, widen_q4_0_values, widen_q8_0_keys,
    widen_q8_0_values,
};

use super::vector::LANES;
use super::{DisjointRows, Ops, Pool};
use crate::error::PassError;
use product::{Line, MAX_ROWS, Product};
use softmax::{Rows, Visible};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Positions in one block, counted from position 0 of the timeline.
pub(crate) const BLOCK: usize = 64;

/// Blocks in one segment: enough that joining segments costs nothing beside computing them.
pub(crate) const SEGMENT_BLOCKS: usize = 8;

/// Rows of one tile, unless one token has more: so many share the widening of a block. With fewer, widening and
/// reading the cache again for each tile begin to count; with more, the rows of long heads fill the L2 cache.
const TILE_ROWS: usize = 72;

/// With more rows than this, widening f16 into scratch is cheaper than in each product.
const MAX_DIRECT_ROWS: usize = 2 * MAX_ROWS;

/// Tasks for each thread below which tiles are cut into segments, and up to which they are.
const TASKS_PER_THREAD: (usize, usize) = (4, 8);

/// One layer's cache, lent in blocks of all heads, `[kv_head]` as [`KvLayout`] has them: in order, all of a segment but
/// for those at the end of the last one that hold nothing.
pub(crate) trait Blocks: Sync {
    /// How many of `segments`, which are not none, are lent at a time from the first of them on: at least one.
    fn n_lent(&self, segments: Range<usize>) -> usize;

    /// The blocks of `segments` where all of them are in memory.
    fn resident(&self, segments: Range<usize>) -> Option<Vec<&[u8]>>;

    /// Lends the blocks of `segments`, no more than [`Blocks::n_lent`], to `work`.
    fn lend(&self, segments: Range<usize>, work: &mut dyn FnMut(&[&[u8]])) -> Result<(), PassError>;
}

/// Attention of one layer for a batch of tokens, whose keys and values are in the cache already.
pub(crate) struct Attention<'a> {
    pub(crate) layout: KvLayout,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    /// `[token][head][key_dim]`, rotated.
    pub(crate) queries: &'a [f32],
    pub(crate) cache: &'a dyn Blocks,
    /// Position of the first token.
    pub(crate) start: usize,
    /// Positions that a token sees, itself included: `usize::MAX` for all before it.
    pub(crate) window_len: usize,
    /// Factor of every score, above 0.
    pub(crate) scale: f32,
}

impl Attention<'_> {
    fn heads_per_kv(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn n_tokens(&self) -> usize {
        self.queries.len() / (self.n_heads * self.layout.key_dim)
    }

    /// First position that the one at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window_len)
    }
}

/// Tokens of one tile.
fn tile_tokens(heads_per_kv: usize) -> usize {
    (TILE_ROWS / heads_per_kv).max(1)
}

/// The queries of one task: heads of `kv_head`, tokens from `first` on.
#[derive(Clone, Copy)]
struct Tile {
    kv_head: usize,
    first: usize,
    n_tokens: usize,
}

/// Scratch of one thread.
#[derive(Default)]
struct Scratch {
    /// `[row][key_dim]`
    queries: Vec<f32>,
    /// `[row][BLOCK]`: scores, then weights.
    weights: Vec<f32>,
    /// What each row sees of a block.
    visible: Vec<Visible>,
    /// A block of keys, `[key_dim][BLOCK]`.
    keys: Vec<Line>,
    /// A block of values, `[BLOCK][value_stride]`.
    values: Vec<Line>,
    /// Rows of a segment, and of all segments before.
    segment: Vec<f32>,
    total: Vec<f32>,
}

/// Scratch of all threads, kept from pass to pass. Its size does not depend on the length of the context.
#[derive(Default)]
pub(crate) struct AttentionScratch {
    /// Scratch that no task is using now.
    free: Mutex<Vec<Scratch>>,
    /// Where tiles are cut into segments: rows of segments, `[segment][task]`, and of whole tiles, `[task]`.
    parts: Vec<f32>,
    totals: Vec<f32>,
}

impl AttentionScratch {
    /// The most bytes that attention with `n_threads` threads takes.
    pub(crate) fn bytes(layout: KvLayout, heads_per_kv: usize, n_threads: usize) -> u64 {
        let n_rows = tile_tokens(heads_per_kv) * heads_per_kv;
        let rows = Rows::len(n_rows, layout.value_stride());
        let floats = n_rows * (layout.key_dim + BLOCK + 1) + 2 * rows;
        let block = BLOCK * (layout.key_dim + layout.value_stride());
        let parts = (TASKS_PER_THREAD.0 + TASKS_PER_THREAD.1) * rows;
        (floats + block + parts) as u64 * 4 * n_threads as u64
    }

    /// The most bytes that it takes beside that where not all blocks are lent at once, for batches of up to `batch_len`.
    pub(crate) fn waves_bytes(
        layout: KvLayout,
        heads_per_kv: usize,
        n_kv_heads: usize,
        batch_len: usize,
    ) -> u64 {
        let tile_tokens = tile_tokens(heads_per_kv).min(batch_len);
        let rows = Rows::len(tile_tokens * heads_per_kv, layout.value_stride());
        (batch_len.div_ceil(tile_tokens) * n_kv_heads * rows) as u64 * 4
    }

    fn with<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = free().pop().unwrap_or_default();
        let result = f(&mut scratch);
        free().push(scratch);
        result
    }
}

/// `out = softmax(queries . keys * scale) . values`, `[token][head][value_dim]`, over what each position sees.
pub(crate) fn attend(
    job: &Attention<'_>,
    out: &mut [f32],
    scratch: &mut AttentionScratch,
    ops: &Ops,
    pool: &Pool,
) -> Result<(), PassError> {
    let (n_tokens, tile_tokens) = (job.n_tokens(), tile_tokens(job.heads_per_kv()));
    assert_eq!(out.len(), n_tokens * job.n_heads * job.layout.value_dim);
    let out = DisjointRows::new(out, job.n_heads * job.layout.value_dim);
    let n_tasks = n_tokens.div_ceil(tile_tokens) * job.n_kv_heads;
    let tiles = Tiles { job, n_tokens, tile_tokens, n_tasks };
    let all = segments(job, 0, n_tokens);
    let few = pool.n_threads() > 1 && n_tasks < TASKS_PER_THREAD.0 * pool.n_threads();
    if few && all.len() > 1 || job.cache.n_lent(all.clone()) < all.len() {
        let (mut parts, mut totals) =
            (std::mem::take(&mut scratch.parts), std::mem::take(&mut scratch.totals));
        let result = in_waves(&tiles, few, &mut parts, &mut totals, &out, scratch, ops, pool);
        (scratch.parts, scratch.totals) = (parts, totals);
        return result;
    }
    job.cache.lend(all.clone(), &mut |blocks| {
        let wave = Wave { first: all.start, blocks };
        pool.run(n_tasks, &|task| {
            scratch.with(|scratch| whole(job, tiles.tile(task), &wave, scratch, &out, ops));
        });
    })
}

/// As [`attend`] for each job and where its result goes. Where together they make enough tasks, those whose blocks are in
/// memory share the threads: jobs of one token have too little work each to be worth waking them.
pub(crate) fn attend_all(
    jobs: Vec<(Attention<'_>, &mut [f32])>,
    scratch: &mut AttentionScratch,
    ops: &Ops,
    pool: &Pool,
) -> Result<(), PassError> {
    let n_tasks =
        |job: &Attention<'_>| job.n_tokens().div_ceil(tile_tokens(job.heads_per_kv())) * job.n_kv_heads;
    let all_tasks: usize = jobs.iter().map(|(job, _)| n_tasks(job)).sum();
    if jobs.len() == 1 || all_tasks < TASKS_PER_THREAD.0 * pool.n_threads() {
        return jobs.into_iter().try_for_each(|(job, out)| attend(&job, out, scratch, ops, pool));
    }
    let mut together: Vec<(Attention<'_>, DisjointRows<'_>)> = Vec::with_capacity(jobs.len());
    for (job, out) in jobs {
        assert_eq!(out.len(), job.n_tokens() * job.n_heads * job.layout.value_dim);
        match job.cache.resident(segments(&job, 0, job.n_tokens())) {
            Some(_) => {
                let row_len = job.n_heads * job.layout.value_dim;
                together.push((job, DisjointRows::new(out, row_len)));
            }
            None => attend(&job, out, scratch, ops, pool)?,
        }
    }
    let mut waves = Vec::with_capacity(together.len());
    let mut tasks = Vec::with_capacity(all_tasks);
    for (i, (job, _)) in together.iter().enumerate() {
        let (n_tokens, all) = (job.n_tokens(), segments(job, 0, job.n_tokens()));
        let tiles =
            Tiles { job, n_tokens, tile_tokens: tile_tokens(job.heads_per_kv()), n_tasks: n_tasks(job) };
        tasks.extend((0..tiles.n_tasks).map(|task| (i, tiles.tile(task))));
        waves.push((all.start, job.cache.resident(all).unwrap_or_default()));
    }
    // What takes longest comes first.
    tasks.sort_by_key(|(i, tile)| {
        let job = &together[*i].0;
        std::cmp::Reverse(tile.n_tokens * (job.start + tile.first).min(job.window_len))
    });
    pool.run(tasks.len(), &|task| {
        let (i, tile) = tasks[task];
        let ((job, out), (first, blocks)) = (&together[i], &waves[i]);
        scratch.with(|scratch| whole(job, tile, &Wave { first: *first, blocks }, scratch, out, ops));
    });
    Ok(())
}

/// The tasks of a job.
struct Tiles<'a> {
    job: &'a Attention<'a>,
    n_tokens: usize,
    /// Tokens of a tile, but for the last ones.
    tile_tokens: usize,
    n_tasks: usize,
}

impl Tiles<'_> {
    fn tile(&self, task: usize) -> Tile {
        // The last tokens see most: tasks that take longest come first.
        let first = (self.n_tasks - 1 - task) / self.job.n_kv_heads * self.tile_tokens;
        let n_tokens = self.tile_tokens.min(self.n_tokens - first);
        Tile { kv_head: task % self.job.n_kv_heads, first, n_tokens }
    }

    fn n_rows(&self, task: usize) -> usize {
        self.tile(task).n_tokens * self.job.heads_per_kv()
    }
}

/// Blocks that are lent now: those of segments from `first` on.
struct Wave<'a> {
    first: usize,
    blocks: &'a [&'a [u8]],
}

impl Wave<'_> {
    /// Those of `segments` that it has.
    fn of(&self, segments: Range<usize>) -> Range<usize> {
        let n_segments = self.blocks.len().div_ceil(SEGMENT_BLOCKS);
        segments.start.max(self.first)..segments.end.min(self.first + n_segments)
    }

    /// Block `index` of the timeline, `[kv_head]`.
    fn block(&self, index: usize) -> &[u8] {
        self.blocks[index - self.first * SEGMENT_BLOCKS]
    }
}

/// Segments that tokens `first..first + n_tokens` of the batch see any of.
fn segments(job: &Attention<'_>, first: usize, n_tokens: usize) -> Range<usize> {
    let position = job.start + first;
    let segment_len = SEGMENT_BLOCKS * BLOCK;
    job.first_seen(position) / segment_len..(position + n_tokens).div_ceil(segment_len)
}

/// A tile by one task, with all blocks at hand.
fn whole(
    job: &Attention<'_>,
    tile: Tile,
    wave: &Wave<'_>,
    scratch: &mut Scratch,
    out: &DisjointRows<'_>,
    ops: &Ops,
) {
    let (n_rows, stride) = (tile.n_tokens * job.heads_per_kv(), job.layout.value_stride());
    let mut total = std::mem::take(&mut scratch.total);
    total.resize(Rows::len(n_rows, stride), 0.0);
    let mut rows = Rows::new(&mut total, n_rows, stride);
    rows.clear();
    join_wave(job, tile, wave, scratch, &mut rows, ops);
    write(job, tile, &rows, out, ops);
    scratch.total = total;
}

/// Joins what a tile has from the segments of a wave to what it has from those before.
fn join_wave(
    job: &Attention<'_>,
    tile: Tile,
    wave: &Wave<'_>,
    scratch: &mut Scratch,
    total: &mut Rows<'_>,
    ops: &Ops,
) {
    let (n_rows, stride) = (tile.n_tokens * job.heads_per_kv(), job.layout.value_stride());
    let mut segment = std::mem::take(&mut scratch.segment);
    segment.resize(Rows::len(n_rows, stride), 0.0);
    pack(job, tile, scratch);
    for index in wave.of(segments(job, tile.first, tile.n_tokens)) {
        let mut part = Rows::new(&mut segment, n_rows, stride);
        one_segment(job, tile, index, wave, scratch, &mut part, ops);
        ops.merge(total, &part);
    }
    scratch.segment = segment;
}

/// All tiles, segments in waves: as many as are lent at a time, and where there are few tiles no more than there is
/// scratch for, with a task for each segment of each tile.
#[allow(clippy::too_many_arguments)]
fn in_waves(
    tiles: &Tiles<'_>,
    few: bool,
    parts: &mut Vec<f32>,
    totals: &mut Vec<f32>,
    out: &DisjointRows<'_>,
    scratch: &AttentionScratch,
    ops: &Ops,
    pool: &Pool,
) -> Result<(), PassError> {
    let Tiles { job, n_tasks, .. } = *tiles;
    let stride = job.layout.value_stride();
    let rows_len = Rows::len(tiles.tile_tokens.min(tiles.n_tokens) * job.heads_per_kv(), stride);
    // Waves keep the scratch bounded whatever the length of the context.
    let most = if few { (TASKS_PER_THREAD.1 * pool.n_threads() / n_tasks).max(1) } else { usize::MAX };
    let all = segments(job, 0, tiles.n_tokens);
    parts.resize(if few { most * n_tasks * rows_len } else { 0 }, 0.0);
    totals.resize(n_tasks * rows_len, 0.0);
    let (part_rows, total_rows) = (DisjointRows::new(parts, rows_len), DisjointRows::new(totals, rows_len));
    pool.run(n_tasks, &|task| {
        // SAFETY: each task takes its own row.
        let total = unsafe { total_rows.slice(task, 0, rows_len) };
        Rows::new(total, tiles.n_rows(task), stride).clear();
    });
    let mut first = all.start;
    while first < all.end {
        let n_segments = job.cache.n_lent(first..all.end).min(most);
        let is_last = first + n_segments == all.end;
        job.cache.lend(first..first + n_segments, &mut |blocks| {
            let wave = Wave { first, blocks };
            if few {
                pool.run(n_segments * n_tasks, &|i| {
                    let (task, segment) = (i % n_tasks, first + i / n_tasks);
                    // SAFETY: each task takes its own row.
                    let part = unsafe { part_rows.slice(i, 0, rows_len) };
                    let mut part = Rows::new(part, tiles.n_rows(task), stride);
                    scratch.with(|scratch| {
                        let tile = tiles.tile(task);
                        pack(job, tile, scratch);
                        one_segment(job, tile, segment, &wave, scratch, &mut part, ops);
                    });
                });
            }
            pool.run(n_tasks, &|task| {
                // SAFETY: each task takes its own row.
                let total = unsafe { total_rows.slice(task, 0, rows_len) };
                let mut total = Rows::new(total, tiles.n_rows(task), stride);
                if few {
                    for segment in 0..n_segments {
                        // SAFETY: row `segment * n_tasks + task` is of this task only.
                        let part = unsafe { part_rows.slice(segment * n_tasks + task, 0, rows_len) };
                        ops.merge(&mut total, &Rows::new(part, tiles.n_rows(task), stride));
                    }
                } else {
                    let tile = tiles.tile(task);
                    scratch.with(|scratch| join_wave(job, tile, &wave, scratch, &mut total, ops));
                }
                if is_last {
                    write(job, tiles.tile(task), &total, out, ops);
                }
            });
        })?;
        first += n_segments;
    }
    Ok(())
}

/// Copies the queries of a tile next to each other: in place they lie so that they fall onto the same cache sets.
fn pack(job: &Attention<'_>, tile: Tile, scratch: &mut Scratch) {
    let len = job.heads_per_kv() * job.layout.key_dim;
    scratch.queries.clear();
    for token in tile.first..tile.first + tile.n_tokens {
        let first = token * job.n_heads * job.layout.key_dim + tile.kv_head * len;
        scratch.queries.extend_from_slice(&job.queries[first..][..len]);
    }
}

/// Writes the results of a tile.
fn write(job: &Attention<'_>, tile: Tile, rows: &Rows<'_>, out: &DisjointRows<'_>, ops: &Ops) {
    let (heads_per_kv, dim) = (job.heads_per_kv(), job.layout.value_dim);
    for token in 0..tile.n_tokens {
        let column = tile.kv_head * heads_per_kv * dim;
        // SAFETY: these heads of this token belong to this tile, which is the only one that writes them.
        let out = unsafe { out.slice(tile.first + token, column, heads_per_kv * dim) };
        for (head, out) in out.chunks_exact_mut(dim).enumerate() {
            let (sum, values) = rows.row(token * heads_per_kv + head);
            out.copy_from_slice(&values[..dim]);
            ops.scale(out, 1.0 / sum);
        }
    }
}

/// Cuts `n_rows` into groups of at most [`MAX_ROWS`] that differ by one row at most: first row and length.
fn row_groups(n_rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let n_groups = n_rows.div_ceil(MAX_ROWS);
    (0..n_groups).map(move |i| {
        let first = i * n_rows / n_groups;
        (first, (i + 1) * n_rows / n_groups - first)
    })
}

/// What the rows of a tile have from one segment of a wave. The queries are packed.
fn one_segment(
    job: &Attention<'_>,
    tile: Tile,
    segment: usize,
    wave: &Wave<'_>,
    scratch: &mut Scratch,
    rows: &mut Rows<'_>,
    ops: &Ops,
) {
    rows.clear();
    let (layout, heads_per_kv) = (job.layout, job.heads_per_kv());
    let n_rows = tile.n_tokens * heads_per_kv;
    let position = job.start + tile.first;
    let first = (segment * SEGMENT_BLOCKS).max(job.first_seen(position) / BLOCK);
    let end = ((segment + 1) * SEGMENT_BLOCKS).min((position + tile.n_tokens).div_ceil(BLOCK));
    scratch.weights.resize(n_rows * BLOCK, 0.0);
    for block in first..end {
        let visible = (0..n_rows).map(|row| see(job, position + row / heads_per_kv, block));
        scratch.visible.clear();
        scratch.visible.extend(visible);
        let (keys, values) = layout.split(&wave.block(block)[tile.kv_head * layout.block_bytes()..]);
        if layout.ty == KvType::F16 && n_rows <= MAX_DIRECT_ROWS {
            let keys = keys.as_chunks::<{ 2 * LANES }>().0;
            let values = values.as_chunks::<{ 2 * LANES }>().0;
            scores(layout, scratch, keys, &|product, out| ops.multiply_halves(product, out));
            ops.weights(&scratch.visible, job.scale, &mut scratch.weights, rows);
            add_values(layout, scratch, values, rows, &|product, out| ops.multiply_halves(product, out));
        } else {
            let (mut lines, mut value_lines) =
                (std::mem::take(&mut scratch.keys), std::mem::take(&mut scratch.values));
            lines.resize(BLOCK * layout.key_dim / LANES, Line::default());
            layout.widen_keys(keys, &mut lines, ops);
            scores(layout, scratch, &lines, &|product, out| ops.multiply_lines(product, out));
            ops.weights(&scratch.visible, job.scale, &mut scratch.weights, rows);
            value_lines.resize(BLOCK * layout.value_stride() / LANES, Line::default());
            layout.widen_values(values, &mut value_lines, ops);
            add_values(layout, scratch, &value_lines, rows, &|product, out| ops.multiply_lines(product, out));
            (scratch.keys, scratch.values) = (lines, value_lines);
        }
    }
}

/// What the query at `position` sees of `block`; equal ends for nothing.
fn see(job: &Attention<'_>, position: usize, block: usize) -> Visible {
    let start = block * BLOCK;
    let place = |position: usize| position.clamp(start, start + BLOCK) - start;
    let (from, to) = (place(job.first_seen(position)), place(position + 1));
    (from as u8, to as u8)
}

/// Products of all rows with the keys of a block, also with some that a row does not see: nothing comes of them.
fn scores<G>(
    layout: KvLayout,
    scratch: &mut Scratch,
    keys: &[G],
    multiply: &dyn Fn(&Product<'_, G>, &mut [f32]),
) {
    let n_rows = scratch.visible.len();
    for (first, len) in row_groups(n_rows) {
        let end = scratch.visible[first..][..len].iter().map(|v| v.1).max().unwrap_or(0);
        let product = Product {
            left: &scratch.queries[first * layout.key_dim..],
            left_stride: layout.key_dim,
            right: keys,
            right_stride: BLOCK / LANES,
            n_rows: len,
            n_terms: layout.key_dim,
            n_groups: usize::from(end).div_ceil(LANES),
            out_stride: BLOCK,
            adds: false,
        };
        multiply(&product, &mut scratch.weights[first * BLOCK..]);
    }
}

/// Adds the values of a block with their weights, to each row those that it sees, in order of positions.
fn add_values<G>(
    layout: KvLayout,
    scratch: &Scratch,
    values: &[G],
    rows: &mut Rows<'_>,
    multiply: &dyn Fn(&Product<'_, G>, &mut [f32]),
) {
    let n_groups = layout.value_stride() / LANES;
    let mut add = |row: usize, n_rows: usize, from: u8, to: u8| {
        if from >= to {
            return;
        }
        let (from, to) = (usize::from(from), usize::from(to));
        let product = Product {
            left: &scratch.weights[row * BLOCK + from..],
            left_stride: BLOCK,
            right: &values[from * n_groups..],
            right_stride: n_groups,
            n_rows,
            n_terms: to - from,
            n_groups,
            out_stride: layout.value_stride(),
            adds: true,
        };
        multiply(&product, rows.values_from(row));
    };
    for (first, len) in row_groups(scratch.visible.len()) {
        let visible = &scratch.visible[first..][..len];
        let from = visible.iter().map(|v| v.0).max().unwrap_or(0);
        let to = visible.iter().map(|v| v.1).min().unwrap_or(0);
        if from >= to {
            visible.iter().enumerate().for_each(|(i, v)| add(first + i, 1, v.0, v.1));
            continue;
        }
        // What all of them see they do together; what only some see comes before and after.
        visible.iter().enumerate().for_each(|(i, v)| add(first + i, 1, v.0, from));
        add(first, len, from, to);
        visible.iter().enumerate().for_each(|(i, v)| add(first + i, 1, to, v.1));
    }
}
