//! The gated feed-forward block.

use super::{Buffers, Pass};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::weights::{Binder, Linear};

/// The function of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// x * sigmoid(x)
    Silu,
    /// GELU in its tanh form.
    Gelu,
}

/// Weights of one layer's feed-forward block.
pub(crate) struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    /// Binds `blk.LAYER.ffn_*`; `biases` says whether the architecture knows any.
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        layer: usize,
        biases: bool,
    ) -> Result<FeedForward, BindError> {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        Ok(FeedForward {
            gate: binder.linear(&name("gate"), config.dim, config.ffn_dim, biases)?,
            up: binder.linear(&name("up"), config.dim, config.ffn_dim, biases)?,
            down: binder.linear(&name("down"), config.ffn_dim, config.dim, biases)?,
        })
    }

    /// `h = down(gate(h) * up(h))`: `h` goes in normed and comes out as what is added to the residual stream.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        function: Gate,
        buffers: &mut Buffers,
    ) -> Result<(), PassError> {
        let Buffers { h, gate, up, .. } = buffers;
        pass.load(h, pass.n_tokens());
        pass.linears([(&self.gate, &mut *gate), (&self.up, &mut *up)])?;
        let (row_len, ops, up) = (self.gate.weight.n_rows, pass.ops, &**up);
        pass.pool.for_each_chunk(gate, row_len, &|t, gate| {
            let up = &up[t * row_len..][..row_len];
            match function {
                Gate::Silu => ops.silu_mul(gate, up),
                Gate::Gelu => ops.gelu_mul(gate, up),
            }
        });
        pass.load(gate, pass.n_tokens());
        pass.linear(&self.down, h)
    }
}
