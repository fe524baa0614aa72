//! The architectures. Each file shows its order of blocks and its differences, nothing else.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

pub(crate) use gemma3::Gemma3;
pub(crate) use llama::Llama;
pub(crate) use qwen2::Qwen2;
pub(crate) use qwen3::Qwen3;
