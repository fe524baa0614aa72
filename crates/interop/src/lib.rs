//! What RawrZ shares with other programs, without a second copy of a model's bytes.
//!
//! - [`hf_folder`]: a model as a folder that Hugging Face's libraries load.
//! - [`maps`]: models by name, for every command and program.
//! - [`ollama`]: models of the user's own files in Ollama's store.
//! - [`shards`]: models cut into shards and put together again.
//!
//! # Invariants
//! - A model's file is never written to or moved, and deleted only where the caller asks for it by name (shards that took its
//!   place); what is undone are links and folders that this crate made.
//! - What is made appears whole under its final name or not at all: written beside it, then renamed.
//! - A name never reaches the file system before it was checked: no separators, no `..`, nothing hidden.
#![forbid(unsafe_code)]

mod about;
mod digest;
mod files;
pub mod hf_folder;
mod identity;
pub mod maps;
pub mod ollama;
mod opened;
mod output;
pub mod shards;
mod staged;
#[cfg(test)]
mod testing;

pub use about::About;
pub use digest::{Digest, DigestError, Digests};
pub use identity::{FileRecord, ModelRecord, RecordError};
pub use opened::OpenModel;
pub use output::OutputError;
