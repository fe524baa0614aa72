//! AVX-512: eight weight rows at a time, one in each lane of the float accumulator.
//!
//! Every kernel is written once over [`Dp`] and compiled for machines with and without VNNI. Quants stay
//! unsigned; what they are too large by is taken off with the sums of the activations.
//!
//! The types of 32 take two blocks of a row in one vector. The K-quants use that a 32-bit lane of products of up
//! to 6-bit quants (4 * 63 * 127) fits 16 bits: two vectors of them are packed into one, and one multiply-add of
//! 16-bit pairs applies the sub-block scales. Scales of `Q4_K` and `Q5_K` are unpacked for four rows at once.
// One index counts through several arrays in step here.
#![allow(clippy::needless_range_loop)]

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

/// The types of 256 that have no code of their own: quants in order, a scale for each 16 unless there is but one.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_256<F: Format256, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let bytes = F::TYPE.block_bytes();
    let ahead = x86::ahead(rows);
    let mut block = Super::EMPTY;
    // SAFETY: every row has a block for each block of activations, which has 256 quants and 16 sums; the caller has
    // the instruction set.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..acts[0].scales.len() {
            let mut partial = [[_mm512_setzero_si512(); TILE_ROWS]; N];
            let mut minimums = [[_mm256_setzero_si256(); TILE_ROWS]; N];
            let (mut scales, mut minimum_scales) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
            for r in 0..TILE_ROWS {
                let row = rows[r].add(b * bytes);
                x86::prefetch(ahead.wrapping_add((TILE_ROWS * b + r) * bytes), bytes);
                let quants = F::quarters_512(row, &mut block);
                (scales[r], minimum_scales[r]) = (block.scale, block.minimum_scale);
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
                    partial[t][r] = sum;
                    if F::HAS_MINIMUMS {
                        let of_16 = _mm256_loadu_si256(block.minimums.as_ptr().cast());
                        minimums[t][r] = _mm256_madd_epi16(of_16, sums);
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
                    let sums = _mm256_cvtepi32_ps(x86::sum_rows(minimums[t]));
                    acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), sums, acc[t]);
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

/// Blocks that are summed up together; with many rows of activations, those that are read of one row of weights
/// before the next.
const BLOCKS: usize = 4;

/// Blocks that are read of one row before the next with few rows of activations: so many that rows of 4,096 weights
/// are one stream of memory, so few that what is kept of them stays in the first-level cache.
const RUN: usize = 16;

/// Up to so many rows of activations are multiplied with runs: of more, the sums do not stay in registers.
const RUN_ACTS: usize = 2;

/// A type of 256 with code of its own.
trait Own {
    const BYTES: usize;
    const HAS_MINIMUMS: bool;

    /// Four blocks of activations as [`Own::sums`] takes them.
    type Acts;

    /// # Safety
    /// Blocks `first` to `first + 3` are there, and the caller has the instruction set.
    unsafe fn acts(acts: &Row256<'_>, first: usize) -> Self::Acts;

    /// # Safety
    /// `blocks` starts four blocks, the activations are there, and the caller has the instruction set.
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> Sums<N>;

    /// The scales of a block of each row, and what their minimums are multiplied with, from the words of [`Sums`].
    ///
    /// # Safety
    /// The caller has the instruction set.
    unsafe fn scales(words: __m256i) -> [__m256; 2];

    /// Adds `COUNT` (at most four) blocks from block `first` on.
    ///
    /// # Safety
    /// Every row, and every row of activations, has these blocks; the caller has the instruction set.
    unsafe fn add_blocks<D: Dp, const N: usize, const COUNT: usize>(
        rows: &TileRows,
        acts: &[Row256<'_>; N],
        first: usize,
        acc: &mut [__m256; N],
    );
}

/// Of each of four blocks of a row, 32 bits.
struct Sums<const N: usize> {
    /// Products times the scales of their groups, for each row of activations.
    products: [__m128i; N],
    /// Activations times the minimums of their groups.
    minimums: [__m128i; N],
    /// Where the scale of the block is.
    words: __m128i,
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn dot_own<O: Own, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let n_blocks = acts[0].scales.len();
    let whole = n_blocks / BLOCKS * BLOCKS;
    let mut acc = [_mm256_setzero_ps(); N];
    // SAFETY: every row has a block for each block of activations; the caller has the instruction set.
    unsafe {
        if N <= RUN_ACTS {
            // Rows that are one run are one stream of memory, for which little in advance is best; of others the next
            // tile must be there in whole. Not a multiple of 4096 more: such addresses share a set of the cache.
            let tile = if n_blocks > RUN { TILE_ROWS * n_blocks * O::BYTES } else { 0 };
            let next = tile + (7 << 10);
            for first in (0..whole).step_by(RUN) {
                let n_steps = (whole - first).min(RUN) / BLOCKS;
                let ahead = rows[0].wrapping_add(next + TILE_ROWS * first * O::BYTES);
                add_run::<O, D, N>(rows, &acts, first, n_steps, ahead, &mut acc);
            }
        } else {
            for first in (0..whole).step_by(BLOCKS) {
                O::add_blocks::<D, N, BLOCKS>(rows, &acts, first, &mut acc);
            }
        }
        for first in whole..n_blocks {
            O::add_blocks::<D, N, 1>(rows, &acts, first, &mut acc);
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// Adds `n_steps` times four blocks from block `first` on, row after row, and asks for as much memory from `ahead` on.
///
/// # Safety
/// Every row, and the activations, have these blocks, at most [`RUN`]; the caller has the instruction set.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn add_run<O: Own, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: &[Row256<'_>; N],
    first: usize,
    n_steps: usize,
    ahead: *const u8,
    acc: &mut [__m256; N],
) {
    const STEPS: usize = RUN / BLOCKS;
    const EMPTY: [[MaybeUninit<__m128i>; TILE_ROWS]; STEPS] = [[MaybeUninit::uninit(); TILE_ROWS]; STEPS];
    let step_bytes = BLOCKS * O::BYTES;
    let mut of_acts: [[MaybeUninit<O::Acts>; N]; STEPS] =
        [const { [const { MaybeUninit::uninit() }; N] }; STEPS];
    let (mut products, mut minimums, mut words) = ([EMPTY; N], [EMPTY; N], EMPTY);
    // SAFETY: as the caller promises; what is read of a step was written for all rows.
    unsafe {
        for step in 0..n_steps {
            for t in 0..N {
                of_acts[step][t].write(O::acts(&acts[t], first + BLOCKS * step));
            }
        }
        for (r, row) in rows.iter().enumerate() {
            for step in 0..n_steps {
                x86::prefetch(ahead.wrapping_add((r * n_steps + step) * step_bytes), step_bytes);
                let blocks = row.add(first * O::BYTES + step * step_bytes);
                let of_acts = std::array::from_fn(|t| of_acts[step][t].assume_init_ref());
                let sums = O::sums::<D, N>(blocks, of_acts);
                words[step][r].write(sums.words);
                for t in 0..N {
                    products[t][step][r].write(sums.products[t]);
                    if O::HAS_MINIMUMS {
                        minimums[t][step][r].write(sums.minimums[t]);
                    }
                }
            }
        }
        for step in 0..n_steps {
            let words = transposed(&words[step]);
            for t in 0..N {
                let products = transposed(&products[t][step]);
                let minimums = if O::HAS_MINIMUMS { transposed(&minimums[t][step]) } else { products };
                for j in 0..BLOCKS {
                    let [scales, minimum_scales] = O::scales(words[j]);
                    let of_acts = _mm256_set1_ps(*acts[t].scales.get_unchecked(first + BLOCKS * step + j));
                    let scales = _mm256_mul_ps(scales, of_acts);
                    acc[t] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(products[j]), acc[t]);
                    if O::HAS_MINIMUMS {
                        let scales = _mm256_mul_ps(minimum_scales, of_acts);
                        acc[t] = _mm256_fnmadd_ps(scales, _mm256_cvtepi32_ps(minimums[j]), acc[t]);
                    }
                }
            }
        }
    }
}

/// From 32 bits of four blocks of each row: of each block, those of all rows.
///
/// # Safety
/// They were written.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn transposed(rows: &[MaybeUninit<__m128i>; TILE_ROWS]) -> [__m256i; BLOCKS] {
    let two_blocks = |first: i32| {
        let four_rows = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
        _mm512_add_epi32(four_rows, _mm512_set1_epi32(first))
    };
    // SAFETY: eight times 128 bits, written, as the caller promises.
    unsafe {
        let rows = rows.as_ptr().cast::<__m512i>();
        let (low, high) = (_mm512_loadu_si512(rows), _mm512_loadu_si512(rows.add(1)));
        let first = _mm512_permutex2var_epi32(low, two_blocks(0), high);
        let last = _mm512_permutex2var_epi32(low, two_blocks(2), high);
        [
            _mm512_castsi512_si256(first),
            _mm512_extracti64x4_epi64::<1>(first),
            _mm512_castsi512_si256(last),
            _mm512_extracti64x4_epi64::<1>(last),
        ]
    }
}

/// Adds up four parts of 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn add_quarters(parts: __m512i) -> __m128i {
    let halves = _mm256_add_epi32(_mm512_castsi512_si256(parts), _mm512_extracti64x4_epi64::<1>(parts));
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// The 32 bits at each quarter's place in other quarters: word w of quarter q is word q of quarter w.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn transposed_quarters(words: __m512i) -> __m512i {
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), words)
}

/// `Q4_K`, and with `HIGH` `Q5_K`, which has a fifth bit for each quant.
struct K4<const HIGH: bool>;

impl<const HIGH: bool> K4<HIGH> {
    /// The quants of a block as their nibbles come out of 64 bytes: groups 0 and 2, 1 and 3, 4 and 6, 5 and 7.
    ///
    /// # Safety
    /// `block` starts a block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quants(block: *const u8) -> [__m512i; 4] {
        let nibbles_at = if HIGH { 48 } else { 16 };
        let nibble = _mm512_set1_epi8(15);
        // SAFETY: as the caller promises.
        unsafe {
            let low = _mm512_loadu_si512(block.add(nibbles_at).cast());
            let high = _mm512_loadu_si512(block.add(nibbles_at + 64).cast());
            let mut quants = [
                _mm512_and_si512(low, nibble),
                _mm512_and_si512(_mm512_srli_epi16::<4>(low), nibble),
                _mm512_and_si512(high, nibble),
                _mm512_and_si512(_mm512_srli_epi16::<4>(high), nibble),
            ];
            if HIGH {
                // Bit j of high byte i is for weight i of group j.
                let bits = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(16).cast()));
                let groups = [(1, 4), (2, 8), (16, 64), (32, -128)];
                for (quants, (low, high)) in quants.iter_mut().zip(groups) {
                    let bit = _mm512_inserti64x4::<1>(_mm512_set1_epi8(low), _mm256_set1_epi8(high));
                    let set = _mm512_test_epi8_mask(bits, bit);
                    *quants = _mm512_mask_add_epi8(*quants, set, *quants, _mm512_set1_epi8(16));
                }
            }
            quants
        }
    }

    /// d, dmin and 12 bytes of scales of each of `COUNT` blocks; the last block stands in for those that are missing.
    ///
    /// # Safety
    /// `blocks` starts so many blocks.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn heads<const COUNT: usize>(blocks: *const u8) -> __m512i {
        // SAFETY: as the caller promises.
        let head = |j: usize| unsafe { x86::load_128(blocks.add(Self::BYTES * j.min(COUNT - 1))) };
        let mut heads = _mm512_castsi128_si512(head(0));
        heads = _mm512_inserti32x4::<1>(heads, head(1));
        heads = _mm512_inserti32x4::<2>(heads, head(2));
        _mm512_inserti32x4::<3>(heads, head(3))
    }
}

impl<const HIGH: bool> Own for K4<HIGH> {
    const BYTES: usize = if HIGH { 176 } else { 144 };
    const HAS_MINIMUMS: bool = true;
    /// Quants by nibble, and sums of 32, those of a block in 128 bits.
    type Acts = (*const i8, __m512i);

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn acts(acts: &Row256<'_>, first: usize) -> Self::Acts {
        let quants = &acts.quants_by_nibble[256 * first..][..256 * BLOCKS];
        (quants.as_ptr(), sums_of_32::<BLOCKS>(acts, first))
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> Sums<N> {
        let zero = _mm512_setzero_si512();
        // SAFETY: as the caller promises.
        unsafe {
            // In the order of memory: heads, which are in between, come last.
            let mut packed = [[[zero; 2]; BLOCKS]; N];
            for j in 0..BLOCKS {
                let weights = Self::quants(blocks.add(j * Self::BYTES));
                for t in 0..N {
                    let mut products = [zero; 4];
                    for i in 0..4 {
                        let acts = _mm512_loadu_si512(acts[t].0.add(256 * j + 64 * i).cast());
                        products[i] = D::dp(zero, weights[i], acts);
                    }
                    packed[t][j] = packed_16(products);
                }
            }
            let heads = Self::heads::<BLOCKS>(blocks);
            let (scales, minimums) = six_bits_of_4(heads);
            let mut sums = Sums {
                products: [_mm_setzero_si128(); N],
                minimums: [_mm_setzero_si128(); N],
                words: _mm512_castsi512_si128(transposed_quarters(heads)),
            };
            for t in 0..N {
                let minimums = _mm512_madd_epi16(minimums, acts[t].1);
                sums.minimums[t] = add_quarters(transposed_quarters(minimums));
                let mut products = [zero; BLOCKS];
                for j in 0..BLOCKS {
                    let low = _mm512_permutexvar_epi16(group_scales(j, 0), scales);
                    let high = _mm512_permutexvar_epi16(group_scales(j, 4), scales);
                    products[j] = scaled::<D>(packed[t][j], low, high);
                }
                sums.products[t] = add_quarters(fold_4(products));
            }
            sums
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales(words: __m256i) -> [__m256; 2] {
        // d in the lower 16 bits, dmin in the upper ones.
        [words, _mm256_srli_epi32::<16>(words)].map(|words| _mm256_cvtph_ps(_mm256_cvtepi32_epi16(words)))
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn add_blocks<D: Dp, const N: usize, const COUNT: usize>(
        rows: &TileRows,
        acts: &[Row256<'_>; N],
        first: usize,
        acc: &mut [__m256; N],
    ) {
        let ahead = x86::ahead(rows).wrapping_add(TILE_ROWS * first * Self::BYTES);
        let mut products = MaybeUninit::<[[[__m512i; TILE_ROWS]; COUNT]; N]>::uninit();
        let products = products.as_mut_ptr();
        let mut minimums = [[_mm512_setzero_si512(); TILE_ROWS]; N];
        let mut heads = [_mm512_setzero_si512(); TILE_ROWS];
        // SAFETY: as the caller promises; all products are written before they are read.
        unsafe {
            let mut quants = [[[_mm512_setzero_si512(); 4]; COUNT]; N];
            let mut sums = [_mm512_setzero_si512(); N];
            for t in 0..N {
                let of_blocks = &acts[t].quants_by_nibble[256 * first..][..256 * COUNT];
                for (i, of_64) in of_blocks.chunks_exact(64).enumerate() {
                    quants[t][i / 4][i % 4] = _mm512_loadu_si512(of_64.as_ptr().cast());
                }
                sums[t] = sums_of_32::<COUNT>(&acts[t], first);
            }
            for (r, row) in rows.iter().enumerate() {
                let row = row.add(first * Self::BYTES);
                x86::prefetch(ahead.wrapping_add(r * COUNT * Self::BYTES), COUNT * Self::BYTES);
                heads[r] = Self::heads::<COUNT>(row);
                let (scales, minimums_of_32) = six_bits_of_4(heads[r]);
                for t in 0..N {
                    minimums[t][r] = _mm512_madd_epi16(minimums_of_32, sums[t]);
                }
                for j in 0..COUNT {
                    let weights = Self::quants(row.add(j * Self::BYTES));
                    let low = _mm512_permutexvar_epi16(group_scales(j, 0), scales);
                    let high = _mm512_permutexvar_epi16(group_scales(j, 4), scales);
                    for t in 0..N {
                        let mut sums = [_mm512_setzero_si512(); 4];
                        for i in 0..4 {
                            sums[i] = D::dp(sums[i], weights[i], quants[t][j][i]);
                        }
                        (*products)[t][j][r] = scaled::<D>(packed_16(sums), low, high);
                    }
                }
            }
            let words = by_block(first_words_of_4(&heads[..4]), first_words_of_4(&heads[4..]));
            let mut minimum_sums = [[_mm256_setzero_si256(); BLOCKS]; N];
            for t in 0..N {
                let [a, b, c, d, e, f, g, h] = minimums[t];
                minimum_sums[t] = by_block(fold_4([a, b, c, d]), fold_4([e, f, g, h]));
            }
            for j in 0..COUNT {
                let [scales, minimum_scales] = Self::scales(words[j]);
                for t in 0..N {
                    let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(first + j));
                    let sums = _mm256_cvtepi32_ps(sum_rows((*products)[t][j]));
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), sums, acc[t]);
                    let sums = _mm256_cvtepi32_ps(minimum_sums[t][j]);
                    acc[t] = _mm256_fnmadd_ps(_mm256_mul_ps(minimum_scales, scale), sums, acc[t]);
                }
            }
        }
    }
}

/// From rows 0 to 3 and rows 4 to 7 of each block, in 128 bits a block: all eight rows of each block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn by_block(low: __m512i, high: __m512i) -> [__m256i; BLOCKS] {
    let first = _mm512_shuffle_i32x4::<0x44>(low, high);
    let last = _mm512_shuffle_i32x4::<0xEE>(low, high);
    // Lanes: two blocks of `low`, two of `high`.
    let first = _mm512_shuffle_i32x4::<0xD8>(first, first);
    let last = _mm512_shuffle_i32x4::<0xD8>(last, last);
    [
        _mm512_castsi512_si256(first),
        _mm512_extracti64x4_epi64::<1>(first),
        _mm512_castsi512_si256(last),
        _mm512_extracti64x4_epi64::<1>(last),
    ]
}

/// The first 32 bits of each 128 of four rows: in 128 bits a block, one row in each lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn first_words_of_4(rows: &[__m512i]) -> __m512i {
    let low = _mm512_unpacklo_epi32(rows[0], rows[1]);
    let high = _mm512_unpacklo_epi32(rows[2], rows[3]);
    _mm512_unpacklo_epi64(low, high)
}

/// The eight scales and eight minimums of four blocks as 16-bit integers, 128 bits a block. `packed` has 12 bytes of
/// them from byte 4 of each block's 128 bits on.
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

/// Where the scales of groups `first` to `first + 3` of block `block` of four lie, for products packed as in
/// [`scaled`]: groups `first` and `first + 1` in the lower 256 bits, the others in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn group_scales(block: usize, first: usize) -> __m512i {
    let at = (8 * block + first) as i64 * 0x0001_0001_0001_0001;
    let group = |i: i64| at + i * 0x0001_0001_0001_0001;
    _mm512_setr_epi64(group(0), group(1), group(0), group(1), group(2), group(3), group(2), group(3))
}

/// Sums of each 32 activations of `COUNT` blocks (at most four) from block `first` on, as eight 16-bit integers (at
/// most 32 * 127) in 128 bits a block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn sums_of_32<const COUNT: usize>(acts: &Row256<'_>, first: usize) -> __m512i {
    let sums = &acts.sums_of_32[8 * first..][..8 * COUNT];
    let there = u32::MAX >> (32 - 8 * COUNT);
    // SAFETY: what is loaded lies in the slice.
    unsafe { _mm512_maskz_loadu_epi16(there, sums.as_ptr()) }
}

/// `Q6_K`.
struct Q6;

impl Q6 {
    const SCALES: usize = 192;

    /// A block's products with its activations, times the scales of their groups.
    ///
    /// # Safety
    /// `weights` and `of_16` are the quants and scales of a block; the activations have 256 quants and 16 sums.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn products<D: Dp>(
        weights: [__m512i; 4],
        of_16: __m256i,
        acts: *const i8,
        sums_of_acts: *const i16,
    ) -> __m512i {
        let zero = _mm512_setzero_si512();
        let wide = _mm512_castsi256_si512(of_16);
        let low = _mm512_permutexvar_epi16(packed_scales(0), wide);
        let high = _mm512_permutexvar_epi16(packed_scales(8), wide);
        // SAFETY: as the caller promises.
        unsafe {
            let mut products = [zero; 4];
            for i in 0..4 {
                products[i] = D::dp(zero, weights[i], _mm512_loadu_si512(acts.add(64 * i).cast()));
            }
            let sum = scaled::<D>(packed_16(products), low, high);
            // Quants are 32 too large.
            let sums_of_acts = _mm256_loadu_si256(sums_of_acts.cast());
            let offset = _mm256_slli_epi32::<5>(_mm256_madd_epi16(of_16, sums_of_acts));
            _mm512_sub_epi32(sum, _mm512_zextsi256_si512(offset))
        }
    }

    /// The scales of the groups of a block.
    ///
    /// # Safety
    /// `block` starts a block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_of_16(block: *const u8) -> __m256i {
        // SAFETY: as the caller promises.
        _mm256_cvtepi8_epi16(unsafe { x86::load_128(block.add(Self::SCALES)) })
    }
}

impl Own for Q6 {
    const BYTES: usize = 210;
    const HAS_MINIMUMS: bool = false;
    /// Quants, and sums of 16.
    type Acts = (*const i8, *const i16);

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn acts(acts: &Row256<'_>, first: usize) -> Self::Acts {
        // SAFETY: a block has 256 quants and 16 sums.
        unsafe { (acts.quants.as_ptr().add(256 * first), acts.sums.as_ptr().add(16 * first)) }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> Sums<N> {
        // SAFETY: as the caller promises.
        unsafe {
            let mut products = [[_mm512_setzero_si512(); BLOCKS]; N];
            for j in 0..BLOCKS {
                let block = blocks.add(j * Self::BYTES);
                let (weights, of_16) = (six_bits_512(block), Self::scales_of_16(block));
                for t in 0..N {
                    let (quants, sums) = (acts[t].0.add(256 * j), acts[t].1.add(16 * j));
                    products[t][j] = Self::products::<D>(weights, of_16, quants, sums);
                }
            }
            let word = |j: usize| blocks.add((j + 1) * Self::BYTES - 4);
            let mut sums = Sums {
                products: [_mm_setzero_si128(); N],
                minimums: [_mm_setzero_si128(); N],
                words: words_4([word(0), word(1), word(2), word(3)]),
            };
            for t in 0..N {
                sums.products[t] = add_quarters(fold_4(products[t]));
            }
            sums
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales(words: __m256i) -> [__m256; 2] {
        // The scale is the upper half of the last 32 bits of a block.
        let scales = _mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32::<16>(words)));
        [scales, _mm256_setzero_ps()]
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn add_blocks<D: Dp, const N: usize, const COUNT: usize>(
        rows: &TileRows,
        acts: &[Row256<'_>; N],
        first: usize,
        acc: &mut [__m256; N],
    ) {
        let ahead = x86::ahead(rows).wrapping_add(TILE_ROWS * first * Self::BYTES);
        let mut products = MaybeUninit::<[[[__m512i; TILE_ROWS]; COUNT]; N]>::uninit();
        let products = products.as_mut_ptr();
        // SAFETY: as the caller promises; all products are written before they are read.
        unsafe {
            for (r, row) in rows.iter().enumerate() {
                let row = row.add(first * Self::BYTES);
                x86::prefetch(ahead.wrapping_add(r * COUNT * Self::BYTES), COUNT * Self::BYTES);
                for j in 0..COUNT {
                    let block = row.add(j * Self::BYTES);
                    let (weights, of_16) = (six_bits_512(block), Self::scales_of_16(block));
                    for t in 0..N {
                        let (acts, sums) = Self::acts(&acts[t], first + j);
                        (*products)[t][j][r] = Self::products::<D>(weights, of_16, acts, sums);
                    }
                }
            }
            for j in 0..COUNT {
                let [scales, _] = Self::scales(words_8(rows, (first + j + 1) * Self::BYTES - 4));
                for t in 0..N {
                    let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(first + j));
                    let sums = _mm256_cvtepi32_ps(sum_rows((*products)[t][j]));
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), sums, acc[t]);
                }
            }
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
                        TensorType::Q4K => dot_own::<K4<false>, $dp, N>(rows, acts, out),
                        TensorType::Q5K => dot_own::<K4<true>, $dp, N>(rows, acts, out),
                        TensorType::Q6K => dot_own::<Q6, $dp, N>(rows, acts, out),
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
