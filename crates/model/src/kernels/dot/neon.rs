//! NEON with the dot product extension: four weight rows in each of two float accumulators.
//!
//! `sdot` multiplies signed bytes and adds each four products to a 32-bit lane, so nothing saturates. Weights of
//! fewer than 8 bits are unpacked without their format's offset, which is taken off with the sums of the
//! activations; types without code of their own ([`Portable`]) take it off the weights.

use super::{Dot, TILE_ROWS, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::format::{Format32, Format256, FormatVisitor, Small, Super, visit};
use rawrz_gguf::TensorType;
use std::arch::aarch64::*;
use std::arch::asm;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    Some(match ty {
        TensorType::Q4_0 => Dot::Block32(dot_q4_0::<1>, dot_q4_0::<2>, dot_q4_0::<WIDE>),
        TensorType::Q4_1 => Dot::Block32(dot_q4_1::<1>, dot_q4_1::<2>, dot_q4_1::<WIDE>),
        TensorType::Q5_0 => Dot::Block32(dot_q5_0::<1>, dot_q5_0::<2>, dot_q5_0::<WIDE>),
        TensorType::Q5_1 => Dot::Block32(dot_q5_1::<1>, dot_q5_1::<2>, dot_q5_1::<WIDE>),
        TensorType::Q8_0 => Dot::Block32(dot_q8_0::<1>, dot_q8_0::<2>, dot_q8_0::<WIDE>),
        TensorType::Q4K => Dot::Block256(dot_q4_k::<1>, dot_q4_k::<2>, dot_q4_k::<WIDE>),
        TensorType::Q5K => Dot::Block256(dot_q5_k::<1>, dot_q5_k::<2>, dot_q5_k::<WIDE>),
        TensorType::Q6K => Dot::Block256(dot_q6_k::<1>, dot_q6_k::<2>, dot_q6_k::<WIDE>),
        _ => return visit(ty, Portable),
    })
}

/// Kernels of the types that have no code of their own here: blocks as the format itself unpacks them.
struct Portable;

impl FormatVisitor for Portable {
    type Out = Dot;

    fn small<F: Format32>(self) -> Dot {
        Dot::Block32(portable_32::<F, 1>, portable_32::<F, 2>, portable_32::<F, WIDE>)
    }

    fn large<F: Format256>(self) -> Dot {
        Dot::Block256(portable_256::<F, 1>, portable_256::<F, 2>, portable_256::<F, WIDE>)
    }
}

/// 32 weights or activations.
type Bytes = [uint8x16_t; 2];

/// One float for each row of a tile.
pub(in super::super) type Floats = [float32x4_t; 2];

/// Partial sums of a tile, `[activation row][weight row]`.
type Partial<const N: usize> = [[int32x4_t; TILE_ROWS]; N];

/// `acc` plus four products each of signed bytes: lane i takes bytes 4i to 4i + 3.
///
/// In assembly because the intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: only registers are touched, and this function is only for machines with the extension.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Four partial sums of 32 products.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(weights: Bytes, activations: Bytes) -> int32x4_t {
    sdot(sdot(vdupq_n_s32(0), weights[0], activations[0]), weights[1], activations[1])
}

/// Adds up the lanes of each row's partial sums.
#[inline]
#[target_feature(enable = "neon")]
fn sum_rows(rows: [int32x4_t; TILE_ROWS]) -> [int32x4_t; 2] {
    let [a, b, c, d, e, f, g, h] = rows;
    [vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)), vpaddq_s32(vpaddq_s32(e, f), vpaddq_s32(g, h))]
}

/// Exact integer sums as floats, one rounding each.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn floats(sums: [int32x4_t; 2]) -> Floats {
    [vcvtq_f32_s32(sums[0]), vcvtq_f32_s32(sums[1])]
}

/// `a * b`
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn scaled(a: Floats, b: f32) -> Floats {
    [vmulq_n_f32(a[0], b), vmulq_n_f32(a[1], b)]
}

/// `a * b + acc`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn fma(acc: Floats, a: Floats, b: Floats) -> Floats {
    [vfmaq_f32(acc[0], a[0], b[0]), vfmaq_f32(acc[1], a[1], b[1])]
}

/// `-(a * b) + acc`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(in super::super) fn fnma(acc: Floats, a: Floats, b: Floats) -> Floats {
    [vfmsq_f32(acc[0], a[0], b[0]), vfmsq_f32(acc[1], a[1], b[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn store<const N: usize>(acc: [Floats; N], out: &mut TileOut<N>) {
    for (acc, out) in acc.into_iter().zip(out) {
        // SAFETY: `out` is 8 floats.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), acc[0]);
            vst1q_f32(out.as_mut_ptr().add(4), acc[1]);
        }
    }
}

/// The f16 at each pointer, widened.
///
/// # Safety
/// Two bytes at every pointer are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn f16s(pointers: TileRows) -> Floats {
    // SAFETY: as the caller promises; the array is 8 halves, and the assembly touches only registers. It is
    // there because the intrinsic needs a newer compiler than the rest.
    unsafe {
        let bits = pointers.map(|p| p.cast::<u16>().read_unaligned());
        let bits = vld1q_u16(bits.as_ptr());
        let (low, high): (float32x4_t, float32x4_t);
        asm!(
            "fcvtl {low:v}.4s, {bits:v}.4h",
            "fcvtl2 {high:v}.4s, {bits:v}.8h",
            bits = in(vreg) bits,
            low = out(vreg) low,
            high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags)
        );
        [low, high]
    }
}

/// # Safety
/// 32 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(p: *const u8) -> Bytes {
    // SAFETY: as the caller promises; the load asks for no alignment.
    unsafe { [vld1q_u8(p), vld1q_u8(p.add(16))] }
}

/// Each byte shifted by `BITS`.
#[inline]
#[target_feature(enable = "neon")]
fn shift_right<const BITS: i32>(bytes: Bytes) -> Bytes {
    [vshrq_n_u8::<BITS>(bytes[0]), vshrq_n_u8::<BITS>(bytes[1])]
}

/// Each byte shifted by `BITS`.
#[inline]
#[target_feature(enable = "neon")]
fn shift_left<const BITS: i32>(bytes: Bytes) -> Bytes {
    [vshlq_n_u8::<BITS>(bytes[0]), vshlq_n_u8::<BITS>(bytes[1])]
}

/// Nibbles of 16 bytes: the low halves first, then the high halves.
///
/// # Safety
/// 16 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_nibbles(p: *const u8) -> Bytes {
    // SAFETY: as the caller promises.
    let bytes = unsafe { vld1q_u8(p) };
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
}

/// `low` with 16 added where `high` and `bit` share a bit.
#[inline]
#[target_feature(enable = "neon")]
fn with_fifth_bit(low: uint8x16_t, high: uint8x16_t, bit: uint8x16_t) -> uint8x16_t {
    vorrq_u8(low, vandq_u8(vtstq_u8(high, bit), vdupq_n_u8(16)))
}

/// Nibbles at `nibbles` with a fifth bit each, bit i of the 32 at `high`.
///
/// # Safety
/// 16 bytes at `nibbles` and 4 at `high` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_five_bits(nibbles: *const u8, high: *const u8) -> Bytes {
    // SAFETY: as the caller promises.
    let (low, high) = unsafe { (load_nibbles(nibbles), high.cast::<[u8; 4]>().read()) };
    let bit_of_byte = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let spread = |a, b| vcombine_u8(vdup_n_u8(a), vdup_n_u8(b));
    [
        with_fifth_bit(low[0], spread(high[0], high[1]), bit_of_byte),
        with_fifth_bit(low[1], spread(high[2], high[3]), bit_of_byte),
    ]
}

/// The loop of the formats of 32. `$unpack` gives a block's quants, `$offset` is what they are too large by,
/// `$minimum` where the minimum stands.
macro_rules! dot_32 {
    ($name:ident, bytes: $bytes:expr, offset: $offset:expr, minimum: $minimum:expr,
     |$block:ident| $unpack:expr) => {
        /// # Safety
        /// As [`super::Dot32`].
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn $name<const N: usize>(rows: &TileRows, acts: [Row32<'_>; N], out: &mut TileOut<N>) {
            const MINIMUM: Option<usize> = $minimum;
            let mut acc = [[vdupq_n_f32(0.0); 2]; N];
            for b in 0..acts[0].scales.len() {
                // SAFETY: every row has a block for each block of activations, and a block of activations is
                // 32 bytes.
                unsafe {
                    let at = |offset: usize| rows.map(|row| row.add(b * $bytes + offset));
                    let weights = at(0).map(|$block| $unpack);
                    let scales = f16s(at(0));
                    for (acts, acc) in acts.iter().zip(&mut acc) {
                        let quants = load(acts.quants.as_ptr().add(32 * b).cast());
                        let offset = vdupq_n_s32($offset * *acts.sums.get_unchecked(b));
                        let sums = sum_rows(weights.map(|weights| dot(weights, quants)));
                        let sums = floats(sums.map(|sums| vsubq_s32(sums, offset)));
                        *acc = fma(*acc, scaled(scales, *acts.scales.get_unchecked(b)), sums);
                    }
                    if let Some(offset) = MINIMUM {
                        let minimums = f16s(at(offset));
                        for (acts, acc) in acts.iter().zip(&mut acc) {
                            let sum = vdupq_n_f32(*acts.scaled_sums.get_unchecked(b));
                            *acc = fma(*acc, minimums, [sum; 2]);
                        }
                    }
                }
            }
            store(acc, out);
        }
    };
}

dot_32!(dot_q4_0, bytes: 18, offset: 8, minimum: None, |block| load_nibbles(block.add(2)));
dot_32!(dot_q4_1, bytes: 20, offset: 0, minimum: Some(2), |block| load_nibbles(block.add(4)));
dot_32!(dot_q5_0, bytes: 22, offset: 16, minimum: None, |block| load_five_bits(block.add(6), block.add(2)));
dot_32!(dot_q5_1, bytes: 24, offset: 0, minimum: Some(2), |block| load_five_bits(block.add(8), block.add(4)));
dot_32!(dot_q8_0, bytes: 34, offset: 0, minimum: None, |block| load(block.add(2)));

/// Scales and minimums of a `Q4_K` or `Q5_K` block: 8 bytes each, sub-block 0 in the lowest.
///
/// # Safety
/// 12 bytes at `p` are readable.
#[inline]
unsafe fn six_bit_scales(p: *const u8) -> (u64, u64) {
    // SAFETY: as the caller promises.
    let [a, b, c]: [u32; 3] = std::array::from_fn(|i| unsafe { p.cast::<u32>().add(i).read_unaligned() });
    let (low, nibble, high) = (0x3F3F_3F3F, 0x0F0F_0F0F, 0x3030_3030);
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    (join(a & low, c & nibble | a >> 2 & high), join(b & low, c >> 4 & nibble | b >> 2 & high))
}

/// The sum of products of 16-bit integers, in four partial sums.
#[inline]
#[target_feature(enable = "neon")]
fn dot_16(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b)
}

/// The loop of `Q4_K` and `Q5_K`: `$weights` gives weights 32j to 32j + 31 of a block.
macro_rules! dot_256_with_minimum {
    ($name:ident, bytes: $bytes:expr, |$block:ident, $j:ident| $weights:expr) => {
        /// # Safety
        /// As [`super::Dot256`].
        #[target_feature(enable = "neon,dotprod")]
        unsafe fn $name<const N: usize>(rows: &TileRows, acts: [Row256<'_>; N], out: &mut TileOut<N>) {
            let mut acc = [[vdupq_n_f32(0.0); 2]; N];
            for b in 0..acts[0].scales.len() {
                // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums.
                unsafe {
                    let quants = acts.map(|acts| acts.quants.as_ptr().add(256 * b).cast::<u8>());
                    // Minimums count per 32: add the sums of neighbouring 16, in 16 bits (at most 32 * 127).
                    let sums = acts.map(|acts| {
                        let sums = acts.sums.as_ptr().add(16 * b);
                        vpaddq_s16(vld1q_s16(sums), vld1q_s16(sums.add(8)))
                    });
                    let mut partial: Partial<N> = [[vdupq_n_s32(0); TILE_ROWS]; N];
                    let mut minimums: Partial<N> = [[vdupq_n_s32(0); TILE_ROWS]; N];
                    for r in 0..TILE_ROWS {
                        let $block = rows[r].add(b * $bytes);
                        let (scales, packed_minimums) = six_bit_scales($block.add(4));
                        let scales = scales.to_le_bytes();
                        let mut row = [vdupq_n_s32(0); N];
                        for ($j, scale) in scales.iter().enumerate() {
                            let weights: Bytes = $weights;
                            let scale = i32::from(*scale);
                            for t in 0..N {
                                row[t] =
                                    vmlaq_n_s32(row[t], dot(weights, load(quants[t].add(32 * $j))), scale);
                            }
                        }
                        let row_minimums = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(packed_minimums)));
                        for t in 0..N {
                            partial[t][r] = row[t];
                            minimums[t][r] = dot_16(row_minimums, sums[t]);
                        }
                    }
                    let scales = f16s(rows.map(|row| row.add(b * $bytes)));
                    let minimum_scales = f16s(rows.map(|row| row.add(b * $bytes + 2)));
                    for t in 0..N {
                        let scale = *acts[t].scales.get_unchecked(b);
                        acc[t] = fma(acc[t], scaled(scales, scale), floats(sum_rows(partial[t])));
                        acc[t] = fnma(acc[t], scaled(minimum_scales, scale), floats(sum_rows(minimums[t])));
                    }
                }
            }
            store(acc, out);
        }
    };
}

/// Weights 32j to 32j + 31 of 128 nibble bytes in chunks of 64 weights.
///
/// # Safety
/// 128 bytes at `p` are readable and `j` is below 8.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn chunked_nibbles(p: *const u8, j: usize) -> Bytes {
    // SAFETY: as the caller promises.
    let bytes = unsafe { load(p.add(32 * (j / 2))) };
    if j.is_multiple_of(2) {
        [vandq_u8(bytes[0], vdupq_n_u8(15)), vandq_u8(bytes[1], vdupq_n_u8(15))]
    } else {
        shift_right::<4>(bytes)
    }
}

dot_256_with_minimum!(dot_q4_k, bytes: 144, |block, j| chunked_nibbles(block.add(16), j));
dot_256_with_minimum!(dot_q5_k, bytes: 176, |block, j| {
    // The fifth bit of weight 32j + i is bit j of high byte i.
    let (low, high) = (chunked_nibbles(block.add(48), j), load(block.add(16)));
    let bit = vdupq_n_u8(1u8.wrapping_shl(j as u32));
    [with_fifth_bit(low[0], high[0], bit), with_fifth_bit(low[1], high[1], bit)]
});

/// # Safety
/// As [`super::Dot256`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_q6_k<const N: usize>(rows: &TileRows, acts: [Row256<'_>; N], out: &mut TileOut<N>) {
    const BYTES: usize = 210;
    let mut acc = [[vdupq_n_f32(0.0); 2]; N];
    for b in 0..acts[0].scales.len() {
        // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums.
        unsafe {
            let quants = acts.map(|acts| acts.quants.as_ptr().add(256 * b).cast::<u8>());
            let sums = acts.map(|acts| {
                let sums = acts.sums.as_ptr().add(16 * b);
                [vld1q_s16(sums), vld1q_s16(sums.add(8))]
            });
            let mut partial: Partial<N> = [[vdupq_n_s32(0); TILE_ROWS]; N];
            for r in 0..TILE_ROWS {
                let row = q6_k_partial(rows[r].add(b * BYTES), quants, sums);
                (0..N).for_each(|t| partial[t][r] = row[t]);
            }
            let scales = f16s(rows.map(|row| row.add(b * BYTES + 208)));
            for t in 0..N {
                let scales = scaled(scales, *acts[t].scales.get_unchecked(b));
                acc[t] = fma(acc[t], scales, floats(sum_rows(partial[t])));
            }
        }
    }
    store(acc, out);
}

/// Partial sums of one `Q6_K` block with each row of activations; `sums` are the sums of each 16 activations.
///
/// # Safety
/// 210 bytes at `block` and 256 at each of `quants` are readable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn q6_k_partial<const N: usize>(
    block: *const u8,
    quants: [*const u8; N],
    sums: [[int16x8_t; 2]; N],
) -> [int32x4_t; N] {
    let (nibble, two_bits) = (vdupq_n_u8(15), vdupq_n_u8(0x30));
    // SAFETY: all offsets stay inside the block and the 256 activations.
    unsafe {
        let scales = block.add(192).cast::<[i8; 16]>().read();
        let packed = vld1q_s8(scales.as_ptr());
        let wide_scales = [vmovl_s8(vget_low_s8(packed)), vmovl_high_s8(packed)];
        // Quants are 32 too large: take off 32 times each group's scale times its activations' sum.
        let mut partial = sums.map(|sums| {
            let offset = vaddq_s32(dot_16(wide_scales[0], sums[0]), dot_16(wide_scales[1], sums[1]));
            vnegq_s32(vshlq_n_s32::<5>(offset))
        });
        for half in 0..2 {
            let [low, next] = [load(block.add(64 * half)), load(block.add(64 * half + 32))];
            let high = load(block.add(128 + 32 * half));
            let low = [low, next, shift_right::<4>(low), shift_right::<4>(next)];
            let high = [shift_left::<4>(high), shift_left::<2>(high), high, shift_right::<2>(high)];
            for j in 0..4 {
                for i in 0..2 {
                    // One group of 16.
                    let group = 8 * half + 2 * j + i;
                    let weights = vorrq_u8(vandq_u8(low[j][i], nibble), vandq_u8(high[j][i], two_bits));
                    let scale = i32::from(scales[group]);
                    for t in 0..N {
                        let dot = sdot(vdupq_n_s32(0), weights, vld1q_u8(quants[t].add(16 * group)));
                        partial[t] = vmlaq_n_s32(partial[t], dot, scale);
                    }
                }
            }
        }
        partial
    }
}

/// Unsigned quants as signed weights: their offset taken off.
///
/// # Safety
/// 32 bytes at `quants` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_signed(quants: *const u8, offset: u8) -> Bytes {
    // SAFETY: as the caller promises.
    unsafe { load(quants) }.map(|quants| vsubq_u8(quants, vdupq_n_u8(offset)))
}

/// # Safety
/// 8 floats at `p` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_floats(p: *const f32) -> Floats {
    // SAFETY: as the caller promises.
    unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
}

/// # Safety
/// As [`super::Dot32`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn portable_32<F: Format32, const N: usize>(
    rows: &TileRows,
    acts: [Row32<'_>; N],
    out: &mut TileOut<N>,
) {
    let units_of_block = F::TYPE.block_len() / 32 * F::PARTS;
    let mut acc = [[vdupq_n_f32(0.0); 2]; N];
    for unit in 0..acts[0].scales.len() * F::PARTS {
        let b = unit / F::PARTS;
        let mut weights = [[vdupq_n_u8(0); 2]; TILE_ROWS];
        let mut floats_of = [[0.0f32; TILE_ROWS]; 2];
        // SAFETY: every row has weights for all activations, a block of which is 32 bytes; arrays of floats are
        // 8 long.
        unsafe {
            for r in 0..TILE_ROWS {
                let block = rows[r].add(unit / units_of_block * F::TYPE.block_bytes());
                let block = std::slice::from_raw_parts(block, F::TYPE.block_bytes());
                let Small { quants, scale, minimum } = F::unpack(block, unit % units_of_block);
                weights[r] = load_signed(quants.as_ptr(), F::OFFSET);
                (floats_of[0][r], floats_of[1][r]) = (scale, minimum);
            }
            let [scales, minimums] = [load_floats(floats_of[0].as_ptr()), load_floats(floats_of[1].as_ptr())];
            for (acts, acc) in acts.iter().zip(&mut acc) {
                let quants = load(acts.quants.as_ptr().add(32 * b).cast());
                let sums = floats(sum_rows(weights.map(|weights| dot(weights, quants))));
                *acc = fma(*acc, scaled(scales, *acts.scales.get_unchecked(b)), sums);
                if F::HAS_MINIMUM {
                    let sum = vdupq_n_f32(*acts.scaled_sums.get_unchecked(b));
                    *acc = fma(*acc, minimums, [sum; 2]);
                }
            }
        }
    }
    store(acc, out);
}

/// # Safety
/// As [`super::Dot256`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn portable_256<F: Format256, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let mut acc = [[vdupq_n_f32(0.0); 2]; N];
    let mut block = Super::EMPTY;
    // Of one block; every element is written for each.
    let mut partial: Partial<N> = [[vdupq_n_s32(0); TILE_ROWS]; N];
    let mut minimums: Partial<N> = [[vdupq_n_s32(0); TILE_ROWS]; N];
    let mut floats_of = [[0.0f32; TILE_ROWS]; 2];
    for b in 0..acts[0].scales.len() {
        // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the
        // arrays of a block are as long as what is loaded, and those of floats are 8 long.
        unsafe {
            let quants = acts.map(|acts| acts.quants.as_ptr().add(256 * b).cast::<u8>());
            for r in 0..TILE_ROWS {
                let bytes = rows[r].add(b * F::TYPE.block_bytes());
                F::unpack(std::slice::from_raw_parts(bytes, F::TYPE.block_bytes()), &mut block);
                (floats_of[0][r], floats_of[1][r]) = (block.scale, block.minimum_scale);
                let mut row = [vdupq_n_s32(0); N];
                for j in 0..8 {
                    let weights = load_signed(block.quants.as_ptr().add(32 * j), F::OFFSET);
                    let scales = [block.scales[2 * j], block.scales[2 * j + 1]].map(i32::from);
                    for t in 0..N {
                        let activations = load(quants[t].add(32 * j));
                        row[t] = match F::GROUP {
                            // No scales: all sums go on in one.
                            256 => sdot(sdot(row[t], weights[0], activations[0]), weights[1], activations[1]),
                            32 => vmlaq_n_s32(row[t], dot(weights, activations), scales[0]),
                            _ => {
                                let [low, high] =
                                    [0, 1].map(|i| sdot(vdupq_n_s32(0), weights[i], activations[i]));
                                vmlaq_n_s32(vmlaq_n_s32(row[t], low, scales[0]), high, scales[1])
                            }
                        };
                    }
                }
                for t in 0..N {
                    partial[t][r] = row[t];
                    if F::HAS_MINIMUMS {
                        let sums = acts[t].sums.as_ptr().add(16 * b);
                        let row = block.minimums.as_ptr();
                        let low = dot_16(vld1q_s16(row), vld1q_s16(sums));
                        minimums[t][r] =
                            vaddq_s32(low, dot_16(vld1q_s16(row.add(8)), vld1q_s16(sums.add(8))));
                    }
                }
            }
            let [scales, minimum_scales] =
                [load_floats(floats_of[0].as_ptr()), load_floats(floats_of[1].as_ptr())];
            for t in 0..N {
                let scale = *acts[t].scales.get_unchecked(b);
                acc[t] = fma(acc[t], scaled(scales, scale), floats(sum_rows(partial[t])));
                if F::HAS_MINIMUMS {
                    acc[t] = fnma(acc[t], scaled(minimum_scales, scale), floats(sum_rows(minimums[t])));
                }
            }
        }
    }
    store(acc, out);
}
