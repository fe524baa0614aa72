//! Weights, KV cache, kernels and the forward pass of each architecture.
//!
//! [`Model::bind`] looks every tensor of a GGUF up once and checks its shape; [`Model::forward`] runs
//! tokens of one timeline or several through the layers, reading weights through a [`Source`](rawrz_residency::Source).
//!
//! # Invariants
//! - The logits of a position are the same bits for every batch width, number of threads and instruction set
//!   (see `kernels`).
//! - Weights are reached through leases only, and a pass whose leases failed is an error.
//! - Tensors, types, architectures and features that are not known are refused by name.
#![deny(unsafe_code)]

mod arch;
mod blocks;
mod config;
mod error;
#[allow(unsafe_code)]
mod kernels;
mod kv_cache;
mod model;
mod rope;
mod sweep;
mod weights;

#[doc(hidden)]
pub use kernels::bench;

pub use config::{Config, Experts};
pub use error::{BindError, PassError};
pub use kernels::{Isa, KvType, Precision};
pub use kv_cache::{KvCache, SpillPlan};
pub use model::{BATCH_LENS, Model, OUTPUT_ROWS, Runner, Sequence, Wants};
pub use rope::RopeScaling;
