//! Types whose quants are points of a grid: `IQ1`, `IQ2` and `IQ3`.
//!
//! Eight quants are made at once in the bytes of a word: all of them, and all that is added on the way, fit 7
//! bits, so nothing is carried from one byte to the next. Scales of groups are odd integers, `2s + 1`; the power
//! of two that makes them what the formula says is part of the block's scale.

#[cfg(target_arch = "x86_64")]
use super::super::avx512::{points_of_4, points_of_8, with_signs_512};
use super::{Format256, Super, f16_at};
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::tables::{
    IQ1_GRID, IQ2S_GRID, IQ2XS_GRID, IQ2XXS_GRID, IQ3S_GRID, IQ3XXS_GRID, SIGNS,
};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Each byte of a word.
const fn bytes(value: u8) -> u64 {
    0x0101_0101_0101_0101 * value as u64
}

/// `offset` plus magnitudes, minus them where a bit of `signs` is set.
#[inline(always)]
fn signed(magnitudes: u64, signs: u8, offset: u8) -> [u8; 8] {
    // Byte i is not 0 if bit i is set; adding 0x7F then sets its top bit, from where it fills the byte.
    let set = bytes(signs) & 0x8040_2010_0804_0201;
    let mask = ((set + bytes(0x7F)) >> 7 & bytes(1)) * 0xFF;
    (bytes(offset) + magnitudes - ((magnitudes & mask) << 1)).to_le_bytes()
}

/// Two grid points of 4 as one of 8.
#[inline(always)]
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// `2s + 1` for the 4-bit scale of each 16 weights, low nibbles first.
#[inline(always)]
fn scales_of_16(packed: &[u8], out: &mut Super) {
    let packed = &packed[..8];
    for (out, packed) in out.scales.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *out = [packed & 15, packed >> 4].map(|s| i16::from(2 * s + 1));
    }
}

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Scales of groups of 32: `2s + 1`, `s` of group g being `scale(g)`.
#[inline(always)]
fn scales_of_32(out: &mut Super, scale: impl Fn(usize) -> u32) {
    for (g, out) in out.scales.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *out = [scale(g) as i16 * 2 + 1; 2];
    }
}

/// Sign l of the four that 28 bits of a word hold.
#[inline(always)]
fn sign_of_4(word: u32, l: usize) -> u8 {
    SIGNS[(word >> (7 * l) & 127) as usize]
}

/// What eight of [`SIGNS`] are, by their indices: seven bits, and one that makes the number of bits even.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn with_parity(indices: u64) -> u64 {
    let bits = indices ^ indices >> 4;
    let bits = bits ^ bits >> 2;
    indices | (bits ^ bits >> 1) << 7 & bytes(0x80)
}

/// The signs of two words as in [`sign_of_4`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn signs_of_8(words: [u32; 2]) -> u64 {
    let packed = u64::from(words[0]) | u64::from(words[1]) << 32;
    // Four times 7 bits of each word to twice 14 of each half, and from there to bytes.
    let halves = packed & 0x0000_3FFF_0000_3FFF | packed << 2 & 0x3FFF_0000_3FFF_0000;
    with_parity(halves & bytes(0x7F) & 0x00FF_00FF_00FF_00FF | halves << 1 & 0x7F00_7F00_7F00_7F00)
}

/// Implements [`Format256`] for a grid, from functions of the type: `eight`, quants 8l to 8l + 7 of a block, `head`, its
/// scales, and `quarter_512`, quants 64q to 64q + 63.
macro_rules! grid {
    ($name:ident, offset: $offset:literal, max: $max:literal, group: $group:literal) => {
        pub(in super::super) struct $name;
        impl Format256 for $name {
            const TYPE: TensorType = TensorType::$name;
            const OFFSET: u8 = $offset;
            const MAX_QUANT: u8 = $max;
            const GROUP: usize = $group;
            const HAS_MINIMUMS: bool = false;
            #[inline(always)]
            fn unpack(block: &[u8], out: &mut Super) {
                let block = &block[..const { Self::TYPE.block_bytes() }];
                for (l, quants) in out.quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    *quants = Self::eight(block, l);
                }
                Self::head(block, out);
            }
            #[cfg(target_arch = "x86_64")]
            #[inline]
            #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
            unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
                // SAFETY: as the caller promises: a whole block, which has four quarters.
                unsafe {
                    Self::head(std::slice::from_raw_parts(block, Self::TYPE.block_bytes()), out);
                    let quarter = |q| Self::quarter_512(block, q);
                    [quarter(0), quarter(1), quarter(2), quarter(3)]
                }
            }
        }
    };
}

/// The functions of a type for `grid`, all of them inlined.
macro_rules! functions {
    ($name:ident, eight: |$bytes:ident, $l:ident| $eight:expr, head: |$head:ident, $out:ident| $scales:expr,
     quarter: |$block:ident, $q:ident| $quarter:expr) => {
        impl $name {
            #[inline(always)]
            fn eight($bytes: &[u8], $l: usize) -> [u8; 8] {
                $eight
            }
            #[inline(always)]
            fn head($head: &[u8], $out: &mut Super) {
                $scales
            }
            /// # Safety
            /// The block is readable, `q` is below 4, and the machine has AVX-512.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
            unsafe fn quarter_512($block: *const u8, $q: usize) -> __m512i {
                // SAFETY: as the caller promises; offsets stay inside the block, and no index is above its mask.
                unsafe { $quarter }
            }
        }
    };
}

/// The eight bytes at `p`, each as 64 bits.
///
/// # Safety
/// They are readable, and the machine has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn eight_bytes(p: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(unsafe { p.cast::<i64>().read_unaligned() }))
}

/// `low` with bits of `high` above its eight: lane l has those of `mask` from bit `l * N` on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn with_high_bits<const N: i64>(low: __m512i, high: __m512i, mask: i64) -> __m512i {
    let lanes = _mm512_setr_epi64(0, N, 2 * N, 3 * N, 4 * N, 5 * N, 6 * N, 7 * N);
    let bits = _mm512_and_si512(_mm512_srlv_epi64(high, lanes), _mm512_set1_epi64(mask));
    _mm512_or_si512(low, _mm512_slli_epi64::<8>(bits))
}

grid!(IQ2XXS, offset: 43, max: 86, group: 32);
functions!(IQ2XXS,
    eight: |block, l| {
        let group = &block[2 + 8 * (l / 4)..][..8];
        let magnitudes = IQ2XXS_GRID[usize::from(group[l % 4])];
        signed(magnitudes, sign_of_4(u32_at(group, 4), l % 4), Self::OFFSET)
    },
    head: |block, out| {
        scales_of_32(out, |g| u32_at(block, 6 + 8 * g) >> 28);
        out.scale = f16_at(block, 0) / 8.0;
    },
    quarter: |block, q| {
        let groups = block.add(2 + 16 * q).cast::<[u32; 4]>().read_unaligned();
        let points = i64::from(groups[0]) | i64::from(groups[2]) << 32;
        let points = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(points));
        let magnitudes = points_of_8(&IQ2XXS_GRID, points);
        with_signs_512(magnitudes, signs_of_8([groups[1], groups[3]]), Self::OFFSET)
    }
);

grid!(IQ2XS, offset: 43, max: 86, group: 16);
functions!(IQ2XS,
    eight: |block, l| {
        let point = u16_at(block, 2 + 2 * l);
        signed(IQ2XS_GRID[usize::from(point & 511)], SIGNS[usize::from(point >> 9)], Self::OFFSET)
    },
    head: |block, out| {
        scales_of_16(&block[66..], out);
        out.scale = f16_at(block, 0) / 8.0;
    },
    quarter: |block, q| {
        let points = _mm512_cvtepu16_epi64(_mm_loadu_si128(block.add(2 + 16 * q).cast()));
        let signs = _mm512_cvtepi64_epi8(_mm512_srli_epi64::<9>(points));
        let magnitudes = points_of_8(&IQ2XS_GRID, _mm512_and_si512(points, _mm512_set1_epi64(511)));
        with_signs_512(magnitudes, with_parity(_mm_cvtsi128_si64(signs) as u64), Self::OFFSET)
    }
);

grid!(IQ2S, offset: 43, max: 86, group: 16);
functions!(IQ2S,
    eight: |block, l| {
        let high = usize::from(block[66 + l / 4] >> (2 * (l % 4)) & 3);
        signed(IQ2S_GRID[usize::from(block[2 + l]) | high << 8], block[34 + l], Self::OFFSET)
    },
    head: |block, out| {
        scales_of_16(&block[74..], out);
        out.scale = f16_at(block, 0) / 8.0;
    },
    quarter: |block, q| {
        let high = _mm512_set1_epi64(i64::from(block.add(66 + 2 * q).cast::<u16>().read_unaligned()));
        let points = with_high_bits::<2>(eight_bytes(block.add(2 + 8 * q)), high, 3);
        let signs = block.add(34 + 8 * q).cast::<u64>().read_unaligned();
        with_signs_512(points_of_8(&IQ2S_GRID, points), signs, Self::OFFSET)
    }
);

grid!(IQ3XXS, offset: 62, max: 124, group: 32);
functions!(IQ3XXS,
    eight: |block, l| {
        let point = |i: usize| IQ3XXS_GRID[usize::from(block[2 + 2 * l + i])];
        let word = u32_at(block, 66 + 4 * (l / 4));
        signed(pair(point(0), point(1)), sign_of_4(word, l % 4), Self::OFFSET)
    },
    head: |block, out| {
        scales_of_32(out, |g| u32_at(block, 66 + 4 * g) >> 28);
        out.scale = f16_at(block, 0) / 4.0;
    },
    quarter: |block, q| {
        let points = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(2 + 16 * q).cast()));
        let words = block.add(66 + 8 * q).cast::<[u32; 2]>().read_unaligned();
        with_signs_512(points_of_4(&IQ3XXS_GRID, points), signs_of_8(words), Self::OFFSET)
    }
);

grid!(IQ3S, offset: 15, max: 30, group: 32);
functions!(IQ3S,
    eight: |block, l| {
        let high = usize::from(block[66 + l / 4]) >> (2 * (l % 4));
        let first = IQ3S_GRID[usize::from(block[2 + 2 * l]) | (high & 1) << 8];
        let second = IQ3S_GRID[usize::from(block[3 + 2 * l]) | (high >> 1 & 1) << 8];
        signed(pair(first, second), block[74 + l], Self::OFFSET)
    },
    head: |block, out| {
        scales_of_32(out, |g| u32::from(block[106 + g / 2] >> (4 * (g % 2)) & 15));
        out.scale = f16_at(block, 0);
    },
    quarter: |block, q| {
        let low = _mm512_cvtepu8_epi32(_mm_loadu_si128(block.add(2 + 16 * q).cast()));
        let high = block.add(66 + 2 * q).cast::<u16>().read_unaligned();
        let points = _mm512_mask_or_epi32(low, high, low, _mm512_set1_epi32(1 << 8));
        let signs = block.add(74 + 8 * q).cast::<u64>().read_unaligned();
        with_signs_512(points_of_4(&IQ3S_GRID, points), signs, Self::OFFSET)
    }
);

/// `8 * (grid +- 1/8)`, 9 too large: 0 to 18.
#[inline(always)]
fn shifted(grid: u64, minus: bool) -> [u8; 8] {
    // Grid bytes are -1, 0 or 1: one more is 0, 1 or 2; adding it to the lower 7 bits carries nothing out.
    let digits = ((grid & bytes(0x7F)) + bytes(1)) ^ (grid & bytes(0x80));
    (digits * 8 + if minus { 0 } else { bytes(2) }).to_le_bytes()
}

/// The same for eight points, by a bit of each.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn shifted_512(grid: __m512i, minus: __mmask8) -> __m512i {
    let digits = _mm512_add_epi8(grid, _mm512_set1_epi8(1));
    let plus = _mm512_maskz_set1_epi64(!minus, bytes(2) as i64);
    _mm512_add_epi8(_mm512_slli_epi16::<3>(digits), plus)
}

grid!(IQ1S, offset: 9, max: 18, group: 32);
functions!(IQ1S,
    eight: |block, l| {
        let high = u16_at(block, 34 + 2 * (l / 4));
        let index = usize::from(block[2 + l]) | usize::from(high >> (3 * (l % 4)) & 7) << 8;
        shifted(IQ1_GRID[index], high >> 15 == 1)
    },
    head: |block, out| {
        scales_of_32(out, |g| u32::from(u16_at(block, 34 + 2 * g) >> 12 & 7));
        out.scale = f16_at(block, 0) / 8.0;
    },
    quarter: |block, q| {
        let words = block.add(34 + 4 * q).cast::<u32>().read_unaligned();
        // Twelve bits of each word, one after the other.
        let high = i64::from(words & 0xFFF | words >> 4 & 0xFF_F000);
        let points = with_high_bits::<3>(eight_bytes(block.add(2 + 8 * q)), _mm512_set1_epi64(high), 7);
        let minus = ((words >> 15 & 1) * 0x0F) | ((words >> 31) * 0xF0);
        shifted_512(points_of_8(&IQ1_GRID, points), minus as __mmask8)
    }
);

grid!(IQ1M, offset: 9, max: 18, group: 16);
functions!(IQ1M,
    eight: |block, l| {
        let high = block[32 + l / 2] >> (4 * (l % 2)) & 15;
        let index = usize::from(block[l]) | usize::from(high & 7) << 8;
        shifted(IQ1_GRID[index], high >> 3 == 1)
    },
    head: |block, out| {
        // Four words of four 3-bit scales; their top nibbles together are the scale of the block.
        let mut bits = 0;
        for (w, out) in out.scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let word = u16_at(block, 48 + 2 * w);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (word >> (3 * i) & 7) as i16 * 2 + 1;
            }
            bits |= word >> 12 << (4 * w);
        }
        out.scale = f16_at(&bits.to_le_bytes(), 0) / 8.0;
    },
    quarter: |block, q| {
        let high = block.add(32 + 4 * q).cast::<u32>().read_unaligned();
        let high = _mm512_set1_epi64(i64::from(high));
        let points = with_high_bits::<4>(eight_bytes(block.add(8 * q)), high, 7);
        let minus = _mm512_test_epi64_mask(
            high,
            _mm512_setr_epi64(1 << 3, 1 << 7, 1 << 11, 1 << 15, 1 << 19, 1 << 23, 1 << 27, 1 << 31),
        );
        shifted_512(points_of_8(&IQ1_GRID, points), minus)
    }
);
