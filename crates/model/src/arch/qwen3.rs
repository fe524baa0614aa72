//! `qwen3` and `qwen3moe`: Qwen3 (arXiv 2505.09388). As `qwen2`, with norms of each query and key head before they
//! rotate; the feed-forward blocks of `qwen3moe` are mixtures of experts.

use crate::blocks::{Buffers, DecoderLayer, Extras, Head, OnOutput, Pass, Rotation};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::rope::Rope;
use crate::weights::{Binder, Matrix};

pub(crate) struct Qwen3 {
    token_embd: Matrix,
    layers: Vec<DecoderLayer>,
    head: Head,
    rope: Rope,
}

impl Qwen3 {
    pub(crate) const NAME: &'static str = "qwen3";
    /// With experts.
    pub(crate) const NAME_MOE: &'static str = "qwen3moe";

    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        keys: &Keys<'_>,
    ) -> Result<Qwen3, BindError> {
        config.check_whole_heads_rotate(keys)?;
        let token_embd = binder.table("token_embd.weight", config.dim, config.vocab_len)?;
        let layers = (0..config.n_layers)
            .map(|layer| {
                DecoderLayer::bind(binder, config, layer, Extras { biases: false, head_norms: true })
            })
            .collect::<Result<_, BindError>>()?;
        let rope = Rope::new(config.rope_dim, config.rope_base, config.rope_scaling, None);
        Ok(Qwen3 { head: Head::bind(binder, config, &token_embd, false)?, token_embd, layers, rope })
    }

    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        b: &mut Buffers,
        on_output: OnOutput<'_>,
    ) -> Result<(), PassError> {
        let table = self.rope.table(pass.positions());
        pass.embed(&self.token_embd, &mut b.x)?;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.forward(pass, config, i, Rotation::Halves, &table, b)?;
        }
        self.head.forward(pass, config, 0.0, b, on_output)
    }
}
