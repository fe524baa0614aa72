//! The mixture of experts: a feed-forward block of which every token uses a few of many (arXiv 2101.03961; the weights
//! of those in use sum to 1).
//!
//! The tokens of a batch are grouped by expert, so that each expert's weights are read once for all of them. Experts
//! are computed as they arrive, several at once where several are there. What each gave to each token is kept apart
//! and summed at the end, the likeliest expert first: the order of arrival changes no bit.

use super::routing::{self, Group, Routing};
use super::{Buffers, Pass};
use crate::config::{Config, Experts};
use crate::error::{BindError, PassError};
use crate::kernels::{self, Activations, DisjointRows, Product, WeightRows};
use crate::weights::{Binder, ExpertMatrices, Linear};
use rawrz_residency::{Arrived, Extent, Lease};

/// The most rows of activations, one for each token of each expert, that are computed at once: as many as one expert may
/// have, and enough for the experts of a few tokens.
fn max_rows(n_tokens: usize) -> usize {
    n_tokens.max(32)
}

/// Bytes of scratch that the router and the outputs of experts take for each token.
pub(crate) fn routing_bytes_per_token(experts: Experts, dim: usize) -> u64 {
    let floats = experts.n_experts + experts.n_used * dim;
    floats as u64 * 4 + routing::bytes_per_token(experts.n_used)
}

/// The most bytes of scratch that experts computed together take, for a batch of `batch_len` tokens.
pub(crate) fn round_bytes(experts: Experts, dim: usize, ffn_dim: usize, batch_len: usize) -> u64 {
    let n_rows = max_rows(batch_len);
    // Each expert has activations of its own, of at least a row.
    let inputs = Activations::bytes(dim.max(ffn_dim), n_rows, experts.n_experts.min(n_rows));
    2 * (n_rows * ffn_dim * 4) as u64 + inputs
}

/// Weights of one layer's experts and of their router.
pub(crate) struct MixtureOfExperts {
    /// `[dim] -> [n_experts]`
    router: Linear,
    gate: ExpertMatrices,
    up: ExpertMatrices,
    down: ExpertMatrices,
    dim: usize,
    ffn_dim: usize,
    experts: Experts,
}

/// An expert in memory, and the input of its next products: a row for each of its tokens.
struct Present<'a> {
    group: &'a Group,
    /// Where its rows stand among those that are computed together.
    first_row: usize,
    acts: Activations,
    gate: Lease<'a>,
    up: Lease<'a>,
    down: Lease<'a>,
}

impl MixtureOfExperts {
    /// Binds `blk.LAYER.ffn_gate_inp` and `blk.LAYER.ffn_*_exps`.
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &Config,
        experts: Experts,
        layer: usize,
    ) -> Result<MixtureOfExperts, BindError> {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        let (dim, ffn_dim, n) = (config.dim, config.ffn_dim, experts.n_experts);
        let router = binder.linear(&name("gate_inp"), dim, n, false)?;
        let gate = binder.expert_matrices(&name("gate_exps.weight"), dim, ffn_dim, n)?;
        let up = binder.expert_matrices(&name("up_exps.weight"), dim, ffn_dim, n)?;
        let down = binder.expert_matrices(&name("down_exps.weight"), ffn_dim, dim, n)?;
        let mixture = MixtureOfExperts { router, gate, up, down, dim, ffn_dim, experts };
        let alternatives = (0..n).map(|expert| mixture.extents(expert).to_vec()).collect();
        binder.choice(alternatives, experts.n_used);
        Ok(mixture)
    }

    /// What is read of one expert.
    fn extents(&self, expert: usize) -> [Extent; 3] {
        [self.gate.of(expert), self.up.of(expert), self.down.of(expert)]
    }

    /// `h = sum(weight * expert(h))`: `h` goes in normed and comes out as what is added to the residual stream.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, buffers: &mut Buffers) -> Result<(), PassError> {
        let Experts { n_experts, n_used } = self.experts;
        pass.load(&buffers.h, pass.n_tokens());
        pass.linear(&self.router, &mut buffers.router)?;
        let routing = Routing::new(&buffers.router, n_experts, n_used, &pass.ops);
        buffers.expert_outputs.resize(routing.tokens.len() * self.dim, 0.0);
        let max_rows = max_rows(pass.n_tokens());
        buffers.gate.resize(max_rows * self.ffn_dim, 0.0);
        buffers.up.resize(max_rows * self.ffn_dim, 0.0);
        let mut later = &routing.groups[..];
        while !later.is_empty() {
            let extents: Vec<_> = later.iter().map(|group| self.extents(group.expert)).collect();
            let mut wanted: Vec<&[Extent]> = extents.iter().map(|extents| &extents[..]).collect();
            let (requested, rest) = later.split_at(pass.source.request(&wanted)?);
            later = rest;
            wanted.truncate(requested.len());
            let mut groups: Vec<&Group> = requested.iter().collect();
            while !groups.is_empty() {
                let present = take(pass, &mut groups, &mut wanted, max_rows)?;
                self.compute(pass, &routing, present, buffers)?;
            }
        }
        let (dim, ops, outputs) = (self.dim, pass.ops, &buffers.expert_outputs);
        pass.pool.for_each_chunk(&mut buffers.h, dim, &|t, sum| {
            sum.fill(0.0);
            for share in &routing.shares[t * n_used..][..n_used] {
                ops.add_scaled(sum, share.weight, &outputs[share.at as usize * dim..][..dim]);
            }
        });
        Ok(())
    }

    /// Computes the uses of experts that are in memory into `expert_outputs`, all at once.
    fn compute(
        &self,
        pass: &Pass<'_>,
        routing: &Routing,
        mut present: Vec<Present<'_>>,
        buffers: &mut Buffers,
    ) -> Result<(), PassError> {
        let Buffers { h, gate, up, expert_outputs, .. } = buffers;
        let (ops, pool, ffn_dim) = (pass.ops, pass.pool, self.ffn_dim);
        let kind = |of: &ExpertMatrices| kernels::activation_kind(of.ty(), &ops, pass.acts.precision());
        for Present { group, acts, .. } in &mut present {
            acts.gather(h, self.dim, &routing.tokens[group.uses.clone()], pool);
            acts.prepare(kind(&self.gate), &ops, pool);
            acts.prepare(kind(&self.up), &ops, pool);
        }
        let n_rows: usize = present.iter().map(|p| p.group.n_tokens()).sum();
        let (gate, up) = (&mut gate[..n_rows * ffn_dim], &mut up[..n_rows * ffn_dim]);
        let (gates, ups) = (DisjointRows::new(gate, ffn_dim), DisjointRows::new(up, ffn_dim));
        let outs: Vec<_> =
            present.iter().map(|p| [gates.starting_at(p.first_row), ups.starting_at(p.first_row)]).collect();
        let products = present.iter().zip(&outs).flat_map(|(p, [gate, up])| {
            [product(&self.gate, &p.gate, &p.acts, gate), product(&self.up, &p.up, &p.acts, up)]
        });
        kernels::matmul(&products.collect::<Vec<_>>(), &ops, pool);
        drop(outs);

        let up = &*up;
        pool.for_each_chunk(gate, ffn_dim, &|row, gate| ops.silu_mul(gate, &up[row * ffn_dim..][..ffn_dim]));
        for Present { group, acts, first_row, .. } in &mut present {
            let rows = *first_row..*first_row + group.n_tokens();
            acts.load(&gate[rows.start * ffn_dim..rows.end * ffn_dim], rows.len(), pool);
            acts.prepare(kind(&self.down), &ops, pool);
        }
        let outputs = DisjointRows::new(expert_outputs, self.dim);
        let outs: Vec<_> = present.iter().map(|p| outputs.starting_at(p.group.uses.start)).collect();
        let products = present.iter().zip(&outs).map(|(p, out)| product(&self.down, &p.down, &p.acts, out));
        kernels::matmul(&products.collect::<Vec<_>>(), &ops, pool);

        for Present { gate, up, down, .. } in present {
            gate.release()?;
            up.release()?;
            down.release()?;
        }
        Ok(())
    }
}

/// Takes those of `groups`, for which the extents in `wanted` were requested, that are in memory and not too many to
/// compute at once; waits for one where none is.
fn take<'a>(
    pass: &Pass<'a>,
    groups: &mut Vec<&'a Group>,
    wanted: &mut Vec<&[Extent]>,
    max_rows: usize,
) -> Result<Vec<Present<'a>>, PassError> {
    let (mut present, mut n_rows) = (Vec::new(), 0);
    let mut arrived = Some(pass.source.take_any(wanted)?);
    while let Some(Arrived { index, leases }) = arrived {
        wanted.remove(index);
        let group = groups.remove(index);
        let Ok([gate, up, down]) = <[Lease<'_>; 3]>::try_from(leases) else {
            unreachable!("an expert has three ranges");
        };
        let acts = Activations::new(pass.acts.precision());
        present.push(Present { group, first_row: n_rows, acts, gate, up, down });
        n_rows += group.n_tokens();
        // Which one comes next is not known before it is taken.
        arrived = match groups.iter().map(|group| group.n_tokens()).max() {
            Some(most) if n_rows + most <= max_rows => pass.source.take_ready(wanted)?,
            _ => None,
        };
    }
    Ok(present)
}

fn product<'a>(
    of: &ExpertMatrices,
    lease: &'a Lease<'_>,
    acts: &'a Activations,
    out: &'a DisjointRows<'a>,
) -> Product<'a> {
    let rows = WeightRows { ty: of.ty(), bytes: lease, row_bytes: of.row_bytes() as usize };
    Product { rows, acts, out, column: 0 }
}
