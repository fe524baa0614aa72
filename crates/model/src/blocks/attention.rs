//! Grouped-query self-attention over the KV cache.

use super::{Buffers, Pass, Rotation};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::kernels::AttentionHead;
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
    /// First position that the query at `position` sees.
    fn first(self, position: usize) -> usize {
        match self {
            Window::Full => 0,
            Window::Sliding(len) => (position + 1).saturating_sub(len),
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
        pass.linear(&self.q, q)?;
        pass.linear(&self.k, k)?;
        pass.linear(&self.v, v)?;
        if let Some((q_norm, k_norm)) = &self.head_norms {
            pass.rms_norm_in_place(q, q_norm, config.rms_eps, h)?;
            pass.rms_norm_in_place(k, k_norm, config.rms_eps, h)?;
        }
        pass.rotate(q, config.head_dim, rotation, table);
        pass.rotate(k, config.head_dim, rotation, table);
        pass.cache.store(layer, k, v);
        attend(pass, config, layer, q, window, scale, attention);
        pass.load(attention, n);
        pass.linear(&self.output, h)
    }
}

/// `out = softmax(q . keys * scale) . values` for every query head, over what its position sees.
fn attend(
    pass: &Pass<'_>,
    config: &Config,
    layer: usize,
    q: &[f32],
    window: Window,
    scale: f32,
    out: &mut Vec<f32>,
) {
    let (start, ops, cache) = (pass.start(), pass.ops, &*pass.cache);
    let heads_per_kv = config.n_heads / config.n_kv_heads;
    out.resize(pass.n_tokens() * config.attention_len(), 0.0);
    pass.pool.for_each_chunk(out, config.value_dim, &|i, out| {
        let (position, head) = (start + i / config.n_heads, i % config.n_heads);
        let (keys, values) = cache.head(layer, head / heads_per_kv);
        let query = &q[i * config.head_dim..][..config.head_dim];
        let (first, end) = (window.first(position), position + 1);
        ops.attend(&AttentionHead { query, keys, values, first, end, scale }, out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sliding_window_counts_the_position_itself() {
        assert_eq!(Window::Sliding(4).first(2), 0);
        assert_eq!(Window::Sliding(4).first(3), 0);
        assert_eq!(Window::Sliding(4).first(4), 1);
        assert_eq!(Window::Full.first(1000), 0);
    }
}
