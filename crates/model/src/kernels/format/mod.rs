//! What the bytes of each block type mean, as integers: one form that all kernels share.
//!
//! A type whose weights come in super-blocks of 256 implements [`Format256`], one whose scales are floats of 32
//! weights (or 16) implements [`Format32`]. Everything else about a type follows from that: the oracle in
//! `dot/scalar.rs`, the kernels of every instruction set that have no code of their own for it, and the tiles
//! of many-row products. Layouts and constants are those of `rawrz_gguf::quant`.
//!
//! Implementations are portable, `#[inline(always)]` and written as plain loops over arrays, because they are
//! compiled once inside each kernel with its instruction set.

mod grid;
mod k_quants;
mod small;
mod ternary;

pub(super) use grid::*;
pub(super) use k_quants::*;
pub(super) use small::*;
pub(super) use ternary::*;

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
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "unsigned products alone need it"))]
    const MAX_QUANT: u8;
    /// Weights that share a scale: 16 or 32, or 256 where there are no scales of groups and all are 1.
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
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "unsigned products alone need it"))]
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

    /// The scales of two units of each row, those of the first in the lower half, and their minimums.
    ///
    /// # Safety
    /// As [`Format32::pair_512`].
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2]
    where
        Self: Sized,
    {
        // SAFETY: as the caller promises.
        unsafe { avx512::floats_of::<Self>(rows, units) }
    }
}

/// Code that is generic over formats, to be instantiated for one of them by [`visit`].
pub(super) trait FormatVisitor {
    type Out;
    fn small<F: Format32>(self) -> Self::Out;
    fn large<F: Format256>(self) -> Self::Out;
}

/// Calls `visitor` with the format of `ty`; `None` for types without blocks. The one list of all formats.
pub(super) fn visit<V: FormatVisitor>(ty: TensorType, visitor: V) -> Option<V::Out> {
    macro_rules! formats {
        (small: $($small:ident)*; large: $($large:ident)*;) => {
            match ty {
                $(TensorType::$small => Some(visitor.small::<$small>()),)*
                $(TensorType::$large => Some(visitor.large::<$large>()),)*
                _ => None,
            }
        };
    }
    formats! {
        small: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 IQ4NL MXFP4 NVFP4 Q1_0 Q2_0;
        large: Q2K Q3K Q4K Q5K Q6K Q8K IQ4XS IQ2XXS IQ2XS IQ2S IQ3XXS IQ3S IQ1S IQ1M TQ1_0 TQ2_0;
    }
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
    use super::*;
    use half::f16;

    /// Checks what the formats promise, on one block of any bytes.
    struct Promises<'a>(&'a [u8]);

    impl FormatVisitor for Promises<'_> {
        type Out = ();

        fn small<F: Format32>(self) {
            assert!(F::OFFSET == 128 || F::MAX_QUANT <= 127);
            for unit in 0..F::TYPE.block_len() / 32 * F::PARTS {
                let small = F::unpack(self.0, unit);
                assert!(small.quants.iter().all(|q| *q <= F::MAX_QUANT), "{:?}", F::TYPE);
                assert!(F::HAS_MINIMUM || small.minimum == 0.0);
                let len = 32 / F::PARTS;
                let part = len * (unit % F::PARTS)..len * (unit % F::PARTS + 1);
                let others = small.quants.iter().enumerate().filter(|(i, _)| !part.contains(i));
                assert!(others.into_iter().all(|(_, q)| *q == F::OFFSET), "{:?}", F::TYPE);
            }
        }

        fn large<F: Format256>(self) {
            assert!(F::OFFSET == 128 || F::MAX_QUANT <= 127);
            assert!([16, 32, 256].contains(&F::GROUP));
            let mut block = Super::EMPTY;
            F::unpack(self.0, &mut block);
            let mut largest_sum = 0;
            for (i, q) in block.quants.iter().enumerate() {
                assert!(*q <= F::MAX_QUANT, "{:?}", F::TYPE);
                let weight = i32::from(block.scales[i / 16]) * (i32::from(*q) - i32::from(F::OFFSET));
                assert!(i16::try_from(weight).is_ok(), "{:?}", F::TYPE);
                largest_sum += i64::from(weight).abs() * 127;
            }
            assert!(i32::try_from(largest_sum).is_ok());
            let per_group = F::GROUP / 16;
            for values in [block.scales, block.minimums] {
                assert!(values.chunks(per_group).all(|group| group.iter().all(|v| *v == group[0])));
            }
            assert!(F::GROUP < 256 || block.scales[0] == 1);
        }
    }

    #[test]
    fn every_type_with_blocks_keeps_its_promises() {
        let mut state = 9u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        for ty in TensorType::ALL.iter().copied() {
            let mut found = false;
            for round in 0..300 {
                let block: Vec<u8> = (0..ty.block_bytes())
                    .map(|_| {
                        if round % 2 == 0 {
                            next()
                        } else {
                            [0x00, 0xFF, 0x80, 0x7F][usize::from(next() & 3)]
                        }
                    })
                    .collect();
                found = visit(ty, Promises(&block)).is_some();
            }
            assert_eq!(found, ty.block_len() > 1, "{ty:?}");
        }
    }

    #[test]
    fn every_f16_widens_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (got, exact) = (f16_at(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == exact.to_bits() || got.is_nan() && exact.is_nan(), "{bits:#x}");
        }
    }
}
