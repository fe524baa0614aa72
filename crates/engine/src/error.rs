//! Why a model could not be opened, and why a run failed.

use rawrz_model::{BindError, PassError};
use rawrz_residency::budget::{BelowFloor, Size};
use rawrz_residency::{OpenError as FileError, ReadError};
use rawrz_text::TokenizerError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a model could not be opened. Nothing stays allocated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The files of the model could not be found.
    #[error(transparent)]
    Discover(#[from] rawrz_gguf::DiscoverError),
    /// A file could not be opened or mapped.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file went bad while its header was read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file is not a GGUF that we read, or the shards do not form one model.
    #[error("{path}", path = path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rawrz_gguf::Error,
    },
    /// A header that is spread over raw byte parts is longer than any real one.
    #[error("{path}: its header is spread over parts and larger than {}", Size(*limit_bytes), path = path.display())]
    HeaderTooLong {
        /// The first part.
        path: PathBuf,
        /// The longest that is joined.
        limit_bytes: u64,
    },
    /// The model is not one that we run.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its tokenizer is not one that we have.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model does not fit the budget.
    #[error(transparent)]
    Budget(#[from] BelowFloor),
    /// An option has a value that makes no sense for this model.
    #[error("{problem}")]
    Option {
        /// What is wrong.
        problem: String,
    },
}

/// Why a run failed. The session stays usable at the last position that was computed well.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A forward pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A control group around this process allows less memory than before, and less than the model can do with.
    #[error(
        "this process may use {limit} now, but the model needs {needed}; it runs again when the limit is raised, or with a smaller --ctx",
        limit = Size(*limit_bytes), needed = Size(*needed_bytes)
    )]
    BudgetCut {
        /// What is allowed now, in bytes.
        limit_bytes: u64,
        /// What the model needs, in bytes.
        needed_bytes: u64,
    },
    /// There is nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The prompt is longer than the context.
    #[error(
        "the prompt has {n_tokens} tokens, but the context holds {context_len}; ask for a longer context (--ctx)"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// Positions of the session.
        context_len: usize,
    },
    /// One more session does not fit the budget.
    #[error("a session needs {} for its KV cache, and the budget has {} left", Size(*needed_bytes), Size(*left_bytes))]
    Budget {
        /// Bytes of its cache.
        needed_bytes: u64,
        /// Bytes that are free.
        left_bytes: u64,
    },
    /// The constraint of the text cannot go on.
    #[error("the text cannot be constrained: {problem}")]
    Constraint {
        /// What is wrong.
        problem: String,
    },
    /// The pass that this request shared with others failed.
    #[error("{problem}")]
    SharedPass {
        /// Why.
        problem: String,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}
