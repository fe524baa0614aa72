//! Types with a float scale for 32 weights or fewer.

use super::super::x86::*;
use super::super::{TILE_ROWS, TileRows};
use super::{Tile32, Unpack32};
use crate::kernels::format::{self, FP4_QUANTS, Format32, IQ4_QUANTS};
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::tables::{FP4_VALUES, IQ4_VALUES};
use std::arch::x86_64::*;

/// Implements [`Unpack32`] for the format of that name. `$quants` gives the quants of the `$unit`th 32 weights of
/// a block, signed if `$signed`; `$scales` are of a tile's `$blocks`.
macro_rules! unpack {
    ($name:ident $(, minimum_at: $minimum_at:literal)?, |$block:ident, $unit:ident, $signed:ident| $quants:expr,
     scales: |$blocks:ident, $scale_unit:ident| $scales:expr) => {
        pub(super) struct $name;
        impl Unpack32 for $name {
            type Format = format::$name;
            $(const MINIMUM_AT: usize = $minimum_at;)?

            #[inline(always)]
            unsafe fn unpack(rows: &TileRows, b: usize, $signed: bool) -> Tile32 {
                const TYPE: TensorType = <format::$name as Format32>::TYPE;
                let units = TYPE.block_len() / 32;
                // SAFETY: the caller promises the instruction set and a block in each row, inside which all
                // offsets stay.
                unsafe {
                    let ($blocks, $scale_unit) = (at(rows, b / units * TYPE.block_bytes()), b % units);
                    let mut quants = [_mm256_setzero_si256(); TILE_ROWS];
                    for r in 0..TILE_ROWS {
                        let ($block, $unit) = ($blocks[r], b % units);
                        quants[r] = $quants;
                    }
                    Tile32 { quants, scales: $scales }
                }
            }
        }
    };
    // One f16 scale at the start of a block.
    ($name:ident $(, minimum_at: $minimum_at:literal)?, |$block:ident, $unit:ident, $signed:ident| $quants:expr) => {
        unpack!($name $(, minimum_at: $minimum_at)?, |$block, $unit, $signed| $quants,
            scales: |blocks, _unit| [f16s(blocks), _mm256_setzero_ps()]);
    };
}

/// A fifth bit, 16, for each bit of the word at `p` that is set.
///
/// # Safety
/// 4 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_fifth_bits(p: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bits = unsafe { p.cast::<u32>().read_unaligned() };
    _mm256_and_si256(spread_bits(bits), _mm256_set1_epi8(16))
}

/// 8-bit quants, which are signed in the file.
///
/// # Safety
/// 32 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_bytes(p: *const u8, signed: bool) -> __m256i {
    // SAFETY: as the caller promises.
    let quants = unsafe { load(p) };
    if signed { quants } else { _mm256_xor_si256(quants, _mm256_set1_epi8(-128)) }
}

unpack!(Q4_0, |block, _unit, _signed| load_nibbles(block.add(2)));
unpack!(Q4_1, minimum_at: 2, |block, _unit, _signed| load_nibbles(block.add(4)));
unpack!(Q5_0, |block, _unit, _signed| _mm256_or_si256(
    load_nibbles(block.add(6)),
    load_fifth_bits(block.add(2))
));
unpack!(Q5_1, minimum_at: 2, |block, _unit, _signed|
    _mm256_or_si256(load_nibbles(block.add(8)), load_fifth_bits(block.add(4))));
unpack!(Q8_0, |block, _unit, signed| load_bytes(block.add(2), signed));
unpack!(Q8_1, |block, _unit, signed| load_bytes(block.add(4), signed));

unpack!(IQ4NL, |block, _unit, signed| {
    let nibbles = load_nibbles(block.add(2));
    if signed { look_up_signed(&IQ4_VALUES, nibbles) } else { look_up(&IQ4_QUANTS, nibbles) }
});

unpack!(MXFP4, |block, _unit, _signed| look_up(&FP4_QUANTS, load_nibbles(block.add(1))),
    scales: |blocks, _unit| [e8m0_halves(bytes(blocks)), _mm256_setzero_ps()]);

/// `e8m0_half` of `rawrz_gguf` for each exponent.
#[inline]
#[target_feature(enable = "avx2")]
fn e8m0_halves(exponents: __m256i) -> __m256 {
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, one));
    let below_normal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
    _mm256_castsi256_ps(_mm256_blendv_epi8(below_normal, normal, _mm256_cmpgt_epi32(exponents, one)))
}

// Two groups of 16 in 16 bytes: 8 low nibbles, then 8 high ones.
unpack!(NVFP4, |block, unit, _signed| {
    let bytes = load_128(block.add(4 + 16 * unit));
    let (low, high) = (bytes, _mm_srli_epi16::<4>(bytes));
    let groups = _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
    look_up_signed(&FP4_VALUES, _mm256_and_si256(groups, _mm256_set1_epi8(15)))
},
    scales: |blocks, unit| [
        ue4m3_halves(bytes(at(&blocks, 2 * unit))),
        ue4m3_halves(bytes(at(&blocks, 2 * unit + 1))),
    ]);

/// `ue4m3_half` of `rawrz_gguf` for each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn ue4m3_halves(bytes: __m256i) -> __m256 {
    // Exponent and mantissa move to where f32 has them, and half of the difference of the biases is added.
    let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi32(0x7F));
    let normal = _mm256_add_epi32(_mm256_slli_epi32::<20>(magnitude), _mm256_set1_epi32(119 << 23));
    let below_normal = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(1.0 / 1024.0));
    let is_normal = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(7));
    let scale = _mm256_blendv_epi8(_mm256_castps_si256(below_normal), normal, is_normal);
    let is_nan = _mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(0x7F));
    _mm256_castsi256_ps(_mm256_andnot_si256(is_nan, scale))
}

unpack!(Q1_0, |block, unit, _signed| {
    let bits = block.add(2 + 4 * unit).cast::<u32>().read_unaligned();
    _mm256_and_si256(spread_bits(bits), _mm256_set1_epi8(2))
});

// Each byte goes to four, the last two of which take its high half; the second of two takes the higher bits.
unpack!(Q2_0, |block, unit, _signed| {
    let bytes = _mm256_set1_epi64x(block.add(2 + 8 * unit).cast::<i64>().read_unaligned());
    let four_times = _mm256_setr_epi64x(
        0x0101_0101_0000_0000,
        0x0303_0303_0202_0202,
        0x0505_0505_0404_0404,
        0x0707_0707_0606_0606,
    );
    let bytes = _mm256_shuffle_epi8(bytes, four_times);
    let halves = _mm256_blend_epi16::<0xAA>(bytes, _mm256_srli_epi16::<4>(bytes));
    let first = _mm256_and_si256(halves, _mm256_set1_epi16(0x0003));
    let second = _mm256_and_si256(_mm256_srli_epi16::<2>(halves), _mm256_set1_epi16(0x0300));
    _mm256_or_si256(first, second)
});
