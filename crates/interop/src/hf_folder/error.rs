//! Why a folder could not be made or removed.

use crate::output::OutputError;
use rawrz_gguf::DecodeError;
use rawrz_gguf::quant::EncodeError;
use rawrz_residency::ReadError;
use rawrz_text::TokenizerError;
use std::io;
use std::path::PathBuf;

/// Why a folder could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The folder holds what we did not put there.
    #[error("{} is not a folder that an export made ({} is not of it); choose another name", folder.display(), foreign.display())]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// Something in it, or itself.
        foreign: PathBuf,
    },
    /// The other format has no word for something in the file.
    #[error("this cannot be said in a Hugging Face folder: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// A metadata key is missing.
    #[error("the model lacks the metadata key {key}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value makes no sense.
    #[error("metadata key {key}: {problem}")]
    BadValue {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor is missing.
    #[error("the model lacks the tensor {name}")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the metadata says.
    #[error("tensor {name} has the shape {found:?}, expected {expected:?} (row first)")]
    Shape {
        /// Its name.
        name: String,
        /// As the metadata says.
        expected: Vec<u64>,
        /// As it is.
        found: Vec<u64>,
    },
    /// A tensor that the architecture does not have in the other format.
    #[error("tensor {name} has no place in a Hugging Face model of this architecture")]
    NoPlace {
        /// Its name.
        name: String,
    },
    /// A weight is too large for binary16.
    #[error("tensor {name} has a weight that is too large for fp16; use bf16 or fp32")]
    Overflow {
        /// Its name.
        name: String,
    },
    /// No kind of link works from the folder to the model's file.
    #[error("{} cannot be linked to {} (a copy is never made); choose a folder on the same disk", link.display(), file.display())]
    NoLink {
        /// The model's file.
        file: PathBuf,
        /// The link.
        link: PathBuf,
        /// Why the last kind of link failed.
        source: io::Error,
    },
    /// The vocabulary is not one that we read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The metadata is not what it should be.
    #[error(transparent)]
    Gguf(#[from] rawrz_gguf::Error),
    /// A tensor could not be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A tensor could not be encoded.
    #[error("tensor {name}")]
    Encode {
        /// Its name.
        name: String,
        /// Why.
        source: EncodeError,
    },
    /// A file could not be written to.
    #[error("writing the folder")]
    Write(#[source] io::Error),
    /// A file could not be made.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ExportError {
    /// Whether the model has no form in the other format, so that nothing but another model helps.
    pub fn is_of_model(&self) -> bool {
        use ExportError::*;
        matches!(
            self,
            Unsupported { .. }
                | MissingKey { .. }
                | BadValue { .. }
                | MissingTensor { .. }
                | Shape { .. }
                | NoPlace { .. }
                | Tokenizer(_)
                | Gguf(_)
        )
    }
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> ExportError {
        ExportError::Output(error.into())
    }
}
