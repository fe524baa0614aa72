//! What the bytes of each block type mean, as integers: one form that all kernels share.
//!
//! A type whose weights come in super-blocks of 256 implements [`Format256`], one whose scales are floats of 32
//! weights (or 16) implements [`Format32`]. Everything else about a type follows from that: the oracle in
//! `dot/scalar.rs`, the kernels of every instruction set that have no code of their own for it, and the tiles
//! of many-row products. Layouts and constants are those of `rawrz_gguf::quant`.
//!
//! Implementations are portable, `#[inline(always)]` and written as plain loops over arrays, because they are
//! compiled once inside each kernel with its instruction set.

mod k_quants;
mod small;

pub(super) use k_quants::*;
pub(super) use small::*;

use half::f16;
use rawrz_gguf::TensorType;

/// One super-block of 256: weight i is
/// `scale * scales[i / 16] * (quants[i] - OFFSET) - minimum_scale * minimums[i / 16]`.
pub(super) struct Super {
    /// Unsigned quants, `OFFSET` too large.
    pub(super) quants: [u8; 256],
    /// One for each 16 weights, whatever the type's own group is.
    pub(super) scales: [i16; 16],
    /// One for each 16 weights; not looked at where `HAS_MINIMUMS` is false.
    pub(super) minimums: [i16; 16],
    pub(super) scale: f32,
    pub(super) minimum_scale: f32,
}

impl Super {
    pub(super) const EMPTY: Super =
        Super { quants: [0; 256], scales: [0; 16], minimums: [0; 16], scale: 0.0, minimum_scale: 0.0 };
}

/// A type of super-blocks of 256 weights whose sub-block scales are integers.
///
/// `scales[g] * (quants[i] - OFFSET)` fits 16 bits, and the sum over a block of it times activations 32 bits.
pub(super) trait Format256: 'static {
    const TYPE: TensorType;
    /// What quants are too large by.
    const OFFSET: u8;
    /// The largest quant, offset included.
    const MAX_QUANT: u8;
    /// Weights that share a scale: 16, 32 or 256.
    const GROUP: usize;
    const HAS_MINIMUMS: bool;
    /// Reads the one block that `block` is.
    fn unpack(block: &[u8], out: &mut Super);
}

/// 32 weights with a float scale: weight i is `scale * (quants[i] - OFFSET) + minimum`.
pub(super) struct Small {
    /// Unsigned quants, `OFFSET` too large.
    pub(super) quants: [u8; 32],
    pub(super) scale: f32,
    /// 0 where `HAS_MINIMUM` is false.
    pub(super) minimum: f32,
}

/// A type whose scales are floats of 32 weights, or of a part of 32.
pub(super) trait Format32: 'static {
    const TYPE: TensorType;
    /// What quants are too large by.
    const OFFSET: u8;
    /// The largest quant, offset included.
    const MAX_QUANT: u8;
    const HAS_MINIMUM: bool;
    /// Scales in each 32 weights. Part p of 32 weights is a unit of its own, in which the quants of the other
    /// parts are `OFFSET`, so that they add nothing.
    const PARTS: usize = 1;
    /// Reads unit `unit` of a row: part `unit % PARTS` of weights `32 * (unit / PARTS)` and on.
    fn unpack(row: &[u8], unit: usize) -> Small;
}

/// The f16 at `offset`.
#[inline(always)]
fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([bytes[offset], bytes[offset + 1]]).to_f32_const()
}
