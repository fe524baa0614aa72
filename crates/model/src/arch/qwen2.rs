//! `qwen2`: Qwen2 and Qwen2.5 (arXiv 2407.10671). As `llama`, with rotation in halves and biased q, k and v.

use crate::blocks::{Buffers, DecoderLayer, Extras, Head, OnOutput, Pass, Rotation};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::rope::Rope;
use crate::weights::{Binder, Matrix};

pub(crate) struct Qwen2 {
    token_embd: Matrix,
    layers: Vec<DecoderLayer>,
    head: Head,
    rope: Rope,
}

impl Qwen2 {
    pub(crate) const NAME: &'static str = "qwen2";

    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        keys: &Keys<'_>,
    ) -> Result<Qwen2, BindError> {
        config.check_whole_heads_rotate(keys)?;
        let token_embd = binder.table("token_embd.weight", config.dim, config.vocab_len)?;
        let layers = (0..config.n_layers)
            .map(|layer| DecoderLayer::bind(binder, config, layer, Extras::default()))
            .collect::<Result<_, BindError>>()?;
        let rope = Rope::new(config.rope_dim, config.rope_base, config.rope_scaling, None);
        Ok(Qwen2 { head: Head::bind(binder, config, &token_embd, true)?, token_embd, layers, rope })
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
