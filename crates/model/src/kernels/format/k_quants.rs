//! K-quants: super-blocks of 256 with integer scales of 16 or 32 weights. `IQ4_XS` is like them, but for a table.

#[cfg(target_arch = "x86_64")]
use super::super::avx512;
use super::{Format256, IQ4_QUANTS, Super, f16_at};
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::q3_k_scale;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;

/// The 6-bit scale (and minimum) of each 32 weights, packed into 12 bytes, one for each 16.
#[inline(always)]
fn six_bit_scales(packed: &[u8], out: &mut Super) {
    let packed = &packed[..12];
    for j in 0..8 {
        let (scale, minimum) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
        };
        out.scales[2 * j..2 * j + 2].fill(i16::from(scale));
        out.minimums[2 * j..2 * j + 2].fill(i16::from(minimum));
    }
}

/// What blocks of `Q4_K` and `Q5_K` begin with: the f16 scales of scales and minimums, then these.
#[inline(always)]
fn head_of_32(block: &[u8], out: &mut Super) {
    six_bit_scales(&block[4..], out);
    (out.scale, out.minimum_scale) = (f16_at(block, 0), f16_at(block, 2));
}

/// The same.
///
/// # Safety
/// 16 bytes at `block` are readable, and the machine has AVX-512 (F, BW, DQ, VL).
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn head_of_32_512(block: *const u8, out: &mut Super) {
    // SAFETY: as the caller promises.
    unsafe {
        let scales = std::slice::from_raw_parts(block, 4);
        (out.scale, out.minimum_scale) = (f16_at(scales, 0), f16_at(scales, 2));
        avx512::six_bit_scales_512(block.add(4), out);
    }
}

/// Nibbles in chunks of 64 weights: 32 bytes hold 32 weights in their low halves, then 32 in the high ones.
#[inline(always)]
fn chunked_nibbles(bytes: &[u8], out: &mut [u8; 256]) {
    for (bytes, out) in bytes.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0) {
        for i in 0..32 {
            out[i] = bytes[i] & 15;
            out[i + 32] = bytes[i] >> 4;
        }
    }
}

/// Two bits in four planes: each 32 bytes hold 128 weights, bits `2j` of byte i being weight `32j + i`.
#[inline(always)]
pub(super) fn two_bit_planes(bytes: &[u8], out: &mut [u8; 256]) {
    for (bytes, out) in bytes.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<128>().0) {
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for i in 0..32 {
                out[i] = bytes[i] >> (2 * j) & 3;
            }
        }
    }
}

/// One more bit of each weight, bit `to`: bit j of byte i is that of weight 32j + i.
#[inline(always)]
fn higher_bits(bytes: &[u8], to: u32, out: &mut [u8; 256]) {
    let bytes = &bytes[..32];
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (q, high) in out.iter_mut().zip(bytes) {
            *q |= (high >> j & 1) << to;
        }
    }
}

pub(in super::super) struct Q2K;
impl Format256 for Q2K {
    const TYPE: TensorType = TensorType::Q2K;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 3;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..84];
        two_bit_planes(&block[16..80], &mut out.quants);
        for (group, packed) in block[..16].iter().enumerate() {
            out.scales[group] = i16::from(packed & 15);
            out.minimums[group] = i16::from(packed >> 4);
        }
        (out.scale, out.minimum_scale) = (f16_at(block, 80), f16_at(block, 82));
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            (out.scale, out.minimum_scale) = (f16_at(bytes, 80), f16_at(bytes, 82));
            avx512::q2_k_512(block, out)
        }
    }
}

pub(in super::super) struct Q3K;
impl Format256 for Q3K {
    const TYPE: TensorType = TensorType::Q3K;
    const OFFSET: u8 = 4;
    const MAX_QUANT: u8 = 7;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..110];
        two_bit_planes(&block[32..96], &mut out.quants);
        higher_bits(&block[..32], 2, &mut out.quants);
        let packed = std::array::from_fn(|i| block[96 + i]);
        for (group, scale) in out.scales.iter_mut().enumerate() {
            *scale = i16::from(q3_k_scale(&packed, group));
        }
        out.scale = f16_at(block, 108);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            out.scale = f16_at(bytes, 108);
            avx512::q3_k_512(block, out)
        }
    }
}

pub(in super::super) struct Q4K;
impl Format256 for Q4K {
    const TYPE: TensorType = TensorType::Q4K;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 15;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..144];
        chunked_nibbles(&block[16..], &mut out.quants);
        head_of_32(block, out);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            head_of_32_512(block, out);
            avx512::chunked_nibbles_512(block.add(16))
        }
    }
}

pub(in super::super) struct Q5K;
impl Format256 for Q5K {
    const TYPE: TensorType = TensorType::Q5K;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 31;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..176];
        chunked_nibbles(&block[48..], &mut out.quants);
        higher_bits(&block[16..48], 4, &mut out.quants);
        head_of_32(block, out);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            head_of_32_512(block, out);
            avx512::five_bits_512(block)
        }
    }
}

/// 8-bit scales of each 16 weights.
#[inline(always)]
fn signed_scales(bytes: &[u8], out: &mut Super) {
    for (scale, byte) in out.scales.iter_mut().zip(&bytes[..16]) {
        *scale = i16::from(*byte as i8);
    }
}

pub(in super::super) struct Q6K;
impl Format256 for Q6K {
    const TYPE: TensorType = TensorType::Q6K;
    const OFFSET: u8 = 32;
    const MAX_QUANT: u8 = 63;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..210];
        // Halves of 128 weights; in each, weight i has its low nibble in low byte i % 64 (the high half of the
        // byte from weight 64 on) and its two high bits in high byte i % 32, at bit 2 * (i / 32).
        for (half, quants) in out.quants.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
            for i in 0..32 {
                quants[i] = low[i] & 15 | (high[i] & 3) << 4;
                quants[i + 32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
                quants[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                quants[i + 96] = low[i + 32] >> 4 | high[i] >> 6 << 4;
            }
        }
        signed_scales(&block[192..], out);
        out.scale = f16_at(block, 208);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            signed_scales(&bytes[192..], out);
            out.scale = f16_at(bytes, 208);
            avx512::six_bits_512(block)
        }
    }
}

pub(in super::super) struct Q8K;
impl Format256 for Q8K {
    const TYPE: TensorType = TensorType::Q8K;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 255;
    const GROUP: usize = 256;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..292];
        for (out, byte) in out.quants.iter_mut().zip(&block[4..260]) {
            *out = byte ^ 0x80;
        }
        out.scales = [1; 16];
        out.scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    }
}

pub(in super::super) struct IQ4XS;
impl Format256 for IQ4XS {
    const TYPE: TensorType = TensorType::IQ4XS;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 241;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..136];
        // Each 16 bytes hold 32 weights: low nibbles first.
        for (bytes, out) in block[8..].as_chunks::<16>().0.iter().zip(out.quants.as_chunks_mut::<32>().0) {
            for i in 0..16 {
                out[i] = IQ4_QUANTS[usize::from(bytes[i] & 15)];
                out[i + 16] = IQ4_QUANTS[usize::from(bytes[i] >> 4)];
            }
        }
        // Scales are 32 too large: low nibbles in 4 bytes, two high bits each in the word before them.
        let high = u16::from_le_bytes([block[2], block[3]]);
        for group in 0..8 {
            let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
            let scale = i16::from(low) + (high >> (2 * group) & 3) as i16 * 16;
            out.scales[2 * group..2 * group + 2].fill(scale - 32);
        }
        out.scale = f16_at(block, 0);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            out.scale = f16_at(bytes, 0);
            avx512::iq4_xs_512(block, out)
        }
    }
}
