//! The building blocks of every forward pass.
//!
//! A [`Pass`] holds what one pass over the weights needs; its methods are single operations on buffers in
//! memory order, `[token][..]`. The blocks made of several operations stand in [`attention`], [`feed_forward`] and
//! [`mixture`]; an architecture puts blocks in its order.

mod attention;
mod decoder;
mod feed_forward;
mod head;
mod mixture;
mod routing;

pub(crate) use attention::{SelfAttention, Window};
pub(crate) use decoder::{DecoderLayer, Extras};
pub(crate) use feed_forward::{FeedForward, Gate};
pub(crate) use head::{Head, OnOutput};
pub(crate) use mixture::{MixtureOfExperts, round_bytes, routing_bytes_per_token};

use crate::error::PassError;
use crate::kernels::{self, Activations, AttentionScratch, DisjointRows, Ops, Pool, Product, WeightRows};
use crate::model::Sequence;
use crate::rope::RopeTable;
use crate::weights::{Linear, Matrix, Vector};
use rawrz_residency::{Extent, Lease, Source};

/// How a pair of elements that rotate together is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// Neighbours: 2i and 2i + 1.
    Adjacent,
    /// i and i + half the rotated elements.
    Halves,
}

/// Buffers of one batch, `[token][length]`, with the tokens of all sequences one after the other; kept from pass to pass.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The residual stream, `[token][dim]`.
    pub(crate) x: Vec<f32>,
    /// Input or output of a block, `[token][dim]`.
    pub(crate) h: Vec<f32>,
    /// `[token][head][head_dim]`
    pub(crate) q: Vec<f32>,
    /// `[token][kv_head][head_dim]`
    pub(crate) k: Vec<f32>,
    /// `[token][kv_head][value_dim]`
    pub(crate) v: Vec<f32>,
    /// `[token][head][value_dim]`
    pub(crate) attention: Vec<f32>,
    /// `[token][ffn_dim]`, or of experts `[use][ffn_dim]`
    pub(crate) gate: Vec<f32>,
    /// As `gate`.
    pub(crate) up: Vec<f32>,
    /// Values of the router for each expert, `[token][n_experts]`
    pub(crate) router: Vec<f32>,
    /// What experts gave, before it is weighed: `[use][dim]`, uses in the order of [`routing`].
    pub(crate) expert_outputs: Vec<f32>,
    /// `[output][vocab_len]`
    pub(crate) logits: Vec<f32>,
}

/// One pass of a batch of tokens, of one timeline or several, through the model. Only attention knows which token is
/// of which timeline.
pub(crate) struct Pass<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) ops: Ops,
    pub(crate) pool: &'a Pool,
    /// Input of the next matmuls.
    pub(crate) acts: &'a mut Activations,
    /// A weight vector, widened.
    pub(crate) vector: &'a mut Vec<f32>,
    /// Rows of the embedding table, as they lie in the file.
    pub(crate) table_rows: &'a mut Vec<u8>,
    pub(crate) attention: &'a mut AttentionScratch,
    /// Not empty, as are none of their tokens.
    pub(crate) sequences: Vec<Sequence<'a>>,
    /// Rows of logits that are computed at a time.
    pub(crate) output_rows: usize,
}

/// Rows of a matrix that are in memory, and where their products go.
struct Leased<'a> {
    weight: &'a Matrix,
    out: &'a DisjointRows<'a>,
    column: usize,
    lease: Lease<'a>,
}

impl Leased<'_> {
    fn product<'a>(&'a self, acts: &'a Activations) -> Product<'a> {
        let row_bytes = self.weight.row_bytes as usize;
        let rows = WeightRows { ty: self.weight.ty, bytes: &self.lease, row_bytes };
        Product { rows, acts, out: self.out, column: self.column }
    }
}

/// Reads a weight vector as floats.
pub(crate) fn read_vector(
    source: &dyn Source,
    vector: &Vector,
    ops: &Ops,
    out: &mut Vec<f32>,
) -> Result<(), PassError> {
    out.resize(vector.0.row_len, 0.0);
    let lease = source.lease(vector.0.extent)?;
    kernels::to_floats(vector.0.ty, &lease, out, ops);
    Ok(lease.release()?)
}

impl Pass<'_> {
    /// Tokens of all sequences.
    pub(crate) fn n_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// The position of each token in its timeline, sequence after sequence.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        self.sequences
            .iter()
            .flat_map(|Sequence { cache, tokens, .. }| cache.len()..cache.len() + tokens.len())
    }

    fn tokens(&self) -> impl Iterator<Item = u32> {
        self.sequences.iter().flat_map(|sequence| sequence.tokens.iter().copied())
    }

    /// `out = rows of the table`, `[token][row_len]`.
    pub(crate) fn embed(&mut self, table: &Matrix, out: &mut Vec<f32>) -> Result<(), PassError> {
        out.resize(self.n_tokens() * table.row_len, 0.0);
        let rows: Vec<_> = self.tokens().map(|token| table.row(token as usize)).collect();
        self.source.copy(&rows, self.table_rows)?;
        let rows = self.table_rows.chunks_exact(table.row_bytes as usize);
        for (row, out) in rows.zip(out.chunks_exact_mut(table.row_len)) {
            kernels::to_floats(table.ty, row, out, &self.ops);
        }
        Ok(())
    }

    /// `out = rms_norm(x) * weight` for each row of the length of `weight`: a token, or a head.
    pub(crate) fn rms_norm(
        &mut self,
        x: &[f32],
        weight: &Vector,
        eps: f32,
        out: &mut Vec<f32>,
    ) -> Result<(), PassError> {
        read_vector(self.source, weight, &self.ops, self.vector)?;
        out.resize(x.len(), 0.0);
        let (len, weight, ops) = (weight.0.row_len, &**self.vector, self.ops);
        self.pool.for_each_chunk(out, len, &|i, out| ops.rms_norm(&x[i * len..][..len], weight, eps, out));
        Ok(())
    }

    /// As [`Pass::rms_norm`], in place, through a buffer.
    pub(crate) fn rms_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Vector,
        eps: f32,
        buffer: &mut Vec<f32>,
    ) -> Result<(), PassError> {
        self.rms_norm(x, weight, eps, buffer)?;
        std::mem::swap(x, buffer);
        Ok(())
    }

    /// Makes `x`, `n_rows` rows, the input of the matmuls that follow.
    pub(crate) fn load(&mut self, x: &[f32], n_rows: usize) {
        self.acts.load(x, n_rows, self.pool);
    }

    /// `out = weight * input + bias`, `[row of the input][n_rows of the weight]`.
    pub(crate) fn linear(&mut self, linear: &Linear, out: &mut Vec<f32>) -> Result<(), PassError> {
        self.linears([(linear, out)])
    }

    /// As [`Pass::linear`], for matrices that share their input; all are computed at once.
    pub(crate) fn linears<const N: usize>(
        &mut self,
        mut all: [(&Linear, &mut Vec<f32>); N],
    ) -> Result<(), PassError> {
        for (linear, out) in &mut all {
            out.resize(self.acts.n_rows() * linear.weight.n_rows, 0.0);
        }
        self.multiply(all.each_mut().map(|(linear, out)| (&linear.weight, out.as_mut_slice())))?;
        for (linear, out) in all {
            if let Some(bias) = &linear.bias {
                read_vector(self.source, bias, &self.ops, self.vector)?;
                for row in out.chunks_exact_mut(linear.weight.n_rows) {
                    self.ops.add(row, self.vector);
                }
            }
        }
        Ok(())
    }

    /// Leases the rows of every matrix in the order of the plan and in as few slices as the source allows, and
    /// multiplies as many of them at a time as it lets us hold.
    fn multiply<const N: usize>(&mut self, all: [(&Matrix, &mut [f32]); N]) -> Result<(), PassError> {
        for (weight, _) in &all {
            let kind = kernels::activation_kind(weight.ty, &self.ops, self.acts.precision());
            self.acts.prepare(kind, &self.ops, self.pool);
        }
        let all = all.map(|(weight, out)| (weight, DisjointRows::new(out, weight.n_rows)));
        let max_held = self.source.max_held_bytes();
        let (mut held, mut leases) = (0, Vec::with_capacity(N));
        for (weight, out) in &all {
            let mut done = 0;
            while done < weight.extent.len {
                let rest = weight.extent.slice(done, weight.extent.len - done);
                let len = self.source.lease_len(rest, weight.row_bytes);
                if !leases.is_empty() && held + len > max_held {
                    self.multiply_leased(std::mem::take(&mut leases))?;
                    held = 0;
                }
                let lease = self.source.lease(Extent { len, ..rest })?;
                leases.push(Leased { weight, out, column: (done / weight.row_bytes) as usize, lease });
                held += len;
                done += len;
            }
        }
        self.multiply_leased(leases)
    }

    fn multiply_leased(&self, leases: Vec<Leased<'_>>) -> Result<(), PassError> {
        let products: Vec<Product<'_>> = leases.iter().map(|leased| leased.product(self.acts)).collect();
        kernels::matmul(&products, &self.ops, self.pool);
        drop(products);
        leases.into_iter().try_for_each(|leased| Ok(leased.lease.release()?))
    }

    /// Rotates every head of `head_dim` in `x`, `[token][head][head_dim]`.
    pub(crate) fn rotate(&self, x: &mut [f32], head_dim: usize, rotation: Rotation, table: &RopeTable) {
        let (row_len, ops) = (x.len() / self.n_tokens(), self.ops);
        self.pool.for_each_chunk(x, row_len, &|t, row| {
            let (cos, sin) = table.at(t);
            for head in row.chunks_exact_mut(head_dim) {
                let head = &mut head[..2 * cos.len()];
                match rotation {
                    Rotation::Adjacent => ops.rope_adjacent(head, cos, sin),
                    Rotation::Halves => ops.rope_halves(head, cos, sin),
                }
            }
        });
    }

    /// `x += y`.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32]) {
        self.ops.add(x, y);
    }
}
