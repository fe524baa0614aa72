//! What can be wrong with a vocabulary or with a text.

/// Why a vocabulary was refused, or a text could not be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A metadata value is of the wrong type or out of range.
    #[error(transparent)]
    Metadata(#[from] rawrz_gguf::Error),
    /// A metadata key that every vocabulary needs.
    #[error("the file has no {key}, so it has no vocabulary")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A tokenizer model that is not implemented.
    #[error("tokenizer model {name:?} is not supported; gpt2, llama, bert, t5 and gemma4 are")]
    UnsupportedModel {
        /// The value of `tokenizer.ggml.model`, cut to a bounded length.
        name: String,
    },
    /// A pre-tokenizer that is not known.
    #[error("pre-tokenizer {name:?} (tokenizer.ggml.pre) is not known; text would be cut the wrong way")]
    UnknownPreTokenizer {
        /// The value of `tokenizer.ggml.pre`, cut to a bounded length.
        name: String,
    },
    /// An array has elements of another type.
    #[error("{key} is an array of {found}, expected {expected}")]
    ElementType {
        /// The key.
        key: &'static str,
        /// What is supported.
        expected: &'static str,
        /// The element type in the file.
        found: &'static str,
    },
    /// An array that goes along with the tokens is shorter than they are.
    #[error("{key} has {found} elements for {n_tokens} tokens")]
    TooShort {
        /// The key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        n_tokens: usize,
    },
    /// An array is longer than can be indexed.
    #[error("{key} has {found} elements or bytes, at most {limit} are supported")]
    TooLong {
        /// The key.
        key: &'static str,
        /// Its length.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// There are no tokens.
    #[error("tokenizer.ggml.tokens is empty")]
    Empty,
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} have the same text {text:?}")]
    DuplicateToken {
        /// The text, cut to a bounded length.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A token of type byte is not written `<0xXX>`.
    #[error("token {id} is of type byte, but its text {text:?} is not <0xXX>")]
    ByteToken {
        /// The token.
        id: u32,
        /// Its text, cut to a bounded length.
        text: String,
    },
    /// A score is not a number.
    #[error("the score of token {id} (tokenizer.ggml.scores) is not a number")]
    Score {
        /// The token.
        id: u32,
    },
    /// The vocabulary adds a special token that it does not have.
    #[error("the vocabulary needs a {which} token, and has none")]
    MissingSpecialToken {
        /// Which: `beginning-of-sequence`, `end-of-sequence`, `separator` or `unknown`.
        which: &'static str,
    },
    /// The table of character replacements is damaged.
    #[error("tokenizer.ggml.precompiled_charsmap is damaged: {what}")]
    CharacterMap {
        /// What is wrong.
        what: &'static str,
    },
    /// A byte of the text has no token to fall back to.
    #[error("the vocabulary has no token for byte 0x{byte:02X}")]
    NoByteToken {
        /// The byte.
        byte: u8,
    },
    /// The text is longer than positions can count.
    #[error("a text of {len_bytes} bytes is too long to tokenize at once; at most {limit_bytes} are")]
    TextTooLong {
        /// Length of the text in bytes.
        len_bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
}

/// A hostile name or text, cut to a length fit for a message.
pub(crate) fn shorten(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned()
}
