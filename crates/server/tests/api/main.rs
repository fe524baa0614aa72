//! The server over real sockets, each dialect, and what clients do wrong.

mod anthropic;
mod common;
mod load;
mod ollama;
mod openai;
mod safety;
mod tools;
