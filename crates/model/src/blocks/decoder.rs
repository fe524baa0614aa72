//! The pre-norm decoder layer that `llama` brought and its kin share: attention, then a SiLU-gated feed-forward
//! block or a mixture of such, each on a normed copy of the residual stream and added to it.

use super::{Buffers, FeedForward, Gate, MixtureOfExperts, Pass, Rotation, SelfAttention, Window};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::rope::RopeTable;
use crate::weights::{Binder, Vector};

/// What some of the architectures have in their layers, and others do not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// Biases besides those of q, k and v.
    pub(crate) biases: bool,
    /// Norms of each query and key head.
    pub(crate) head_norms: bool,
}

/// The second block of a layer.
enum Ffn {
    Dense(FeedForward),
    Mixture(MixtureOfExperts),
}

/// Weights of one layer.
pub(crate) struct DecoderLayer {
    attention_norm: Vector,
    attention: SelfAttention,
    ffn_norm: Vector,
    ffn: Ffn,
}

impl DecoderLayer {
    /// Binds `blk.LAYER.*`.
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        layer: usize,
        extras: Extras,
    ) -> Result<DecoderLayer, BindError> {
        binder.begin_stage(layer);
        Ok(DecoderLayer {
            attention_norm: binder.vector(&format!("blk.{layer}.attn_norm.weight"), config.dim)?,
            attention: SelfAttention::bind(binder, config, layer, extras.head_norms, extras.biases)?,
            ffn_norm: binder.vector(&format!("blk.{layer}.ffn_norm.weight"), config.dim)?,
            ffn: match config.experts {
                None => Ffn::Dense(FeedForward::bind(binder, config, layer, extras.biases)?),
                Some(experts) => Ffn::Mixture(MixtureOfExperts::bind(binder, config, experts, layer)?),
            },
        })
    }

    /// Adds what the layer has to say to the residual stream, `b.x`.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        layer: usize,
        rotation: Rotation,
        table: &RopeTable,
        b: &mut Buffers,
    ) -> Result<(), PassError> {
        let (eps, scale) = (config.rms_eps, 1.0 / (config.head_dim as f32).sqrt());
        pass.rms_norm(&b.x, &self.attention_norm, eps, &mut b.h)?;
        self.attention.forward(pass, config, layer, rotation, table, Window::Full, scale, b)?;
        pass.add(&mut b.x, &b.h);
        pass.rms_norm(&b.x, &self.ffn_norm, eps, &mut b.h)?;
        match &self.ffn {
            Ffn::Dense(ffn) => ffn.forward(pass, Gate::Silu, b)?,
            Ffn::Mixture(ffn) => ffn.forward(pass, b)?,
        }
        pass.add(&mut b.x, &b.h);
        Ok(())
    }
}
