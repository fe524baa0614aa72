//! Grouped-query self-attention over the KV cache.

use super::{Buffers, Pass, Rotation};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::kernels::{self, Attention};
use crate::rope::RopeTable;
use crate::weights::{Binder, Linear, Vector};

/// What a position sees of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// Everything.
    Full,
    /// The last so many positions, itself included.
    Sliding(usize),
}

impl Window {
    /// Positions that a query sees, itself included.
    fn len(self) -> usize {
        match self {
            Window::Full => usize::MAX,
            Window::Sliding(len) => len,
        }
    }
}

/// Weights of one layer's attention.
pub(crate) struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    /// Norms of each query and key head, for architectures that have them.
    head_norms: Option<(Vector, Vector)>,
    output: Linear,
}

impl SelfAttention {
    /// Binds `blk.LAYER.attn_*`. `output_bias` says whether the architecture knows a bias of the output.
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        layer: usize,
        head_norms: bool,
        output_bias: bool,
    ) -> Result<SelfAttention, BindError> {
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let dim = config.dim;
        Ok(SelfAttention {
            q: binder.linear(&name("q"), dim, config.query_len(), true)?,
            k: binder.linear(&name("k"), dim, config.key_len(), true)?,
            v: binder.linear(&name("v"), dim, config.value_len(), true)?,
            head_norms: match head_norms {
                true => Some((
                    binder.vector(&name("q_norm.weight"), config.head_dim)?,
                    binder.vector(&name("k_norm.weight"), config.head_dim)?,
                )),
                false => None,
            },
            output: binder.linear(&name("output"), config.attention_len(), dim, output_bias)?,
        })
    }

    /// `h = attention(h)`: `h` goes in normed and comes out as what is added to the residual stream.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        layer: usize,
        rotation: Rotation,
        table: &RopeTable,
        window: Window,
        scale: f32,
        buffers: &mut Buffers,
    ) -> Result<(), PassError> {
        let n = pass.n_tokens();
        let Buffers { h, q, k, v, attention, .. } = buffers;
        pass.load(h, n);
        pass.linears([(&self.q, &mut *q), (&self.k, &mut *k), (&self.v, &mut *v)])?;
        if let Some((q_norm, k_norm)) = &self.head_norms {
            pass.rms_norm_in_place(q, q_norm, config.rms_eps, h)?;
            pass.rms_norm_in_place(k, k_norm, config.rms_eps, h)?;
        }
        pass.rotate(q, config.head_dim, rotation, table);
        pass.rotate(k, config.head_dim, rotation, table);
        pass.cache.store(layer, k, v, &pass.ops, pass.pool);
        pass.cache.set_window(layer, window.len());
        attention.resize(n * config.attention_len(), 0.0);
        let job = Attention {
            layout: pass.cache.layout(),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            queries: q,
            pages: &pass.cache.layer(layer),
            head_bytes: pass.cache.head_bytes(),
            start: pass.start(),
            window_len: window.len(),
            scale,
        };
        kernels::attend(&job, attention, pass.attention, &pass.ops, pass.pool)?;
        pass.load(attention, n);
        pass.linear(&self.output, h)
    }
}
