//! Keys and values of the positions seen so far.

use crate::config::Config;
use crate::kernels::{ATTENTION_BLOCK, KvLayout, KvType, Ops, Pool};

/// With fewer tokens than this, storing them takes less time than waking the other threads.
const MIN_TOKENS_FOR_THREADS: usize = 8;

/// Alignment of the blocks: vectors of any instruction set do not cross cache lines.
const ALIGNMENT: usize = 64;

/// The cache of one timeline.
///
/// Layout, so that attention of one head reads memory in order: `[layer][kv_head][block]`, where a block holds
/// keys and values of [`ATTENTION_BLOCK`] positions (see [`KvLayout`]). Pages are taken from the system as blocks
/// are filled.
#[derive(Debug)]
pub struct KvCache {
    bytes: Vec<u8>,
    /// Where in `bytes` the first block is.
    first: usize,
    layout: KvLayout,
    n_kv_heads: usize,
    /// Blocks of each head.
    n_blocks: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of a model, whose heads `ty` fits.
    pub(crate) fn new(config: &Config, ty: KvType, capacity: usize) -> KvCache {
        assert!(ty.fits(config.head_dim) && ty.fits(config.value_dim));
        let layout = config.kv_layout(ty);
        let n_blocks = capacity.div_ceil(ATTENTION_BLOCK);
        let len_bytes = config.n_layers * config.n_kv_heads * n_blocks * layout.block_bytes();
        let bytes = vec![0; len_bytes + ALIGNMENT];
        KvCache {
            first: bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT),
            bytes,
            layout,
            n_kv_heads: config.n_kv_heads,
            n_blocks,
            capacity,
            len: 0,
        }
    }

    /// Bytes that a cache of `capacity` positions takes when it is full, saturating.
    pub(crate) fn bytes(config: &Config, ty: KvType, capacity: usize) -> u64 {
        let heads = config.n_layers as u64 * config.n_kv_heads as u64;
        let blocks = heads.saturating_mul(capacity.div_ceil(ATTENTION_BLOCK) as u64);
        blocks.saturating_mul(config.kv_layout(ty).block_bytes() as u64).saturating_add(ALIGNMENT as u64)
    }

    /// How keys and values are held.
    pub fn kv_type(&self) -> KvType {
        self.layout.ty
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
    }

    /// Counts `n` positions that a pass has stored.
    pub(crate) fn advance(&mut self, n: usize) {
        assert!(self.len + n <= self.capacity);
        self.len += n;
    }

    pub(crate) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Bytes of one head of one layer.
    fn head_bytes(&self) -> usize {
        self.n_blocks * self.layout.block_bytes()
    }

    /// Stores the keys and values of the positions after the filled ones, for one layer.
    ///
    /// `keys` is `[token][kv_head][key_dim]`, `values` is `[token][kv_head][value_dim]`.
    pub(crate) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32], ops: &Ops, pool: &Pool) {
        let (layout, n_kv_heads, start) = (self.layout, self.n_kv_heads, self.len);
        let (head_bytes, block_bytes) = (self.head_bytes(), layout.block_bytes());
        let n_tokens = keys.len() / (n_kv_heads * layout.key_dim);
        assert!(start + n_tokens <= self.capacity);
        let layer =
            &mut self.bytes[self.first + layer * n_kv_heads * head_bytes..][..n_kv_heads * head_bytes];
        let store_head = |(head, blocks): &mut (usize, &mut [u8])| {
            for token in 0..n_tokens {
                let (position, row) = (start + token, token * n_kv_heads + *head);
                layout.store(
                    &mut blocks[position / ATTENTION_BLOCK * block_bytes..],
                    position % ATTENTION_BLOCK,
                    &keys[row * layout.key_dim..][..layout.key_dim],
                    &values[row * layout.value_dim..][..layout.value_dim],
                    ops,
                );
            }
        };
        let mut heads: Vec<_> = layer.chunks_exact_mut(head_bytes).enumerate().collect();
        if n_tokens < MIN_TOKENS_FOR_THREADS {
            heads.iter_mut().for_each(store_head);
        } else {
            pool.run_on(&mut heads, &store_head);
        }
    }

    /// The blocks of all heads of one layer, `[kv_head][block]`.
    pub(crate) fn layer(&self, layer: usize) -> &[u8] {
        let len = self.n_kv_heads * self.head_bytes();
        &self.bytes[self.first + layer * len..][..len]
    }
}
