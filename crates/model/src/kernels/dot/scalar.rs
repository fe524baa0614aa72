//! The oracle: each block format's integer dot, spelled out.
//!
//! Layouts are those of GGUF; `d`, `m` and `dmin` are f16.

use super::{Dot, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::float::{BLOCK_32, BLOCK_256};
use half::f16;
use rawrz_gguf::TensorType;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    Some(match ty {
        TensorType::Q4_0 => Dot::Block32(dot_32::<Q4_0, 1>, dot_32::<Q4_0, WIDE>),
        TensorType::Q4_1 => Dot::Block32(dot_32::<Q4_1, 1>, dot_32::<Q4_1, WIDE>),
        TensorType::Q5_0 => Dot::Block32(dot_32::<Q5_0, 1>, dot_32::<Q5_0, WIDE>),
        TensorType::Q5_1 => Dot::Block32(dot_32::<Q5_1, 1>, dot_32::<Q5_1, WIDE>),
        TensorType::Q8_0 => Dot::Block32(dot_32::<Q8_0, 1>, dot_32::<Q8_0, WIDE>),
        TensorType::Q4K => Dot::Block256(dot_256::<Q4K, 1>, dot_256::<Q4K, WIDE>),
        TensorType::Q5K => Dot::Block256(dot_256::<Q5K, 1>, dot_256::<Q5K, WIDE>),
        TensorType::Q6K => Dot::Block256(dot_256::<Q6K, 1>, dot_256::<Q6K, WIDE>),
        _ => return None,
    })
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32_const()
}

/// A format of 32 weights: weight i is `scale * quants[i] + minimum`.
trait Format32 {
    const BYTES: usize;
    /// Where `m` stands, for formats that have it. `d` is at 0.
    const MINIMUM: Option<usize>;
    fn quants(block: &[u8]) -> [i32; BLOCK_32];
}

/// Nibbles: weight i in the low half of byte i, weight i + 16 in the high half.
fn nibbles(bytes: &[u8]) -> [i32; BLOCK_32] {
    std::array::from_fn(|i| i32::from(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }))
}

/// Nibbles at `nibbles_at` with a fifth bit each, bit i of the word at `high_at`.
fn five_bits(block: &[u8], high_at: usize, nibbles_at: usize) -> [i32; BLOCK_32] {
    let high = u32::from_le_bytes(std::array::from_fn(|i| block[high_at + i]));
    let low = nibbles(&block[nibbles_at..]);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as i32)
}

struct Q4_0;
impl Format32 for Q4_0 {
    const BYTES: usize = 18;
    const MINIMUM: Option<usize> = None;
    fn quants(block: &[u8]) -> [i32; BLOCK_32] {
        nibbles(&block[2..]).map(|q| q - 8)
    }
}

struct Q4_1;
impl Format32 for Q4_1 {
    const BYTES: usize = 20;
    const MINIMUM: Option<usize> = Some(2);
    fn quants(block: &[u8]) -> [i32; BLOCK_32] {
        nibbles(&block[4..])
    }
}

struct Q5_0;
impl Format32 for Q5_0 {
    const BYTES: usize = 22;
    const MINIMUM: Option<usize> = None;
    fn quants(block: &[u8]) -> [i32; BLOCK_32] {
        five_bits(block, 2, 6).map(|q| q - 16)
    }
}

struct Q5_1;
impl Format32 for Q5_1 {
    const BYTES: usize = 24;
    const MINIMUM: Option<usize> = Some(2);
    fn quants(block: &[u8]) -> [i32; BLOCK_32] {
        five_bits(block, 4, 8)
    }
}

struct Q8_0;
impl Format32 for Q8_0 {
    const BYTES: usize = 34;
    const MINIMUM: Option<usize> = None;
    fn quants(block: &[u8]) -> [i32; BLOCK_32] {
        std::array::from_fn(|i| i32::from(block[2 + i] as i8))
    }
}

/// # Safety
/// Every row pointer is good for as many blocks as `acts` has.
unsafe fn dot_32<F: Format32, const N: usize>(rows: &TileRows, acts: [Row32<'_>; N], out: &mut TileOut<N>) {
    for (acts, out) in acts.iter().zip(out) {
        for (row, out) in rows.iter().zip(out) {
            // SAFETY: as the caller promises.
            let row = unsafe { std::slice::from_raw_parts(*row, acts.scales.len() * F::BYTES) };
            *out = row_dot_32::<F>(row, acts);
        }
    }
}

fn row_dot_32<F: Format32>(row: &[u8], acts: &Row32<'_>) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let activations = &acts.quants[b * BLOCK_32..];
        let sum: i32 = F::quants(block).iter().zip(activations).map(|(w, a)| w * i32::from(*a)).sum();
        acc = (f16_at(block, 0) * acts.scales[b]).mul_add(sum as f32, acc);
        if let Some(offset) = F::MINIMUM {
            acc = f16_at(block, offset).mul_add(acts.scaled_sums[b], acc);
        }
    }
    acc
}

/// A format of 256 weights in groups of 16: weight i is `d * scales[i / 16] * quants[i] - dmin * minimums[i / 16]`.
trait Format256 {
    const BYTES: usize;
    /// Where `d` stands.
    const SCALE: usize;
    /// Where `dmin` stands, for formats that have it.
    const MINIMUM: Option<usize>;
    fn quants(block: &[u8]) -> [i32; BLOCK_256];
    fn scales(block: &[u8]) -> [i32; 16];
    fn minimums(block: &[u8]) -> [i32; 16];
}

/// The 6-bit scale (and minimum) of each 32 weights, packed into 12 bytes.
fn six_bit_scales(packed: &[u8]) -> ([i32; 8], [i32; 8]) {
    let scale = |j: usize| {
        if j < 4 { packed[j] & 63 } else { packed[j + 4] & 15 | (packed[j - 4] >> 6) << 4 }
    };
    let minimum = |j: usize| {
        if j < 4 { packed[j + 4] & 63 } else { packed[j + 4] >> 4 | (packed[j] >> 6) << 4 }
    };
    (std::array::from_fn(|j| i32::from(scale(j))), std::array::from_fn(|j| i32::from(minimum(j))))
}

/// Nibbles in chunks of 64 weights: 32 bytes hold 32 weights in their low halves, then 32 in the high ones.
fn chunked_nibbles(bytes: &[u8]) -> [i32; BLOCK_256] {
    std::array::from_fn(|i| {
        let byte = bytes[i / 64 * 32 + i % 32];
        i32::from(if i % 64 < 32 { byte & 15 } else { byte >> 4 })
    })
}

struct Q4K;
impl Format256 for Q4K {
    const BYTES: usize = 144;
    const SCALE: usize = 0;
    const MINIMUM: Option<usize> = Some(2);
    fn quants(block: &[u8]) -> [i32; BLOCK_256] {
        chunked_nibbles(&block[16..])
    }
    fn scales(block: &[u8]) -> [i32; 16] {
        let (scales, _) = six_bit_scales(&block[4..16]);
        std::array::from_fn(|g| scales[g / 2])
    }
    fn minimums(block: &[u8]) -> [i32; 16] {
        let (_, minimums) = six_bit_scales(&block[4..16]);
        std::array::from_fn(|g| minimums[g / 2])
    }
}

struct Q5K;
impl Format256 for Q5K {
    const BYTES: usize = 176;
    const SCALE: usize = 0;
    const MINIMUM: Option<usize> = Some(2);
    fn quants(block: &[u8]) -> [i32; BLOCK_256] {
        // Bit i / 32 of high byte i % 32.
        let (high, low) = (&block[16..48], chunked_nibbles(&block[48..]));
        std::array::from_fn(|i| low[i] | i32::from(high[i % 32] >> (i / 32) & 1) << 4)
    }
    fn scales(block: &[u8]) -> [i32; 16] {
        Q4K::scales(block)
    }
    fn minimums(block: &[u8]) -> [i32; 16] {
        Q4K::minimums(block)
    }
}

struct Q6K;
impl Format256 for Q6K {
    const BYTES: usize = 210;
    const SCALE: usize = 208;
    const MINIMUM: Option<usize> = None;
    fn quants(block: &[u8]) -> [i32; BLOCK_256] {
        // Halves of 128 weights; in each, weight i has its low nibble in low byte i % 64 (the high half of the
        // byte from weight 64 on) and its two high bits in high byte i % 32, at bit 2 * (i / 32).
        std::array::from_fn(|i| {
            let (half, i) = (i / 128, i % 128);
            let low = block[half * 64 + i % 64] >> (i / 64 * 4) & 15;
            let high = block[128 + half * 32 + i % 32] >> (i / 32 * 2) & 3;
            i32::from(low | high << 4) - 32
        })
    }
    fn scales(block: &[u8]) -> [i32; 16] {
        std::array::from_fn(|g| i32::from(block[192 + g] as i8))
    }
    fn minimums(_: &[u8]) -> [i32; 16] {
        [0; 16]
    }
}

/// # Safety
/// Every row pointer is good for as many super-blocks as `acts` has.
unsafe fn dot_256<F: Format256, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    for (acts, out) in acts.iter().zip(out) {
        for (row, out) in rows.iter().zip(out) {
            // SAFETY: as the caller promises.
            let row = unsafe { std::slice::from_raw_parts(*row, acts.scales.len() * F::BYTES) };
            *out = row_dot_256::<F>(row, acts);
        }
    }
}

fn row_dot_256<F: Format256>(row: &[u8], acts: &Row256<'_>) -> f32 {
    let mut acc = 0.0f32;
    for (b, block) in row.chunks_exact(F::BYTES).enumerate() {
        let activations = &acts.quants[b * BLOCK_256..][..BLOCK_256];
        let (quants, scales) = (F::quants(block), F::scales(block));
        let sum: i32 = (0..BLOCK_256).map(|i| scales[i / 16] * quants[i] * i32::from(activations[i])).sum();
        acc = (f16_at(block, F::SCALE) * acts.scales[b]).mul_add(sum as f32, acc);
        if let Some(offset) = F::MINIMUM {
            let sums = &acts.sums[b * 16..][..16];
            let minimum: i32 = F::minimums(block).iter().zip(sums).map(|(m, s)| m * i32::from(*s)).sum();
            acc = (-(f16_at(block, offset) * acts.scales[b])).mul_add(minimum as f32, acc);
        }
    }
    acc
}

const _: () = {
    assert!(Q4_0::BYTES == TensorType::Q4_0.block_bytes());
    assert!(Q4_1::BYTES == TensorType::Q4_1.block_bytes());
    assert!(Q5_0::BYTES == TensorType::Q5_0.block_bytes());
    assert!(Q5_1::BYTES == TensorType::Q5_1.block_bytes());
    assert!(Q8_0::BYTES == TensorType::Q8_0.block_bytes());
    assert!(Q4K::BYTES == TensorType::Q4K.block_bytes());
    assert!(Q5K::BYTES == TensorType::Q5K.block_bytes());
    assert!(Q6K::BYTES == TensorType::Q6K.block_bytes());
};
