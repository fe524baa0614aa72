//! Decoders of the types with small blocks: one scale, or a few, and plain quants.

use super::block::{f16_at, u32_at};
use super::layout::{iq4_nl, mxfp4, nvfp4, q1_0, q2_0, q4_0, q4_1, q5_0, q5_1, q8_0, q8_1};
use super::tables::{FP4_VALUES, IQ4_VALUES};

/// Weight `i` of 32 nibbles: the low ones come first.
#[inline]
fn half_nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 0xf } else { qs[i - 16] >> 4 }
}

pub(super) fn q4_0(block: &[u8; q4_0::BLOCK_BYTES], out: &mut [f32; q4_0::BLOCK_LEN]) {
    let d = f16_at(block, q4_0::D);
    let qs = &block[q4_0::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(half_nibble(qs, i) as i8 - 8);
    }
}

pub(super) fn q4_1(block: &[u8; q4_1::BLOCK_BYTES], out: &mut [f32; q4_1::BLOCK_LEN]) {
    let d = f16_at(block, q4_1::D);
    let m = f16_at(block, q4_1::M);
    let qs = &block[q4_1::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(half_nibble(qs, i)) + m;
    }
}

pub(super) fn q5_0(block: &[u8; q5_0::BLOCK_BYTES], out: &mut [f32; q5_0::BLOCK_LEN]) {
    let d = f16_at(block, q5_0::D);
    let qh = u32_at(block, q5_0::QH.start);
    let qs = &block[q5_0::QS];
    for (i, out) in out.iter_mut().enumerate() {
        let q = half_nibble(qs, i) | ((qh >> i & 1) as u8) << 4;
        *out = d * f32::from(q as i8 - 16);
    }
}

pub(super) fn q5_1(block: &[u8; q5_1::BLOCK_BYTES], out: &mut [f32; q5_1::BLOCK_LEN]) {
    let d = f16_at(block, q5_1::D);
    let m = f16_at(block, q5_1::M);
    let qh = u32_at(block, q5_1::QH.start);
    let qs = &block[q5_1::QS];
    for (i, out) in out.iter_mut().enumerate() {
        let q = half_nibble(qs, i) | ((qh >> i & 1) as u8) << 4;
        *out = d * f32::from(q) + m;
    }
}

pub(super) fn q8_0(block: &[u8; q8_0::BLOCK_BYTES], out: &mut [f32; q8_0::BLOCK_LEN]) {
    let d = f16_at(block, q8_0::D);
    for (out, &q) in out.iter_mut().zip(&block[q8_0::QS]) {
        *out = d * f32::from(q as i8);
    }
}

pub(super) fn q8_1(block: &[u8; q8_1::BLOCK_BYTES], out: &mut [f32; q8_1::BLOCK_LEN]) {
    let d = f16_at(block, q8_1::D);
    for (out, &q) in out.iter_mut().zip(&block[q8_1::QS]) {
        *out = d * f32::from(q as i8);
    }
}

pub(super) fn iq4_nl(block: &[u8; iq4_nl::BLOCK_BYTES], out: &mut [f32; iq4_nl::BLOCK_LEN]) {
    let d = f16_at(block, iq4_nl::D);
    let qs = &block[iq4_nl::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(IQ4_VALUES[usize::from(half_nibble(qs, i))]);
    }
}

/// Half of an E8M0 scale, `2^(e - 128)`, to go with the doubled [`FP4_VALUES`]. The reserved NaN code 255 counts as
/// `2^127`, as in ggml.
#[inline]
pub fn e8m0_half(e: u8) -> f32 {
    match e {
        // Below the normal range of f32.
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}

pub(super) fn mxfp4(block: &[u8; mxfp4::BLOCK_BYTES], out: &mut [f32; mxfp4::BLOCK_LEN]) {
    let d = e8m0_half(block[mxfp4::E.start]);
    let qs = &block[mxfp4::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(FP4_VALUES[usize::from(half_nibble(qs, i))]);
    }
}

/// Half of an unsigned E4M3 scale (bias 7, the top bit unused), to go with the doubled [`FP4_VALUES`]. Its NaN code 0x7f
/// counts as 0, as in ggml.
#[inline]
pub fn ue4m3_half(x: u8) -> f32 {
    let exponent = u32::from(x >> 3 & 0xf);
    let mantissa = x & 7;
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => f32::from(mantissa) / 1024.0,
        // (1 + mantissa / 8) * 2^(exponent - 7) / 2
        _ => f32::from_bits((exponent + 127 - 8) << 23 | u32::from(mantissa) << 20),
    }
}

pub(super) fn nvfp4(block: &[u8; nvfp4::BLOCK_BYTES], out: &mut [f32; nvfp4::BLOCK_LEN]) {
    let groups = block[nvfp4::QS].as_chunks::<8>().0;
    for ((out, qs), &d) in out.as_chunks_mut::<16>().0.iter_mut().zip(groups).zip(&block[nvfp4::D]) {
        let d = ue4m3_half(d);
        let (low, high) = out.split_at_mut(8);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
            *low = d * f32::from(FP4_VALUES[usize::from(q & 0xf)]);
            *high = d * f32::from(FP4_VALUES[usize::from(q >> 4)]);
        }
    }
}

pub(super) fn q1_0(block: &[u8; q1_0::BLOCK_BYTES], out: &mut [f32; q1_0::BLOCK_LEN]) {
    let d = f16_at(block, q1_0::D);
    let qs = &block[q1_0::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = if qs[i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
    }
}

pub(super) fn q2_0(block: &[u8; q2_0::BLOCK_BYTES], out: &mut [f32; q2_0::BLOCK_LEN]) {
    let d = f16_at(block, q2_0::D);
    let qs = &block[q2_0::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from((qs[i / 4] >> (2 * (i % 4)) & 3) as i8 - 1);
    }
}
