//! Types with a float scale for 32 weights or fewer.

#[cfg(target_arch = "x86_64")]
use super::super::avx512;
use super::{Format32, Small, f16_at};
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::tables::{FP4_VALUES, IQ4_VALUES};
use rawrz_gguf::quant::{e8m0_half, ue4m3_half};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512i, _mm512_set1_epi8, _mm512_setzero_ps, _mm512_xor_si512};

/// Block `index` of a row of blocks of `N` bytes.
#[inline(always)]
fn block_of<const N: usize>(row: &[u8], index: usize) -> &[u8; N] {
    &row.as_chunks::<N>().0[index]
}

/// Nibbles: weight i in the low half of byte i, weight i + 16 in the high half.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let bytes = &bytes[..16];
    let mut out = [0; 32];
    for i in 0..16 {
        out[i] = bytes[i] & 15;
        out[i + 16] = bytes[i] >> 4;
    }
    out
}

/// Nibbles at `nibbles_at` with a fifth bit each, bit i of the word at `high_at`.
#[inline(always)]
fn five_bits(block: &[u8], high_at: usize, nibbles_at: usize) -> [u8; 32] {
    let high =
        u32::from_le_bytes([block[high_at], block[high_at + 1], block[high_at + 2], block[high_at + 3]]);
    let mut out = nibbles(&block[nibbles_at..]);
    for (i, q) in out.iter_mut().enumerate() {
        *q |= ((high >> i & 1) << 4) as u8;
    }
    out
}

pub(in super::super) struct Q4_0;
impl Format32 for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const OFFSET: u8 = 8;
    const MAX_QUANT: u8 = 15;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<18>(row, unit);
        Small { quants: nibbles(&block[2..]), scale: f16_at(block, 0), minimum: 0.0 }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(18 * units[0]), row.add(18 * units[1]));
            avx512::nibbles_512(a.add(2), b.add(2))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_512(rows, units, 18) }
    }
}

pub(in super::super) struct Q4_1;
impl Format32 for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 15;
    const HAS_MINIMUM: bool = true;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<20>(row, unit);
        Small { quants: nibbles(&block[4..]), scale: f16_at(block, 0), minimum: f16_at(block, 2) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(20 * units[0]), row.add(20 * units[1]));
            avx512::nibbles_512(a.add(4), b.add(4))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_and_minimums_512(rows, units, 20) }
    }
}

pub(in super::super) struct Q5_0;
impl Format32 for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const OFFSET: u8 = 16;
    const MAX_QUANT: u8 = 31;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<22>(row, unit);
        Small { quants: five_bits(block, 2, 6), scale: f16_at(block, 0), minimum: 0.0 }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(22 * units[0]), row.add(22 * units[1]));
            avx512::with_fifth_bits(avx512::nibbles_512(a.add(6), b.add(6)), a.add(2), b.add(2))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_512(rows, units, 22) }
    }
}

pub(in super::super) struct Q5_1;
impl Format32 for Q5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 31;
    const HAS_MINIMUM: bool = true;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<24>(row, unit);
        Small { quants: five_bits(block, 4, 8), scale: f16_at(block, 0), minimum: f16_at(block, 2) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(24 * units[0]), row.add(24 * units[1]));
            avx512::with_fifth_bits(avx512::nibbles_512(a.add(8), b.add(8)), a.add(4), b.add(4))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_and_minimums_512(rows, units, 24) }
    }
}

pub(in super::super) struct Q8_0;
impl Format32 for Q8_0 {
    const TYPE: TensorType = TensorType::Q8_0;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 255;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<34>(row, unit);
        Small { quants: std::array::from_fn(|i| block[2 + i] ^ 0x80), scale: f16_at(block, 0), minimum: 0.0 }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(34 * units[0]), row.add(34 * units[1]));
            _mm512_xor_si512(avx512::join_512(a.add(2), b.add(2)), _mm512_set1_epi8(-128))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_512(rows, units, 34) }
    }
}

pub(in super::super) struct Q8_1;
impl Format32 for Q8_1 {
    const TYPE: TensorType = TensorType::Q8_1;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 255;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<36>(row, unit);
        Small { quants: std::array::from_fn(|i| block[4 + i] ^ 0x80), scale: f16_at(block, 0), minimum: 0.0 }
    }
}

/// A table of values with `offset` added, so that all are unsigned.
const fn unsigned(values: &[i8; 16], offset: u8) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = offset.wrapping_add_signed(values[i]);
        i += 1;
    }
    out
}

/// The values of `IQ4_NL` and `IQ4_XS`, 128 too large: 1 to 241.
pub(in super::super) const IQ4_QUANTS: [u8; 16] = unsigned(&IQ4_VALUES, 128);

/// The values of FP4, 12 too large: 0 to 24.
pub(in super::super) const FP4_QUANTS: [u8; 16] = unsigned(&FP4_VALUES, 12);

pub(in super::super) struct IQ4NL;
impl Format32 for IQ4NL {
    const TYPE: TensorType = TensorType::IQ4NL;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 241;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<18>(row, unit);
        let quants = nibbles(&block[2..]).map(|q| IQ4_QUANTS[usize::from(q)]);
        Small { quants, scale: f16_at(block, 0), minimum: 0.0 }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(18 * units[0] + 2), row.add(18 * units[1] + 2));
            avx512::looked_up(&IQ4_QUANTS, avx512::nibbles_512(a, b))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        unsafe { avx512::scales_512(rows, units, 18) }
    }
}

pub(in super::super) struct MXFP4;
impl Format32 for MXFP4 {
    const TYPE: TensorType = TensorType::MXFP4;
    const OFFSET: u8 = 12;
    const MAX_QUANT: u8 = 24;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<17>(row, unit);
        let quants = nibbles(&block[1..]).map(|q| FP4_QUANTS[usize::from(q)]);
        Small { quants, scale: e8m0_half(block[0]), minimum: 0.0 }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i {
        // SAFETY: as the caller promises.
        unsafe {
            let (a, b) = (row.add(17 * units[0] + 1), row.add(17 * units[1] + 1));
            avx512::looked_up(&FP4_QUANTS, avx512::nibbles_512(a, b))
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
        // SAFETY: as the caller promises.
        [unsafe { avx512::e8m0_scales_512(rows, units, 17) }, _mm512_setzero_ps()]
    }
}

/// 64 weights a block; a unit is one of its four groups of 16, two of which are parts of the same 32 weights.
pub(in super::super) struct NVFP4;
impl Format32 for NVFP4 {
    const TYPE: TensorType = TensorType::NVFP4;
    const OFFSET: u8 = 12;
    const MAX_QUANT: u8 = 24;
    const HAS_MINIMUM: bool = false;
    const PARTS: usize = 2;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let (block, group) = (block_of::<36>(row, unit / 4), unit % 4);
        let packed = &block[4 + 8 * group..][..8];
        let mut quants = [Self::OFFSET; 32];
        let part = &mut quants[16 * (unit % 2)..][..16];
        for i in 0..8 {
            part[i] = FP4_QUANTS[usize::from(packed[i] & 15)];
            part[i + 8] = FP4_QUANTS[usize::from(packed[i] >> 4)];
        }
        Small { quants, scale: ue4m3_half(block[group]), minimum: 0.0 }
    }
}

/// 128 weights a block, of which a unit is 32.
pub(in super::super) struct Q1_0;
impl Format32 for Q1_0 {
    const TYPE: TensorType = TensorType::Q1_0;
    const OFFSET: u8 = 1;
    const MAX_QUANT: u8 = 2;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<18>(row, unit / 4);
        let packed = &block[2 + 4 * (unit % 4)..][..4];
        let quants = std::array::from_fn(|i| (packed[i / 8] >> (i % 8) & 1) << 1);
        Small { quants, scale: f16_at(block, 0), minimum: 0.0 }
    }
}

/// 64 weights a block, of which a unit is 32.
pub(in super::super) struct Q2_0;
impl Format32 for Q2_0 {
    const TYPE: TensorType = TensorType::Q2_0;
    const OFFSET: u8 = 1;
    const MAX_QUANT: u8 = 3;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<18>(row, unit / 2);
        let packed = &block[2 + 8 * (unit % 2)..][..8];
        let quants = std::array::from_fn(|i| packed[i / 4] >> (2 * (i % 4)) & 3);
        Small { quants, scale: f16_at(block, 0), minimum: 0.0 }
    }
}
