//! Pieces that kernels for x86-64 are put together from.
//!
//! These functions have the features that they need and are inlined into kernels that have those and more.

use super::{TILE_ROWS, TileRows};
use std::arch::x86_64::*;

/// What to ask for while a tile is computed: memory from the middle of the next tile on, rows of a matrix lying one
/// after the other. A kernel asks for as many bytes as it takes of all rows together, in the order of memory, which
/// serves them faster than row by row. The next tile itself would be too near: its last row is asked for last, and
/// needed as soon as its first.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn ahead(rows: &TileRows) -> *const u8 {
    const DISTANCE_ROWS: usize = TILE_ROWS + TILE_ROWS / 2;
    let row_bytes = (rows[1] as usize).wrapping_sub(rows[0] as usize);
    rows[0].wrapping_add(row_bytes.wrapping_mul(DISTANCE_ROWS))
}

/// Super-blocks that are read of one row before the next with few rows of activations: so many that rows of 4,096
/// weights are one stream of memory, so few that what is kept of them stays in the first-level cache.
pub(super) const RUN: usize = 16;

/// Up to so many rows of activations are multiplied with runs: with more, what is kept is too much.
pub(super) const RUN_ACTS: usize = 2;

/// What to ask for while rows of `n_blocks` super-blocks are read in runs, one after the other in memory. Rows that are
/// one run are one stream, for which little in advance is best; of others the next tile must be there in whole. Not a
/// multiple of 4096 bytes more: such addresses share a set of the cache.
#[inline]
pub(super) fn ahead_of_runs(rows: &TileRows, n_blocks: usize, block_bytes: usize) -> *const u8 {
    let tile = if n_blocks > RUN { TILE_ROWS * n_blocks * block_bytes } else { 0 };
    rows[0].wrapping_add(tile + (7 << 10))
}

/// For `n_acts` rows of activations: how many blocks of a row are read before the next row, and what to ask for
/// meanwhile.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn runs(
    n_acts: usize,
    rows: &TileRows,
    n_blocks: usize,
    block_bytes: usize,
) -> (usize, *const u8) {
    match n_acts {
        ..=RUN_ACTS => (RUN, ahead_of_runs(rows, n_blocks, block_bytes)),
        _ => (1, ahead(rows)),
    }
}

/// Asks for the cache lines of `len_bytes` bytes from `p` on, for the second-level cache: the first level has fewer
/// requests under way than memory needs. Any address will do, a prefetch never faults.
#[inline(always)]
pub(in super::super) fn prefetch(p: *const u8, len_bytes: usize) {
    for line in 0..len_bytes.div_ceil(64) {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.wrapping_add(64 * line).cast()) };
    }
}

/// Adds up half of the lanes of two rows, per 128 bits: `[a0 + a2, b0 + b2, a1 + a3, b1 + b3]`. Two shuffles and an
/// add, where `vphaddd` is four steps.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fold_rows(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

/// The same for two results of [`fold_rows`]: per 128 bits, the lower 64 bits of each plus its upper 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn fold_pairs(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
}

/// Adds up the lanes of each half of each row: lane r of the results is the sum of the lower and of the upper half
/// of row r. Rows come in pairs, [folded](fold_rows).
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_halves(pairs: [__m256i; TILE_ROWS / 2]) -> [__m256i; 2] {
    let (low, high) = (fold_pairs(pairs[0], pairs[1]), fold_pairs(pairs[2], pairs[3]));
    [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
}

/// Adds up the lanes of each row's partial sums: lane r of the result is the sum of `rows[r]`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_rows(rows: [__m256i; TILE_ROWS]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = rows;
    let [low, high] = sum_halves([fold_rows(a, b), fold_rows(c, d), fold_rows(e, f), fold_rows(g, h)]);
    _mm256_add_epi32(low, high)
}

/// As [`sum_rows`], for four partial sums a row.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_half_rows(rows: [__m128i; TILE_ROWS]) -> __m256i {
    let joined: [__m256i; 4] = [
        _mm256_set_m128i(rows[4], rows[0]),
        _mm256_set_m128i(rows[5], rows[1]),
        _mm256_set_m128i(rows[6], rows[2]),
        _mm256_set_m128i(rows[7], rows[3]),
    ];
    fold_pairs(fold_rows(joined[0], joined[1]), fold_rows(joined[2], joined[3]))
}

/// The f16 at each pointer, widened.
///
/// # Safety
/// Two bytes at every pointer are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in super::super) unsafe fn f16s(pointers: TileRows) -> __m256 {
    // SAFETY: as the caller promises.
    let at = |r: usize| unsafe { pointers[r].cast::<i16>().read_unaligned() };
    _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)))
}

/// The byte at each pointer, as 32 bits.
///
/// # Safety
/// A byte at every pointer is readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn bytes(pointers: TileRows) -> __m256i {
    // SAFETY: as the caller promises.
    let at = |r: usize| i32::from(unsafe { *pointers[r] });
    _mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7))
}

/// # Safety
/// 32 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn load(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

/// # Safety
/// 16 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_128(p: *const u8) -> __m128i {
    // SAFETY: as the caller promises; the load asks for no alignment.
    unsafe { _mm_loadu_si128(p.cast()) }
}

/// 16 bytes in both halves.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn both(bytes: __m128i) -> __m256i {
    _mm256_broadcastsi128_si256(bytes)
}

/// Each byte shifted right within its 16 bits; what comes in from the other byte is for the caller to mask.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shift_right(bytes: __m256i, bits: usize) -> __m256i {
    _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(bits as i32))
}

/// As [`shift_right`], to the left.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shift_left(bytes: __m256i, bits: usize) -> __m256i {
    _mm256_sll_epi16(bytes, _mm_cvtsi32_si128(bits as i32))
}

/// Nibbles of 16 bytes: the low halves in the lower 16 bytes, the high halves in the upper ones.
///
/// # Safety
/// 16 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_nibbles(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { load_128(p) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// 32 bits spread over 32 bytes: all bits where a bit is set.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn spread_bits(bits: u32) -> __m256i {
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(bits as i32),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit_of_byte = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of_byte), bit_of_byte)
}

/// `offset` bytes further in each row.
///
/// # Safety
/// All rows are that long.
#[inline(always)]
pub(in super::super) unsafe fn at(rows: &TileRows, offset: usize) -> TileRows {
    let mut moved = *rows;
    for row in &mut moved {
        // SAFETY: as the caller promises.
        *row = unsafe { row.add(offset) };
    }
    moved
}

/// Signed values by nibble.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn look_up_signed(table: &[i8; 16], nibbles: __m256i) -> __m256i {
    // SAFETY: the table is 16 bytes.
    let table = both(unsafe { load_128(table.as_ptr().cast()) });
    _mm256_shuffle_epi8(table, nibbles)
}

/// Values by nibble.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn look_up(table: &[u8; 16], nibbles: __m256i) -> __m256i {
    // SAFETY: the table is 16 bytes.
    let table = both(unsafe { load_128(table.as_ptr()) });
    _mm256_shuffle_epi8(table, nibbles)
}

/// 16-bit values of the 16 groups of a block, with even groups in the lower half and odd ones in the upper half:
/// where their weights are in a vector of 32.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn evens_then_odds(groups: __m256i) -> __m256i {
    let evens = 0x0D0C_0908_0504_0100;
    let order =
        _mm256_setr_epi64x(evens, evens + 0x0202_0202_0202_0202, evens, evens + 0x0202_0202_0202_0202);
    _mm256_permute4x64_epi64::<0xD8>(_mm256_shuffle_epi8(groups, order))
}

/// The same for bytes, which become 16 bits wide, signed.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn evens_then_odds_of_bytes(groups: __m128i) -> __m256i {
    let evens = 0x0E0C_0A08_0604_0200;
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(groups, _mm_set_epi64x(evens + 0x0101_0101_0101_0101, evens)))
}

/// The 6-bit scales of the sixteen groups of a `Q3_K` block, from 12 bytes.
///
/// # Safety
/// 12 bytes at `packed` are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn q3_k_scales(packed: *const u8) -> __m128i {
    // Low nibbles of the scales of groups 0 to 7, then 8 to 15, with two higher bits of every fourth group.
    let packed = packed.cast::<u32>();
    // SAFETY: as the caller promises.
    let [a, b, high] = unsafe { [packed, packed.add(1), packed.add(2)].map(|p| p.read_unaligned()) };
    let (nibble, two_bits) = (0x0F0F_0F0F, 0x3030_3030);
    let scales = _mm_setr_epi32(
        (a & nibble | high << 4 & two_bits) as i32,
        (b & nibble | high << 2 & two_bits) as i32,
        (a >> 4 & nibble | high & two_bits) as i32,
        (b >> 4 & nibble | high >> 2 & two_bits) as i32,
    );
    _mm_sub_epi8(scales, _mm_set1_epi8(32))
}

/// The 6-bit scales of the eight groups of an `IQ4_XS` block, as 16-bit integers.
///
/// # Safety
/// 8 bytes at `block` are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn iq4_xs_scales(block: *const u8) -> __m128i {
    // SAFETY: as the caller promises.
    let (high, low) =
        unsafe { (block.add(2).cast::<i16>().read_unaligned(), block.add(4).cast::<u32>().read_unaligned()) };
    // Two bits of each group from a word: masked out, multiplied to the top of 16 bits, shifted down to bit 4.
    let masked = _mm_and_si128(
        _mm_set1_epi16(high),
        _mm_setr_epi16(3, 3 << 2, 3 << 4, 3 << 6, 3 << 8, 3 << 10, 3 << 12, -1 << 14),
    );
    let to_top = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    let high = _mm_srli_epi16::<10>(_mm_mullo_epi16(masked, to_top));
    let low_of = |bits: u32| _mm_cvtsi32_si128((bits & 0x0F0F_0F0F) as i32);
    let low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(low_of(low), low_of(low >> 4)));
    _mm_sub_epi16(_mm_or_si128(low, high), _mm_set1_epi16(32))
}

/// Copies 16-bit element `i` of each half into every element of that half.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn broadcast_16(halves: __m256i, i: usize) -> __m256i {
    _mm256_shuffle_epi8(halves, _mm256_set1_epi16((0x0100 + 0x0202 * i) as i16))
}

/// Stores a row of results.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(out: &mut [f32; TILE_ROWS], results: __m256) {
    // SAFETY: `out` is 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), results) };
}
