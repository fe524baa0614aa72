//! `gemma3`: Gemma 3 text models (arXiv 2503.19786). Scaled embeddings, norms before and after each block and
//! on each head, GELU gates, and layers that see a sliding window, with a rotation base of their own, between
//! layers that see everything. Norm weights in a GGUF already hold the "+ 1" of the paper's formula.

use crate::blocks::{Buffers, FeedForward, Gate, Head, OnOutput, Pass, Rotation, SelfAttention, Window};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::rope::Rope;
use crate::weights::{Binder, Matrix, Vector};

/// Every sixth layer sees everything, unless the file says otherwise.
const DEFAULT_PATTERN: usize = 6;

/// Rotation base of the local layers.
const LOCAL_ROPE_BASE: f32 = 10_000.0;

/// The 27B model divides scores by its width per head, not by the length of a head; only its depth tells it.
const LAYERS_OF_27B: usize = 62;

pub(crate) struct Gemma3 {
    token_embd: Matrix,
    layers: Vec<Layer>,
    head: Head,
    global_rope: Rope,
    local_rope: Rope,
    /// Factor of the scores.
    scale: f32,
    /// 0 for none.
    soft_cap: f32,
}

struct Layer {
    window: Window,
    attention_norm: Vector,
    attention: SelfAttention,
    post_attention_norm: Vector,
    ffn_norm: Vector,
    ffn: FeedForward,
    post_ffn_norm: Vector,
}

impl Gemma3 {
    pub(crate) const NAME: &'static str = "gemma3";

    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        keys: &Keys<'_>,
    ) -> Result<Gemma3, BindError> {
        let window = keys.count("attention.sliding_window", 1 << 28)?;
        let pattern = match window {
            Some(_) => keys.window_pattern(DEFAULT_PATTERN, config.n_layers)?,
            None => vec![false; config.n_layers],
        };
        let token_embd = binder.table("token_embd.weight", config.dim, config.vocab_len)?;
        let layers = (0..config.n_layers)
            .map(|layer| {
                binder.begin_stage(layer);
                let name = |part: &str| format!("blk.{layer}.{part}.weight");
                Ok(Layer {
                    window: match window {
                        Some(len) if pattern[layer] => Window::Sliding(len),
                        _ => Window::Full,
                    },
                    attention_norm: binder.vector(&name("attn_norm"), config.dim)?,
                    attention: SelfAttention::bind(binder, config, layer, true, false)?,
                    post_attention_norm: binder.vector(&name("post_attention_norm"), config.dim)?,
                    ffn_norm: binder.vector(&name("ffn_norm"), config.dim)?,
                    ffn: FeedForward::bind(binder, config, layer, false)?,
                    post_ffn_norm: binder.vector(&name("post_ffw_norm"), config.dim)?,
                })
            })
            .collect::<Result<_, BindError>>()?;
        let local_base = keys.f32("rope.freq_base_swa")?.unwrap_or(LOCAL_ROPE_BASE);
        let scaling = config.rope_scaling;
        let scored_dim = match config.n_layers {
            LAYERS_OF_27B => config.dim / config.n_heads,
            _ => config.head_dim,
        };
        Ok(Gemma3 {
            head: Head::bind(binder, config, &token_embd, false)?,
            token_embd,
            layers,
            global_rope: Rope::new(config.rope_dim, config.rope_base, scaling, None),
            local_rope: Rope::new(config.rope_dim, local_base, scaling.unscaled(), None),
            scale: 1.0 / (scored_dim as f32).sqrt(),
            soft_cap: keys.f32("final_logit_softcapping")?.unwrap_or(0.0),
        })
    }

    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        b: &mut Buffers,
        on_output: OnOutput<'_>,
    ) -> Result<(), PassError> {
        let (eps, scale) = (config.rms_eps, self.scale);
        let global_table = self.global_rope.table(pass.positions());
        let local_table = self.local_rope.table(pass.positions());
        pass.embed(&self.token_embd, &mut b.x)?;
        pass.ops.scale(&mut b.x, (config.dim as f32).sqrt());
        for (i, layer) in self.layers.iter().enumerate() {
            let table = match layer.window {
                Window::Full => &global_table,
                Window::Sliding(_) => &local_table,
            };
            pass.rms_norm(&b.x, &layer.attention_norm, eps, &mut b.h)?;
            layer.attention.forward(pass, config, i, Rotation::Halves, table, layer.window, scale, b)?;
            pass.rms_norm_in_place(&mut b.h, &layer.post_attention_norm, eps, &mut b.attention)?;
            pass.add(&mut b.x, &b.h);
            pass.rms_norm(&b.x, &layer.ffn_norm, eps, &mut b.h)?;
            layer.ffn.forward(pass, Gate::Gelu, b)?;
            pass.rms_norm_in_place(&mut b.h, &layer.post_ffn_norm, eps, &mut b.attention)?;
            pass.add(&mut b.x, &b.h);
        }
        self.head.forward(pass, config, self.soft_cap, b, on_output)
    }
}
