//! What RawrZ shares with other programs: named maps, Ollama's store, Hugging Face folders, shards.
#![forbid(unsafe_code)]
