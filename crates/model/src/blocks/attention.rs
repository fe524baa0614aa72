//! Grouped-query self-attention over the KV cache.

use super::{Buffers, Pass, Rotation};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::kernels::{self, Attention};
use crate::model::Sequence;
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
        attention.resize(n * config.attention_len(), 0.0);
        let mut first = 0;
        for Sequence { cache, tokens, .. } in &mut pass.sequences {
            let end = first + tokens.len();
            let keys = &k[first * config.key_len()..end * config.key_len()];
            let values = &v[first * config.value_len()..end * config.value_len()];
            cache.store(layer, keys, values, &pass.ops, pass.pool);
            cache.set_window(layer, window.len());
            first = end;
        }
        let layers: Vec<_> = pass.sequences.iter().map(|sequence| sequence.cache.layer(layer)).collect();
        let (mut queries, mut outs) = (&q[..], &mut attention[..]);
        let mut jobs = Vec::with_capacity(layers.len());
        for (Sequence { cache, tokens, .. }, blocks) in pass.sequences.iter().zip(&layers) {
            let (of_sequence, others) = queries.split_at(tokens.len() * config.query_len());
            let (out, other_outs) = outs.split_at_mut(tokens.len() * config.attention_len());
            (queries, outs) = (others, other_outs);
            let job = Attention {
                layout: cache.layout(),
                n_heads: config.n_heads,
                n_kv_heads: config.n_kv_heads,
                queries: of_sequence,
                cache: blocks,
                start: cache.len(),
                window_len: window.len(),
                scale,
            };
            jobs.push((job, out));
        }
        kernels::attend_all(jobs, pass.attention, &pass.ops, pass.pool)?;
        pass.load(attention, n);
        pass.linear(&self.output, h)
    }
}
