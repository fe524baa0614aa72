//! AVX-512: eight weight rows at a time, one in each lane of the float accumulator.
//!
//! Every kernel is written once over [`Dp`] and compiled for machines with and without VNNI. Quants stay
//! unsigned; what they are too large by is taken off with the sums of the activations.
//!
//! The types of 32 take two blocks of a row in one vector. The K-quants use that a 32-bit lane of products of up
//! to 6-bit quants (4 * 63 * 127) fits 16 bits: two vectors of them are packed into one, and one multiply-add of
//! 16-bit pairs applies the sub-block scales. Scales of `Q4_K` and `Q5_K` are unpacked for four rows at once.

use super::{Dot, TILE_ROWS, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::avx512::*;
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;

pub(super) fn dot_of(ty: TensorType, isa: Isa) -> Option<Dot> {
    match isa {
        Isa::Avx512 => plain::dot_of(ty),
        _ => vnni::dot_of(ty),
    }
}

/// Bytes from a row to the same row of the next tile, which is prefetched while this one is computed: rows of a
/// tile lie one after the other in the file.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn next_tile(rows: &TileRows) -> usize {
    (rows[1] as usize).wrapping_sub(rows[0] as usize).wrapping_mul(TILE_ROWS)
}

/// Asks for `LINES` cache lines from `p` on; any address will do, a prefetch never faults.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn prefetch<const LINES: usize>(p: *const u8) {
    for line in 0..LINES {
        _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(64 * line).cast());
    }
}

/// Per 128 bits: `[a0 + a2, b0 + b2, a1 + a3, b1 + b3]`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn fold_32(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}

/// Per 128 bits: the lower 64 bits of `a` and of `b`, each plus its upper 64 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn fold_64(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// Adds up within 128 bits: lane r of each 128 bits is the sum of that part of `rows[r]`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn fold_4(rows: [__m512i; 4]) -> __m512i {
    fold_64(fold_32(rows[0], rows[1]), fold_32(rows[2], rows[3]))
}

/// From [`fold_4`] of rows 0 to 3 and of rows 4 to 7: the sums of the lower halves of all rows in the lower half,
/// those of the upper halves in the upper one.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn halves_of_8(low: __m512i, high: __m512i) -> __m512i {
    let even = _mm512_shuffle_i32x4::<0x88>(low, high);
    let odd = _mm512_shuffle_i32x4::<0xDD>(low, high);
    let sums = _mm512_add_epi32(even, odd);
    _mm512_shuffle_i32x4::<0xD8>(sums, sums)
}

/// From [`fold_4`] of rows 0 to 3 and of rows 4 to 7: lane r is the sum of row r.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn sums_of_8(low: __m512i, high: __m512i) -> __m256i {
    let halves = halves_of_8(low, high);
    _mm256_add_epi32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves))
}

/// `values[0]` in the lower eight lanes, `values[1]` in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn two_halves(values: *const f32) -> __m512 {
    // SAFETY: as the caller promises, eight bytes at `values` are readable.
    unsafe {
        let pair = _mm512_castpd_ps(_mm512_set1_pd(values.cast::<f64>().read_unaligned()));
        let pick = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        _mm512_permutexvar_ps(pick, pair)
    }
}

/// The types of 32: two units of each row at a time.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_32<F: Format32, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row32<'_>; N],
    out: &mut TileOut<N>,
) {
    let n_units = acts[0].scales.len() * F::PARTS;
    let ahead = next_tile(rows);
    // SAFETY: every row has a block for each block of activations, which is 32 bytes; the caller has the
    // instruction set.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); N];
        let mut unit = 0;
        while unit < n_units {
            let pair = unit + 1 < n_units;
            let units = [unit, if pair { unit + 1 } else { unit }];
            let blocks = [units[0] / F::PARTS, units[1] / F::PARTS];
            let mut quants = [_mm512_setzero_si512(); N];
            for (quants, acts) in quants.iter_mut().zip(&acts) {
                let at = acts.quants.as_ptr();
                let low = _mm256_loadu_si256(at.add(32 * blocks[0]).cast());
                // A missing second block counts as zeros.
                *quants = _mm512_zextsi256_si512(low);
                if pair {
                    let high = _mm256_loadu_si256(at.add(32 * blocks[1]).cast());
                    *quants = _mm512_inserti64x4::<1>(*quants, high);
                }
            }
            let mut folded = [[_mm512_setzero_si512(); 2]; N];
            for half in 0..2 {
                let mut weights = [_mm512_setzero_si512(); 4];
                for (r, weights) in weights.iter_mut().enumerate() {
                    let row = rows[half * 4 + r];
                    let bytes = unit / F::PARTS * 32 / F::TYPE.block_len() * F::TYPE.block_bytes();
                    prefetch::<1>(row.wrapping_add(bytes + ahead));
                    *weights = F::pair_512(row, units);
                }
                for t in 0..N {
                    let mut sums = [_mm512_setzero_si512(); 4];
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = match F::MAX_QUANT {
                            ..128 => D::dp(*sum, weights, quants[t]),
                            _ => D::dp_8_bit(*sum, weights, quants[t]),
                        };
                    }
                    folded[t][half] = fold_4(sums);
                }
            }
            let scales = F::scales_512(rows, units);
            for t in 0..N {
                let sums = halves_of_8(folded[t][0], folded[t][1]);
                let last = acts[t].scales.len() - 1;
                // Two neighbours are read at once, so the last one is read with the one before it.
                let (offset, scale) = if F::PARTS == 1 && pair {
                    let offsets = two_halves(acts[t].sums.as_ptr().add(blocks[0]).cast());
                    (_mm512_castps_si512(offsets), two_halves(acts[t].scales.as_ptr().add(blocks[0])))
                } else {
                    let (a, b) = (blocks[0].min(last), blocks[1].min(last));
                    let offsets = [*acts[t].sums.get_unchecked(a), *acts[t].sums.get_unchecked(b)];
                    let scales = [*acts[t].scales.get_unchecked(a), *acts[t].scales.get_unchecked(b)];
                    (_mm512_castps_si512(two_halves(offsets.as_ptr().cast())), two_halves(scales.as_ptr()))
                };
                let offset = _mm512_mullo_epi32(offset, _mm512_set1_epi32(i32::from(F::OFFSET)));
                let sums = match F::OFFSET {
                    0 => sums,
                    _ => _mm512_sub_epi32(sums, offset),
                };
                let sums = _mm512_cvtepi32_ps(sums);
                let scales = _mm512_mul_ps(scales, scale);
                let mut a = acc[t];
                a = _mm256_fmadd_ps(_mm512_castps512_ps256(scales), _mm512_castps512_ps256(sums), a);
                let minimums =
                    if F::HAS_MINIMUM { F::minimums_512(rows, units) } else { _mm512_setzero_ps() };
                if F::HAS_MINIMUM {
                    let sum = _mm256_set1_ps(*acts[t].scaled_sums.get_unchecked(blocks[0]));
                    a = _mm256_fmadd_ps(_mm512_castps512_ps256(minimums), sum, a);
                }
                if pair {
                    let (scales, sums) =
                        (_mm512_extractf32x8_ps::<1>(scales), _mm512_extractf32x8_ps::<1>(sums));
                    a = _mm256_fmadd_ps(scales, sums, a);
                    if F::HAS_MINIMUM {
                        let sum = _mm256_set1_ps(*acts[t].scaled_sums.get_unchecked(blocks[1]));
                        a = _mm256_fmadd_ps(_mm512_extractf32x8_ps::<1>(minimums), sum, a);
                    }
                }
                acc[t] = a;
            }
            unit += 2;
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// The types of 256 that have no code of their own: quants in order, a scale for each 16.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_256<F: Format256, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let bytes = F::TYPE.block_bytes();
    let ahead = next_tile(rows);
    let mut block = Super::EMPTY;
    // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the caller has
    // the instruction set.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..acts[0].scales.len() {
            let mut partial = [[_mm512_setzero_si512(); TILE_ROWS]; N];
            let mut minimums = [[_mm512_setzero_si512(); TILE_ROWS]; N];
            let (mut scales, mut minimum_scales) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
            for r in 0..TILE_ROWS {
                let row = rows[r].add(b * bytes);
                prefetch::<2>(row.wrapping_add(ahead));
                let quants = F::quarters_512(row, &mut block);
                (scales[r], minimum_scales[r]) = (block.scale, block.minimum_scale);
                let of_16 = _mm256_loadu_si256(block.scales.as_ptr().cast());
                let wide = _mm512_cvtepi16_epi32(of_16);
                for t in 0..N {
                    let acts = &acts[t];
                    let mut sum = _mm512_setzero_si512();
                    for (quarter, quants) in quants.into_iter().enumerate() {
                        let activations =
                            _mm512_loadu_si512(acts.quants.as_ptr().add(256 * b + 64 * quarter).cast());
                        let zero = _mm512_setzero_si512();
                        let products = match F::MAX_QUANT {
                            ..128 => D::dp(zero, quants, activations),
                            _ => D::dp_8_bit(zero, quants, activations),
                        };
                        // 128 bits are a group of 16.
                        let pick = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                        let pick = _mm512_add_epi32(pick, _mm512_set1_epi32(4 * quarter as i32));
                        let scale = _mm512_permutexvar_epi32(pick, wide);
                        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(products, scale));
                    }
                    let sums = _mm256_loadu_si256(acts.sums.as_ptr().add(16 * b).cast());
                    if F::OFFSET != 0 {
                        let offset = _mm256_set1_epi32(i32::from(F::OFFSET));
                        let offset = _mm256_mullo_epi32(_mm256_madd_epi16(of_16, sums), offset);
                        sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(offset));
                    }
                    partial[t][r] = sum;
                    if F::HAS_MINIMUMS {
                        let of_16 = _mm256_loadu_si256(block.minimums.as_ptr().cast());
                        minimums[t][r] = _mm512_zextsi256_si512(_mm256_madd_epi16(of_16, sums));
                    }
                }
            }
            let scales = _mm256_loadu_ps(scales.as_ptr());
            let minimum_scales = _mm256_loadu_ps(minimum_scales.as_ptr());
            for t in 0..N {
                let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(b));
                let sums = _mm256_cvtepi32_ps(sum_rows(partial[t]));
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), sums, acc[t]);
                if F::HAS_MINIMUMS {
                    let sums = _mm256_cvtepi32_ps(sum_rows(minimums[t]));
                    acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), sums, acc[t]);
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// Adds up the lanes of each row's partial sums.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn sum_rows(rows: [__m512i; TILE_ROWS]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = rows;
    sums_of_8(fold_4([a, b, c, d]), fold_4([e, f, g, h]))
}

/// Four products a lane of two vectors, packed to 16 bits and multiplied with the scales `low` and `high`, which
/// count for the lanes of `d[0]`, `d[1]` and of `d[2]`, `d[3]` as packing leaves them.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn scaled<D: Dp>(d: [__m512i; 4], low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let sum = _mm512_madd_epi16(_mm512_packs_epi32(d[0], d[1]), low);
        D::dp_16(sum, _mm512_packs_epi32(d[2], d[3]), high)
    }
}

/// `Q4_K` and `Q5_K`: `HIGH` says whether there are fifth bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_k4<D: Dp, const HIGH: bool, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let bytes = if HIGH { 176 } else { 144 };
    let nibbles_at = if HIGH { 48 } else { 16 };
    let ahead = next_tile(rows);
    // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the caller has
    // the instruction set.
    unsafe {
        let nibble = _mm512_set1_epi8(15);
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..acts[0].scales.len() {
            // Groups of 32 as nibbles come out of 64 bytes: 0 and 2, 1 and 3, 4 and 6, 5 and 7.
            let mut quants = [[_mm512_setzero_si512(); 4]; N];
            for (quants, acts) in quants.iter_mut().zip(&acts) {
                let at = acts.quants.as_ptr().add(256 * b).cast::<u8>();
                quants[0] = join_512(at, at.add(64));
                quants[1] = join_512(at.add(32), at.add(96));
                quants[2] = join_512(at.add(128), at.add(192));
                quants[3] = join_512(at.add(160), at.add(224));
            }
            let mut folded = [[_mm512_setzero_si512(); 2]; N];
            let mut minimums = [[_mm512_setzero_si512(); 2]; N];
            let mut heads = [_mm512_setzero_si512(); 2];
            for half in 0..2 {
                let mut blocks = [std::ptr::null(); 4];
                for (r, block) in blocks.iter_mut().enumerate() {
                    *block = rows[half * 4 + r].add(b * bytes);
                }
                // d, dmin and 12 bytes of scales of four rows.
                let mut packed = _mm512_castsi128_si512(_mm_loadu_si128(blocks[0].cast()));
                packed = _mm512_inserti32x4::<1>(packed, _mm_loadu_si128(blocks[1].cast()));
                packed = _mm512_inserti32x4::<2>(packed, _mm_loadu_si128(blocks[2].cast()));
                packed = _mm512_inserti32x4::<3>(packed, _mm_loadu_si128(blocks[3].cast()));
                heads[half] = packed;
                let (scales, minimums_of_32) = six_bits_of_4(packed);
                let mut partial = [[_mm512_setzero_si512(); 4]; N];
                for r in 0..4 {
                    let p = blocks[r];
                    prefetch::<3>(p.wrapping_add(ahead));
                    let first = _mm512_loadu_si512(p.add(nibbles_at).cast());
                    let second = _mm512_loadu_si512(p.add(nibbles_at + 64).cast());
                    let mut weights = [
                        _mm512_and_si512(first, nibble),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(first), nibble),
                        _mm512_and_si512(second, nibble),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(second), nibble),
                    ];
                    if HIGH {
                        // Bit j of high byte i is for weight i of group j.
                        let bits = _mm512_broadcast_i64x4(_mm256_loadu_si256(p.add(16).cast()));
                        for (weights, (low, high)) in
                            weights.iter_mut().zip([(1, 4), (2, 8), (16, 64), (32, -128)])
                        {
                            let bit = _mm512_inserti64x4::<1>(_mm512_set1_epi8(low), _mm256_set1_epi8(high));
                            let set = _mm512_test_epi8_mask(bits, bit);
                            *weights = _mm512_mask_add_epi8(*weights, set, *weights, _mm512_set1_epi8(16));
                        }
                    }
                    let low = _mm512_permutexvar_epi16(group_scales(r, 0), scales);
                    let high = _mm512_permutexvar_epi16(group_scales(r, 4), scales);
                    for t in 0..N {
                        let mut products = [_mm512_setzero_si512(); 4];
                        for i in 0..4 {
                            products[i] = D::dp(products[i], weights[i], quants[t][i]);
                        }
                        partial[t][r] = scaled::<D>(products, low, high);
                    }
                }
                for t in 0..N {
                    folded[t][half] = fold_4(partial[t]);
                    minimums[t][half] = _mm512_madd_epi16(minimums_of_32, sums_of_32(&acts[t], b));
                }
            }
            // d in the lower 16 bits, dmin in the upper ones.
            let pick = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
            let both = _mm512_castsi512_si256(_mm512_permutex2var_epi32(heads[0], pick, heads[1]));
            let scales = _mm256_cvtph_ps(_mm256_cvtepi32_epi16(both));
            let minimum_scales = _mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32::<16>(both)));
            for t in 0..N {
                let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(b));
                let sums = _mm256_cvtepi32_ps(sums_of_8(folded[t][0], folded[t][1]));
                acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), sums, acc[t]);
                // Rows are in lanes of 128 bits here, four sums each.
                let pairs = fold_32(minimums[t][0], minimums[t][1]);
                let both = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0x4E>(pairs));
                let pick = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
                let sums = _mm512_castsi512_si256(_mm512_permutexvar_epi32(pick, both));
                let sums = _mm256_cvtepi32_ps(sums);
                acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), sums, acc[t]);
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// The eight scales and eight minimums of four rows as 16-bit integers, 128 bits a row. `packed` has 12 bytes of
/// them from byte 4 of each row's 128 bits on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn six_bits_of_4(packed: __m512i) -> (__m512i, __m512i) {
    let words = |[a, b, c, d]: [i32; 4]| _mm512_setr_epi32(a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d);
    // With the words [_, a, b, c]: scales are a & 63 and (c & 15 | a >> 2 & 48), minimums b & 63 and
    // (c >> 4 & 15 | b >> 2 & 48).
    let low = _mm512_shuffle_epi32::<0b11_10_11_01>(packed);
    let low = _mm512_srlv_epi32(low, words([0, 0, 0, 4]));
    let low = _mm512_and_si512(low, words([0x3F3F_3F3F, 0x0F0F_0F0F, 0x3F3F_3F3F, 0x0F0F_0F0F]));
    let high = _mm512_srli_epi32::<2>(_mm512_shuffle_epi32::<0b10_10_01_01>(packed));
    let high = _mm512_and_si512(high, words([0, 0x3030_3030, 0, 0x3030_3030]));
    let bytes = _mm512_or_si512(low, high);
    let zero = _mm512_setzero_si512();
    (_mm512_unpacklo_epi8(bytes, zero), _mm512_unpackhi_epi8(bytes, zero))
}

/// Where the scales of groups `first` to `first + 3` of row `row` of four lie, for products packed as in
/// [`scaled`]: groups `first` and `first + 1` in the lower 256 bits, the others in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn group_scales(row: usize, first: usize) -> __m512i {
    let at = (8 * row + first) as i64 * 0x0001_0001_0001_0001;
    let group = |i: i64| at + i * 0x0001_0001_0001_0001;
    _mm512_setr_epi64(group(0), group(1), group(0), group(1), group(2), group(3), group(2), group(3))
}

/// Sums of each 32 activations of block `b`, as eight 16-bit integers (at most 32 * 127) in every 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn sums_of_32(acts: &Row256<'_>, b: usize) -> __m512i {
    // SAFETY: a block has 16 sums; the caller has the instruction set.
    unsafe {
        let sums = _mm256_loadu_si256(acts.sums.as_ptr().add(16 * b).cast());
        let low = _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        _mm512_broadcast_i32x4(low)
    }
}

/// `Q6_K`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_q6_k<D: Dp, const N: usize>(rows: &TileRows, acts: [Row256<'_>; N], out: &mut TileOut<N>) {
    const BYTES: usize = 210;
    let ahead = next_tile(rows);
    // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the caller has
    // the instruction set.
    unsafe {
        let mut block = Super::EMPTY;
        // Packing puts groups L and L + 4 into lane L of 128 bits.
        let group = |i: i64| i * 0x0001_0001_0001_0001;
        let pick = |first: i64| {
            let at = |i: i64| group(first + i);
            _mm512_setr_epi64(at(0), at(4), at(1), at(5), at(2), at(6), at(3), at(7))
        };
        let (pick_low, pick_high) = (pick(0), pick(8));
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..acts[0].scales.len() {
            let mut folded = [[_mm512_setzero_si512(); 2]; N];
            for half in 0..2 {
                let mut partial = [[_mm512_setzero_si512(); 4]; N];
                for r in 0..4 {
                    let p = rows[half * 4 + r].add(b * BYTES);
                    prefetch::<4>(p.wrapping_add(ahead));
                    let weights = Q6K::quarters_512(p, &mut block);
                    let of_16 = _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(192).cast()));
                    let wide = _mm512_castsi256_si512(of_16);
                    let low = _mm512_permutexvar_epi16(pick_low, wide);
                    let high = _mm512_permutexvar_epi16(pick_high, wide);
                    for t in 0..N {
                        let quants = acts[t].quants.as_ptr().add(256 * b);
                        let mut products = [_mm512_setzero_si512(); 4];
                        for i in 0..4 {
                            let quants = _mm512_loadu_si512(quants.add(64 * i).cast());
                            products[i] = D::dp(products[i], weights[i], quants);
                        }
                        let sum = scaled::<D>(products, low, high);
                        // Quants are 32 too large.
                        let sums = _mm256_loadu_si256(acts[t].sums.as_ptr().add(16 * b).cast());
                        let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(of_16, sums));
                        partial[t][r] = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(offset));
                    }
                }
                for t in 0..N {
                    folded[t][half] = fold_4(partial[t]);
                }
            }
            let mut scales_at = *rows;
            for at in &mut scales_at {
                *at = at.add(b * BYTES + 208);
            }
            let scales = _mm256_cvtph_ps(words_of_8(&scales_at));
            for t in 0..N {
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(*acts[t].scales.get_unchecked(b)));
                let sums = _mm256_cvtepi32_ps(sums_of_8(folded[t][0], folded[t][1]));
                acc[t] = _mm256_fmadd_ps(scale, sums, acc[t]);
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// The kernels compiled for one set of features.
macro_rules! compiled {
    ($module:ident, $dp:ty, $features:literal) => {
        mod $module {
            use super::*;

            /// # Safety
            /// As [`super::super::Dot32`].
            #[target_feature(enable = $features)]
            unsafe fn dot_32<F: Format32, const N: usize>(
                rows: &TileRows,
                acts: [Row32<'_>; N],
                out: &mut TileOut<N>,
            ) {
                // SAFETY: as the caller promises.
                unsafe { super::dot_32::<F, $dp, N>(rows, acts, out) }
            }

            /// # Safety
            /// As [`super::super::Dot256`].
            #[target_feature(enable = $features)]
            unsafe fn dot_256<F: Format256, const N: usize>(
                rows: &TileRows,
                acts: [Row256<'_>; N],
                out: &mut TileOut<N>,
            ) {
                // SAFETY: as the caller promises.
                unsafe {
                    match F::TYPE {
                        TensorType::Q4K => dot_k4::<$dp, false, N>(rows, acts, out),
                        TensorType::Q5K => dot_k4::<$dp, true, N>(rows, acts, out),
                        TensorType::Q6K => dot_q6_k::<$dp, N>(rows, acts, out),
                        _ => super::dot_256::<F, $dp, N>(rows, acts, out),
                    }
                }
            }

            struct Kernel;

            impl FormatVisitor for Kernel {
                type Out = Dot;
                fn small<F: Format32>(self) -> Dot {
                    Dot::Block32(dot_32::<F, 1>, dot_32::<F, WIDE>)
                }
                fn large<F: Format256>(self) -> Dot {
                    Dot::Block256(dot_256::<F, 1>, dot_256::<F, WIDE>)
                }
            }

            pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
                visit(ty, Kernel)
            }
        }
    };
}

compiled!(plain, NoVnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl");
compiled!(vnni, Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
