//! GGUF bytes to metadata and tensor directory and back; quantization layouts with a scalar codec.
//!
//! - [`Gguf::parse`] checks a file once, text as UTF-8 included, and hands out values and tensors that point into its
//!   bytes. Everything that can be wrong with a file is an [`Error`] with the offset and the name.
//! - [`discover`] finds the files of a model, cut into shards or byte parts; [`ShardSet`] makes shards one model.
//! - [`Header`] and [`Writer`] write a file as a stream.
//! - [`quant`] has the block layouts of the tensor types and the scalar codec; [`decode_row`] is the oracle of all kernels.
#![forbid(unsafe_code)]

mod cursor;
mod discover;
mod error;
mod gguf;
mod index;
mod parse;
pub mod quant;
mod shard;
mod tensor;
mod tensor_type;
mod value;
mod write_value;
mod writer;

pub use discover::{DiscoverError, discover};
pub use error::{Error, Name};
pub use gguf::{Bytes, Gguf};
pub use parse::{MAX_KEY_BYTES, MAX_KEYS, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};
pub use quant::{DecodeError, decode_row};
pub use shard::ShardSet;
pub use tensor::{Dims, MAX_DIMS, TensorInfo};
pub use tensor_type::{TensorType, removed_name};
pub use value::{Array, ArrayIter, MAX_ARRAY_DEPTH, Strings, Value, ValueType};
pub use write_value::WriteValue;
pub use writer::{Header, MAX_WRITTEN_NAME_BYTES, WriteError, Writer};
