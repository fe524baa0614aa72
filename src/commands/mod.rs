//! One file for each subcommand; each has a `main` that takes the flags as typed.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod export_hf;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod maps;
pub(crate) mod merge;
pub(crate) mod ollama;
pub(crate) mod perplexity;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod split;
pub(crate) mod tokenize;
pub(crate) mod up;
