//! Decoders of the types with 256 weights a block and plain quants: K-quants, IQ4_XS and the ternary types.

use super::block::{bytes, f16_at, nibble, u16_at};
use super::layout::{iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k, q8_k, tq1_0, tq2_0};
use super::tables::IQ4_VALUES;

/// Two bits of weight `i` in 64 bytes: each 32 bytes hold 128 weights in four planes of 32.
#[inline]
fn plane2(qs: &[u8], i: usize) -> u8 {
    qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
}

pub(super) fn q2_k(block: &[u8; q2_k::BLOCK_BYTES], out: &mut [f32; q2_k::BLOCK_LEN]) {
    let d = f16_at(block, q2_k::D);
    let dmin = f16_at(block, q2_k::DMIN);
    let scales = &block[q2_k::SCALES];
    let qs = &block[q2_k::QS];
    for (i, out) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        let dl = d * f32::from(scale & 0xf);
        let ml = dmin * f32::from(scale >> 4);
        *out = dl * f32::from(plane2(qs, i)) - ml;
    }
}

/// The scale of group `group` (0 to 15) of a Q3_K block, -32 to 31, from its 12 bytes of scales.
#[inline]
pub fn q3_k_scale(scales: &[u8; 12], group: usize) -> i8 {
    let low = scales[group % 8] >> (group / 8 * 4) & 0xf;
    let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
    (low | high << 4) as i8 - 32
}

pub(super) fn q3_k(block: &[u8; q3_k::BLOCK_BYTES], out: &mut [f32; q3_k::BLOCK_LEN]) {
    let d = f16_at(block, q3_k::D);
    let scales = bytes(block, q3_k::SCALES);
    let hmask = &block[q3_k::HMASK];
    let qs = &block[q3_k::QS];
    for (i, out) in out.iter_mut().enumerate() {
        let dl = d * f32::from(q3_k_scale(&scales, i / 16));
        let high = hmask[i % 32] >> (i / 32) & 1;
        *out = dl * f32::from((plane2(qs, i) | high << 2) as i8 - 4);
    }
}

/// Scale and minimum (6 bits each) of group `group` (0 to 7) of a Q4_K or Q5_K block, from its 12 bytes of scales:
/// groups 0 to 3 lie in the low 6 bits of bytes 0 to 3 (scales) and 4 to 7 (minimums); groups 4 to 7 have their low
/// nibbles in bytes 8 to 11 and their upper 2 bits above those of groups 0 to 3.
#[inline]
pub fn scale_min_k4(scales: &[u8; 12], group: usize) -> (u8, u8) {
    let (scale, min) = (scales[group % 4], scales[group % 4 + 4]);
    if group < 4 {
        return (scale & 0x3f, min & 0x3f);
    }
    let low = scales[group + 4];
    (low & 0xf | scale >> 6 << 4, low >> 4 | min >> 6 << 4)
}

pub(super) fn q4_k(block: &[u8; q4_k::BLOCK_BYTES], out: &mut [f32; q4_k::BLOCK_LEN]) {
    let d = f16_at(block, q4_k::D);
    let dmin = f16_at(block, q4_k::DMIN);
    let scales = bytes(block, q4_k::SCALES);
    let qs = &block[q4_k::QS];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min_k4(&scales, group);
        let dl = d * f32::from(scale);
        let ml = dmin * f32::from(min);
        for (out, q) in out.iter_mut().zip(&qs[group / 2 * 32..]) {
            *out = dl * f32::from(q >> (group % 2 * 4) & 0xf) - ml;
        }
    }
}

pub(super) fn q5_k(block: &[u8; q5_k::BLOCK_BYTES], out: &mut [f32; q5_k::BLOCK_LEN]) {
    let d = f16_at(block, q5_k::D);
    let dmin = f16_at(block, q5_k::DMIN);
    let scales = bytes(block, q5_k::SCALES);
    let qh = &block[q5_k::QH];
    let qs = &block[q5_k::QS];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min_k4(&scales, group);
        let dl = d * f32::from(scale);
        let ml = dmin * f32::from(min);
        for ((out, q), high) in out.iter_mut().zip(&qs[group / 2 * 32..]).zip(qh) {
            let q = q >> (group % 2 * 4) & 0xf | (high >> group & 1) << 4;
            *out = dl * f32::from(q) - ml;
        }
    }
}

pub(super) fn q6_k(block: &[u8; q6_k::BLOCK_BYTES], out: &mut [f32; q6_k::BLOCK_LEN]) {
    let d = f16_at(block, q6_k::D);
    let scales = &block[q6_k::SCALES];
    let ql = &block[q6_k::QL];
    let qh = &block[q6_k::QH];
    for (i, out) in out.iter_mut().enumerate() {
        let dl = d * f32::from(scales[i / 16] as i8);
        let low = ql[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 0xf;
        *out = dl * f32::from((low | plane2(qh, i) << 4) as i8 - 32);
    }
}

pub(super) fn q8_k(block: &[u8; q8_k::BLOCK_BYTES], out: &mut [f32; q8_k::BLOCK_LEN]) {
    let d = f32::from_le_bytes(bytes(block, q8_k::D));
    for (out, &q) in out.iter_mut().zip(&block[q8_k::QS]) {
        *out = d * f32::from(q as i8);
    }
}

pub(super) fn iq4_xs(block: &[u8; iq4_xs::BLOCK_BYTES], out: &mut [f32; iq4_xs::BLOCK_LEN]) {
    let d = f16_at(block, iq4_xs::D);
    let scales_h = u16_at(block, iq4_xs::SCALES_H.start);
    let scales_l = &block[iq4_xs::SCALES_L];
    let groups = block[iq4_xs::QS].as_chunks::<16>().0;
    for (group, (out, qs)) in out.as_chunks_mut::<32>().0.iter_mut().zip(groups).enumerate() {
        let high = (scales_h >> (2 * group) & 3) as u8;
        let dl = d * f32::from((nibble(scales_l, group) | high << 4) as i8 - 32);
        let (low, high) = out.split_at_mut(16);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
            *low = dl * f32::from(IQ4_VALUES[usize::from(q & 0xf)]);
            *high = dl * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
        }
    }
}

/// Base-3 digit `n` (0 to 4, the first on top) of a byte of TQ1_0, 0 to 2: one more than the weight. The byte is a
/// fraction of 256; times `3^n` its next digit is on top.
///
/// # Panics
/// When `n` is above 4.
#[inline]
pub fn trit(byte: u8, n: usize) -> u8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let shifted = byte.wrapping_mul(POWERS[n]);
    ((u16::from(shifted) * 3) >> 8) as u8
}

pub(super) fn tq1_0(block: &[u8; tq1_0::BLOCK_BYTES], out: &mut [f32; tq1_0::BLOCK_LEN]) {
    let d = f16_at(block, tq1_0::D);
    let qs = &block[tq1_0::QS];
    let qh = &block[tq1_0::QH];
    for (i, out) in out.iter_mut().enumerate() {
        let digit = match i {
            0..160 => trit(qs[i % 32], i / 32),
            160..240 => trit(qs[32 + i % 16], (i - 160) / 16),
            _ => trit(qh[i % 4], (i - 240) / 4),
        };
        *out = d * f32::from(digit as i8 - 1);
    }
}

pub(super) fn tq2_0(block: &[u8; tq2_0::BLOCK_BYTES], out: &mut [f32; tq2_0::BLOCK_LEN]) {
    let d = f16_at(block, tq2_0::D);
    let qs = &block[tq2_0::QS];
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(plane2(qs, i) as i8 - 1);
    }
}
