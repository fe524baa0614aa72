//! `llama`: Llama 1 to 3, Mistral, Codestral, SmolLM2 and their kin (arXiv 2302.13971, 2407.21783).

use crate::blocks::{Buffers, DecoderLayer, Extras, Head, OnOutput, Pass, Rotation, read_vector};
use crate::config::{Config, Keys};
use crate::error::{BindError, PassError};
use crate::kernels::Ops;
use crate::rope::Rope;
use crate::weights::{Binder, Matrix};
use rawrz_residency::Source;

pub(crate) struct Llama {
    token_embd: Matrix,
    layers: Vec<DecoderLayer>,
    head: Head,
    rope: Rope,
}

impl Llama {
    pub(crate) const NAME: &'static str = "llama";

    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        keys: &Keys<'_>,
        source: &dyn Source,
        ops: &Ops,
    ) -> Result<Llama, BindError> {
        config.check_whole_heads_rotate(keys)?;
        let token_embd = binder.table("token_embd.weight", config.dim, config.vocab_len)?;
        let layers = (0..config.n_layers)
            .map(|layer| {
                DecoderLayer::bind(binder, config, layer, Extras { biases: true, head_norms: false })
            })
            .collect::<Result<_, BindError>>()?;
        // Llama 3.1 and later divide each angle by a factor of its own.
        let mut divisors = Vec::new();
        if let Some(vector) = binder.constant("rope_freqs.weight", config.rope_dim / 2)? {
            read_vector(source, &vector, ops, &mut divisors)
                .map_err(|e| BindError::Unreadable { name: "rope_freqs.weight".to_owned(), source: e })?;
            if !divisors.iter().all(|d| d.is_finite() && *d > 0.0) {
                let problem = "a factor is not a positive number".to_owned();
                return Err(BindError::BadValue { key: "tensor rope_freqs.weight".to_owned(), problem });
            }
        }
        let divisors = (!divisors.is_empty()).then_some(&*divisors);
        let rope = Rope::new(config.rope_dim, config.rope_base, config.rope_scaling, divisors);
        Ok(Llama { head: Head::bind(binder, config, &token_embd, false)?, token_embd, layers, rope })
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
            layer.forward(pass, config, i, Rotation::Adjacent, &table, b)?;
        }
        self.head.forward(pass, config, 0.0, b, on_output)
    }
}
