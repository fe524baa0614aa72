//! How the cache holds keys and values, and how they are put in and taken out.

use super::super::Ops;
use super::super::vector::{LANES, Vector, padded};
use super::BLOCK;
use super::product::Line;
use half::f16;
use std::fmt;

/// Elements that share a scale in the quantized types.
const QUANT_BLOCK: usize = 32;

/// How keys and values are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// As f16: 2 bytes for an element.
    #[default]
    F16,
    /// In blocks of 32 of a head, 8 bits for an element and an f16 scale, rounded as GGUF's `Q8_0`.
    Q8_0,
    /// In blocks of 32 of a head, 4 bits for an element and an f16 scale, rounded as GGUF's `Q4_0`.
    Q4_0,
}

impl KvType {
    /// Whether heads of `dim` elements can be held: quantized types take whole blocks of 32.
    pub fn fits(self, dim: usize) -> bool {
        self == KvType::F16 || dim.is_multiple_of(QUANT_BLOCK)
    }

    /// Bytes of `n` elements.
    fn bytes(self, n: usize) -> usize {
        match self {
            KvType::F16 => 2 * n,
            KvType::Q8_0 => n + 2 * (n / QUANT_BLOCK),
            KvType::Q4_0 => n / 2 + 2 * (n / QUANT_BLOCK),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        })
    }
}

/// The form of one block: keys and values of [`BLOCK`] positions of one head.
///
/// Keys lie across, so that the lanes of a score are positions; values lie along:
///
/// ```text
/// F16    keys    [key_dim][BLOCK] f16
///        values  [BLOCK][value_dim, filled up to a multiple of 16] f16
/// Q8_0   keys    [key_dim][BLOCK] i8, then scales [key_dim / 32][BLOCK] f16
///        values  [BLOCK][value_dim] i8, then scales [BLOCK][value_dim / 32] f16
/// Q4_0   as Q8_0, two quants in a byte: element i of 32 in the low half, i + 16 in the high half
///        keys    [key_dim / 32][16][BLOCK], values [BLOCK][value_dim / 32][16]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvLayout {
    pub(crate) ty: KvType,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
}

impl KvLayout {
    /// Length of a value as computed with, a multiple of 16.
    pub(crate) fn value_stride(&self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }

    fn key_bytes(&self) -> usize {
        self.ty.bytes(BLOCK * self.key_dim)
    }

    /// Bytes of one block, a multiple of 64.
    pub(crate) fn block_bytes(&self) -> usize {
        self.key_bytes() + self.ty.bytes(BLOCK * self.value_stride())
    }

    /// Keys and values of a block.
    pub(crate) fn split<'a>(&self, block: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        block[..self.block_bytes()].split_at(self.key_bytes())
    }

    /// Puts key and value of the position at `place` into a block.
    pub(crate) fn store(&self, block: &mut [u8], place: usize, key: &[f32], value: &[f32], ops: &Ops) {
        let (keys, values) = block[..self.block_bytes()].split_at_mut(self.key_bytes());
        match self.ty {
            KvType::F16 => ops.store_halves(key, value, place, keys, values),
            KvType::Q8_0 => ops.store_q8_0(key, value, place, keys, values),
            KvType::Q4_0 => ops.store_q4_0(key, value, place, keys, values),
        }
    }

    /// Widens the keys of a block, `[key_dim][BLOCK]`.
    pub(crate) fn widen_keys(&self, keys: &[u8], out: &mut [Line], ops: &Ops) {
        match self.ty {
            KvType::F16 => ops.widen_halves(keys, out),
            KvType::Q8_0 => ops.widen_q8_0_keys(keys, out),
            KvType::Q4_0 => ops.widen_q4_0_keys(keys, out),
        }
    }

    /// Widens the values of a block, `[BLOCK][value_stride]`.
    pub(crate) fn widen_values(&self, values: &[u8], out: &mut [Line], ops: &Ops) {
        match self.ty {
            KvType::F16 => ops.widen_halves(values, out),
            KvType::Q8_0 => ops.widen_q8_0_values(values, out),
            KvType::Q4_0 => ops.widen_q4_0_values(values, out),
        }
    }
}

/// Groups of 16 positions in a block.
const COLUMNS: usize = BLOCK / LANES;

#[inline(always)]
pub(in super::super) fn store_halves<V: Vector>(
    key: &[f32],
    value: &[f32],
    place: usize,
    keys: &mut [u8],
    values: &mut [u8],
) {
    let rows = keys.as_chunks_mut::<{ 2 * BLOCK }>().0;
    for (key, rows) in key.chunks(LANES).zip(rows.chunks_mut(LANES)) {
        let halves = narrow::<V>(key);
        for (row, half) in rows.iter_mut().zip(halves.as_chunks::<2>().0) {
            row[2 * place..][..2].copy_from_slice(half);
        }
    }
    let groups = value.len().div_ceil(LANES);
    let row = &mut values.as_chunks_mut::<{ 2 * LANES }>().0[place * groups..][..groups];
    for (value, group) in value.chunks(LANES).zip(row) {
        *group = narrow::<V>(value);
    }
}

/// Up to 16 values as f16, filled up with zeros.
#[inline(always)]
fn narrow<V: Vector>(x: &[f32]) -> [u8; 2 * LANES] {
    let mut halves = [0; 2 * LANES];
    match x.try_into() {
        Ok(x) => V::from_floats(x).write_halves(&mut halves),
        Err(_) => padded::<V>(x).write_halves(&mut halves),
    }
    halves
}

/// How a type rounds a block of 32. (A trait and not a function passed on: that might not be inlined, and would be
/// compiled for the baseline then.)
trait Quantize {
    const BYTES: usize;

    /// Writes `BYTES` bytes of quants and returns the scale.
    fn quantize(x: &[f32; QUANT_BLOCK], quants: &mut [u8]) -> f32;
}

/// `1 / d`, and 0 for 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// As `quantize_row_q8_0_ref` of ggml: ties away from zero.
struct Q8_0;

impl Quantize for Q8_0 {
    const BYTES: usize = QUANT_BLOCK;

    #[inline(always)]
    fn quantize(x: &[f32; QUANT_BLOCK], quants: &mut [u8]) -> f32 {
        let mut largest = 0.0;
        for x in x {
            largest = if x.abs() > largest { x.abs() } else { largest };
        }
        let d = largest / 127.0;
        let factor = inverse(d);
        for (quant, x) in quants.iter_mut().zip(x) {
            *quant = (x * factor).round() as i8 as u8;
        }
        d
    }
}

/// As `quantize_row_q4_0_ref` of ggml: the first value of the largest magnitude becomes -8.
struct Q4_0;

impl Quantize for Q4_0 {
    const BYTES: usize = QUANT_BLOCK / 2;

    #[inline(always)]
    fn quantize(x: &[f32; QUANT_BLOCK], quants: &mut [u8]) -> f32 {
        let mut extreme = 0.0f32;
        for x in x {
            extreme = if x.abs() > extreme.abs() { *x } else { extreme };
        }
        let d = extreme / -8.0;
        let factor = inverse(d);
        let (low, high) = x.split_at(QUANT_BLOCK / 2);
        for ((quant, low), high) in quants.iter_mut().zip(low).zip(high) {
            let (low, high) = ((low * factor + 8.5) as u8, (high * factor + 8.5) as u8);
            *quant = if low > 15 { 15 } else { low } | if high > 15 { 15 } else { high } << 4;
        }
        d
    }
}

/// The scale as f16. A block with a NaN gets one for its scale, so that damage stays seen; the reference would hide
/// it.
#[inline(always)]
fn scale_of(x: &[f32; QUANT_BLOCK], d: f32) -> [u8; 2] {
    let mut has_nan = false;
    for x in x {
        has_nan |= x.is_nan();
    }
    f16::from_f32_const(if has_nan { f32::NAN } else { d }).to_ne_bytes()
}

#[inline(always)]
fn store_quantized<Q: Quantize>(
    key: &[f32],
    value: &[f32],
    place: usize,
    keys: &mut [u8],
    values: &mut [u8],
) {
    let blocks = key.as_chunks::<QUANT_BLOCK>().0;
    let (rows, scales) = keys.split_at_mut(blocks.len() * Q::BYTES * BLOCK);
    let rows = rows.as_chunks_mut::<BLOCK>().0.chunks_exact_mut(Q::BYTES);
    let scales = scales.as_chunks_mut::<2>().0.chunks_exact_mut(BLOCK);
    for ((block, rows), scales) in blocks.iter().zip(rows).zip(scales) {
        let mut quants = [0; QUANT_BLOCK];
        scales[place] = scale_of(block, Q::quantize(block, &mut quants));
        for (row, quant) in rows.iter_mut().zip(quants) {
            row[place] = quant;
        }
    }
    let blocks = value.as_chunks::<QUANT_BLOCK>().0;
    let (quants, scales) = values.split_at_mut(blocks.len() * Q::BYTES * BLOCK);
    let quants = quants[place * blocks.len() * Q::BYTES..].chunks_exact_mut(Q::BYTES);
    let scales = &mut scales.as_chunks_mut::<2>().0[place * blocks.len()..];
    for ((block, quants), scale) in blocks.iter().zip(quants).zip(scales) {
        *scale = scale_of(block, Q::quantize(block, quants));
    }
}

#[inline(always)]
pub(in super::super) fn store_q8_0<V: Vector>(
    key: &[f32],
    value: &[f32],
    place: usize,
    keys: &mut [u8],
    values: &mut [u8],
) {
    store_quantized::<Q8_0>(key, value, place, keys, values);
}

#[inline(always)]
pub(in super::super) fn store_q4_0<V: Vector>(
    key: &[f32],
    value: &[f32],
    place: usize,
    keys: &mut [u8],
    values: &mut [u8],
) {
    store_quantized::<Q4_0>(key, value, place, keys, values);
}

#[inline(always)]
pub(in super::super) fn widen_halves<V: Vector>(halves: &[u8], out: &mut [Line]) {
    for (halves, out) in halves.as_chunks::<{ 2 * LANES }>().0.iter().zip(out) {
        V::from_halves(halves).write(&mut out.0);
    }
}

#[inline(always)]
fn signed(bytes: &[u8; LANES]) -> [i8; LANES] {
    bytes.map(|b| b as i8)
}

#[inline(always)]
fn low_nibbles(bytes: &[u8; LANES]) -> [i8; LANES] {
    bytes.map(|b| (b & 15) as i8 - 8)
}

#[inline(always)]
fn high_nibbles(bytes: &[u8; LANES]) -> [i8; LANES] {
    bytes.map(|b| (b >> 4) as i8 - 8)
}

/// Quants and scales of keys or values: `bytes` in all for 32 elements of each of them.
#[inline(always)]
fn quants_and_scales(all: &[u8], quant_bytes: usize) -> (&[[u8; LANES]], &[[u8; 2 * LANES]]) {
    let (quants, scales) = all.split_at(all.len() / (quant_bytes + 2) * quant_bytes);
    (quants.as_chunks::<LANES>().0, scales.as_chunks::<{ 2 * LANES }>().0)
}

/// A row of quants of [`BLOCK`] positions.
type Row = [[u8; LANES]; COLUMNS];

#[inline(always)]
fn column_scales<V: Vector>(halves: &[[u8; 2 * LANES]; COLUMNS]) -> [V; COLUMNS] {
    let mut scales = [V::splat(0.0); COLUMNS];
    for c in 0..COLUMNS {
        scales[c] = V::from_halves(&halves[c]);
    }
    scales
}

#[inline(always)]
pub(in super::super) fn widen_q8_0_keys<V: Vector>(keys: &[u8], out: &mut [Line]) {
    let (quants, scales) = quants_and_scales(keys, QUANT_BLOCK);
    let rows: &[Row] = quants.as_chunks().0;
    let out = out.as_chunks_mut::<COLUMNS>().0;
    let blocks = rows.as_chunks::<QUANT_BLOCK>().0.iter().zip(out.as_chunks_mut::<QUANT_BLOCK>().0);
    for ((rows, out), scales) in blocks.zip(scales.as_chunks::<COLUMNS>().0) {
        let scales = column_scales::<V>(scales);
        for (row, out) in rows.iter().zip(out) {
            for c in 0..COLUMNS {
                V::from_bytes(&signed(&row[c])).mul(scales[c]).write(&mut out[c].0);
            }
        }
    }
}

#[inline(always)]
pub(in super::super) fn widen_q4_0_keys<V: Vector>(keys: &[u8], out: &mut [Line]) {
    const HALF: usize = QUANT_BLOCK / 2;
    let (quants, scales) = quants_and_scales(keys, HALF);
    let rows: &[Row] = quants.as_chunks().0;
    let out = out.as_chunks_mut::<COLUMNS>().0;
    let blocks = rows.as_chunks::<HALF>().0.iter().zip(out.as_chunks_mut::<QUANT_BLOCK>().0);
    for ((rows, out), scales) in blocks.zip(scales.as_chunks::<COLUMNS>().0) {
        let scales = column_scales::<V>(scales);
        let (low, high) = out.split_at_mut(HALF);
        for ((row, low), high) in rows.iter().zip(low).zip(high) {
            for c in 0..COLUMNS {
                V::from_bytes(&low_nibbles(&row[c])).mul(scales[c]).write(&mut low[c].0);
                V::from_bytes(&high_nibbles(&row[c])).mul(scales[c]).write(&mut high[c].0);
            }
        }
    }
}

#[inline(always)]
pub(in super::super) fn widen_q8_0_values<V: Vector>(values: &[u8], out: &mut [Line]) {
    let (quants, scales) = quants_and_scales(values, QUANT_BLOCK);
    let rows = quants.as_chunks::<{ 2 * LANES }>().0.iter().zip(out.as_chunks_mut::<{ 2 * LANES }>().0);
    for ((quants, out), scales) in rows.zip(scales) {
        let mut scale = [0.0; LANES];
        V::from_halves(scales).write(&mut scale);
        let blocks = quants.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
        for ((quants, out), scale) in blocks.zip(scale) {
            for (quants, out) in quants.iter().zip(out) {
                V::from_bytes(&signed(quants)).mul(V::splat(scale)).write(&mut out.0);
            }
        }
    }
}

#[inline(always)]
pub(in super::super) fn widen_q4_0_values<V: Vector>(values: &[u8], out: &mut [Line]) {
    let (quants, scales) = quants_and_scales(values, QUANT_BLOCK / 2);
    let rows = quants.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<{ 2 * LANES }>().0);
    for ((quants, out), scales) in rows.zip(scales) {
        let mut scale = [0.0; LANES];
        V::from_halves(scales).write(&mut scale);
        for ((quants, [low, high]), scale) in quants.iter().zip(out.as_chunks_mut::<2>().0).zip(scale) {
            V::from_bytes(&low_nibbles(quants)).mul(V::splat(scale)).write(&mut low.0);
            V::from_bytes(&high_nibbles(quants)).mul(V::splat(scale)).write(&mut high.0);
        }
    }
}
