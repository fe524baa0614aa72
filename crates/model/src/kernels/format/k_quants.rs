//! K-quants: super-blocks of 256 with integer scales of 16 or 32 weights.

#[cfg(target_arch = "x86_64")]
use super::super::avx512;
use super::{Format256, Super, f16_at};
use rawrz_gguf::TensorType;
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
        six_bit_scales(&block[4..], out);
        (out.scale, out.minimum_scale) = (f16_at(block, 0), f16_at(block, 2));
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            six_bit_scales(&bytes[4..], out);
            (out.scale, out.minimum_scale) = (f16_at(bytes, 0), f16_at(bytes, 2));
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
        // Bit j of high byte i belongs to weight 32j + i.
        for (j, quants) in out.quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, high) in quants.iter_mut().zip(&block[16..48]) {
                *q |= (high >> j & 1) << 4;
            }
        }
        six_bit_scales(&block[4..], out);
        (out.scale, out.minimum_scale) = (f16_at(block, 0), f16_at(block, 2));
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, Self::TYPE.block_bytes());
            six_bit_scales(&bytes[4..], out);
            (out.scale, out.minimum_scale) = (f16_at(bytes, 0), f16_at(bytes, 2));
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
