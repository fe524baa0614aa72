//! Quantization: block layouts, constant tables, and a scalar codec that every kernel is tested against.
//!
//! The decoders give the same bits as `gguf.quants.dequantize` (PyPI gguf 0.19.0) for the 24 quantized types it covers.
//! Q1_0, Q2_0, Q8_1 and Q8_K follow llama.cpp b11434, since the package has no decoder for them.
//! All arithmetic is f32 with one rounding per operation, in the order that the layout's formula shows.

mod block;
mod decode_blocks;
mod decode_grid;
mod decode_k;
mod encode;
mod grid_data;
pub mod layout;
pub mod tables;

use half::{bf16, f16};

use crate::TensorType;
use block::each_block;
pub use decode_blocks::{e8m0_half, ue4m3_half};
pub use decode_k::{q3_k_scale, scale_min_k4, trit};
pub use encode::{EncodeError, can_encode, encode_row};

/// Why a row could not be decoded. The caller's buffers do not fit the type; no bit pattern of a block is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The output is not a whole number of blocks.
    #[error("a row of {row_len} weights is not a whole number of {ty} blocks of {}", ty.block_len())]
    RowNotWholeBlocks {
        /// The type.
        ty: TensorType,
        /// Length of the output.
        row_len: usize,
    },
    /// The input is longer or shorter than the output needs.
    #[error("{row_len} weights of type {ty} take {expected_bytes} bytes, {found_bytes} were given")]
    WrongLength {
        /// The type.
        ty: TensorType,
        /// Length of the output.
        row_len: usize,
        /// Bytes of so many weights.
        expected_bytes: usize,
        /// Bytes given.
        found_bytes: usize,
    },
}

/// Bytes of `row_len` weights, checked against what is there.
fn check_row(ty: TensorType, row_len: usize, found_bytes: usize) -> Result<(), DecodeError> {
    let expected_bytes = ty.row_bytes(row_len).ok_or(DecodeError::RowNotWholeBlocks { ty, row_len })?;
    if expected_bytes != found_bytes {
        return Err(DecodeError::WrongLength { ty, row_len, expected_bytes, found_bytes });
    }
    Ok(())
}

/// Decodes whole blocks into `out`, one f32 per weight. Integers and F64 are rounded to nearest.
///
/// # Errors
/// When `out` is not a whole number of blocks, or `blocks` is not exactly the bytes of `out.len()` weights.
pub fn decode_row(ty: TensorType, blocks: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    check_row(ty, out.len(), blocks.len())?;
    match ty {
        TensorType::F32 => each(blocks, out, f32::from_le_bytes),
        TensorType::F16 => each(blocks, out, |raw| f16::from_le_bytes(raw).to_f32()),
        // Shifted by hand: `half` would quiet a signalling NaN.
        TensorType::BF16 => each(blocks, out, |raw| f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16)),
        TensorType::F64 => each(blocks, out, |raw| f64::from_le_bytes(raw) as f32),
        TensorType::I8 => each(blocks, out, |raw| i8::from_le_bytes(raw) as f32),
        TensorType::I16 => each(blocks, out, |raw| i16::from_le_bytes(raw) as f32),
        TensorType::I32 => each(blocks, out, |raw| i32::from_le_bytes(raw) as f32),
        TensorType::I64 => each(blocks, out, |raw| i64::from_le_bytes(raw) as f32),
        TensorType::Q4_0 => each_block(blocks, out, decode_blocks::q4_0),
        TensorType::Q4_1 => each_block(blocks, out, decode_blocks::q4_1),
        TensorType::Q5_0 => each_block(blocks, out, decode_blocks::q5_0),
        TensorType::Q5_1 => each_block(blocks, out, decode_blocks::q5_1),
        TensorType::Q8_0 => each_block(blocks, out, decode_blocks::q8_0),
        TensorType::Q8_1 => each_block(blocks, out, decode_blocks::q8_1),
        TensorType::IQ4NL => each_block(blocks, out, decode_blocks::iq4_nl),
        TensorType::MXFP4 => each_block(blocks, out, decode_blocks::mxfp4),
        TensorType::NVFP4 => each_block(blocks, out, decode_blocks::nvfp4),
        TensorType::Q1_0 => each_block(blocks, out, decode_blocks::q1_0),
        TensorType::Q2_0 => each_block(blocks, out, decode_blocks::q2_0),
        TensorType::TQ1_0 => each_block(blocks, out, decode_k::tq1_0),
        TensorType::TQ2_0 => each_block(blocks, out, decode_k::tq2_0),
        TensorType::Q2K => each_block(blocks, out, decode_k::q2_k),
        TensorType::Q3K => each_block(blocks, out, decode_k::q3_k),
        TensorType::Q4K => each_block(blocks, out, decode_k::q4_k),
        TensorType::Q5K => each_block(blocks, out, decode_k::q5_k),
        TensorType::Q6K => each_block(blocks, out, decode_k::q6_k),
        TensorType::Q8K => each_block(blocks, out, decode_k::q8_k),
        TensorType::IQ4XS => each_block(blocks, out, decode_k::iq4_xs),
        TensorType::IQ2XXS => each_block(blocks, out, decode_grid::iq2_xxs),
        TensorType::IQ2XS => each_block(blocks, out, decode_grid::iq2_xs),
        TensorType::IQ2S => each_block(blocks, out, decode_grid::iq2_s),
        TensorType::IQ3XXS => each_block(blocks, out, decode_grid::iq3_xxs),
        TensorType::IQ3S => each_block(blocks, out, decode_grid::iq3_s),
        TensorType::IQ1S => each_block(blocks, out, decode_grid::iq1_s),
        TensorType::IQ1M => each_block(blocks, out, decode_grid::iq1_m),
    }
    Ok(())
}

/// Plain types: each `N` bytes are a weight.
fn each<const N: usize>(raw: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (raw, out) in raw.as_chunks::<N>().0.iter().zip(out) {
        *out = read(*raw);
    }
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
fn to_bf16(weight: f32) -> u16 {
    bf16::from_f32(weight).to_bits()
}
