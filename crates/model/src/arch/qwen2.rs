//! `qwen2`: Qwen2 and Qwen2.5 (arXiv 2407.10671). As `llama`, with rotation in halves and biased q, k and v.

use crate::blocks::{Buffers, FeedForward, Gate, Head, Pass, Rotation, SelfAttention, Window};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::rope::Rope;
use crate::weights::{Binder, Matrix, Vector};

pub(crate) struct Qwen2 {
    token_embd: Matrix,
    layers: Vec<Layer>,
    head: Head,
    rope: Rope,
}

struct Layer {
    attention_norm: Vector,
    attention: SelfAttention,
    ffn_norm: Vector,
    ffn: FeedForward,
}

impl Qwen2 {
    pub(crate) const NAME: &'static str = "qwen2";

    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        keys: &Keys<'_>,
    ) -> Result<Qwen2, BindError> {
        if config.rope_dim != config.head_dim {
            return Err(BindError::BadValue {
                key: keys.name("rope.dimension_count"),
                problem: format!("{} where a head has {}", config.rope_dim, config.head_dim),
            });
        }
        let token_embd = binder.table("token_embd.weight", config.dim, config.vocab_len)?;
        let layers = (0..config.n_layers)
            .map(|layer| {
                Ok(Layer {
                    attention_norm: binder.vector(&format!("blk.{layer}.attn_norm.weight"), config.dim)?,
                    attention: SelfAttention::bind(binder, config, layer, false, false)?,
                    ffn_norm: binder.vector(&format!("blk.{layer}.ffn_norm.weight"), config.dim)?,
                    ffn: FeedForward::bind(binder, config, layer, false)?,
                })
            })
            .collect::<Result<_, BindError>>()?;
        let rope = Rope::new(config.rope_dim, config.rope_base, config.rope_scaling, None);
        Ok(Qwen2 { head: Head::bind(binder, config, &token_embd, true)?, token_embd, layers, rope })
    }

    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        b: &mut Buffers,
        first_output: usize,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), PassError> {
        let eps = config.rms_eps;
        let scale = 1.0 / (config.head_dim as f32).sqrt();
        let table = self.rope.table(pass.start(), pass.n_tokens());
        pass.embed(&self.token_embd, &mut b.x)?;
        for (i, layer) in self.layers.iter().enumerate() {
            pass.rms_norm(&b.x, &layer.attention_norm, eps, &mut b.h)?;
            layer.attention.forward(pass, config, i, Rotation::Halves, &table, Window::Full, scale, b)?;
            pass.add(&mut b.x, &b.h);
            pass.rms_norm(&b.x, &layer.ffn_norm, eps, &mut b.h)?;
            layer.ffn.forward(pass, Gate::Silu, b)?;
            pass.add(&mut b.x, &b.h);
        }
        self.head.forward(pass, config, first_output, 0.0, b, on_logits)
    }
}
