//! Kernels from outside, for benchmarks and for the count of instructions: not part of the crate's interface.

use super::activations::{ActivationKind, Activations};
use super::float::Ops;
use super::isa::Isa;
use super::matmul::{self, Precision, WeightRows, activation_kind};
use super::pool::{DisjointRows, Pool};
use super::read::ReadAll;
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::layout;
use std::ops::Range;
use std::time::{Duration, Instant};

pub use super::peak::{Element, peak_ops_per_s};

/// Types with kernels of their own: all with integer kernels, then floats.
pub fn types() -> Vec<TensorType> {
    let floats = [TensorType::F32, TensorType::F16, TensorType::BF16];
    let integer = TensorType::ALL.iter().copied().filter(|ty| element(*ty) == Element::Integer);
    integer.chain(floats).collect()
}

/// What products with weights of type `ty` multiply.
pub fn element(ty: TensorType) -> Element {
    match activation_kind(ty, &Ops::new(Isa::Scalar), Precision::Quantized) {
        ActivationKind::Float => Element::Float,
        ActivationKind::Block32 | ActivationKind::Block256 => Element::Integer,
    }
}

/// A product of random weights with random activations, ready to run again and again.
pub struct Product {
    ty: TensorType,
    k: usize,
    n_rows: usize,
    weights: Vec<u8>,
    acts: Activations,
    out: Vec<f32>,
    ops: Ops,
    pool: Pool,
}

impl Product {
    /// `n_rows` rows of `k` weights of type `ty`, and `n_acts` rows of activations in the form that they ask for.
    ///
    /// # Panics
    /// When a row is not a number of whole blocks, or there is nothing to do.
    pub fn new(ty: TensorType, k: usize, n_rows: usize, n_acts: usize, isa: Isa, threads: usize) -> Product {
        assert!(k > 0 && n_rows > 0 && n_acts > 0 && k.is_multiple_of(ty.block_len()));
        let (ops, pool) = (Ops::new(isa), Pool::new(threads));
        let mut random = Random(1);
        let weights = blocks(ty, k / ty.block_len() * n_rows, &mut random);
        let x: Vec<f32> = (0..k * n_acts).map(|_| random.float()).collect();
        let mut acts = Activations::new(Precision::Quantized);
        acts.load(&x, n_acts, &pool);
        acts.prepare(activation_kind(ty, &ops, Precision::Quantized), &ops, &pool);
        Product { ty, k, n_rows, weights, acts, out: vec![0.0; n_acts * n_rows], ops, pool }
    }

    /// Computes the product: `[activation row][weight row]`.
    pub fn run(&mut self) -> &[f32] {
        let row_bytes = self.weights.len() / self.n_rows;
        let rows = WeightRows { ty: self.ty, bytes: &self.weights, row_bytes };
        let out = DisjointRows::new(&mut self.out, self.n_rows);
        let product = matmul::Product { rows, acts: &self.acts, out: &out, column: 0 };
        matmul::matmul(&[product], &self.ops, &self.pool);
        &self.out
    }

    /// Bytes of weights that a run reads.
    pub fn bytes(&self) -> u64 {
        self.weights.len() as u64
    }

    /// Weights of the matrix.
    pub fn weights(&self) -> u64 {
        (self.k * self.n_rows) as u64
    }

    /// Operations of a run: two for each multiply-add.
    pub fn ops(&self) -> u64 {
        2 * self.weights() * self.acts.n_rows() as u64
    }

    /// The shortest time of one thread to read the weights without computing.
    pub fn read_time(&self) -> Duration {
        /// Each takes well below a millisecond; the first ones bring the weights into cache.
        const TRIES: usize = 32;
        let ways = ReadAll::ways(self.ops.isa());
        let tries = (0..TRIES * ways.len()).map(|i| {
            let started = Instant::now();
            ways[i % ways.len()].read(&self.weights);
            started.elapsed()
        });
        tries.min().unwrap_or(Duration::MAX)
    }
}

/// A linear congruential generator (Knuth's MMIX constants): the same weights in every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 31) as f32 - 1.0
    }
}

/// `n_blocks` blocks of random bits, with scales of moderate size where a block has scales.
fn blocks(ty: TensorType, n_blocks: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..n_blocks * ty.block_bytes()).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        set_scales(ty, block, random);
    }
    bytes
}

fn set_scales(ty: TensorType, block: &mut [u8], random: &mut Random) {
    use TensorType as T;
    let f16s: &[Range<usize>] = match ty {
        T::Q4_0 => &[layout::q4_0::D],
        T::Q4_1 => &[layout::q4_1::D, layout::q4_1::M],
        T::Q5_0 => &[layout::q5_0::D],
        T::Q5_1 => &[layout::q5_1::D, layout::q5_1::M],
        T::Q8_0 => &[layout::q8_0::D],
        T::Q8_1 => &[layout::q8_1::D, layout::q8_1::S],
        T::Q2K => &[layout::q2_k::D, layout::q2_k::DMIN],
        T::Q3K => &[layout::q3_k::D],
        T::Q4K => &[layout::q4_k::D, layout::q4_k::DMIN],
        T::Q5K => &[layout::q5_k::D, layout::q5_k::DMIN],
        T::Q6K => &[layout::q6_k::D],
        T::IQ2XXS => &[layout::iq2_xxs::D],
        T::IQ2XS => &[layout::iq2_xs::D],
        T::IQ2S => &[layout::iq2_s::D],
        T::IQ3XXS => &[layout::iq3_xxs::D],
        T::IQ3S => &[layout::iq3_s::D],
        T::IQ1S => &[layout::iq1_s::D],
        T::IQ4NL => &[layout::iq4_nl::D],
        T::IQ4XS => &[layout::iq4_xs::D],
        T::TQ1_0 => &[layout::tq1_0::D],
        T::TQ2_0 => &[layout::tq2_0::D],
        T::Q1_0 => &[layout::q1_0::D],
        T::Q2_0 => &[layout::q2_0::D],
        _ => &[],
    };
    for range in f16s {
        block[range.clone()].copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes());
    }
    match ty {
        T::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
        T::F16 => block.copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes()),
        T::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
        T::Q8K => block[layout::q8_k::D].copy_from_slice(&random.float().to_le_bytes()),
        // The exponent of its f16 stands in the top bits of the last byte: 2^-7 to 2^-3.
        T::IQ1M => block[layout::iq1_m::SCALES.end - 1] = block[layout::iq1_m::SCALES.end - 1] & 0x0F | 0x20,
        // 2^-8 to 2^-1.
        T::MXFP4 => block[layout::mxfp4::E.start] = 120 + (random.bits() % 8) as u8,
        // Below 2.
        T::NVFP4 => block[layout::nvfp4::D].iter_mut().for_each(|scale| *scale &= 0x3F),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_of_every_type_are_finite_and_moderate() {
        // Numbers as such are weights in no model.
        let numbers = [TensorType::I8, TensorType::I16, TensorType::I32, TensorType::I64, TensorType::F64];
        assert!(types().iter().all(|ty| !numbers.contains(ty)));
        for ty in TensorType::ALL.iter().filter(|ty| !numbers.contains(ty)) {
            let n_blocks = 64;
            let bytes = blocks(*ty, n_blocks, &mut Random(3));
            let mut decoded = vec![0.0; n_blocks * ty.block_len()];
            rawrz_gguf::decode_row(*ty, &bytes, &mut decoded).unwrap();
            // Q6_K has the widest range: 6-bit quants times 8-bit scales.
            assert!(decoded.iter().all(|w| w.abs() <= 32.0 * 128.0), "{ty:?}");
            assert!(decoded.iter().any(|w| *w != 0.0), "{ty:?}");
        }
    }

    #[test]
    fn a_product_is_the_product_of_its_weights() {
        for ty in types() {
            let (k, n_rows, n_acts) = (512, 3, 2);
            let mut product = Product::new(ty, k, n_rows, n_acts, Isa::detect(), 1);
            assert_eq!(product.ops(), 2 * 512 * 3 * 2);
            assert_eq!(product.bytes() as usize, k / ty.block_len() * ty.block_bytes() * n_rows);
            let mut weights = vec![0.0; k * n_rows];
            rawrz_gguf::decode_row(ty, &product.weights, &mut weights).unwrap();
            let got = product.run().to_vec();
            for (t, got) in got.chunks(n_rows).enumerate() {
                for (w, got) in weights.chunks(k).zip(got) {
                    let terms = || w.iter().zip(product.acts.row(t)).map(|(w, x)| w * x);
                    let (sum, size): (f32, f32) = (terms().sum(), terms().map(f32::abs).sum());
                    // Activations of integer products are rounded to 8 bits.
                    assert!((got - sum).abs() <= 0.02 * size, "{ty:?}: {got} {sum}");
                }
            }
        }
    }
}
