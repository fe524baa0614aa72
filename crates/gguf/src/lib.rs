//! GGUF bytes to metadata and tensor directory and back; quantization layouts with a scalar codec.
#![forbid(unsafe_code)]
