//! Scalar encoders of the simple types: what tests and writers need to make tensors.
//!
//! F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0 and TQ2_0 give the bits of `gguf.quants.quantize`; Q8_1, Q8_K, Q1_0
//! and Q2_0 those of llama.cpp's reference. That holds for finite weights; others give some block, without a panic.

use half::f16;

use super::layout::{q1_0, q2_0, q4_0, q4_1, q5_0, q5_1, q8_0, q8_1, q8_k, tq1_0, tq2_0};
use super::{DecodeError, check_row, to_bf16};
use crate::TensorType;

/// Why a row could not be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// There is no encoder for this type.
    #[error("there is no encoder for type {ty}")]
    Unsupported {
        /// The type.
        ty: TensorType,
    },
    /// The buffers do not fit each other.
    #[error(transparent)]
    Row(#[from] DecodeError),
}

/// Whether [`encode_row`] knows the type.
pub const fn can_encode(ty: TensorType) -> bool {
    matches!(
        ty,
        TensorType::F32
            | TensorType::F16
            | TensorType::BF16
            | TensorType::Q4_0
            | TensorType::Q4_1
            | TensorType::Q5_0
            | TensorType::Q5_1
            | TensorType::Q8_0
            | TensorType::Q8_1
            | TensorType::Q8K
            | TensorType::TQ1_0
            | TensorType::TQ2_0
            | TensorType::Q1_0
            | TensorType::Q2_0
    )
}

/// Encodes whole blocks of weights into `out`.
///
/// # Errors
/// When there is no encoder for the type, `weights` is not a whole number of blocks, or `out` is not exactly the bytes of
/// so many weights.
pub fn encode_row(ty: TensorType, weights: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    if !can_encode(ty) {
        return Err(EncodeError::Unsupported { ty });
    }
    check_row(ty, weights.len(), out.len())?;
    match ty {
        TensorType::F32 => each(weights, out, f32::to_le_bytes),
        TensorType::F16 => each(weights, out, |w| f16::from_f32(w).to_le_bytes()),
        TensorType::BF16 => each(weights, out, |w| to_bf16(w).to_le_bytes()),
        TensorType::Q4_0 => each_block(weights, out, encode_q4_0),
        TensorType::Q4_1 => each_block(weights, out, encode_q4_1),
        TensorType::Q5_0 => each_block(weights, out, encode_q5_0),
        TensorType::Q5_1 => each_block(weights, out, encode_q5_1),
        TensorType::Q8_0 => each_block(weights, out, encode_q8_0),
        TensorType::Q8_1 => each_block(weights, out, encode_q8_1),
        TensorType::Q8K => each_block(weights, out, encode_q8_k),
        TensorType::TQ1_0 => each_block(weights, out, encode_tq1_0),
        TensorType::TQ2_0 => each_block(weights, out, encode_tq2_0),
        TensorType::Q1_0 => each_block(weights, out, encode_q1_0),
        TensorType::Q2_0 => each_block(weights, out, encode_q2_0),
        _ => return Err(EncodeError::Unsupported { ty }),
    }
    Ok(())
}

fn each<const N: usize>(weights: &[f32], out: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
    for (weight, out) in weights.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = write(*weight);
    }
}

fn each_block<const BYTES: usize, const LEN: usize>(
    weights: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    let weights = weights.as_chunks::<LEN>().0;
    for (weights, out) in weights.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        encode(weights, out);
    }
}

fn f16_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// `1 / d`, and 0 for 0.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The largest magnitude.
fn amax(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |max, w| w.abs().max(max))
}

/// The first weight of the largest magnitude, with its sign.
fn extreme(weights: &[f32]) -> f32 {
    weights.iter().copied().reduce(|max, w| if w.abs() > max.abs() { w } else { max }).unwrap_or(0.0)
}

fn min_max(weights: &[f32]) -> (f32, f32) {
    weights.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &w| (w.min(min), w.max(max)))
}

/// Puts the low 4 bits of 32 quants into 16 bytes: the first half low, the second high.
fn pack_nibbles(quants: &[u8; 32], out: &mut [u8]) {
    let (low, high) = quants.split_at(16);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low & 0xf | high << 4;
    }
}

/// Bit 4 of each of 32 quants.
fn pack_bit4(quants: &[u8; 32]) -> [u8; 4] {
    let bits = quants.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4 & 1) << i);
    bits.to_le_bytes()
}

fn encode_q4_0(weights: &[f32; q4_0::BLOCK_LEN], out: &mut [u8; q4_0::BLOCK_BYTES]) {
    let d = extreme(weights) / -8.0;
    let id = inverse(d);
    out[q4_0::D].copy_from_slice(&f16_bytes(d));
    let quants = weights.map(|w| ((w * id + 8.5) as u8).min(15));
    pack_nibbles(&quants, &mut out[q4_0::QS]);
}

fn encode_q4_1(weights: &[f32; q4_1::BLOCK_LEN], out: &mut [u8; q4_1::BLOCK_BYTES]) {
    let (min, max) = min_max(weights);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    out[q4_1::D].copy_from_slice(&f16_bytes(d));
    out[q4_1::M].copy_from_slice(&f16_bytes(min));
    let quants = weights.map(|w| (((w - min) * id + 0.5) as u8).min(15));
    pack_nibbles(&quants, &mut out[q4_1::QS]);
}

fn encode_q5_0(weights: &[f32; q5_0::BLOCK_LEN], out: &mut [u8; q5_0::BLOCK_BYTES]) {
    let d = extreme(weights) / -16.0;
    let id = inverse(d);
    out[q5_0::D].copy_from_slice(&f16_bytes(d));
    let quants = weights.map(|w| ((w * id + 16.5) as u8).min(31));
    out[q5_0::QH].copy_from_slice(&pack_bit4(&quants));
    pack_nibbles(&quants, &mut out[q5_0::QS]);
}

fn encode_q5_1(weights: &[f32; q5_1::BLOCK_LEN], out: &mut [u8; q5_1::BLOCK_BYTES]) {
    let (min, max) = min_max(weights);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    out[q5_1::D].copy_from_slice(&f16_bytes(d));
    out[q5_1::M].copy_from_slice(&f16_bytes(min));
    let quants = weights.map(|w| (((w - min) * id + 0.5) as u8).min(31));
    out[q5_1::QH].copy_from_slice(&pack_bit4(&quants));
    pack_nibbles(&quants, &mut out[q5_1::QS]);
}

/// Scale and quants of 32 weights, symmetric in 8 bits; ties away from zero.
fn symmetric8(weights: &[f32; 32]) -> (f32, [i8; 32]) {
    let d = amax(weights) / 127.0;
    let id = inverse(d);
    (d, weights.map(|w| (w * id).round() as i8))
}

fn encode_q8_0(weights: &[f32; q8_0::BLOCK_LEN], out: &mut [u8; q8_0::BLOCK_BYTES]) {
    let (d, quants) = symmetric8(weights);
    out[q8_0::D].copy_from_slice(&f16_bytes(d));
    out[q8_0::QS].copy_from_slice(&quants.map(|q| q as u8));
}

fn encode_q8_1(weights: &[f32; q8_1::BLOCK_LEN], out: &mut [u8; q8_1::BLOCK_BYTES]) {
    let (d, quants) = symmetric8(weights);
    let sum: i32 = quants.iter().map(|&q| i32::from(q)).sum();
    out[q8_1::D].copy_from_slice(&f16_bytes(d));
    out[q8_1::S].copy_from_slice(&f16_bytes(sum as f32 * d));
    out[q8_1::QS].copy_from_slice(&quants.map(|q| q as u8));
}

/// The largest magnitude becomes -127, whatever its sign, and rounding is to even.
fn encode_q8_k(weights: &[f32; q8_k::BLOCK_LEN], out: &mut [u8; q8_k::BLOCK_BYTES]) {
    let max = extreme(weights);
    if max == 0.0 {
        out.fill(0);
        return;
    }
    let iscale = -127.0 / max;
    let quants = weights.map(|w| (iscale * w).round_ties_even().min(127.0) as i8);
    out[q8_k::D].copy_from_slice(&(1.0 / iscale).to_le_bytes());
    out[q8_k::QS].copy_from_slice(&quants.map(|q| q as u8));
    let sums = out[q8_k::BSUMS].as_chunks_mut::<2>().0;
    for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<16>().0) {
        *sum = quants.iter().map(|&q| i16::from(q)).sum::<i16>().to_le_bytes();
    }
}

/// Scale and ternary quants (0, 1 or 2) of 256 weights.
fn ternary(weights: &[f32; 256]) -> (f32, [u8; 256]) {
    let d = amax(weights);
    let id = inverse(d);
    // The clamp matters only where `d` is so small that its inverse overflows.
    (d, weights.map(|w| ((w * id).round().clamp(-1.0, 1.0) + 1.0) as u8))
}

/// Digits in base 3, the first most significant, as a fraction of 256 that is rounded up so that digits come out exact.
fn pack_trits(digits: impl Iterator<Item = u8>) -> u8 {
    const POWERS: [u16; 5] = [81, 27, 9, 3, 1];
    let value: u16 = digits.zip(POWERS).map(|(digit, power)| u16::from(digit) * power).sum();
    (value * 256).div_ceil(243) as u8
}

fn encode_tq1_0(weights: &[f32; tq1_0::BLOCK_LEN], out: &mut [u8; tq1_0::BLOCK_BYTES]) {
    let (d, quants) = ternary(weights);
    out[tq1_0::D].copy_from_slice(&f16_bytes(d));
    for (i, out) in out[tq1_0::QS].iter_mut().enumerate() {
        let (start, stride) = if i < 32 { (i, 32) } else { (160 + i - 32, 16) };
        *out = pack_trits((0..5).map(|n| quants[start + n * stride]));
    }
    for (i, out) in out[tq1_0::QH].iter_mut().enumerate() {
        *out = pack_trits((0..4).map(|n| quants[240 + i + n * 4]));
    }
}

fn encode_tq2_0(weights: &[f32; tq2_0::BLOCK_LEN], out: &mut [u8; tq2_0::BLOCK_BYTES]) {
    let (d, quants) = ternary(weights);
    out[tq2_0::D].copy_from_slice(&f16_bytes(d));
    for (i, out) in out[tq2_0::QS].iter_mut().enumerate() {
        let first = i / 32 * 128 + i % 32;
        *out = (0..4).fold(0, |byte, n| byte | quants[first + n * 32] << (2 * n));
    }
}

fn encode_q1_0(weights: &[f32; q1_0::BLOCK_LEN], out: &mut [u8; q1_0::BLOCK_BYTES]) {
    let sum: f32 = weights.iter().fold(0.0, |sum, w| sum + w.abs());
    out[q1_0::D].copy_from_slice(&f16_bytes(sum / q1_0::BLOCK_LEN as f32));
    for (out, weights) in out[q1_0::QS].iter_mut().zip(weights.as_chunks::<8>().0) {
        *out = (0..8).fold(0, |byte, i| byte | u8::from(weights[i] >= 0.0) << i);
    }
}

fn encode_q2_0(weights: &[f32; q2_0::BLOCK_LEN], out: &mut [u8; q2_0::BLOCK_BYTES]) {
    let d = amax(weights);
    let id = inverse(d);
    out[q2_0::D].copy_from_slice(&f16_bytes(d));
    for (out, weights) in out[q2_0::QS].iter_mut().zip(weights.as_chunks::<4>().0) {
        *out = (0..4).fold(0, |byte, i| {
            let q = ((weights[i] * id).round() + 1.0).clamp(0.0, 3.0) as u8;
            byte | q << (2 * i)
        });
    }
}
