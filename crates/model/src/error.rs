//! Why a model cannot be run, found when it is bound; and why a pass failed.

use rawrz_gguf::TensorType;
use rawrz_residency::{ReadError, SpillError};
use thiserror::Error;

/// Why a GGUF is not a model that this crate runs. What is unknown is refused by name, never guessed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The file says something that its reader refuses.
    #[error(transparent)]
    Gguf(#[from] rawrz_gguf::Error),
    /// No such architecture here.
    #[error("architecture {name:?} is not supported; supported are {supported}")]
    UnknownArchitecture {
        /// `general.architecture` of the file.
        name: String,
        /// Those that are.
        supported: String,
    },
    /// A key that the architecture needs is not there.
    #[error("metadata key {key} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has a value that the architecture cannot have.
    #[error("metadata key {key}: {problem}")]
    BadValue {
        /// The key.
        key: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// A feature that this crate does not compute.
    #[error("{what} is not supported")]
    Unsupported {
        /// The feature and where the file asks for it.
        what: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the metadata asks for.
    #[error("tensor {name} has shape {found:?} where {expected:?} is expected")]
    Shape {
        /// The tensor.
        name: String,
        /// In memory order, the contiguous dimension first.
        expected: Vec<u64>,
        /// As in the file.
        found: Vec<u64>,
    },
    /// A tensor has a type that cannot stand for weights.
    #[error("tensor {name} has type {}, which holds no weights", ty.name())]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A tensor that is needed to bind the others could not be read.
    #[error("tensor {name}")]
    Unreadable {
        /// The tensor.
        name: String,
        /// Why.
        source: PassError,
    },
    /// The file holds a tensor that the architecture does not use: running without it would be a guess.
    #[error("tensor {name} is not known to architecture {architecture}")]
    UnknownTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: &'static str,
    },
}

/// Why a forward pass failed. Nothing that it computed counts.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PassError {
    /// Weights could not be read, or went bad while they were used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A token that the vocabulary does not have.
    #[error("token {id} is outside the vocabulary of {vocab_len}")]
    Token {
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocab_len: usize,
    },
    /// The cache has no room for the tokens.
    #[error("{n_tokens} more tokens do not fit: {len} of {capacity} positions of the context are taken")]
    ContextFull {
        /// Tokens to be added.
        n_tokens: usize,
        /// Positions taken.
        len: usize,
        /// Positions there are.
        capacity: usize,
    },
    /// Pages of the cache could not be put away or had back.
    #[error("the KV cache on disk")]
    Spill(#[from] SpillError),
    /// The logits are not numbers: the weights are damaged, or overflow.
    #[error(
        "the model computed a value that is not a number at position {position}; its weights may be damaged"
    )]
    NotFinite {
        /// Where.
        position: usize,
    },
}
