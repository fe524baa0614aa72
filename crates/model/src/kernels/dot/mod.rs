//! Integer dots: a tile of weight rows against one row of quantized activations.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use super::activations::{ActivationKind, Row32, Row256};
use super::isa::Isa;
use rawrz_gguf::TensorType;

/// Weight rows that one call handles: with one row in each lane of a vector, all of them share one fused
/// multiply-add a block, and several streams of memory hide its latency.
pub(super) const TILE_ROWS: usize = 8;

/// Activation rows that the wide form of a kernel handles: each block of weights is unpacked once for all.
pub(super) const WIDE: usize = 4;

/// The first blocks of the rows of a tile; a tile with fewer rows repeats its last one.
pub(super) type TileRows = [*const u8; TILE_ROWS];

/// Results of a tile: `[activation row][weight row]`.
pub(super) type TileOut<const N: usize> = [[f32; TILE_ROWS]; N];

/// A kernel for blocks of 32 and `N` rows of activations.
///
/// # Safety
/// Every pointer is good for as many blocks as the activations have, all rows of activations have the same
/// number, and the machine has the kernel's instruction set.
pub(super) type Dot32<const N: usize> = unsafe fn(&TileRows, [Row32<'_>; N], &mut TileOut<N>);

/// A kernel for super-blocks of 256. Safety as for [`Dot32`].
pub(super) type Dot256<const N: usize> = unsafe fn(&TileRows, [Row256<'_>; N], &mut TileOut<N>);

/// The integer kernels of a weight type: for one row of activations, for two, and for [`WIDE`] rows.
#[derive(Clone, Copy)]
pub(super) enum Dot {
    Block32(Dot32<1>, Dot32<2>, Dot32<WIDE>),
    Block256(Dot256<1>, Dot256<2>, Dot256<WIDE>),
}

/// The kernel of `ty` on `isa`; `None` for float types and for types that are decoded to floats.
pub(super) fn dot_of(ty: TensorType, isa: Isa) -> Option<Dot> {
    let scalar = scalar::dot_of(ty)?;
    let fast = match isa {
        Isa::Scalar => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::dot_of(ty),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => avx2::vnni_dot_of(ty),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => avx512::dot_of(ty, isa),
        #[cfg(target_arch = "aarch64")]
        _ => neon::dot_of(ty),
    };
    Some(fast.unwrap_or(scalar))
}

impl Dot {
    pub(super) fn activation_kind(self) -> ActivationKind {
        match self {
            Dot::Block32(..) => ActivationKind::Block32,
            Dot::Block256(..) => ActivationKind::Block256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::activations::Activations;
    use super::super::{Ops, Pool};
    use super::*;
    use half::f16;

    /// Every type that comes in blocks.
    fn types() -> impl Iterator<Item = TensorType> {
        TensorType::ALL.iter().copied().filter(|ty| ty.block_len() > 1)
    }

    /// Gives a block finite scales of moderate size, which are what `next` makes.
    fn set_scales(ty: TensorType, block: &mut [u8], mut next: impl FnMut() -> u32) {
        use rawrz_gguf::quant::layout::*;
        let mut scale = || (next() % 2000) as f32 / 1000.0 - 1.0;
        let fields = match ty {
            TensorType::Q4_1 => vec![q4_1::D, q4_1::M],
            TensorType::Q5_1 => vec![q5_1::D, q5_1::M],
            TensorType::Q2K => vec![q2_k::D, q2_k::DMIN],
            TensorType::Q3K => vec![q3_k::D],
            TensorType::Q4K => vec![q4_k::D, q4_k::DMIN],
            TensorType::Q5K => vec![q5_k::D, q5_k::DMIN],
            TensorType::Q6K => vec![q6_k::D],
            TensorType::TQ1_0 => vec![tq1_0::D],
            TensorType::TQ2_0 => vec![tq2_0::D],
            TensorType::Q8K => {
                block[q8_k::D].copy_from_slice(&scale().to_le_bytes());
                return;
            }
            // The nibbles of an f16 are on top of four words.
            TensorType::IQ1M => {
                let bits = f16::from_f32(scale()).to_bits();
                for (i, word) in block[iq1_m::SCALES].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    word[1] = word[1] & 15 | ((bits >> (4 * i) & 15) << 4) as u8;
                }
                return;
            }
            // Powers of two, 2^-12 to 2^3.
            TensorType::MXFP4 => {
                block[mxfp4::E.start] = 116 + (next() % 16) as u8;
                return;
            }
            // Any byte is a finite scale. The rest has its scale where Q4_0 has it.
            TensorType::NVFP4 => return,
            _ => vec![q4_0::D],
        };
        for field in fields {
            block[field].copy_from_slice(&f16::from_f32(scale()).to_le_bytes());
        }
    }

    /// Rows of random blocks with scales of moderate size.
    fn weights(ty: TensorType, n_blocks: usize, seed: u64, extreme: bool) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let size = ty.block_bytes();
        let mut bytes: Vec<u8> = (0..n_blocks * size)
            .map(|_| if extreme { [0x00, 0xFF, 0x80, 0x7F][next() as usize % 4] } else { next() as u8 })
            .collect();
        for block in bytes.chunks_mut(size) {
            set_scales(ty, block, &mut next);
        }
        bytes
    }

    /// Runs all forms, checks that they agree, and returns `[activation row][weight row]`.
    fn run(dot: Dot, weights: &[u8], row_bytes: usize, acts: &Activations) -> TileOut<WIDE> {
        let rows = std::array::from_fn(|r| weights[r * row_bytes..][..row_bytes].as_ptr());
        let mut wide = [[0.0; TILE_ROWS]; WIDE];
        let mut single = [[[0.0; TILE_ROWS]; 1]; WIDE];
        let mut double = [[[0.0; TILE_ROWS]; 2]; WIDE / 2];
        // SAFETY: the rows hold as many blocks as the activations.
        unsafe {
            match dot {
                Dot::Block32(one, two, many) => {
                    let of = |t| acts.row_32(t);
                    many(&rows, std::array::from_fn(of), &mut wide);
                    (0..WIDE).for_each(|t| one(&rows, [of(t)], &mut single[t]));
                    (0..WIDE / 2).for_each(|i| two(&rows, [of(2 * i), of(2 * i + 1)], &mut double[i]));
                }
                Dot::Block256(one, two, many) => {
                    let of = |t| acts.row_256(t);
                    many(&rows, std::array::from_fn(of), &mut wide);
                    (0..WIDE).for_each(|t| one(&rows, [of(t)], &mut single[t]));
                    (0..WIDE / 2).for_each(|i| two(&rows, [of(2 * i), of(2 * i + 1)], &mut double[i]));
                }
            }
        }
        let bits = |rows: &[[f32; TILE_ROWS]]| rows.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&wide), bits(single.as_flattened()));
        assert_eq!(bits(&wide), bits(double.as_flattened()));
        wide
    }

    fn activations(k: usize, kind: ActivationKind, extreme: bool) -> Activations {
        let x: Vec<f32> = (0..k * WIDE)
            .map(|i| if extreme { if i % 3 == 0 { -1.0 } else { 1.0 } } else { (i as f32 * 0.7).sin() })
            .collect();
        let mut acts = Activations::default();
        acts.load(&x, WIDE, &Pool::new(1));
        acts.prepare(kind, &Ops::new(Isa::Scalar), &Pool::new(1));
        acts
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_scalar_dot() {
        for ty in types() {
            let expected = scalar::dot_of(ty).unwrap();
            for isa in Isa::available() {
                let dot = dot_of(ty, isa).unwrap();
                for n_blocks in [1, 2, 3, 5, 8, 16, 39] {
                    for extreme in [false, true] {
                        let k = n_blocks * ty.block_len();
                        let acts = activations(k, dot.activation_kind(), extreme);
                        let w = weights(ty, n_blocks * TILE_ROWS, 77 + n_blocks as u64, extreme);
                        let row_bytes = n_blocks * ty.block_bytes();
                        let got = run(dot, &w, row_bytes, &acts).map(|t| t.map(f32::to_bits));
                        let want = run(expected, &w, row_bytes, &acts).map(|t| t.map(f32::to_bits));
                        assert_eq!(got, want, "{ty:?} on {isa}, {n_blocks} blocks, extreme {extreme}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_scalar_dot_agrees_with_the_decoder() {
        for ty in types() {
            let dot = scalar::dot_of(ty).unwrap();
            let n_blocks = 4;
            let k = n_blocks * ty.block_len();
            let acts = activations(k, dot.activation_kind(), false);
            let w = weights(ty, n_blocks * TILE_ROWS, 5, false);
            let row_bytes = n_blocks * ty.block_bytes();
            let got = run(dot, &w, row_bytes, &acts)[0];
            for r in 0..TILE_ROWS {
                let mut decoded = vec![0.0; k];
                rawrz_gguf::decode_row(ty, &w[r * row_bytes..][..row_bytes], &mut decoded).unwrap();
                // Against the quantized activations, so that only the order of float sums differs.
                let quantized: Vec<f64> = match dot {
                    Dot::Block32(..) => {
                        let row = acts.row_32(0);
                        (0..k).map(|i| f64::from(row.quants[i]) * f64::from(row.scales[i / 32])).collect()
                    }
                    Dot::Block256(..) => {
                        let row = acts.row_256(0);
                        (0..k).map(|i| f64::from(row.quants[i]) * f64::from(row.scales[i / 256])).collect()
                    }
                };
                let exact: f64 = decoded.iter().zip(&quantized).map(|(w, a)| f64::from(*w) * a).sum();
                let size: f64 = decoded.iter().zip(&quantized).map(|(w, a)| (f64::from(*w) * a).abs()).sum();
                // The minimum term of blocks of 32 uses a sum that is rounded to f16.
                let error = (f64::from(got[r]) - exact).abs() / size;
                assert!(error < 5e-4, "{ty:?} row {r}: {} {exact}", got[r]);
            }
        }
    }
}
