//! Kernels: what touches every weight. They read raw GGUF blocks as they lie in the file.
//!
//! # One definition, many instruction sets
//! An output of a quantized matmul is defined, whatever computes it, as
//!
//! ```text
//! acc = 0
//! for each block b of the row, in order:
//!     acc = fma(d_w[b] * d_a[b], int_dot[b], acc)         int_dot: exact integer, sub-block scales included
//!     acc = fma(m_w[b] ..., ..., acc)                     minimum term, for types that have one
//! ```
//!
//! and a sum over floats as 16 interleaved lanes (element k goes to lane k mod 16, with fused multiply-add)
//! followed by a fixed pairwise tree. Integer sums may be formed in any order, so each instruction set is free
//! inside a block, and one-row and many-row paths, any number of threads and every instruction set agree to
//! the bit. `float.rs` and `attention/` hold float code once, over the sixteen floats of `vector.rs`, compiled once
//! for each instruction set; `format/` says what the bytes of each block type mean, `dot/` holds the integer dots of up to
//! four rows of activations, `dot/scalar.rs` being the oracle of all others, and `tile/` the products of many rows.

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod bench;
mod dot;
mod float;
mod format;
mod isa;
mod matmul;
mod peak;
mod pool;
mod read;
mod tile;
mod vector;

pub(crate) use activations::Activations;
pub use attention::KvType;
pub(crate) use attention::{
    Attention, AttentionScratch, BLOCK as ATTENTION_BLOCK, Blocks, KvLayout, SEGMENT_BLOCKS, attend_all,
};
pub(crate) use float::Ops;
pub use isa::Isa;
pub use matmul::Precision;
pub(crate) use matmul::{Product, WeightRows, activation_kind, matmul, thread_scratch_bytes, to_floats};
pub(crate) use pool::{DisjointRows, Pool};
pub(crate) use read::ReadAll;
