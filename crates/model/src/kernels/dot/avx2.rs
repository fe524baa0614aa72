//! AVX2: one weight row in each lane of the float accumulator.
//!
//! Weights stay unsigned for `vpmaddubsw` (the offset of a format is taken off with the sums of the
//! activations), whose pair sums cannot saturate: 2 * 63 * 127 is the largest of the formats below `Q8_0`,
//! and for that one the sign moves to the activation, giving at most 2 * 128 * 127.

use super::{Dot, TILE_ROWS, TileRows};
use crate::kernels::activations::{Row32, Row256};
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    Some(match ty {
        TensorType::Q4_0 => Dot::Block32(dot_q4_0),
        TensorType::Q4_1 => Dot::Block32(dot_q4_1),
        TensorType::Q5_0 => Dot::Block32(dot_q5_0),
        TensorType::Q5_1 => Dot::Block32(dot_q5_1),
        TensorType::Q8_0 => Dot::Block32(dot_q8_0),
        TensorType::Q4K => Dot::Block256(dot_q4_k),
        TensorType::Q5K => Dot::Block256(dot_q5_k),
        TensorType::Q6K => Dot::Block256(dot_q6_k),
        _ => return None,
    })
}

/// Adds up the lanes of each row's partial sums: lane r of the result is the sum of `rows[r]`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_rows(rows: [__m256i; TILE_ROWS]) -> __m256i {
    let pairs: [__m256i; 4] = [
        _mm256_hadd_epi32(rows[0], rows[1]),
        _mm256_hadd_epi32(rows[2], rows[3]),
        _mm256_hadd_epi32(rows[4], rows[5]),
        _mm256_hadd_epi32(rows[6], rows[7]),
    ];
    let low = _mm256_hadd_epi32(pairs[0], pairs[1]);
    let high = _mm256_hadd_epi32(pairs[2], pairs[3]);
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    )
}

/// The f16 at `offset` of each row's block, widened.
///
/// # Safety
/// Two bytes at `offset` of every pointer are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_at(rows: &TileRows, offset: usize) -> __m256 {
    // SAFETY: as the caller promises.
    let at = |r: usize| i16::from_le(unsafe { rows[r].add(offset).cast::<i16>().read_unaligned() });
    _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)))
}

/// # Safety
/// 32 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// Nibbles of 16 bytes: the low halves in the lower 16 bytes, the high halves in the upper ones.
///
/// # Safety
/// 16 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_nibbles(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { _mm_loadu_si128(p.cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// The 32 bits at `p` spread over 32 bytes, as 16 where a bit is set.
///
/// # Safety
/// 4 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_fifth_bits(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bits = unsafe { p.cast::<i32>().read_unaligned() };
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(bits),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit_of_byte = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of_byte), bit_of_byte);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Eight partial sums of unsigned weights times signed activations.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_unsigned(weights: __m256i, activations: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(weights, activations), _mm256_set1_epi16(1))
}

/// The loop of the formats of 32: `$offset` is what their unsigned quants are too large by, `$minimum` where
/// the minimum stands.
macro_rules! dot_32 {
    ($name:ident, bytes: $bytes:expr, offset: $offset:expr, minimum: $minimum:expr,
     |$block:ident, $acts:ident| $partial:expr) => {
        /// # Safety
        /// As [`super::Dot32`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(rows: &TileRows, acts: Row32<'_>, out: &mut [f32; TILE_ROWS]) {
            const MINIMUM: Option<usize> = $minimum;
            let mut rows = *rows;
            let mut acc = _mm256_setzero_ps();
            for (b, scale) in acts.scales.iter().enumerate() {
                // SAFETY: every row has a block for each block of activations, and a block of activations is
                // 32 bytes; `rows` stands at block b.
                unsafe {
                    let $acts = load(acts.quants.as_ptr().add(32 * b).cast());
                    let sums = sum_rows(rows.map(|$block| $partial));
                    let sums = _mm256_sub_epi32(sums, _mm256_set1_epi32($offset * acts.sums[b]));
                    let scales = _mm256_mul_ps(scales_at(&rows, 0), _mm256_set1_ps(*scale));
                    acc = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sums), acc);
                    if let Some(offset) = MINIMUM {
                        let minimum = scales_at(&rows, offset);
                        acc = _mm256_fmadd_ps(minimum, _mm256_set1_ps(acts.scaled_sums[b]), acc);
                    }
                }
                rows = rows.map(|row| row.wrapping_add($bytes));
            }
            // SAFETY: `out` is 8 floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
        }
    };
}

dot_32!(dot_q4_0, bytes: 18, offset: 8, minimum: None,
    |block, acts| dot_unsigned(load_nibbles(block.add(2)), acts));
dot_32!(dot_q4_1, bytes: 20, offset: 0, minimum: Some(2),
    |block, acts| dot_unsigned(load_nibbles(block.add(4)), acts));
dot_32!(dot_q5_0, bytes: 22, offset: 16, minimum: None,
    |block, acts| dot_unsigned(_mm256_or_si256(load_nibbles(block.add(6)), load_fifth_bits(block.add(2))), acts));
dot_32!(dot_q5_1, bytes: 24, offset: 0, minimum: Some(2),
    |block, acts| dot_unsigned(_mm256_or_si256(load_nibbles(block.add(8)), load_fifth_bits(block.add(4))), acts));
dot_32!(dot_q8_0, bytes: 34, offset: 0, minimum: None, |block, acts| {
    let weights = load(block.add(2));
    dot_unsigned(_mm256_abs_epi8(weights), _mm256_sign_epi8(acts, weights))
});

/// Scales and minimums of a `Q4_K` or `Q5_K` block as 16-bit integers: 8 scales in the lower half, 8 minimums
/// in the upper one.
///
/// # Safety
/// 12 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn six_bit_scales(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let [a, b, c]: [u32; 3] = std::array::from_fn(|i| unsafe { p.cast::<u32>().add(i).read_unaligned() });
    let (low, nibble, high) = (0x3F3F_3F3F, 0x0F0F_0F0F, 0x3030_3030);
    let scales = [a & low, c & nibble | a >> 2 & high];
    let minimums = [b & low, c >> 4 & nibble | b >> 2 & high];
    _mm256_cvtepu8_epi16(_mm_setr_epi32(
        scales[0] as i32,
        scales[1] as i32,
        minimums[0] as i32,
        minimums[1] as i32,
    ))
}

/// Copies 16-bit element `i` of both halves of `halves` (which are equal) into every element.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast_16(halves: __m256i, i: usize) -> __m256i {
    _mm256_shuffle_epi8(halves, _mm256_set1_epi16((0x0100 + 0x0202 * i) as i16))
}

/// The loop of `Q4_K` and `Q5_K`: `$partial` gives weights 32j to 32j + 31 of a block as unsigned bytes.
macro_rules! dot_256_with_minimum {
    ($name:ident, bytes: $bytes:expr, |$block:ident, $j:ident| $weights:expr) => {
        /// # Safety
        /// As [`super::Dot256`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(rows: &TileRows, acts: Row256<'_>, out: &mut [f32; TILE_ROWS]) {
            let mut rows = *rows;
            let mut acc = _mm256_setzero_ps();
            for (b, scale) in acts.scales.iter().enumerate() {
                // SAFETY: every row has a block for each block of activations, which has 256 quants and 16
                // sums; `rows` stands at block b.
                unsafe {
                    let quants = acts.quants.as_ptr().add(256 * b).cast::<u8>();
                    let sums = load(acts.sums.as_ptr().add(16 * b).cast());
                    // Minimums count per 32: add the sums of neighbouring 16, in 16 bits (at most 32 * 127).
                    let sums =
                        _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                    let mut minimums = [_mm_setzero_si128(); TILE_ROWS];
                    let mut partial = [_mm256_setzero_si256(); TILE_ROWS];
                    for (r, $block) in rows.into_iter().enumerate() {
                        let packed = six_bit_scales($block.add(4));
                        minimums[r] = _mm_madd_epi16(_mm256_extracti128_si256::<1>(packed), sums);
                        let scales = _mm256_permute4x64_epi64::<0x44>(packed);
                        for $j in 0..8usize {
                            let products = _mm256_maddubs_epi16($weights, load(quants.add(32 * $j)));
                            let scaled = _mm256_madd_epi16(products, broadcast_16(scales, $j));
                            partial[r] = _mm256_add_epi32(partial[r], scaled);
                        }
                    }
                    let scale = _mm256_set1_ps(*scale);
                    let scales = _mm256_mul_ps(scales_at(&rows, 0), scale);
                    acc = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sum_rows(partial)), acc);
                    let scales = _mm256_mul_ps(scales_at(&rows, 2), scale);
                    acc = _mm256_fnmadd_ps(scales, _mm256_cvtepi32_ps(sum_half_rows(minimums)), acc);
                }
                rows = rows.map(|row| row.wrapping_add($bytes));
            }
            // SAFETY: `out` is 8 floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
        }
    };
}

/// As [`sum_rows`], for four partial sums a row.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_half_rows(rows: [__m128i; TILE_ROWS]) -> __m256i {
    let joined: [__m256i; 4] = [
        _mm256_set_m128i(rows[4], rows[0]),
        _mm256_set_m128i(rows[5], rows[1]),
        _mm256_set_m128i(rows[6], rows[2]),
        _mm256_set_m128i(rows[7], rows[3]),
    ];
    _mm256_hadd_epi32(_mm256_hadd_epi32(joined[0], joined[1]), _mm256_hadd_epi32(joined[2], joined[3]))
}

/// Weights 32j to 32j + 31 of 128 nibble bytes in chunks of 64 weights.
///
/// # Safety
/// 128 bytes at `p` are readable and `j` is below 8.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn chunked_nibbles(p: *const u8, j: usize) -> __m256i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { load(p.add(32 * (j / 2))) };
    let shifted = if j % 2 == 0 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}

dot_256_with_minimum!(dot_q4_k, bytes: 144, |block, j| chunked_nibbles(block.add(16), j));
dot_256_with_minimum!(dot_q5_k, bytes: 176, |block, j| {
    // The fifth bit of weight 32j + i is bit j of high byte i.
    let high = load(block.add(16));
    let bit = _mm256_set1_epi8(1u8.wrapping_shl(j as u32) as i8);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    _mm256_or_si256(chunked_nibbles(block.add(48), j), _mm256_and_si256(set, _mm256_set1_epi8(16)))
});

/// # Safety
/// As [`super::Dot256`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_q6_k(rows: &TileRows, acts: Row256<'_>, out: &mut [f32; TILE_ROWS]) {
    const BYTES: usize = 210;
    let mut rows = *rows;
    let mut acc = _mm256_setzero_ps();
    for (b, scale) in acts.scales.iter().enumerate() {
        // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums;
        // `rows` stands at block b.
        unsafe {
            let quants = acts.quants.as_ptr().add(256 * b).cast::<u8>();
            let sums = load(acts.sums.as_ptr().add(16 * b).cast());
            let partial = rows.map(|block| q6_k_partial(block, quants, sums));
            let scales = _mm256_mul_ps(scales_at(&rows, 208), _mm256_set1_ps(*scale));
            acc = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sum_rows(partial)), acc);
        }
        rows = rows.map(|row| row.wrapping_add(BYTES));
    }
    // SAFETY: `out` is 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
}

/// Partial sums of one `Q6_K` block; `sums` are the sums of each 16 activations.
///
/// # Safety
/// 210 bytes at `block` and 256 at `quants` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q6_k_partial(block: *const u8, quants: *const u8, sums: __m256i) -> __m256i {
    let (nibble, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    // SAFETY: all offsets stay inside the block and the 256 activations.
    unsafe {
        let scales = _mm_loadu_si128(block.add(192).cast());
        // Quants are 32 too large: take off 32 times each group's scale times its activations' sum.
        let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), sums));
        let mut partial = _mm256_sub_epi32(_mm256_setzero_si256(), offset);
        for half in 0..2 {
            let low = [load(block.add(64 * half)), load(block.add(64 * half + 32))];
            let high = load(block.add(128 + 32 * half));
            let low = [low[0], low[1], _mm256_srli_epi16::<4>(low[0]), _mm256_srli_epi16::<4>(low[1])];
            let high = [
                _mm256_slli_epi16::<4>(high),
                _mm256_slli_epi16::<2>(high),
                high,
                _mm256_srli_epi16::<2>(high),
            ];
            for j in 0..4 {
                let weights =
                    _mm256_or_si256(_mm256_and_si256(low[j], nibble), _mm256_and_si256(high[j], two_bits));
                let products = _mm256_maddubs_epi16(weights, load(quants.add(128 * half + 32 * j)));
                // Two groups of 16: scale 2p in the lower half, 2p + 1 in the upper one.
                let p = 4 * half + j;
                let pair = (2 * p) as i64 * 0x0101_0101_0101_0101;
                let pick = _mm_set_epi64x(pair + 0x0101_0101_0101_0101, pair);
                let scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick));
                partial = _mm256_add_epi32(partial, _mm256_madd_epi16(products, scale));
            }
        }
        partial
    }
}
