//! Types of super-blocks of 256.

use super::super::x86::*;
use super::{Block256, Unpack256};
use crate::kernels::format::{self, Format256, IQ4_QUANTS, Super};
use rawrz_gguf::quant::tables::{
    IQ1_GRID, IQ2S_GRID, IQ2XS_GRID, IQ2XXS_GRID, IQ3S_GRID, IQ3XXS_GRID, IQ4_VALUES, SIGNS,
};
use std::arch::x86_64::*;

/// Implements [`Unpack256`] for the format of that name.
macro_rules! unpack {
    ($name:ident, f16_at: $at:expr, factor: $factor:expr, |$block:ident, $signed:ident| $body:expr) => {
        pub(super) struct $name;
        impl Unpack256 for $name {
            type Format = format::$name;
            const F16_AT: Option<[usize; 2]> = Some($at);
            const FACTOR: f32 = $factor;

            #[inline(always)]
            unsafe fn unpack($block: *const u8, $signed: bool, _: &mut Super) -> Block256 {
                // SAFETY: the caller promises the instruction set and a block, inside which all offsets stay.
                unsafe { $body }
            }
        }
    };
}

/// Weights 32j to 32j + 31 of two-bit planes: each 32 bytes hold 128 weights.
///
/// # Safety
/// 64 bytes at `p` are readable and `j` is below 8.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn two_bit_plane(p: *const u8, j: usize) -> __m256i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { load(p.add(32 * (j / 4))) };
    _mm256_and_si256(shift_right(bytes, 2 * (j % 4)), _mm256_set1_epi8(3))
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
    _mm256_and_si256(shift_right(bytes, 4 * (j % 2)), _mm256_set1_epi8(15))
}

/// Bit `j` of each byte, moved to bit `to`.
#[inline]
#[target_feature(enable = "avx2")]
fn bit(bytes: __m256i, j: usize, to: usize) -> __m256i {
    let moved = if j < to { shift_left(bytes, to - j) } else { shift_right(bytes, j - to) };
    _mm256_and_si256(moved, _mm256_set1_epi8(1 << to))
}

unpack!(Q2K, f16_at: [80, 82], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        *quants = two_bit_plane(block.add(16), j);
    }
    let (packed, nibble) = (load_128(block), _mm_set1_epi8(15));
    Block256 {
        quants,
        scales: evens_then_odds_of_bytes(_mm_and_si128(packed, nibble)),
        minimums: evens_then_odds_of_bytes(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble)),
    }
});

unpack!(Q3K, f16_at: [108, 108], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    let high = load(block);
    for (j, quants) in quants.iter_mut().enumerate() {
        *quants = _mm256_or_si256(two_bit_plane(block.add(32), j), bit(high, j, 2));
    }
    let scales = evens_then_odds_of_bytes(q3_k_scales(block.add(96)));
    Block256 { quants, scales, minimums: _mm256_setzero_si256() }
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

unpack!(Q4K, f16_at: [0, 2], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        *quants = chunked_nibbles(block.add(16), j);
    }
    let packed = six_bit_scales(block.add(4));
    Block256 {
        quants,
        scales: _mm256_permute4x64_epi64::<0x44>(packed),
        minimums: _mm256_permute4x64_epi64::<0xEE>(packed),
    }
});

unpack!(Q5K, f16_at: [0, 2], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    let high = load(block.add(16));
    for (j, quants) in quants.iter_mut().enumerate() {
        *quants = _mm256_or_si256(chunked_nibbles(block.add(48), j), bit(high, j, 4));
    }
    let packed = six_bit_scales(block.add(4));
    Block256 {
        quants,
        scales: _mm256_permute4x64_epi64::<0x44>(packed),
        minimums: _mm256_permute4x64_epi64::<0xEE>(packed),
    }
});

unpack!(Q6K, f16_at: [208, 208], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    let (nibble, two_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    for half in 0..2 {
        let high = load(block.add(128 + 32 * half));
        let high = [shift_left(high, 4), shift_left(high, 2), high, shift_right(high, 2)];
        for j in 0..4 {
            let low = shift_right(load(block.add(64 * half + 32 * (j % 2))), 4 * (j / 2));
            let low = _mm256_and_si256(low, nibble);
            quants[4 * half + j] = _mm256_or_si256(low, _mm256_and_si256(high[j], two_bits));
        }
    }
    let scales = evens_then_odds_of_bytes(load_128(block.add(192)));
    Block256 { quants, scales, minimums: _mm256_setzero_si256() }
});

unpack!(IQ4XS, f16_at: [0, 0], factor: 1.0, |block, signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        let nibbles = load_nibbles(block.add(8 + 16 * j));
        *quants = if signed { look_up_signed(&IQ4_VALUES, nibbles) } else { look_up(&IQ4_QUANTS, nibbles) };
    }
    let scales = both(iq4_xs_scales(block));
    Block256 { quants, scales, minimums: _mm256_setzero_si256() }
});

unpack!(TQ2_0, f16_at: [64, 64], factor: 1.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        *quants = two_bit_plane(block, j);
    }
    Block256 { quants, scales: _mm256_set1_epi16(1), minimums: _mm256_setzero_si256() }
});

/// `offset` plus magnitudes, minus them where a bit of `signs` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn with_signs(magnitudes: __m256i, signs: u32, offset: u8) -> __m256i {
    let minus = spread_bits(signs);
    let negated = _mm256_sub_epi8(_mm256_xor_si256(magnitudes, minus), minus);
    _mm256_add_epi8(negated, _mm256_set1_epi8(offset as i8))
}

/// [`SIGNS`] as bytes: -1 where a bit is set, 1 elsewhere.
static SIGN_BYTES: [u64; 128] = {
    let mut out = [0; 128];
    let mut i = 0;
    while i < 128 {
        let mut j = 0;
        while j < 8 {
            out[i] |= (if SIGNS[i] >> j & 1 == 1 { 0xFF } else { 0x01 }) << (8 * j);
            j += 1;
        }
        i += 1;
    }
    out
};

/// `offset` plus magnitudes, or minus them, by the signs of four 7-bit indices.
#[inline]
#[target_feature(enable = "avx2")]
fn with_four_signs(magnitudes: __m256i, indices: [u32; 4], offset: u8) -> __m256i {
    let signs = points_of_8(indices.map(|i| SIGN_BYTES[(i & 127) as usize]));
    _mm256_add_epi8(_mm256_sign_epi8(magnitudes, signs), _mm256_set1_epi8(offset as i8))
}

/// Four points of 8 as 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn points_of_8(points: [u64; 4]) -> __m256i {
    let [a, b, c, d] = points.map(|p| p as i64);
    _mm256_setr_epi64x(a, b, c, d)
}

/// Eight points of 4 as 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn points_of_4(points: [u32; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = points.map(|p| p as i32);
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// `2s + 1` of the 4-bit scale of each 16 weights.
///
/// # Safety
/// 8 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scales_of_16(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let packed = _mm_cvtsi64_si128(unsafe { p.cast::<i64>().read_unaligned() });
    let nibble = _mm_set1_epi8(15);
    // Low nibbles are of even groups.
    let (evens, odds) = (_mm_and_si128(packed, nibble), _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble));
    let scales = _mm256_cvtepu8_epi16(_mm_unpacklo_epi64(evens, odds));
    _mm256_add_epi16(_mm256_add_epi16(scales, scales), _mm256_set1_epi16(1))
}

/// 16-bit scales of groups of 32.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_of_32(scales: [i16; 8]) -> __m256i {
    // SAFETY: the array is 16 bytes.
    both(unsafe { load_128(scales.as_ptr().cast()) })
}

unpack!(IQ2XXS, f16_at: [0, 0], factor: 1.0 / 8.0, |block, _signed| {
    let (mut quants, mut scales) = ([_mm256_setzero_si256(); 8], [0; 8]);
    for (j, (quants, scale)) in quants.iter_mut().zip(&mut scales).enumerate() {
        let points = block.add(2 + 8 * j).cast::<[u8; 4]>().read();
        let word = block.add(6 + 8 * j).cast::<u32>().read_unaligned();
        let magnitudes = points_of_8(points.map(|i| IQ2XXS_GRID[usize::from(i)]));
        let signs = [word, word >> 7, word >> 14, word >> 21];
        *quants = with_four_signs(magnitudes, signs, format::IQ2XXS::OFFSET);
        *scale = (word >> 28) as i16 * 2 + 1;
    }
    Block256 { quants, scales: scales_of_32(scales), minimums: _mm256_setzero_si256() }
});

unpack!(IQ2XS, f16_at: [0, 0], factor: 1.0 / 8.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        let points = block.add(2 + 8 * j).cast::<[u16; 4]>().read_unaligned().map(u32::from);
        let magnitudes = points_of_8(points.map(|p| IQ2XS_GRID[(p & 511) as usize]));
        *quants = with_four_signs(magnitudes, points.map(|p| p >> 9), format::IQ2XS::OFFSET);
    }
    Block256 { quants, scales: scales_of_16(block.add(66)), minimums: _mm256_setzero_si256() }
});

unpack!(IQ2S, f16_at: [0, 0], factor: 1.0 / 8.0, |block, _signed| {
    let mut quants = [_mm256_setzero_si256(); 8];
    for (j, quants) in quants.iter_mut().enumerate() {
        let low = block.add(2 + 4 * j).cast::<[u8; 4]>().read().map(usize::from);
        let high = usize::from(*block.add(66 + j));
        let magnitudes = points_of_8([
            IQ2S_GRID[low[0] | high << 8 & 0x300],
            IQ2S_GRID[low[1] | high << 6 & 0x300],
            IQ2S_GRID[low[2] | high << 4 & 0x300],
            IQ2S_GRID[low[3] | high << 2 & 0x300],
        ]);
        let signs = block.add(34 + 4 * j).cast::<u32>().read_unaligned();
        *quants = with_signs(magnitudes, signs, format::IQ2S::OFFSET);
    }
    Block256 { quants, scales: scales_of_16(block.add(74)), minimums: _mm256_setzero_si256() }
});

unpack!(IQ3XXS, f16_at: [0, 0], factor: 1.0 / 4.0, |block, _signed| {
    let (mut quants, mut scales) = ([_mm256_setzero_si256(); 8], [0; 8]);
    for (j, (quants, scale)) in quants.iter_mut().zip(&mut scales).enumerate() {
        let points = block.add(2 + 8 * j).cast::<[u8; 8]>().read();
        let word = block.add(66 + 4 * j).cast::<u32>().read_unaligned();
        let magnitudes = points_of_4(points.map(|i| IQ3XXS_GRID[usize::from(i)]));
        let signs = [word, word >> 7, word >> 14, word >> 21];
        *quants = with_four_signs(magnitudes, signs, format::IQ3XXS::OFFSET);
        *scale = (word >> 28) as i16 * 2 + 1;
    }
    Block256 { quants, scales: scales_of_32(scales), minimums: _mm256_setzero_si256() }
});

unpack!(IQ3S, f16_at: [0, 0], factor: 1.0, |block, _signed| {
    let (mut quants, mut scales) = ([_mm256_setzero_si256(); 8], [0; 8]);
    for (j, (quants, scale)) in quants.iter_mut().zip(&mut scales).enumerate() {
        let low = block.add(2 + 8 * j).cast::<[u8; 8]>().read().map(usize::from);
        let high = usize::from(*block.add(66 + j));
        let magnitudes = points_of_4([
            IQ3S_GRID[low[0] | high << 8 & 0x100],
            IQ3S_GRID[low[1] | high << 7 & 0x100],
            IQ3S_GRID[low[2] | high << 6 & 0x100],
            IQ3S_GRID[low[3] | high << 5 & 0x100],
            IQ3S_GRID[low[4] | high << 4 & 0x100],
            IQ3S_GRID[low[5] | high << 3 & 0x100],
            IQ3S_GRID[low[6] | high << 2 & 0x100],
            IQ3S_GRID[low[7] | high << 1 & 0x100],
        ]);
        let signs = block.add(74 + 4 * j).cast::<u32>().read_unaligned();
        *quants = with_signs(magnitudes, signs, format::IQ3S::OFFSET);
        *scale = i16::from(*block.add(106 + j / 2) >> (4 * (j % 2)) & 15) * 2 + 1;
    }
    Block256 { quants, scales: scales_of_32(scales), minimums: _mm256_setzero_si256() }
});

/// `8 * point + 8 +- 1` and one more: 0 to 18, from points of -1, 0 and 1, `plus` being 2 or 0.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted(points: __m256i, plus: __m256i) -> __m256i {
    let digits = _mm256_add_epi8(points, _mm256_set1_epi8(1));
    _mm256_add_epi8(_mm256_slli_epi16::<3>(digits), plus)
}

unpack!(IQ1S, f16_at: [0, 0], factor: 1.0 / 8.0, |block, _signed| {
    let (mut quants, mut scales) = ([_mm256_setzero_si256(); 8], [0; 8]);
    for (j, (quants, scale)) in quants.iter_mut().zip(&mut scales).enumerate() {
        let low = block.add(2 + 4 * j).cast::<[u8; 4]>().read().map(usize::from);
        let word = block.add(34 + 2 * j).cast::<u16>().read_unaligned();
        let high = usize::from(word);
        let points = points_of_8([
            IQ1_GRID[low[0] | high << 8 & 0x700],
            IQ1_GRID[low[1] | high << 5 & 0x700],
            IQ1_GRID[low[2] | high << 2 & 0x700],
            IQ1_GRID[low[3] | high >> 1 & 0x700],
        ]);
        *quants = shifted(points, _mm256_set1_epi8(if word >> 15 == 0 { 2 } else { 0 }));
        *scale = (word >> 12 & 7) as i16 * 2 + 1;
    }
    Block256 { quants, scales: scales_of_32(scales), minimums: _mm256_setzero_si256() }
});
