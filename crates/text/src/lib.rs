//! Tokenizer, chat template and streaming detokenizer of a GGUF model.
//!
//! [`Tokenizer::from_gguf`] reads a vocabulary in place and gives the ids that llama.cpp gives; [`StreamDecoder`] turns
//! ids back into text while they come. [`ChatTemplate`] turns a conversation into a prompt.
#![forbid(unsafe_code)]

mod bpe;
mod chat;
mod error;
mod json;
mod keyed;
mod partition;
mod pretokenizer;
mod special;
mod spm;
mod stream;
mod texts;
mod tokenizer;
mod unicode;
mod unigram;
mod vocab;
mod wordpiece;

pub use chat::{ChatInput, ChatTemplate, LocalTime, Message, TemplateError, ToolCall};
pub use error::TokenizerError;
pub use json::{Json, JsonError};
pub use special::SpecialTokens;
pub use stream::StreamDecoder;
pub use tokenizer::{AddedToken, BpeRules, EncodeOptions, Tokenizer};

/// The number of a token in its vocabulary.
pub type TokenId = u32;
