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

#[cfg(target_arch = "x86_64")]
use super::avx512;
use rawrz_gguf::TensorType;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, __m512i};

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

    /// The same; quants are returned, in order, and may be missing in `out`.
    ///
    /// # Safety
    /// The block is readable, and the machine has AVX-512 (F, BW, DQ, VL).
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4]
    where
        Self: Sized,
    {
        // SAFETY: as the caller promises.
        unsafe { avx512::quarters_of::<Self>(block, out) }
    }
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

    /// The quants of two units.
    ///
    /// # Safety
    /// The units are readable, and the machine has AVX-512 (F, BW, DQ, VL).
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn pair_512(row: *const u8, units: [usize; 2]) -> __m512i
    where
        Self: Sized,
    {
        // SAFETY: as the caller promises.
        unsafe { avx512::pair_of::<Self>(row, units) }
    }

    /// The scales of two units of each row, those of the first in the lower half.
    ///
    /// # Safety
    /// As [`Format32::pair_512`].
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> __m512
    where
        Self: Sized,
    {
        // SAFETY: as the caller promises.
        unsafe { avx512::floats_of::<Self>(rows, units, |unit| unit.scale) }
    }

    /// The minimums of two units of each row.
    ///
    /// # Safety
    /// As [`Format32::pair_512`].
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn minimums_512(rows: &[*const u8; 8], units: [usize; 2]) -> __m512
    where
        Self: Sized,
    {
        // SAFETY: as the caller promises.
        unsafe { avx512::floats_of::<Self>(rows, units, |unit| unit.minimum) }
    }
}

/// Takes the format of a type.
pub(super) trait FormatVisitor {
    type Out;
    fn small<F: Format32>(self) -> Self::Out;
    fn large<F: Format256>(self) -> Self::Out;
}

/// Calls `visitor` with the format of `ty`; `None` for types without blocks.
pub(super) fn visit<V: FormatVisitor>(ty: TensorType, visitor: V) -> Option<V::Out> {
    Some(match ty {
        TensorType::Q4_0 => visitor.small::<Q4_0>(),
        TensorType::Q4_1 => visitor.small::<Q4_1>(),
        TensorType::Q5_0 => visitor.small::<Q5_0>(),
        TensorType::Q5_1 => visitor.small::<Q5_1>(),
        TensorType::Q8_0 => visitor.small::<Q8_0>(),
        TensorType::Q4K => visitor.large::<Q4K>(),
        TensorType::Q5K => visitor.large::<Q5K>(),
        TensorType::Q6K => visitor.large::<Q6K>(),
        _ => return None,
    })
}

/// The f16 at `offset`, widened without a branch that could be mispredicted: kernels call this per block.
#[inline(always)]
fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    /// 2^112: from the exponent bias of f16 in the field of f32 to that of f32.
    const REBIAS: f32 = 5_192_296_858_534_827_628_530_496_329_220_096.0;
    let bits = u32::from(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]));
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * REBIAS;
    // Infinity and NaN have the largest exponent, which rebiasing left at that of 2^16.
    let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::f16_at;
    use half::f16;

    #[test]
    fn every_f16_widens_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (got, exact) = (f16_at(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == exact.to_bits() || got.is_nan() && exact.is_nan(), "{bits:#x}");
        }
    }
}
