//! Weights, KV cache, kernels and the forward pass of each architecture.
