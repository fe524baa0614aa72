//! AVX2: one weight row in each lane of the float accumulator.
//!
//! Weights stay unsigned for `vpmaddubsw` (the offset of a format is taken off with the sums of the
//! activations), whose pair sums cannot saturate: 2 * 63 * 127 is the largest of the formats below `Q8_0`,
//! and for that one the sign moves to the activation, giving at most 2 * 128 * 127.

use super::{Dot, TILE_ROWS, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    Some(match ty {
        TensorType::Q4_0 => Dot::Block32(dot_q4_0::<1>, dot_q4_0::<WIDE>),
        TensorType::Q4_1 => Dot::Block32(dot_q4_1::<1>, dot_q4_1::<WIDE>),
        TensorType::Q5_0 => Dot::Block32(dot_q5_0::<1>, dot_q5_0::<WIDE>),
        TensorType::Q5_1 => Dot::Block32(dot_q5_1::<1>, dot_q5_1::<WIDE>),
        TensorType::Q8_0 => Dot::Block32(dot_q8_0::<1>, dot_q8_0::<WIDE>),
        TensorType::Q4K => Dot::Block256(dot_q4_k::<1>, dot_q4_k::<WIDE>),
        TensorType::Q5K => Dot::Block256(dot_q5_k::<1>, dot_q5_k::<WIDE>),
        TensorType::Q6K => Dot::Block256(dot_q6_k::<1>, dot_q6_k::<WIDE>),
        _ => return None,
    })
}

/// Per 128 bits: `[a0 + a2, b0 + b2, a1 + a3, b1 + b3]`. Two shuffles and an add, where `vphaddd` is four steps.
#[inline]
#[target_feature(enable = "avx2")]
fn fold_32(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

/// Per 128 bits: the lower 64 bits of `a` and of `b`, each plus its upper 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn fold_64(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
}

/// Adds up the lanes of each row's partial sums: lane r of the result is the sum of `rows[r]`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_rows(rows: [__m256i; TILE_ROWS]) -> __m256i {
    let low = fold_64(fold_32(rows[0], rows[1]), fold_32(rows[2], rows[3]));
    let high = fold_64(fold_32(rows[4], rows[5]), fold_32(rows[6], rows[7]));
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    )
}

/// The f16 at each pointer, widened.
///
/// # Safety
/// Two bytes at every pointer are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn f16s(pointers: TileRows) -> __m256 {
    // SAFETY: as the caller promises.
    let at = |r: usize| unsafe { pointers[r].cast::<i16>().read_unaligned() };
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

/// The same for signed weights: their sign moves to the activations.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_signed(weights: __m256i, activations: __m256i) -> __m256i {
    dot_unsigned(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights))
}

/// The loop of the formats of 32. `$unpack` gives a block's quants, `$dot` their eight partial sums with one
/// row's activations; `$offset` is what unsigned quants are too large by, `$minimum` where the minimum stands.
macro_rules! dot_32 {
    ($name:ident, bytes: $bytes:expr, offset: $offset:expr, minimum: $minimum:expr,
     unpack: |$block:ident| $unpack:expr, dot: $dot:expr) => {
        /// # Safety
        /// As [`super::Dot32`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name<const N: usize>(rows: &TileRows, acts: [Row32<'_>; N], out: &mut TileOut<N>) {
            const MINIMUM: Option<usize> = $minimum;
            let mut acc = [_mm256_setzero_ps(); N];
            for b in 0..acts[0].scales.len() {
                // SAFETY: every row has a block for each block of activations, and a block of activations is
                // 32 bytes.
                unsafe {
                    let at = |offset: usize| rows.map(|row| row.add(b * $bytes + offset));
                    let weights = at(0).map(|$block| $unpack);
                    let scales = f16s(at(0));
                    for (acts, acc) in acts.iter().zip(&mut acc) {
                        let quants = load(acts.quants.as_ptr().add(32 * b).cast());
                        let sums = sum_rows(weights.map(|weights| $dot(weights, quants)));
                        let offset = _mm256_set1_epi32($offset * *acts.sums.get_unchecked(b));
                        let sums = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, offset));
                        let scales = _mm256_mul_ps(scales, _mm256_set1_ps(*acts.scales.get_unchecked(b)));
                        *acc = _mm256_fmadd_ps(scales, sums, *acc);
                    }
                    if let Some(offset) = MINIMUM {
                        let minimums = f16s(at(offset));
                        for (acts, acc) in acts.iter().zip(&mut acc) {
                            let sum = _mm256_set1_ps(*acts.scaled_sums.get_unchecked(b));
                            *acc = _mm256_fmadd_ps(minimums, sum, *acc);
                        }
                    }
                }
            }
            for (out, acc) in out.iter_mut().zip(acc) {
                // SAFETY: `out` is 8 floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
            }
        }
    };
}

dot_32!(dot_q4_0, bytes: 18, offset: 8, minimum: None,
    unpack: |block| load_nibbles(block.add(2)), dot: dot_unsigned);
dot_32!(dot_q4_1, bytes: 20, offset: 0, minimum: Some(2),
    unpack: |block| load_nibbles(block.add(4)), dot: dot_unsigned);
dot_32!(dot_q5_0, bytes: 22, offset: 16, minimum: None,
    unpack: |block| _mm256_or_si256(load_nibbles(block.add(6)), load_fifth_bits(block.add(2))), dot: dot_unsigned);
dot_32!(dot_q5_1, bytes: 24, offset: 0, minimum: Some(2),
    unpack: |block| _mm256_or_si256(load_nibbles(block.add(8)), load_fifth_bits(block.add(4))), dot: dot_unsigned);
dot_32!(dot_q8_0, bytes: 34, offset: 0, minimum: None, unpack: |block| load(block.add(2)), dot: dot_signed);

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

/// Partial sums of a tile, `[activation row][weight row]`: eight and four lanes each.
type Partial<const N: usize> = [[__m256i; TILE_ROWS]; N];
type HalfPartial<const N: usize> = [[__m128i; TILE_ROWS]; N];

/// The loop of `Q4_K` and `Q5_K`: `$weights` gives weights 32j to 32j + 31 of a block as unsigned bytes.
macro_rules! dot_256_with_minimum {
    ($name:ident, bytes: $bytes:expr, |$block:ident, $j:ident| $weights:expr) => {
        /// # Safety
        /// As [`super::Dot256`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name<const N: usize>(rows: &TileRows, acts: [Row256<'_>; N], out: &mut TileOut<N>) {
            let mut acc = [_mm256_setzero_ps(); N];
            for b in 0..acts[0].scales.len() {
                // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums.
                unsafe {
                    let quants = acts.map(|acts| acts.quants.as_ptr().add(256 * b).cast::<u8>());
                    // Minimums count per 32: add the sums of neighbouring 16, in 16 bits (at most 32 * 127).
                    let sums = acts.map(|acts| {
                        let sums = load(acts.sums.as_ptr().add(16 * b).cast());
                        _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
                    });
                    let mut partial: Partial<N> = [[_mm256_setzero_si256(); TILE_ROWS]; N];
                    let mut minimums: HalfPartial<N> = [[_mm_setzero_si128(); TILE_ROWS]; N];
                    for r in 0..TILE_ROWS {
                        let $block = rows[r].add(b * $bytes);
                        let packed = six_bit_scales($block.add(4));
                        let scales = _mm256_permute4x64_epi64::<0x44>(packed);
                        let mut row = [_mm256_setzero_si256(); N];
                        for $j in 0..8usize {
                            let weights = $weights;
                            let scale = broadcast_16(scales, $j);
                            for t in 0..N {
                                let products = _mm256_maddubs_epi16(weights, load(quants[t].add(32 * $j)));
                                row[t] = _mm256_add_epi32(row[t], _mm256_madd_epi16(products, scale));
                            }
                        }
                        for t in 0..N {
                            partial[t][r] = row[t];
                            minimums[t][r] = _mm_madd_epi16(_mm256_extracti128_si256::<1>(packed), sums[t]);
                        }
                    }
                    let scales = f16s(rows.map(|row| row.add(b * $bytes)));
                    let minimum_scales = f16s(rows.map(|row| row.add(b * $bytes + 2)));
                    for t in 0..N {
                        let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(b));
                        let sums = _mm256_cvtepi32_ps(sum_rows(partial[t]));
                        acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), sums, acc[t]);
                        let sums = _mm256_cvtepi32_ps(sum_half_rows(minimums[t]));
                        acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), sums, acc[t]);
                    }
                }
            }
            for (out, acc) in out.iter_mut().zip(acc) {
                // SAFETY: `out` is 8 floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
            }
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
    fold_64(fold_32(joined[0], joined[1]), fold_32(joined[2], joined[3]))
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
    let shifted = if j.is_multiple_of(2) { bytes } else { _mm256_srli_epi16::<4>(bytes) };
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
unsafe fn dot_q6_k<const N: usize>(rows: &TileRows, acts: [Row256<'_>; N], out: &mut TileOut<N>) {
    const BYTES: usize = 210;
    let mut acc = [_mm256_setzero_ps(); N];
    for b in 0..acts[0].scales.len() {
        // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums.
        unsafe {
            let quants = acts.map(|acts| acts.quants.as_ptr().add(256 * b).cast::<u8>());
            let sums = acts.map(|acts| load(acts.sums.as_ptr().add(16 * b).cast()));
            let mut partial: Partial<N> = [[_mm256_setzero_si256(); TILE_ROWS]; N];
            for r in 0..TILE_ROWS {
                let row = q6_k_partial(rows[r].add(b * BYTES), quants, sums);
                (0..N).for_each(|t| partial[t][r] = row[t]);
            }
            let scales = f16s(rows.map(|row| row.add(b * BYTES + 208)));
            for t in 0..N {
                let scales = _mm256_mul_ps(scales, _mm256_set1_ps(*acts[t].scales.get_unchecked(b)));
                acc[t] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(sum_rows(partial[t])), acc[t]);
            }
        }
    }
    for (out, acc) in out.iter_mut().zip(acc) {
        // SAFETY: `out` is 8 floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), acc) };
    }
}

/// Partial sums of one `Q6_K` block with each row of activations; `sums` are the sums of each 16 activations.
///
/// # Safety
/// 210 bytes at `block` and 256 at each of `quants` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn q6_k_partial<const N: usize>(
    block: *const u8,
    quants: [*const u8; N],
    sums: [__m256i; N],
) -> [__m256i; N] {
    let (nibble, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    // SAFETY: all offsets stay inside the block and the 256 activations.
    unsafe {
        let scales = _mm_loadu_si128(block.add(192).cast());
        // Quants are 32 too large: take off 32 times each group's scale times its activations' sum.
        let wide_scales = _mm256_cvtepi8_epi16(scales);
        let mut partial = sums.map(|sums| {
            let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(wide_scales, sums));
            _mm256_sub_epi32(_mm256_setzero_si256(), offset)
        });
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
                // Two groups of 16: scale 2p in the lower half, 2p + 1 in the upper one.
                let p = 4 * half + j;
                let pair = (2 * p) as i64 * 0x0101_0101_0101_0101;
                let pick = _mm_set_epi64x(pair + 0x0101_0101_0101_0101, pair);
                let scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick));
                for t in 0..N {
                    let products = _mm256_maddubs_epi16(weights, load(quants[t].add(128 * half + 32 * j)));
                    partial[t] = _mm256_add_epi32(partial[t], _mm256_madd_epi16(products, scale));
                }
            }
        }
        partial
    }
}
