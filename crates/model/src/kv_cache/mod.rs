//! Keys and values of the positions seen so far.
//!
//! ```text
//!             slab 0   slab 1   slab 2   ...      taken and given back as a whole
//!   layer 0   page     page     page              a page: [block in slab][kv_head], see `KvLayout`
//!   layer 1   page     page     page
//!   ...
//! ```
//!
//! Slabs are taken from the system as positions are filled, and given back by [`KvCache::truncate`], so that a cache takes
//! what its length needs: a slab has one block of positions. A spilled cache has slabs of a segment, which is what attention
//! joins at a time: it keeps those of the first segments, and those at the end that are written to; a slab between them
//! goes to a scratch file as soon as it is full, and its pages come back one by one, in the order of the layers, ahead of
//! the attention that wants them.

use crate::config::Config;
use crate::error::PassError;
use crate::kernels::{
    ATTENTION_BLOCK, AttentionScratch, Blocks, KvLayout, KvType, Ops, Pool, SEGMENT_BLOCKS,
};
use rawrz_residency::{ALIGNMENT, Buffer, Spill, SpillError, SpilledPage, Storage};
use std::ops::Range;

/// With fewer tokens than this, storing them takes less time than waking the other threads.
const MIN_TOKENS_FOR_THREADS: usize = 8;

/// Positions of a segment.
const SEGMENT_LEN: usize = SEGMENT_BLOCKS * ATTENTION_BLOCK;

/// The ring that pages come back through, of which half are in use and half are read ahead: the least and the most pages,
/// and the most bytes where that is more than the least. It takes a quarter of what is not needed anyway.
const RING: (usize, usize, u64) = (4, 32, 16 << 20);

/// What a spilled cache keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillPlan {
    /// Segments, from the first on, that stay.
    n_resident: usize,
    /// Slabs for segments at the end that are written to.
    n_open: usize,
    /// Pages of the ring.
    n_buffers: usize,
    /// Memory of the cache and of what attention takes for it, in bytes.
    pub bytes: u64,
}

impl SpillPlan {
    /// Positions, from the first on, that stay in memory.
    pub fn resident_len(&self) -> usize {
        self.n_resident * SEGMENT_LEN
    }
}

/// The cache of one timeline.
#[derive(Debug)]
pub struct KvCache {
    shape: Shape,
    capacity: usize,
    len: usize,
    /// The slabs that are begun, but for those that are in the scratch file.
    slabs: Vec<Option<Buffer>>,
    spilled: Option<Spilled>,
}

#[derive(Debug)]
struct Spilled {
    pages: Spill,
    n_resident: usize,
    /// Positions that each layer sees, once it has said so.
    windows: Vec<Option<usize>>,
    /// Slabs that hold nothing now.
    spare: Vec<Buffer>,
}

/// How a cache is cut.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: KvLayout,
    n_layers: usize,
    n_kv_heads: usize,
    /// Blocks of a slab.
    slab_blocks: usize,
    page_bytes: usize,
    /// Slabs of a full cache.
    n_slabs: usize,
}

impl Shape {
    /// That of a cache in memory for `capacity` positions.
    fn new(config: &Config, ty: KvType, capacity: usize) -> Shape {
        let layout = config.kv_layout(ty);
        Shape {
            layout,
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            slab_blocks: 1,
            page_bytes: config.n_kv_heads * layout.block_bytes(),
            n_slabs: capacity.div_ceil(ATTENTION_BLOCK),
        }
    }

    /// That of a spilled one, whose pages are read and written past the page cache. Less than a segment has pages as
    /// short as that allows.
    fn spilled(config: &Config, ty: KvType, capacity: usize) -> Shape {
        let shape = Shape::new(config, ty, capacity);
        let slab_blocks = SEGMENT_BLOCKS.min(shape.n_slabs);
        let page_bytes = (slab_blocks * shape.page_bytes).next_multiple_of(ALIGNMENT as usize);
        Shape { slab_blocks, page_bytes, n_slabs: capacity.div_ceil(SEGMENT_LEN), ..shape }
    }

    /// Positions of a slab.
    fn slab_len(&self) -> usize {
        self.slab_blocks * ATTENTION_BLOCK
    }

    /// Bytes that a slab takes: buffers are whole pages of the system's.
    fn slab_bytes(&self) -> u64 {
        ((self.n_layers * self.page_bytes) as u64).next_multiple_of(ALIGNMENT)
    }

    /// Bytes of one block of all heads of a layer.
    fn block_bytes(&self) -> usize {
        self.n_kv_heads * self.layout.block_bytes()
    }

    /// The slab that has a block, and where in the slab it is in `layer`.
    fn place(&self, layer: usize, block: usize) -> (usize, Range<usize>) {
        let start = layer * self.page_bytes + block % self.slab_blocks * self.block_bytes();
        (block / self.slab_blocks, start..start + self.block_bytes())
    }

    /// Number of a page in the scratch file: those of a layer lie in order.
    fn page(&self, layer: usize, segment: usize) -> u64 {
        (layer * self.n_slabs + segment) as u64
    }
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of a model, whose heads `ty` fits.
    pub(crate) fn new(config: &Config, ty: KvType, capacity: usize) -> KvCache {
        KvCache::of(Shape::new(config, ty, capacity), capacity)
    }

    fn of(shape: Shape, capacity: usize) -> KvCache {
        let KvLayout { ty, key_dim, value_dim } = shape.layout;
        assert!(ty.fits(key_dim) && ty.fits(value_dim));
        KvCache { shape, capacity, len: 0, slabs: Vec::new(), spilled: None }
    }

    /// As [`KvCache::new`], with what `plan` does not keep in memory in `storage`.
    pub(crate) fn spilled(
        config: &Config,
        ty: KvType,
        capacity: usize,
        plan: &SpillPlan,
        storage: Box<dyn Storage>,
    ) -> Result<KvCache, PassError> {
        let cache = KvCache::of(Shape::spilled(config, ty, capacity), capacity);
        let spilled = Spilled {
            pages: Spill::new(storage, cache.shape.page_bytes, plan.n_buffers)?,
            n_resident: plan.n_resident,
            windows: vec![None; config.n_layers],
            spare: Vec::new(),
        };
        Ok(KvCache { spilled: Some(spilled), ..cache })
    }

    /// Bytes that a cache of `capacity` positions in memory takes when it is full, saturating.
    pub(crate) fn bytes(config: &Config, ty: KvType, capacity: usize) -> u64 {
        let shape = Shape::new(config, ty, capacity);
        shape.slab_bytes().saturating_mul(shape.n_slabs as u64)
    }

    /// What a cache of `capacity` positions keeps of them in `budget_bytes`, when up to `batch_len` are added at a
    /// time: as much as fits, and no less than works.
    pub(crate) fn plan_spill(
        config: &Config,
        ty: KvType,
        capacity: usize,
        batch_len: usize,
        budget_bytes: u64,
    ) -> SpillPlan {
        let shape = Shape::spilled(config, ty, capacity);
        // A batch begins anywhere in a segment.
        let n_open = (batch_len.div_ceil(SEGMENT_LEN) + 1).min(shape.n_slabs);
        let heads_per_kv = config.n_heads / config.n_kv_heads;
        let waves = AttentionScratch::waves_bytes(shape.layout, heads_per_kv, config.n_kv_heads, batch_len);
        let bytes = |n_buffers: usize, n_slabs: usize| {
            let slabs = shape.slab_bytes().saturating_mul(n_slabs as u64);
            slabs.saturating_add(Spill::memory_bytes(shape.page_bytes, n_buffers) + waves)
        };
        let (least, most, ring_bytes) = RING;
        let left = budget_bytes.saturating_sub(bytes(least, n_open));
        let n_buffers = ((left / 4).min(ring_bytes) as usize / shape.page_bytes).clamp(least, most);
        let left = budget_bytes.saturating_sub(bytes(n_buffers, n_open));
        let n_resident = (left / shape.slab_bytes()).min((shape.n_slabs - n_open) as u64) as usize;
        SpillPlan { n_resident, n_open, n_buffers, bytes: bytes(n_buffers, n_resident + n_open) }
    }

    /// How keys and values are held.
    pub fn kv_type(&self) -> KvType {
        self.shape.layout.ty
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on; a `len` past the end changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let n_slabs = self.len.div_ceil(self.shape.slab_len()).min(self.slabs.len());
        for slab in self.slabs.drain(n_slabs..).flatten() {
            if let Some(spilled) = &mut self.spilled {
                spilled.spare.push(slab);
            }
        }
    }

    /// A cache of its own with the first `len` positions of this one; `None` when part of them is in a scratch file.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn fork(&self, len: usize) -> Result<Option<KvCache>, PassError> {
        let len = len.min(self.len);
        let slabs = &self.slabs[..len.div_ceil(self.shape.slab_len())];
        if self.spilled.is_some() {
            return Ok(None);
        }
        let mut fork = KvCache { slabs: Vec::with_capacity(slabs.len()), spilled: None, len, ..*self };
        for slab in slabs.iter().flatten() {
            let mut copy = fork.take_slab()?;
            copy.bytes_mut().copy_from_slice(slab.bytes());
            fork.slabs.push(Some(copy));
        }
        Ok(Some(fork))
    }

    /// Bytes that the cache takes when it holds `len` positions; of a spilled cache, that is said by its plan.
    pub fn bytes_for(&self, len: usize) -> u64 {
        let n_slabs = len.min(self.capacity).div_ceil(self.shape.slab_len());
        self.shape.slab_bytes().saturating_mul(n_slabs as u64)
    }

    /// Positions of a segment, the unit in which a cache is taken out and put in.
    pub const SEGMENT_LEN: usize = SEGMENT_LEN;

    /// Bytes of keys and values of the first `n` positions of a segment, whole blocks of positions.
    pub fn segment_bytes(&self, n: usize) -> usize {
        self.shape.n_layers * n.div_ceil(ATTENTION_BLOCK) * self.shape.block_bytes()
    }

    /// A block of a layer, `[kv_head]`; `None` when it is in a scratch file.
    fn block(&self, layer: usize, block: usize) -> Option<&[u8]> {
        let (slab, range) = self.shape.place(layer, block);
        self.slabs[slab].as_ref().map(|slab| &slab.bytes()[range])
    }

    /// Appends keys and values of the first `n` positions of a segment to `out`, `[layer][kv_head][block]`, as they are
    /// held. `false` when they are in a scratch file.
    ///
    /// # Panics
    /// When the segment does not hold so many.
    pub fn take_out(&self, segment: usize, n: usize, out: &mut Vec<u8>) -> bool {
        assert!(n <= SEGMENT_LEN && segment * SEGMENT_LEN + n <= self.len);
        let (first, n_blocks) = (segment * SEGMENT_BLOCKS, n.div_ceil(ATTENTION_BLOCK));
        for layer in 0..self.shape.n_layers {
            let blocks = (first..first + n_blocks).map(|block| self.block(layer, block));
            // A segment is in the file as a whole.
            let Some(blocks) = blocks.collect::<Option<Vec<_>>>() else { return false };
            for head in 0..self.shape.n_kv_heads {
                let bytes = self.shape.layout.block_bytes();
                blocks.iter().for_each(|block| out.extend_from_slice(&block[head * bytes..][..bytes]));
            }
        }
        true
    }

    /// Adds the first `n` positions of a segment after the filled ones, which end with a whole segment: what
    /// [`KvCache::take_out`] gave of a cache of the same model, type and computation.
    ///
    /// # Errors
    /// When there is no memory, or no room in a scratch file.
    ///
    /// # Panics
    /// When there is no room for so many positions, the bytes are not as many as they take, or a segment is half filled.
    pub fn put_in(&mut self, n: usize, bytes: &[u8]) -> Result<(), PassError> {
        assert!(
            self.len.is_multiple_of(SEGMENT_LEN) && n <= SEGMENT_LEN && bytes.len() == self.segment_bytes(n)
        );
        self.prepare(n)?;
        let Shape { layout, n_kv_heads, .. } = self.shape;
        let (first, n_blocks) = (self.len / ATTENTION_BLOCK, n.div_ceil(ATTENTION_BLOCK));
        for (i, block) in bytes.chunks_exact(layout.block_bytes()).enumerate() {
            let (layer, head, index) = (i / n_blocks / n_kv_heads, i / n_blocks % n_kv_heads, i % n_blocks);
            let (slab, range) = self.shape.place(layer, first + index);
            let slab = self.slabs[slab].as_mut().expect("a segment that is written to is in memory");
            slab.bytes_mut()[range][head * layout.block_bytes()..][..layout.block_bytes()]
                .copy_from_slice(block);
        }
        self.advance(n)
    }

    /// Makes room for `n` positions after the filled ones, before a pass stores them.
    ///
    /// # Errors
    /// When there is no memory, or the segment to go on in cannot be read back. Nothing that was stored is lost.
    pub(crate) fn prepare(&mut self, n: usize) -> Result<(), PassError> {
        assert!(self.len + n <= self.capacity);
        let slab_len = self.shape.slab_len();
        let first = self.len / slab_len;
        if !self.len.is_multiple_of(slab_len) && self.slabs[first].is_none() {
            self.slabs[first] = Some(self.read_slab(first)?);
        }
        while self.slabs.len() < (self.len + n).div_ceil(slab_len) {
            let slab = self.take_slab()?;
            self.slabs.push(Some(slab));
        }
        if let Some(spilled) = &self.spilled {
            spilled.expect(&self.shape, self.len);
        }
        Ok(())
    }

    fn take_slab(&mut self) -> Result<Buffer, PassError> {
        if let Some(slab) = self.spilled.as_mut().and_then(|spilled| spilled.spare.pop()) {
            return Ok(slab);
        }
        let system = |source| SpillError::System { source };
        Ok(Buffer::new(self.shape.slab_bytes()).map_err(system)?)
    }

    /// The slab of a segment that is in the scratch file.
    fn read_slab(&mut self, segment: usize) -> Result<Buffer, PassError> {
        let mut slab = self.take_slab()?;
        if let Some(spilled) = &mut self.spilled {
            let pages = slab.bytes_mut().chunks_exact_mut(self.shape.page_bytes).enumerate();
            let mut read =
                pages.map(|(layer, page)| spilled.pages.read(self.shape.page(layer, segment), page));
            if let Err(error) = read.try_for_each(|result| result) {
                drop(read);
                spilled.spare.push(slab);
                return Err(error.into());
            }
        }
        Ok(slab)
    }

    /// Counts `n` positions that a pass has stored.
    ///
    /// # Errors
    /// When a segment that they fill cannot be written to the scratch file. They do not count then.
    pub(crate) fn advance(&mut self, n: usize) -> Result<(), PassError> {
        let len = self.len + n;
        assert!(len <= self.capacity);
        if let Some(spilled) = &mut self.spilled {
            for (segment, slab) in
                self.slabs.iter_mut().enumerate().take(len / SEGMENT_LEN).skip(spilled.n_resident)
            {
                let Some(full) = slab else { continue };
                for (layer, page) in full.bytes().chunks_exact(self.shape.page_bytes).enumerate() {
                    spilled.pages.write(self.shape.page(layer, segment), page)?;
                }
                spilled.spare.extend(slab.take());
            }
        }
        self.len = len;
        Ok(())
    }

    pub(crate) fn layout(&self) -> KvLayout {
        self.shape.layout
    }

    /// Stores the keys and values of the positions after the filled ones, for one layer.
    ///
    /// `keys` is `[token][kv_head][key_dim]`, `values` is `[token][kv_head][value_dim]`. There is room:
    /// [`KvCache::prepare`].
    pub(crate) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32], ops: &Ops, pool: &Pool) {
        let Shape { layout, n_kv_heads, slab_blocks, .. } = self.shape;
        let (start, block_bytes) = (self.len, layout.block_bytes());
        let end = start + keys.len() / (n_kv_heads * layout.key_dim);
        let slabs = start / self.shape.slab_len()..end.div_ceil(self.shape.slab_len());
        let mut heads = Vec::new();
        for (slab, index) in self.slabs[slabs.clone()].iter_mut().zip(slabs) {
            let slab = slab.as_mut().expect("a segment that is written to is in memory");
            let page = &mut slab.bytes_mut()[layer * self.shape.page_bytes..]
                [..slab_blocks * self.shape.block_bytes()];
            for (i, block) in page.chunks_exact_mut(block_bytes).enumerate() {
                let first = (index * slab_blocks + i / n_kv_heads) * ATTENTION_BLOCK;
                let positions = start.max(first)..end.min(first + ATTENTION_BLOCK);
                if !positions.is_empty() {
                    heads.push((positions, i % n_kv_heads, block));
                }
            }
        }
        let store_head = |(positions, head, block): &mut (Range<usize>, usize, &mut [u8])| {
            for position in positions.clone() {
                let row = (position - start) * n_kv_heads + *head;
                layout.store(
                    block,
                    position % ATTENTION_BLOCK,
                    &keys[row * layout.key_dim..][..layout.key_dim],
                    &values[row * layout.value_dim..][..layout.value_dim],
                    ops,
                );
            }
        };
        if end - start < MIN_TOKENS_FOR_THREADS {
            heads.iter_mut().for_each(store_head);
        } else {
            pool.run_on(&mut heads, &store_head);
        }
    }

    /// Says how many positions a layer sees, which decides what is read ahead for it.
    pub(crate) fn set_window(&mut self, layer: usize, window_len: usize) {
        if let Some(spilled) = &mut self.spilled
            && spilled.windows[layer] != Some(window_len)
        {
            spilled.windows[layer] = Some(window_len);
            spilled.expect(&self.shape, self.len);
        }
    }

    /// The blocks of one layer.
    pub(crate) fn layer(&self, layer: usize) -> LayerBlocks<'_> {
        LayerBlocks { cache: self, layer }
    }
}

impl Spilled {
    /// Tells the readers what a pass from position `start` on will want.
    fn expect(&self, shape: &Shape, start: usize) {
        let run = |(layer, window): (usize, &Option<usize>)| {
            let first = (start + 1).saturating_sub((*window)?) / SEGMENT_LEN;
            let in_file = first.max(self.n_resident)..start / SEGMENT_LEN;
            Some(shape.page(layer, in_file.start)..shape.page(layer, in_file.end))
        };
        self.pages.expect(self.windows.iter().enumerate().filter_map(run).collect());
    }
}

/// The blocks of one layer of a cache.
pub(crate) struct LayerBlocks<'a> {
    cache: &'a KvCache,
    layer: usize,
}

impl LayerBlocks<'_> {
    /// A segment is in memory, or in the file, as a whole.
    fn is_resident(&self, segment: usize) -> bool {
        let (slab, _) = self.cache.shape.place(self.layer, segment * SEGMENT_BLOCKS);
        self.cache.slabs[slab].is_some()
    }
}

impl Blocks for LayerBlocks<'_> {
    /// What is in memory is not lent together with what is not: that is read meanwhile.
    fn n_lent(&self, mut segments: Range<usize>) -> usize {
        let Some(spilled) = &self.cache.spilled else { return segments.len() };
        let is_resident = self.is_resident(segments.start);
        let alike = segments.by_ref().take_while(|segment| self.is_resident(*segment) == is_resident).count();
        if is_resident { alike } else { alike.min(spilled.pages.max_leased()) }
    }

    fn resident(&self, segments: Range<usize>) -> Option<Vec<&[u8]>> {
        let n_blocks = self.cache.slabs.len() * self.cache.shape.slab_blocks;
        let blocks = segments.start * SEGMENT_BLOCKS..(segments.end * SEGMENT_BLOCKS).min(n_blocks);
        blocks.map(|block| self.cache.block(self.layer, block)).collect()
    }

    fn lend(&self, segments: Range<usize>, work: &mut dyn FnMut(&[&[u8]])) -> Result<(), PassError> {
        let KvCache { shape, spilled, .. } = self.cache;
        match spilled {
            Some(spilled) if !self.is_resident(segments.start) => {
                let lease = |segment| spilled.pages.lease(shape.page(self.layer, segment));
                let leased: Vec<SpilledPage<'_>> = segments.map(lease).collect::<Result<_, _>>()?;
                let blocks_of =
                    |page| <[u8]>::chunks_exact(page, shape.block_bytes()).take(shape.slab_blocks);
                work(&leased.iter().flat_map(|page| blocks_of(page)).collect::<Vec<_>>());
            }
            _ => work(&self.resident(segments).unwrap_or_default()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
