//! Tokenizer, chat template and streaming detokenizer of a GGUF model.
#![forbid(unsafe_code)]
