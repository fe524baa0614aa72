//! AVX-512: eight weight rows at a time, one in each lane of the float accumulator.
//!
//! Every kernel is written once over [`Dp`] and compiled for machines with and without VNNI. Quants stay
//! unsigned; what they are too large by is taken off with the sums of the activations.
//!
//! The types of 32 take two blocks of a row in one vector. The K-quants use that a 32-bit lane of products of up
//! to 6-bit quants (4 * 63 * 127) fits 16 bits: two vectors of them are packed into one, and one multiply-add of
//! 16-bit pairs applies the sub-block scales.
// One index counts through several arrays in step here.
#![allow(clippy::needless_range_loop)]

mod k_quants;

use self::k_quants::{K4, Q6, dot_k};
use super::{Dot, TILE_ROWS, TileOut, TileRows, WIDE, avx2, x86};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::avx512::*;
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

pub(super) fn dot_of(ty: TensorType, isa: Isa) -> Option<Dot> {
    match isa {
        Isa::Avx512 => plain::dot_of(ty),
        _ => vnni::dot_of(ty),
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

/// Pairs of units in one step of the loop, measured.
const PAIRS: usize = 4;

/// The types of 32: two units of each row in a vector.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_32<F: Format32, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row32<'_>; N],
    out: &mut TileOut<N>,
) {
    let n_units = acts[0].scales.len() * F::PARTS;
    let mut acc = [_mm256_setzero_ps(); N];
    let mut unit = 0;
    // SAFETY: as the caller promises; every call below is for units that are there.
    unsafe {
        while unit + 2 * PAIRS <= n_units {
            pairs_32::<F, D, N, PAIRS, true>(rows, &acts, unit, &mut acc);
            unit += 2 * PAIRS;
        }
        while unit + 2 <= n_units {
            pairs_32::<F, D, N, 1, true>(rows, &acts, unit, &mut acc);
            unit += 2;
        }
        if unit < n_units {
            pairs_32::<F, D, N, 1, false>(rows, &acts, unit, &mut acc);
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// Adds `PAIRS` pairs of units from unit `first` on; without `BOTH`, of each pair the first unit only.
///
/// # Safety
/// Every row, and every row of activations, has these units.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn pairs_32<F: Format32, D: Dp, const N: usize, const PAIRS: usize, const BOTH: bool>(
    rows: &TileRows,
    acts: &[Row32<'_>; N],
    first: usize,
    acc: &mut [__m256; N],
) {
    let pair_bytes = 64 / F::PARTS * F::TYPE.block_bytes() / F::TYPE.block_len();
    let ahead = x86::ahead(rows).wrapping_add(TILE_ROWS * (first / 2) * pair_bytes);
    // SAFETY: as the caller promises.
    unsafe {
        for pair in 0..PAIRS {
            let units = units_of::<BOTH>(first + 2 * pair);
            let blocks = [units[0] / F::PARTS, units[1] / F::PARTS];
            let mut quants = [_mm512_setzero_si512(); N];
            for t in 0..N {
                quants[t] = quants_of::<F, BOTH>(&acts[t], units[0]);
            }
            x86::prefetch(ahead.wrapping_add(TILE_ROWS * pair * pair_bytes), TILE_ROWS * pair_bytes);
            // Four rows are folded as soon as they are there: with all eight alive, registers would not do.
            let mut halves = [[_mm512_setzero_si512(); 2]; N];
            for half in 0..2 {
                let mut products = [[_mm512_setzero_si512(); 4]; N];
                for i in 0..4 {
                    let weights = F::pair_512(rows[4 * half + i], units);
                    for t in 0..N {
                        products[t][i] = match F::MAX_QUANT {
                            ..128 => D::dp(products[t][i], weights, quants[t]),
                            _ => D::dp_8_bit(products[t][i], weights, quants[t]),
                        };
                    }
                }
                for t in 0..N {
                    halves[t][half] = fold_4(products[t]);
                }
            }
            let [scales, minimums] = F::scales_512(rows, units);
            for t in 0..N {
                let mut sums = halves_of_8(halves[t][0], halves[t][1]);
                if F::OFFSET != 0 {
                    let of_block = |i: usize| *acts[t].sums.get_unchecked(blocks[i]) * i32::from(F::OFFSET);
                    sums = _mm512_sub_epi32(sums, of_halves(of_block(0), of_block(1)));
                }
                let sums = _mm512_cvtepi32_ps(sums);
                let of_block = |i: usize| acts[t].scales.get_unchecked(blocks[i]).to_bits() as i32;
                let scales = _mm512_mul_ps(scales, _mm512_castsi512_ps(of_halves(of_block(0), of_block(1))));
                let mut a = acc[t];
                a = _mm256_fmadd_ps(_mm512_castps512_ps256(scales), _mm512_castps512_ps256(sums), a);
                if F::HAS_MINIMUM {
                    let sum = _mm256_set1_ps(*acts[t].scaled_sums.get_unchecked(blocks[0]));
                    a = _mm256_fmadd_ps(_mm512_castps512_ps256(minimums), sum, a);
                }
                if BOTH {
                    let scales = _mm512_extractf32x8_ps::<1>(scales);
                    a = _mm256_fmadd_ps(scales, _mm512_extractf32x8_ps::<1>(sums), a);
                    if F::HAS_MINIMUM {
                        let sum = _mm256_set1_ps(*acts[t].scaled_sums.get_unchecked(blocks[1]));
                        a = _mm256_fmadd_ps(_mm512_extractf32x8_ps::<1>(minimums), sum, a);
                    }
                }
                acc[t] = a;
            }
        }
    }
}

/// Unit `first` and the next one, or the same twice.
#[inline]
fn units_of<const BOTH: bool>(first: usize) -> [usize; 2] {
    [first, first + usize::from(BOTH)]
}

/// The activations of unit `first` and, in the upper half, of the next one; zeros there without `BOTH`.
///
/// # Safety
/// The blocks of the units are there.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn quants_of<F: Format32, const BOTH: bool>(acts: &Row32<'_>, first: usize) -> __m512i {
    let at = |unit: usize| acts.quants.as_ptr().wrapping_add(32 * (unit / F::PARTS));
    // SAFETY: as the caller promises.
    unsafe {
        match (BOTH, F::PARTS) {
            (true, 1) => _mm512_loadu_si512(at(first).cast()),
            (true, _) => join_512(at(first).cast(), at(first + 1).cast()),
            (false, _) => _mm512_zextsi256_si512(_mm256_loadu_si256(at(first).cast())),
        }
    }
}

/// One value in the lower eight lanes, another in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn of_halves(low: i32, high: i32) -> __m512i {
    _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xFF00, high)
}

/// Of a block of each row of a tile, what waits for the scales.
struct Sums<const N: usize> {
    partial: [[__m512i; TILE_ROWS]; N],
    minimums: [[__m256i; TILE_ROWS]; N],
    scales: [f32; TILE_ROWS],
    minimum_scales: [f32; TILE_ROWS],
}

/// The types of 256 that have no code of their own: quants in order, a scale for each 16 unless there is but one.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_256<F: Format256, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let (n_blocks, bytes) = (acts[0].scales.len(), F::TYPE.block_bytes());
    let (run, ahead) = x86::runs(N, rows, n_blocks, bytes);
    let mut block = Super::EMPTY;
    // Of the blocks of a run; every element is written for each run.
    let mut of_run: [MaybeUninit<Sums<N>>; x86::RUN] = [const { MaybeUninit::uninit() }; x86::RUN];
    // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the caller has
    // the instruction set.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); N];
        for first in (0..n_blocks).step_by(run) {
            let n = (n_blocks - first).min(run);
            for (r, row) in rows.iter().enumerate() {
                for i in 0..n {
                    let b = first + i;
                    x86::prefetch(ahead.wrapping_add((TILE_ROWS * first + r * n + i) * bytes), bytes);
                    let place = of_run[i].as_mut_ptr();
                    let quants = F::quarters_512(row.add(b * bytes), &mut block);
                    ((*place).scales[r], (*place).minimum_scales[r]) = (block.scale, block.minimum_scale);
                    let of_16 = _mm256_loadu_si256(block.scales.as_ptr().cast());
                    let wide_scales = _mm512_cvtepi16_epi32(of_16);
                    for t in 0..N {
                        let acts = &acts[t];
                        let at = acts.quants.as_ptr().add(256 * b);
                        // Without scales all products go on in one sum.
                        let mut products = [_mm512_setzero_si512(); 4];
                        for i in 0..4 {
                            let quants_256 = _mm512_loadu_si512(at.add(64 * i).cast());
                            let i_of_sum = if F::GROUP == 256 { i % 2 } else { i };
                            let sum = &mut products[i_of_sum];
                            *sum = match F::MAX_QUANT {
                                ..128 => D::dp(*sum, quants[i], quants_256),
                                _ => D::dp_8_bit(*sum, quants[i], quants_256),
                            };
                        }
                        let mut sum = if F::GROUP == 256 {
                            _mm512_add_epi32(products[0], products[1])
                        } else if 4 * 127 * F::MAX_QUANT as usize <= i16::MAX as usize {
                            let wide = _mm512_castsi256_si512(of_16);
                            let low = _mm512_permutexvar_epi16(packed_scales(0), wide);
                            let high = _mm512_permutexvar_epi16(packed_scales(8), wide);
                            scaled::<D>(packed_16(products), low, high)
                        } else {
                            let mut sum = _mm512_setzero_si512();
                            for (quarter, products) in products.into_iter().enumerate() {
                                // 128 bits are a group of 16.
                                let pick = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                                let pick = _mm512_add_epi32(pick, _mm512_set1_epi32(4 * quarter as i32));
                                let scale = _mm512_permutexvar_epi32(pick, wide_scales);
                                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(products, scale));
                            }
                            sum
                        };
                        let sums = _mm256_loadu_si256(acts.sums.as_ptr().add(16 * b).cast());
                        if F::OFFSET != 0 {
                            let offset = _mm256_set1_epi32(i32::from(F::OFFSET));
                            let offset = _mm256_mullo_epi32(_mm256_madd_epi16(of_16, sums), offset);
                            sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(offset));
                        }
                        (*place).partial[t][r] = sum;
                        if F::HAS_MINIMUMS {
                            let of_16 = _mm256_loadu_si256(block.minimums.as_ptr().cast());
                            (*place).minimums[t][r] = _mm256_madd_epi16(of_16, sums);
                        }
                    }
                }
            }
            for (i, sums) in of_run[..n].iter().enumerate() {
                let sums = sums.as_ptr();
                let scales = _mm256_loadu_ps((&raw const (*sums).scales).cast());
                let minimum_scales = _mm256_loadu_ps((&raw const (*sums).minimum_scales).cast());
                for t in 0..N {
                    let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(first + i));
                    let of_rows = _mm256_cvtepi32_ps(sum_rows((*sums).partial[t]));
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), of_rows, acc[t]);
                    if F::HAS_MINIMUMS {
                        let of_rows = _mm256_cvtepi32_ps(x86::sum_rows((*sums).minimums[t]));
                        acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), of_rows, acc[t]);
                    }
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// Where the scales of groups of 16 from `first` on lie, for products packed as in [`scaled`]: groups L and L + 4 in
/// lane L of 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn packed_scales(first: i64) -> __m512i {
    let at = |i: i64| (first + i) * 0x0001_0001_0001_0001;
    _mm512_setr_epi64(at(0), at(4), at(1), at(5), at(2), at(6), at(3), at(7))
}

/// Adds up the lanes of each row's partial sums.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn sum_rows(rows: [__m512i; TILE_ROWS]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = rows;
    sums_of_8(fold_4([a, b, c, d]), fold_4([e, f, g, h]))
}

/// Four products a lane, packed to 16 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn packed_16(d: [__m512i; 4]) -> [__m512i; 2] {
    [_mm512_packs_epi32(d[0], d[1]), _mm512_packs_epi32(d[2], d[3])]
}

/// [Packed](packed_16) products multiplied with the scales `low` and `high`, which lie as packing leaves them, and
/// added up in pairs.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn scaled<D: Dp>(packed: [__m512i; 2], low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: the caller has the instruction set.
    unsafe { D::dp_16(_mm512_madd_epi16(packed[0], low), packed[1], high) }
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
                        TensorType::Q4K => dot_k::<K4<false>, $dp, N>(rows, acts, out),
                        TensorType::Q5K => dot_k::<K4<true>, $dp, N>(rows, acts, out),
                        TensorType::Q6K => dot_k::<Q6, $dp, N>(rows, acts, out),
                        _ => super::dot_256::<F, $dp, N>(rows, acts, out),
                    }
                }
            }

            fn small<F: Format32>() -> Option<Dot> {
                Some(Dot::Block32(dot_32::<F, 1>, dot_32::<F, 2>, dot_32::<F, WIDE>))
            }

            fn large<F: Format256>() -> Option<Dot> {
                Some(Dot::Block256(dot_256::<F, 1>, dot_256::<F, 2>, dot_256::<F, WIDE>))
            }

            pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
                match ty {
                    TensorType::Q4_0 => small::<Q4_0>(),
                    TensorType::Q4_1 => small::<Q4_1>(),
                    TensorType::Q5_0 => small::<Q5_0>(),
                    TensorType::Q5_1 => small::<Q5_1>(),
                    TensorType::Q8_0 => small::<Q8_0>(),
                    TensorType::IQ4NL => small::<IQ4NL>(),
                    TensorType::MXFP4 => small::<MXFP4>(),
                    TensorType::Q4K => large::<Q4K>(),
                    TensorType::Q5K => large::<Q5K>(),
                    TensorType::Q6K => large::<Q6K>(),
                    TensorType::Q8K => large::<Q8K>(),
                    TensorType::Q2K if <$dp>::IS_VNNI => large::<Q2K>(),
                    TensorType::Q3K => large::<Q3K>(),
                    TensorType::IQ4XS if <$dp>::IS_VNNI => large::<IQ4XS>(),
                    TensorType::IQ2XXS => large::<IQ2XXS>(),
                    TensorType::IQ2S => large::<IQ2S>(),
                    TensorType::IQ3XXS => large::<IQ3XXS>(),
                    TensorType::IQ3S => large::<IQ3S>(),
                    TensorType::IQ1S => large::<IQ1S>(),
                    TensorType::IQ1M => large::<IQ1M>(),
                    // Faster there, by measurement.
                    _ => avx2::dot_of(ty),
                }
            }
        }
    };
}

compiled!(plain, NoVnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl");
compiled!(vnni, Vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
