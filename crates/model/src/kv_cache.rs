//! Keys and values of the positions seen so far.
//!
//! ```text
//!             segment 0   segment 1   segment 2   ...
//!   layer 0   page        page        page            a page: [kv_head][block in segment], see `KvLayout`
//!   layer 1   page        page        page
//!   ...
//!             a slab      a slab      a slab          taken and given back as a whole
//! ```
//!
//! A segment is what attention joins at a time. Slabs are taken from the system as positions are filled, and given back
//! by [`KvCache::truncate`]. A spilled cache keeps the slabs of the first segments, and those at the end that are
//! written to; a slab between them goes to a scratch file as soon as it is full, and its pages come back one by one,
//! in the order of the layers, ahead of the attention that wants them.

use crate::config::Config;
use crate::error::PassError;
use crate::kernels::{ATTENTION_BLOCK, AttentionScratch, KvLayout, KvType, Ops, Pages, Pool, SEGMENT_BLOCKS};
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
    n_kv_heads: usize,
    capacity: usize,
    len: usize,
    /// Slab of each segment that is begun, but for those that are in the scratch file.
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
    /// Bytes of one head in a page.
    head_bytes: usize,
    page_bytes: usize,
    /// Segments of a full cache.
    n_segments: usize,
}

impl Shape {
    /// That of a cache for `capacity` positions. Less than a segment has pages as short as that allows.
    fn new(config: &Config, ty: KvType, capacity: usize) -> Shape {
        let layout = config.kv_layout(ty);
        let head_bytes = SEGMENT_BLOCKS.min(capacity.div_ceil(ATTENTION_BLOCK)) * layout.block_bytes();
        Shape {
            layout,
            n_layers: config.n_layers,
            head_bytes,
            page_bytes: (config.n_kv_heads * head_bytes).next_multiple_of(ALIGNMENT as usize),
            n_segments: capacity.div_ceil(SEGMENT_LEN),
        }
    }

    fn slab_bytes(&self) -> u64 {
        (self.n_layers * self.page_bytes) as u64
    }

    /// Number of a page in the scratch file: those of a layer lie in order.
    fn page(&self, layer: usize, segment: usize) -> u64 {
        (layer * self.n_segments + segment) as u64
    }
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of a model, whose heads `ty` fits.
    pub(crate) fn new(config: &Config, ty: KvType, capacity: usize) -> KvCache {
        assert!(ty.fits(config.head_dim) && ty.fits(config.value_dim));
        KvCache {
            shape: Shape::new(config, ty, capacity),
            n_kv_heads: config.n_kv_heads,
            capacity,
            len: 0,
            slabs: Vec::new(),
            spilled: None,
        }
    }

    /// As [`KvCache::new`], with what `plan` does not keep in memory in `storage`.
    pub(crate) fn spilled(
        config: &Config,
        ty: KvType,
        capacity: usize,
        plan: &SpillPlan,
        storage: Box<dyn Storage>,
    ) -> Result<KvCache, PassError> {
        let cache = KvCache::new(config, ty, capacity);
        let spilled = Spilled {
            pages: Spill::new(storage, cache.shape.page_bytes, plan.n_buffers)?,
            n_resident: plan.n_resident,
            windows: vec![None; config.n_layers],
            spare: Vec::new(),
        };
        Ok(KvCache { spilled: Some(spilled), ..cache })
    }

    /// Bytes that a cache of `capacity` positions takes when it is full, saturating.
    pub(crate) fn bytes(config: &Config, ty: KvType, capacity: usize) -> u64 {
        let shape = Shape::new(config, ty, capacity);
        shape.slab_bytes().saturating_mul(shape.n_segments as u64)
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
        let shape = Shape::new(config, ty, capacity);
        // A batch begins anywhere in a segment.
        let n_open = (batch_len.div_ceil(SEGMENT_LEN) + 1).min(shape.n_segments);
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
        let n_resident = (left / shape.slab_bytes()).min((shape.n_segments - n_open) as u64) as usize;
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
        for slab in self.slabs.drain(self.len.div_ceil(SEGMENT_LEN).min(self.slabs.len())..).flatten() {
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
        let slabs = &self.slabs[..len.div_ceil(SEGMENT_LEN)];
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
        self.shape.slab_bytes().saturating_mul(len.min(self.capacity).div_ceil(SEGMENT_LEN) as u64)
    }

    /// Positions of a segment, the unit in which a cache is taken out and put in.
    pub const SEGMENT_LEN: usize = SEGMENT_LEN;

    /// Bytes of keys and values of the first `n` positions of a segment, whole blocks of positions.
    pub fn segment_bytes(&self, n: usize) -> usize {
        self.shape.n_layers * self.n_kv_heads * self.blocks_bytes(n)
    }

    fn blocks_bytes(&self, n: usize) -> usize {
        n.div_ceil(ATTENTION_BLOCK) * self.shape.layout.block_bytes()
    }

    /// Appends keys and values of the first `n` positions of a segment to `out`, `[layer][kv_head][block]`, as they are
    /// held. `false` when they are in a scratch file.
    ///
    /// # Panics
    /// When the segment does not hold so many.
    pub fn take_out(&self, segment: usize, n: usize, out: &mut Vec<u8>) -> bool {
        assert!(n <= SEGMENT_LEN && segment * SEGMENT_LEN + n <= self.len);
        let Some(slab) = self.slabs.get(segment).and_then(Option::as_ref) else { return n == 0 };
        let Shape { head_bytes, page_bytes, .. } = self.shape;
        for page in slab.bytes().chunks_exact(page_bytes) {
            for head in page[..self.n_kv_heads * head_bytes].chunks_exact(head_bytes) {
                out.extend_from_slice(&head[..self.blocks_bytes(n)]);
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
        let (blocks_bytes, Shape { head_bytes, page_bytes, .. }) = (self.blocks_bytes(n), self.shape);
        if let Some(slab) = self.slabs.get_mut(self.len / SEGMENT_LEN).and_then(Option::as_mut) {
            let mut heads = bytes.chunks_exact(blocks_bytes);
            for page in slab.bytes_mut().chunks_exact_mut(page_bytes) {
                for head in page[..self.n_kv_heads * head_bytes].chunks_exact_mut(head_bytes) {
                    head[..blocks_bytes].copy_from_slice(heads.next().unwrap_or_default());
                }
            }
        }
        self.advance(n)
    }

    /// Makes room for `n` positions after the filled ones, before a pass stores them.
    ///
    /// # Errors
    /// When there is no memory, or the segment to go on in cannot be read back. Nothing that was stored is lost.
    pub(crate) fn prepare(&mut self, n: usize) -> Result<(), PassError> {
        assert!(self.len + n <= self.capacity);
        let first = self.len / SEGMENT_LEN;
        if !self.len.is_multiple_of(SEGMENT_LEN) && self.slabs[first].is_none() {
            self.slabs[first] = Some(self.read_slab(first)?);
        }
        while self.slabs.len() < (self.len + n).div_ceil(SEGMENT_LEN) {
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

    /// Bytes of one head in a page.
    pub(crate) fn head_bytes(&self) -> usize {
        self.shape.head_bytes
    }

    /// Stores the keys and values of the positions after the filled ones, for one layer.
    ///
    /// `keys` is `[token][kv_head][key_dim]`, `values` is `[token][kv_head][value_dim]`. There is room:
    /// [`KvCache::prepare`].
    pub(crate) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32], ops: &Ops, pool: &Pool) {
        let Shape { layout, head_bytes, page_bytes, .. } = self.shape;
        let (n_kv_heads, start, block_bytes) = (self.n_kv_heads, self.len, layout.block_bytes());
        let end = start + keys.len() / (n_kv_heads * layout.key_dim);
        for segment in start / SEGMENT_LEN..end.div_ceil(SEGMENT_LEN) {
            let positions = start.max(segment * SEGMENT_LEN)..end.min((segment + 1) * SEGMENT_LEN);
            let slab = self.slabs[segment].as_mut().expect("a segment that is written to is in memory");
            let page = &mut slab.bytes_mut()[layer * page_bytes..][..n_kv_heads * head_bytes];
            let store_head = |(head, blocks): &mut (usize, &mut [u8])| {
                for position in positions.clone() {
                    let row = (position - start) * n_kv_heads + *head;
                    layout.store(
                        &mut blocks[position % SEGMENT_LEN / ATTENTION_BLOCK * block_bytes..],
                        position % ATTENTION_BLOCK,
                        &keys[row * layout.key_dim..][..layout.key_dim],
                        &values[row * layout.value_dim..][..layout.value_dim],
                        ops,
                    );
                }
            };
            let mut heads: Vec<_> = page.chunks_exact_mut(head_bytes).enumerate().collect();
            if positions.len() < MIN_TOKENS_FOR_THREADS {
                heads.iter_mut().for_each(store_head);
            } else {
                pool.run_on(&mut heads, &store_head);
            }
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

    /// The pages of one layer.
    pub(crate) fn layer(&self, layer: usize) -> LayerPages<'_> {
        LayerPages { cache: self, layer }
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

/// The pages of one layer of a cache.
pub(crate) struct LayerPages<'a> {
    cache: &'a KvCache,
    layer: usize,
}

impl LayerPages<'_> {
    fn is_resident(&self, segment: usize) -> bool {
        self.cache.slabs[segment].is_some()
    }
}

impl<'a> Pages for LayerPages<'a> {
    /// What is in memory is not lent together with what is not: that is read meanwhile.
    fn n_lent(&self, mut segments: Range<usize>) -> usize {
        let most = self.cache.spilled.as_ref().map_or(usize::MAX, |spilled| spilled.pages.max_leased());
        let is_resident = self.is_resident(segments.start);
        let alike = segments.by_ref().take_while(|segment| self.is_resident(*segment) == is_resident).count();
        if is_resident { alike } else { alike.min(most) }
    }

    fn resident(&self, segments: Range<usize>) -> Option<Vec<&[u8]>> {
        let KvCache { shape, slabs, .. } = self.cache;
        let page = |slab: &'a Option<Buffer>| {
            slab.as_ref().map(|slab| &slab.bytes()[self.layer * shape.page_bytes..][..shape.page_bytes])
        };
        slabs[segments].iter().map(page).collect()
    }

    fn lend(&self, segments: Range<usize>, work: &mut dyn FnMut(&[&[u8]])) -> Result<(), PassError> {
        let KvCache { shape, spilled, .. } = self.cache;
        match spilled {
            Some(spilled) if !self.is_resident(segments.start) => {
                let lease = |segment| spilled.pages.lease(shape.page(self.layer, segment));
                let leased: Vec<SpilledPage<'_>> = segments.map(lease).collect::<Result<_, _>>()?;
                work(&leased.iter().map(|page| &**page).collect::<Vec<_>>());
            }
            _ => work(&self.resident(segments).unwrap_or_default()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::rope::RopeScaling;
    use rawrz_residency::{FaultyStorage, ScratchFile, SpillFault};
    use std::sync::Arc;
    use std::time::Duration;

    fn config() -> Config {
        Config {
            architecture: "test",
            n_layers: 2,
            dim: 64,
            ffn_dim: 64,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            value_dim: 32,
            vocab_len: 8,
            rms_eps: 1e-5,
            context_len: 4096,
            rope_dim: 64,
            rope_base: 1e4,
            rope_scaling: RopeScaling::None { magnitude: 1.0 },
            experts: None,
        }
    }

    /// Keys and values of positions `range`, of one layer: different ones for each `seed`.
    fn rows(
        config: &Config,
        range: std::ops::Range<usize>,
        layer: usize,
        seed: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let value = |i: usize| ((i * 7919 + layer * 31 + seed * 101) % 1009) as f32 / 500.0 - 1.0;
        let row =
            |len: usize| range.clone().flat_map(move |p| (0..len).map(move |i| value(p * len + i))).collect();
        (row(config.key_len()), row(config.value_len()))
    }

    fn fill(cache: &mut KvCache, config: &Config, end: usize, width: usize, seed: usize) {
        let (ops, pool) = (Ops::new(Isa::detect()), Pool::new(2));
        while cache.len() < end {
            let n = width.min(end - cache.len());
            cache.prepare(n).unwrap();
            for layer in 0..config.n_layers {
                let (keys, values) = rows(config, cache.len()..cache.len() + n, layer, seed);
                cache.store(layer, &keys, &values, &ops, &pool);
            }
            cache.advance(n).unwrap();
        }
    }

    /// All that a cache holds of a layer, page by page, wherever it is.
    fn content(cache: &KvCache, layer: usize) -> Vec<Vec<u8>> {
        let pages = cache.layer(layer);
        let (mut all, mut first) = (Vec::new(), 0);
        while first < cache.slabs.len() {
            let n = pages.n_lent(first..cache.slabs.len());
            let mut take = |lent: &[&[u8]]| all.extend(lent.iter().map(|page| page.to_vec()));
            pages.lend(first..first + n, &mut take).unwrap();
            first += n;
        }
        all
    }

    #[test]
    fn what_was_truncated_leaves_no_trace() {
        let config = config();
        for ty in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
            let mut plain = KvCache::new(&config, ty, 150);
            fill(&mut plain, &config, 70, 1, 1);
            fill(&mut plain, &config, 150, 1, 2);
            for width in [1, 7, 64, 150] {
                let mut cache = KvCache::new(&config, ty, 150);
                fill(&mut cache, &config, 150, width, 1);
                cache.truncate(200);
                assert_eq!(cache.len(), 150);
                cache.truncate(70);
                assert_eq!(cache.len(), 70);
                fill(&mut cache, &config, 150, width, 2);
                for layer in 0..config.n_layers {
                    assert!(
                        content(&cache, layer) == content(&plain, layer),
                        "{ty}, {width} at a time, layer {layer}"
                    );
                }
            }
        }
    }

    /// The file of a cache that is spilled as far as can be, or one that fails instead.
    fn spilled(
        config: &Config,
        capacity: usize,
        n_resident: usize,
    ) -> (KvCache, Arc<FaultyStorage<ScratchFile>>) {
        let folder = tempfile::tempdir().unwrap();
        let file = ScratchFile::create(folder.path()).unwrap();
        let storage = Arc::new(FaultyStorage::new(file, Duration::ZERO));
        let plan = KvCache::plan_spill(config, KvType::F16, capacity, 512, 0);
        let plan = SpillPlan { n_resident, ..plan };
        let boxed = Box::new(Arc::clone(&storage));
        (KvCache::spilled(config, KvType::F16, capacity, &plan, boxed).unwrap(), storage)
    }

    #[test]
    fn spilled_pages_come_back_as_they_were() {
        let config = config();
        let capacity = 4000;
        let mut plain = KvCache::new(&config, KvType::F16, capacity);
        let ends = [(700, 1), (2048, 1), (3000, 1), (1100, 2), (1024, 3), (3900, 3), (1023, 4), (4000, 4)];
        let (mut cut, storage) = spilled(&config, capacity, 1);
        for (end, seed) in ends {
            for cache in [&mut plain, &mut cut] {
                cache.truncate(end);
                fill(cache, &config, end, 300, seed);
                assert_eq!(cache.len(), end);
            }
            let in_memory = cut.slabs.iter().flatten().count();
            assert!(in_memory <= 1 + 2 && (end < 1024 || in_memory < plain.slabs.len()), "{in_memory} slabs");
            for layer in 0..config.n_layers {
                let (got, expected) = (content(&cut, layer), content(&plain, layer));
                assert_eq!(got.len(), expected.len());
                for (segment, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    // Past the last position lies what a slab held before.
                    if (segment + 1) * SEGMENT_LEN <= end {
                        assert!(got == expected, "{end}: layer {layer}, segment {segment}");
                    }
                }
            }
        }
        assert!(storage.n_reads() > 0);
    }

    #[test]
    fn a_full_disk_keeps_what_was_stored_and_a_bad_read_keeps_the_rest() {
        let config = config();
        let (mut cache, storage) = spilled(&config, 4000, 0);
        fill(&mut cache, &config, 1500, 100, 1);
        let before = [content(&cache, 0), content(&cache, 1)];
        for after in 0..config.n_layers {
            storage.inject(Some(SpillFault::DiskFull { after }));
            cache.prepare(40).unwrap();
            assert!(matches!(cache.advance(40), Err(PassError::Spill(SpillError::Write { .. }))));
            assert_eq!(cache.len(), 1500);
            for (layer, before) in before.iter().enumerate() {
                assert!(content(&cache, layer)[..3] == *before);
            }
        }
        // Position 700 lies in a segment that has to come back to be written to.
        for fault in [SpillFault::ReadError { after: 1 }, SpillFault::ShortRead { after: 0 }] {
            fill(&mut cache, &config, 1500, 100, 1);
            cache.truncate(700);
            storage.inject(Some(fault));
            let error = cache.prepare(1).unwrap_err();
            assert!(matches!(error, PassError::Spill(SpillError::Read { .. } | SpillError::Short { .. })));
            assert_eq!(cache.len(), 700);
            storage.inject(None);
            assert!(content(&cache, 1)[0] == before[1][0]);
        }
        fill(&mut cache, &config, 1500, 100, 1);
        assert!(content(&cache, 0)[..2] == before[0][..2]);
    }

    #[test]
    fn windows_read_no_page_that_they_do_not_see() {
        let config = config();
        let (mut cache, storage) = spilled(&config, 8192, 0);
        fill(&mut cache, &config, 8192 - 100, 512, 1);
        (0..config.n_layers).for_each(|layer| cache.set_window(layer, 600));
        cache.prepare(1).unwrap();
        for layer in 0..config.n_layers {
            // Positions 7493 to 8092 lie in segments 14 and 15; the last is in memory.
            let pages = cache.layer(layer);
            assert_eq!(pages.n_lent(14..16), 1);
            pages.lend(14..15, &mut |_| ()).unwrap();
        }
        drop(cache);
        let n_reads = storage.n_reads();
        assert!((2..=4).contains(&n_reads), "{n_reads} reads: a round of two, and what is ahead of the next");
    }

    #[test]
    fn bytes_are_those_that_are_taken() {
        let config = config();
        for (ty, bits) in [(KvType::F16, 16.0), (KvType::Q8_0, 8.5), (KvType::Q4_0, 4.5)] {
            for capacity in [1, 64, 65, 1000] {
                let mut cache = KvCache::new(&config, ty, capacity);
                assert_eq!(cache.capacity(), capacity);
                cache.prepare(capacity).unwrap();
                let taken: usize = cache.slabs.iter().flatten().map(|slab| slab.bytes().len()).sum();
                assert_eq!(taken as u64, KvCache::bytes(&config, ty, capacity));
                // Whole blocks, or whole segments where there is more than one.
                let unit = if capacity > SEGMENT_LEN { SEGMENT_LEN } else { ATTENTION_BLOCK };
                let elements = capacity.next_multiple_of(unit) * 2 * 2 * (64 + 32);
                let least = (elements as f64 * bits / 8.0) as usize;
                let pages = cache.slabs.len() * config.n_layers;
                assert!(taken >= least && taken < least + pages * ALIGNMENT as usize, "{taken} for {least}");
                cache.truncate(0);
                assert!(cache.slabs.is_empty(), "slabs are given back");
            }
        }
        assert_eq!(KvCache::bytes(&config, KvType::F16, usize::MAX), u64::MAX);
    }
}
