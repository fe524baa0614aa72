//! The end of a pass: from the residual stream to logits.

use super::{Buffers, Pass};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::weights::{Binder, Linear, Matrix, Vector};

/// Rows of logits that are computed at once when many are asked for: the output head is often the largest
/// tensor, and one pass over it serves all of them.
pub(crate) const MAX_OUTPUT_ROWS: usize = 8;

/// The last norm and the output matrix.
pub(crate) struct Head {
    norm: Vector,
    output: Linear,
}

/// Takes the logits of a position: `[vocab_len]`, one for each token of the vocabulary.
pub(crate) type OnLogits<'a> = &'a mut dyn FnMut(usize, &[f32]);

impl Head {
    /// Binds `output_norm` and the output, which may be the embedding table `tied`.
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        tied: &Matrix,
        output_bias: bool,
    ) -> Result<Head, BindError> {
        binder.begin_stage(config.n_layers);
        Ok(Head {
            norm: binder.vector("output_norm.weight", config.dim)?,
            output: binder.output(tied, output_bias)?,
        })
    }

    /// Computes the logits of the batch's tokens from `first_output` on, `cap * tanh(logits / cap)` where
    /// `soft_cap` is not 0.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        first_output: usize,
        soft_cap: f32,
        buffers: &mut Buffers,
        on_logits: OnLogits<'_>,
    ) -> Result<(), PassError> {
        let Buffers { x, h, logits, .. } = buffers;
        let mut position = pass.start() + first_output;
        for rows in x[first_output * config.dim..].chunks(MAX_OUTPUT_ROWS * config.dim) {
            pass.rms_norm(rows, &self.norm, config.rms_eps, h)?;
            pass.load(h, rows.len() / config.dim);
            pass.linear(&self.output, logits)?;
            for row in logits.chunks_exact_mut(config.vocab_len) {
                if soft_cap != 0.0 {
                    pass.ops.soft_cap(row, soft_cap);
                }
                if !row.iter().all(|l| l.is_finite()) {
                    return Err(PassError::NotFinite { position });
                }
                on_logits(position, row);
                position += 1;
            }
        }
        Ok(())
    }
}
