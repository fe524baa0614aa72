//! The end of a pass: from the residual stream to logits, or to the state that an embedding is made of.

use super::{Buffers, Pass};
use crate::config::Config;
use crate::error::{BindError, PassError};
use crate::model::Wants;
use crate::weights::{Binder, Linear, Matrix, Vector};

/// The last norm and the output matrix.
pub(crate) struct Head {
    norm: Vector,
    output: Linear,
}

/// Takes what a sequence wanted: which sequence, the position, and logits, `[vocab_len]`, or the state, `[dim]`.
pub(crate) type OnOutput<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

/// A row of the residual stream that something is wanted of.
struct Wanted {
    sequence: usize,
    position: usize,
    row: usize,
}

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

    /// Gives every sequence what it wants: logits, `cap * tanh(logits / cap)` where `soft_cap` is not 0, or the state
    /// after the last norm.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        soft_cap: f32,
        buffers: &mut Buffers,
        on_output: OnOutput<'_>,
    ) -> Result<(), PassError> {
        let (logits_of, states_of) = wanted(pass);
        for wanted in states_of {
            self.norm_rows(pass, config, &[&wanted], buffers)?;
            if !buffers.h.iter().all(|value| value.is_finite()) {
                return Err(PassError::NotFinite { position: wanted.position });
            }
            on_output(wanted.sequence, wanted.position, &buffers.h);
        }
        for wanted in logits_of.chunks(pass.output_rows) {
            self.norm_rows(pass, config, &wanted.iter().collect::<Vec<_>>(), buffers)?;
            pass.load(&buffers.h, wanted.len());
            pass.linear(&self.output, &mut buffers.logits)?;
            let rows = buffers.logits.chunks_exact_mut(config.vocab_len);
            for (Wanted { sequence, position, .. }, row) in wanted.iter().zip(rows) {
                if soft_cap != 0.0 {
                    pass.ops.soft_cap(row, soft_cap);
                }
                if !row.iter().all(|l| l.is_finite()) {
                    return Err(PassError::NotFinite { position: *position });
                }
                on_output(*sequence, *position, row);
            }
        }
        Ok(())
    }

    /// `h = norm(rows of x)`
    fn norm_rows(
        &self,
        pass: &mut Pass<'_>,
        config: &Config,
        wanted: &[&Wanted],
        buffers: &mut Buffers,
    ) -> Result<(), PassError> {
        // The results of attention are not wanted any more.
        let Buffers { x, h, attention: rows, .. } = buffers;
        rows.clear();
        for wanted in wanted {
            rows.extend_from_slice(&x[wanted.row * config.dim..][..config.dim]);
        }
        pass.rms_norm(rows, &self.norm, config.rms_eps, h)
    }
}

/// Rows whose logits are wanted, and rows whose states are.
fn wanted(pass: &Pass<'_>) -> (Vec<Wanted>, Vec<Wanted>) {
    let (mut logits, mut states) = (Vec::new(), Vec::new());
    let mut first_row = 0;
    for (sequence, of) in pass.sequences.iter().enumerate() {
        let (start, n_tokens) = (of.cache.len(), of.tokens.len());
        let at = |token: usize| Wanted { sequence, position: start + token, row: first_row + token };
        match of.wants {
            Wants::Nothing => {}
            Wants::LogitsFrom(first) => logits.extend((first..n_tokens).map(at)),
            Wants::State => states.push(at(n_tokens - 1)),
        }
        first_row += n_tokens;
    }
    (logits, states)
}
