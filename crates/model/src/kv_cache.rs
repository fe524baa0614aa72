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
/// keys and values of `ATTENTION_BLOCK` positions (see `KvLayout`). Pages are taken from the system as blocks
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::rope::RopeScaling;

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
            for layer in 0..config.n_layers {
                let (keys, values) = rows(config, cache.len()..cache.len() + n, layer, seed);
                cache.store(layer, &keys, &values, &ops, &pool);
            }
            cache.advance(n);
        }
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
                        cache.layer(layer) == plain.layer(layer),
                        "{ty}, {width} at a time, layer {layer}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_are_those_that_are_taken() {
        let config = config();
        for (ty, bits) in [(KvType::F16, 16.0), (KvType::Q8_0, 8.5), (KvType::Q4_0, 4.5)] {
            for capacity in [1, 64, 65, 1000] {
                let cache = KvCache::new(&config, ty, capacity);
                assert_eq!(cache.capacity(), capacity);
                assert_eq!(cache.bytes.capacity() as u64, KvCache::bytes(&config, ty, capacity));
                let elements = capacity.next_multiple_of(64) * 2 * 2 * (64 + 32);
                assert_eq!(cache.bytes.len() - ALIGNMENT, (elements as f64 * bits / 8.0) as usize);
                assert!(cache.layer(0).as_ptr().addr().is_multiple_of(ALIGNMENT));
            }
        }
        assert_eq!(KvCache::bytes(&config, KvType::F16, usize::MAX), u64::MAX);
    }
}
