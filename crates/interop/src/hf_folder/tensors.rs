//! Which tensors a Hugging Face model has, and where each is in the GGUF: names mapped back, and what conversion did to
//! the values undone.
//!
//! - `llama`: rows of query and key heads were reordered from halves to neighbouring pairs (RoPE rotates x[i] with
//!   x[i + d/2] there, with x[i + 1] here).
//! - `gemma3`: 1 was added to the weights of all norms.
//! - `qwen3moe`: the matrices of all experts of a layer were stacked into one tensor.

use super::ExportError;
use super::hyper::{Arch, Hyper};
use rawrz_gguf::{ShardSet, TensorInfo};
use std::collections::HashSet;

/// A tensor of the Hugging Face model.
#[derive(Debug)]
pub(super) struct HfTensor<'t> {
    pub(super) name: String,
    /// Outer dimension first.
    pub(super) shape: Vec<u64>,
    /// Its tensor in the GGUF and the shard that it lies in.
    pub(super) shard: usize,
    pub(super) info: TensorInfo<'t>,
    /// The row of that tensor that is its first.
    pub(super) first_row: u64,
    /// Number of heads whose rows were reordered; 0 for rows in order.
    pub(super) reordered_heads: u64,
    /// Added to each value.
    pub(super) bias: f32,
}

impl HfTensor<'_> {
    /// Weights in a row.
    pub(super) fn row_len(&self) -> u64 {
        // Rows of a vector that is reordered are single values.
        match self.reordered_heads > 0 && self.shape.len() == 1 {
            true => 1,
            false => self.info.dims.row_len(),
        }
    }

    pub(super) fn n_rows(&self) -> u64 {
        match self.shape.len() {
            1 if self.row_len() == 1 => self.shape[0],
            1 => 1,
            _ => self.shape[0],
        }
    }

    /// The row of the GGUF's tensor that is row `i` here.
    pub(super) fn source_row(&self, i: u64) -> u64 {
        if self.reordered_heads == 0 {
            return self.first_row + i;
        }
        let head_rows = self.n_rows() / self.reordered_heads;
        let (head, at) = (i / head_rows, i % head_rows);
        let half = head_rows / 2;
        head * head_rows + 2 * (at % half) + at / half
    }

    pub(super) fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Collects tensors, and notes which of the file were used.
struct Finder<'t> {
    shards: &'t ShardSet,
    used: HashSet<&'t str>,
    found: Vec<HfTensor<'t>>,
}

/// How a tensor changes on its way.
#[derive(Clone, Copy, Default)]
struct Change {
    reordered_heads: u64,
    bias: f32,
}

impl<'t> Finder<'t> {
    fn find(&mut self, gguf: &str, shape: &[u64]) -> Result<(usize, TensorInfo<'t>), ExportError> {
        let found = self.shards.tensor(gguf);
        let (shard, info) = found.ok_or_else(|| ExportError::MissingTensor { name: gguf.to_owned() })?;
        let expected: Vec<u64> = shape.iter().rev().copied().collect();
        // Trailing dimensions of 1 may be written out.
        let dims = info.dims.padded();
        let is_right = dims.iter().enumerate().all(|(i, dim)| *dim == expected.get(i).copied().unwrap_or(1));
        if !is_right {
            let found = info.dims.as_slice().to_vec();
            return Err(ExportError::Shape { name: gguf.to_owned(), expected, found });
        }
        self.used.insert(info.name);
        Ok((shard, info))
    }

    /// Adds the tensor `gguf`, which must have this shape (outer dimension first), as `name`.
    fn add(&mut self, gguf: &str, name: String, shape: &[u64], change: Change) -> Result<(), ExportError> {
        let (shard, info) = self.find(gguf, shape)?;
        let Change { reordered_heads, bias } = change;
        self.found.push(HfTensor {
            name,
            shape: shape.to_vec(),
            shard,
            info,
            first_row: 0,
            reordered_heads,
            bias,
        });
        Ok(())
    }

    /// Adds each matrix of a stack.
    fn add_stack(
        &mut self,
        gguf: &str,
        name: impl Fn(u64) -> String,
        shape: [u64; 3],
    ) -> Result<(), ExportError> {
        let (shard, info) = self.find(gguf, &shape)?;
        let [n, rows, cols] = shape;
        self.found.extend((0..n).map(|i| HfTensor {
            name: name(i),
            shape: vec![rows, cols],
            shard,
            info,
            first_row: i * rows,
            reordered_heads: 0,
            bias: 0.0,
        }));
        Ok(())
    }
}

/// All tensors of the model, in the order of its layers.
///
/// # Errors
/// When one is missing or has another shape than the hyperparameters say, or the file has one that has no place.
pub(super) fn of_model<'t>(shards: &'t ShardSet, hyper: &Hyper) -> Result<Vec<HfTensor<'t>>, ExportError> {
    let h = hyper;
    let mut finder = Finder { shards, used: HashSet::new(), found: Vec::new() };
    let plain = Change::default();
    let norm = Change { bias: if h.arch == Arch::Gemma3 { -1.0 } else { 0.0 }, ..plain };
    finder.add("token_embd.weight", "model.embed_tokens.weight".to_owned(), &[h.vocab_len, h.dim], plain)?;
    for layer in 0..h.n_layers {
        let gguf = |part: &str| format!("blk.{layer}.{part}");
        let hf = |part: &str| format!("model.layers.{layer}.{part}");
        let norms: &[(&str, &str)] = match h.arch {
            Arch::Gemma3 => &[
                ("attn_norm", "input_layernorm"),
                ("post_attention_norm", "post_attention_layernorm"),
                ("ffn_norm", "pre_feedforward_layernorm"),
                ("post_ffw_norm", "post_feedforward_layernorm"),
            ],
            _ => &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")],
        };
        for (from, to) in norms {
            finder.add(&gguf(&format!("{from}.weight")), hf(&format!("{to}.weight")), &[h.dim], norm)?;
        }
        if matches!(h.arch, Arch::Qwen3 | Arch::Qwen3Moe | Arch::Gemma3) {
            for part in ["q", "k"] {
                let (from, to) =
                    (format!("attn_{part}_norm.weight"), format!("self_attn.{part}_norm.weight"));
                finder.add(&gguf(&from), hf(&to), &[h.head_dim], norm)?;
            }
        }
        let (queries, keys) = (h.n_heads * h.head_dim, h.n_kv_heads * h.head_dim);
        for (from, to, rows, cols, heads) in [
            ("attn_q", "q_proj", queries, h.dim, h.n_heads),
            ("attn_k", "k_proj", keys, h.dim, h.n_kv_heads),
            ("attn_v", "v_proj", keys, h.dim, 0),
            ("attn_output", "o_proj", h.dim, queries, 0),
        ] {
            let heads = if h.arch == Arch::Llama { heads } else { 0 };
            let change = Change { reordered_heads: heads, ..plain };
            let to = |part: &str| hf(&format!("self_attn.{to}.{part}"));
            finder.add(&gguf(&format!("{from}.weight")), to("weight"), &[rows, cols], change)?;
            // Qwen2 has no bias after attention; Llama has it with the others or not at all.
            let has_bias = h.has_attention_bias && !(h.arch == Arch::Qwen2 && from == "attn_output");
            if has_bias || (h.arch == Arch::Qwen2 && from != "attn_output") {
                finder.add(&gguf(&format!("{from}.bias")), to("bias"), &[rows], change)?;
            }
        }
        let matrices = [
            ("ffn_gate", "gate_proj", h.ffn_dim, h.dim),
            ("ffn_up", "up_proj", h.ffn_dim, h.dim),
            ("ffn_down", "down_proj", h.dim, h.ffn_dim),
        ];
        if h.n_experts > 0 {
            finder.add(&gguf("ffn_gate_inp.weight"), hf("mlp.gate.weight"), &[h.n_experts, h.dim], plain)?;
        }
        for (from, to, rows, cols) in matrices {
            if h.n_experts > 0 {
                let name = |expert| hf(&format!("mlp.experts.{expert}.{to}.weight"));
                finder.add_stack(&gguf(&format!("{from}_exps.weight")), name, [h.n_experts, rows, cols])?;
                continue;
            }
            finder.add(
                &gguf(&format!("{from}.weight")),
                hf(&format!("mlp.{to}.weight")),
                &[rows, cols],
                plain,
            )?;
            if h.has_mlp_bias {
                finder.add(&gguf(&format!("{from}.bias")), hf(&format!("mlp.{to}.bias")), &[rows], plain)?;
            }
        }
    }
    finder.add("output_norm.weight", "model.norm.weight".to_owned(), &[h.dim], norm)?;
    if !h.is_tied {
        finder.add("output.weight", "lm_head.weight".to_owned(), &[h.vocab_len, h.dim], plain)?;
    }
    // In the config instead.
    finder.used.insert("rope_freqs.weight");
    match shards.tensors().find(|(_, tensor)| !finder.used.contains(tensor.name)) {
        Some((_, tensor)) => Err(ExportError::NoPlace { name: tensor.name.to_owned() }),
        None => Ok(finder.found),
    }
}
