//! The K-quants of four to six bits. With few rows of activations a row of weights is read from its first block to its
//! last before the next row: as one stream of memory, which processors are best at.
//!
//! Scales of `Q4_K` and `Q5_K` are unpacked for four blocks at once.
// One index counts through several arrays in step here.
#![allow(clippy::needless_range_loop)]

use super::x86::{RUN, RUN_ACTS};
use super::*;

/// Blocks that are summed up together; with many rows of activations, those that are read of one row of weights
/// before the next.
const BLOCKS: usize = 4;

/// A type, and how four of its blocks are summed up.
pub(super) trait KQuant {
    const BYTES: usize;
    const HAS_MINIMUMS: bool;

    /// Four blocks of activations as [`KQuant::sums`] takes them.
    type Acts;

    /// # Safety
    /// Blocks `first` to `first + 3` are there, and the caller has the instruction set.
    unsafe fn acts(acts: &Row256<'_>, first: usize) -> Self::Acts;

    /// # Safety
    /// `blocks` starts four blocks, the activations are there, and the caller has the instruction set.
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> BlockSums<N>;

    /// The scales of a block of each row, and what their minimums are multiplied with, from the words of [`BlockSums`].
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
pub(super) struct BlockSums<const N: usize> {
    /// Products times the scales of their groups, for each row of activations.
    products: [__m128i; N],
    /// Activations times the minimums of their groups.
    minimums: [__m128i; N],
    /// Where the scale of the block is.
    words: __m128i,
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dot_k<Q: KQuant, D: Dp, const N: usize>(
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
            let ahead = x86::ahead_of_runs(rows, n_blocks, Q::BYTES);
            for first in (0..whole).step_by(RUN) {
                let n_steps = (whole - first).min(RUN) / BLOCKS;
                let ahead = ahead.wrapping_add(TILE_ROWS * first * Q::BYTES);
                add_run::<Q, D, N>(rows, &acts, first, n_steps, ahead, &mut acc);
            }
        } else {
            for first in (0..whole).step_by(BLOCKS) {
                Q::add_blocks::<D, N, BLOCKS>(rows, &acts, first, &mut acc);
            }
        }
        for first in whole..n_blocks {
            Q::add_blocks::<D, N, 1>(rows, &acts, first, &mut acc);
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
unsafe fn add_run<Q: KQuant, D: Dp, const N: usize>(
    rows: &TileRows,
    acts: &[Row256<'_>; N],
    first: usize,
    n_steps: usize,
    ahead: *const u8,
    acc: &mut [__m256; N],
) {
    const STEPS: usize = RUN / BLOCKS;
    const EMPTY: [[MaybeUninit<__m128i>; TILE_ROWS]; STEPS] = [[MaybeUninit::uninit(); TILE_ROWS]; STEPS];
    let step_bytes = BLOCKS * Q::BYTES;
    let mut of_acts: [[MaybeUninit<Q::Acts>; N]; STEPS] =
        [const { [const { MaybeUninit::uninit() }; N] }; STEPS];
    let (mut products, mut minimums, mut words) = ([EMPTY; N], [EMPTY; N], EMPTY);
    // SAFETY: as the caller promises; what is read of a step was written for all rows.
    unsafe {
        for step in 0..n_steps {
            for t in 0..N {
                of_acts[step][t].write(Q::acts(&acts[t], first + BLOCKS * step));
            }
        }
        for (r, row) in rows.iter().enumerate() {
            for step in 0..n_steps {
                x86::prefetch(ahead.wrapping_add((r * n_steps + step) * step_bytes), step_bytes);
                let blocks = row.add(first * Q::BYTES + step * step_bytes);
                let of_acts = std::array::from_fn(|t| of_acts[step][t].assume_init_ref());
                let sums = Q::sums::<D, N>(blocks, of_acts);
                words[step][r].write(sums.words);
                for t in 0..N {
                    products[t][step][r].write(sums.products[t]);
                    if Q::HAS_MINIMUMS {
                        minimums[t][step][r].write(sums.minimums[t]);
                    }
                }
            }
        }
        for step in 0..n_steps {
            let words = transposed(&words[step]);
            for t in 0..N {
                let products = transposed(&products[t][step]);
                let minimums = if Q::HAS_MINIMUMS { transposed(&minimums[t][step]) } else { products };
                for j in 0..BLOCKS {
                    let [scales, minimum_scales] = Q::scales(words[j]);
                    let of_acts = _mm256_set1_ps(*acts[t].scales.get_unchecked(first + BLOCKS * step + j));
                    let scales = _mm256_mul_ps(scales, of_acts);
                    acc[t] = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(products[j]), acc[t]);
                    if Q::HAS_MINIMUMS {
                        let scales = _mm256_mul_ps(minimum_scales, of_acts);
                        acc[t] = _mm256_fnmadd_ps(scales, _mm256_cvtepi32_ps(minimums[j]), acc[t]);
                    }
                }
            }
        }
    }
}

/// The activations of a block.
///
/// # Safety
/// 256 of them at `quants` are readable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn quants_of_block(quants: *const i8) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    std::array::from_fn(|i| unsafe { _mm512_loadu_si512(quants.add(64 * i).cast()) })
}

/// Products of four quants, [packed](packed_16).
///
/// # Safety
/// The caller has the instruction set of `D`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn packed_products<D: Dp>(weights: [__m512i; 4], acts: [__m512i; 4]) -> [__m512i; 2] {
    let mut products = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        // SAFETY: as the caller promises.
        products[i] = unsafe { D::dp(products[i], weights[i], acts[i]) };
    }
    packed_16(products)
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
        halves([first, last])
    }
}

/// The lower and upper half of the first, then of the second.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn halves([first, second]: [__m512i; 2]) -> [__m256i; 4] {
    [
        _mm512_castsi512_si256(first),
        _mm512_extracti64x4_epi64::<1>(first),
        _mm512_castsi512_si256(second),
        _mm512_extracti64x4_epi64::<1>(second),
    ]
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
pub(super) struct K4<const HIGH: bool>;

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

impl<const HIGH: bool> KQuant for K4<HIGH> {
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
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> BlockSums<N> {
        let zero = _mm512_setzero_si512();
        // SAFETY: as the caller promises.
        unsafe {
            // In the order of memory: heads, which are in between, come last.
            let mut packed = [[[zero; 2]; BLOCKS]; N];
            for j in 0..BLOCKS {
                let weights = Self::quants(blocks.add(j * Self::BYTES));
                for t in 0..N {
                    // Loaded one by one: all four at once are too many for the registers.
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
            let mut sums = BlockSums {
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
                for (quants, of_block) in quants[t].iter_mut().zip(of_blocks.chunks_exact(256)) {
                    *quants = quants_of_block(of_block.as_ptr());
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
                        let packed = packed_products::<D>(weights, quants[t][j]);
                        (*products)[t][j][r] = scaled::<D>(packed, low, high);
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
    halves([first, last])
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
pub(super) struct Q6;

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
        let wide = _mm512_castsi256_si512(of_16);
        let low = _mm512_permutexvar_epi16(packed_scales(0), wide);
        let high = _mm512_permutexvar_epi16(packed_scales(8), wide);
        // SAFETY: as the caller promises.
        unsafe {
            let packed = packed_products::<D>(weights, quants_of_block(acts));
            let sum = scaled::<D>(packed, low, high);
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

impl KQuant for Q6 {
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
    unsafe fn sums<D: Dp, const N: usize>(blocks: *const u8, acts: [&Self::Acts; N]) -> BlockSums<N> {
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
            let mut sums = BlockSums {
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
