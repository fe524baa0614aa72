//! The text of documents: PDF, DOCX and plain text, for a prompt.
//!
//! A document is hostile input. What it may cost is said by [`Limits`] and holds whatever the file says: every byte that is
//! unpacked, every character that is kept and the time are counted in one `Budget`, and each parser asks it before it
//! goes on. Nothing is run, followed to the network or written to the disk, and no name in a file reaches the file system.
//!
//! Kinds are told by their first bytes, not by the name of the file, which only makes messages clearer.
#![forbid(unsafe_code)]

mod budget;
mod docx;
mod inflate;
mod pdf;
mod plain;

use budget::Budget;
use std::time::Duration;
use thiserror::Error;

/// What a document may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file itself.
    pub max_file_bytes: usize,
    /// Bytes that all its compressed parts may unpack to, one after the other.
    pub max_unpacked_bytes: usize,
    /// Bytes that one compressed part may unpack to.
    pub max_part_bytes: usize,
    /// Bytes of unpacked objects and fonts that may be held at a time.
    pub max_kept_bytes: usize,
    /// Bytes of UTF-8 of the text.
    pub max_text_bytes: usize,
    /// Time to find the text.
    pub max_time: Duration,
}

impl Default for Limits {
    /// A file of 32 MiB that unpacks to 256 MiB, 32 MiB a part, with 64 MiB held, has 8 MiB of text and takes 20 seconds. Eight
    /// MiB are some two million tokens, more than any context holds.
    fn default() -> Limits {
        Limits {
            max_file_bytes: 32 << 20,
            max_unpacked_bytes: 256 << 20,
            max_part_bytes: 32 << 20,
            max_kept_bytes: 64 << 20,
            max_text_bytes: 8 << 20,
            max_time: Duration::from_secs(20),
        }
    }
}

/// The text of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Paragraphs end in line ends; cells of a table are apart by tabs.
    pub text: String,
    /// Pages, where the format has them.
    pub pages: Option<usize>,
}

/// Why a document has no text for us.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DocumentError {
    /// More bytes than [`Limits::max_file_bytes`].
    #[error("the file has {bytes} bytes, more than the {limit} that are taken")]
    FileTooLarge {
        /// Bytes of the file.
        bytes: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// More bytes than [`Limits::max_unpacked_bytes`], [`Limits::max_part_bytes`] or [`Limits::max_kept_bytes`].
    #[error("the file unpacks to more than {limit} bytes")]
    UnpacksTooFar {
        /// The most that are unpacked.
        limit: usize,
    },
    /// More text than [`Limits::max_text_bytes`].
    #[error("the document has more than {limit} bytes of text")]
    TooMuchText {
        /// The most that are kept.
        limit: usize,
    },
    /// It takes longer than [`Limits::max_time`].
    #[error("the document takes longer than {} s to read", limit.as_secs())]
    TooSlow {
        /// The most that is waited.
        limit: Duration,
    },
    /// More of something than real documents have.
    #[error("the document has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The most that are read.
        limit: usize,
    },
    /// Neither PDF nor DOCX nor text.
    #[error("{what}; PDF, DOCX and text files are read")]
    Unsupported {
        /// What it is, as far as we can tell.
        what: String,
    },
    /// A PDF whose text only a password gives.
    #[error("the PDF is encrypted; save it without a password first")]
    Encrypted,
    /// The file breaks its format.
    #[error("the {format} file is damaged: {what}")]
    Damaged {
        /// Its format.
        format: &'static str,
        /// What is wrong.
        what: String,
    },
    /// There are pages, but no text on them.
    #[error("the document has no text; its pages may be pictures of text, which are not read")]
    NoText,
    /// There is text, but in fonts that do not say which characters they show.
    #[error("the fonts of the PDF do not say which characters they show, so its text cannot be told")]
    UnknownCharacters,
}

/// The text of a document of `bytes`. `name` is what the user calls the file.
///
/// # Errors
/// When it is of no kind that is read, damaged, or beyond `limits`.
pub fn extract(name: &str, bytes: &[u8], limits: &Limits) -> Result<Document, DocumentError> {
    if bytes.len() > limits.max_file_bytes {
        return Err(DocumentError::FileTooLarge { bytes: bytes.len(), limit: limits.max_file_bytes });
    }
    let mut budget = Budget::new(*limits);
    if pdf::is_pdf(bytes) {
        pdf::extract(bytes, &mut budget)
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        docx::extract(bytes, &mut budget)
    } else {
        plain::extract(name, bytes, &mut budget)
    }
}
