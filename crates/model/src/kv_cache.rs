//! Keys and values of the positions seen so far, in f16.

use crate::config::Config;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// The cache of one timeline.
///
/// Layout, so that attention of one head reads memory in order:
/// `keys[layer][kv_head][position][head_dim]`, `values[layer][kv_head][position][value_dim]`, f16 bits.
/// Pages are taken from the system as positions are filled.
#[derive(Debug)]
pub struct KvCache {
    keys: Vec<u16>,
    values: Vec<u16>,
    n_kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of a model.
    pub(crate) fn new(config: &Config, capacity: usize) -> KvCache {
        let rows = config.n_layers * config.n_kv_heads * capacity;
        KvCache {
            keys: vec![0; rows * config.head_dim],
            values: vec![0; rows * config.value_dim],
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            value_dim: config.value_dim,
            capacity,
            len: 0,
        }
    }

    /// Bytes that a cache of `capacity` positions takes when it is full, saturating.
    pub(crate) fn bytes(config: &Config, capacity: usize) -> u64 {
        let rows = (config.n_layers as u64 * config.n_kv_heads as u64).saturating_mul(capacity as u64);
        rows.saturating_mul((config.head_dim + config.value_dim) as u64 * 2)
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

    /// Stores the keys and values of `n` positions after the filled ones, for one layer.
    ///
    /// `keys` is `[n][kv_head][head_dim]`, `values` is `[n][kv_head][value_dim]`.
    pub(crate) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let heads = keys.chunks_exact(self.head_dim).zip(values.chunks_exact(self.value_dim));
        for (i, (key, value)) in heads.enumerate() {
            let (t, head) = (i / self.n_kv_heads, i % self.n_kv_heads);
            let row = (layer * self.n_kv_heads + head) * self.capacity + self.len + t;
            let slot = &mut self.keys[row * self.head_dim..][..self.head_dim];
            slot.reinterpret_cast_mut::<f16>().convert_from_f32_slice(key);
            let slot = &mut self.values[row * self.value_dim..][..self.value_dim];
            slot.reinterpret_cast_mut::<f16>().convert_from_f32_slice(value);
        }
    }

    /// Keys and values of one head of one layer, for all positions that fit: `[position][head_dim]` and
    /// `[position][value_dim]`.
    pub(crate) fn head(&self, layer: usize, kv_head: usize) -> (&[u16], &[u16]) {
        let first = (layer * self.n_kv_heads + kv_head) * self.capacity;
        (
            &self.keys[first * self.head_dim..][..self.capacity * self.head_dim],
            &self.values[first * self.value_dim..][..self.capacity * self.value_dim],
        )
    }
}
