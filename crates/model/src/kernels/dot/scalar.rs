//! The oracle: the definition in [`crate::kernels`], spelled out.

use super::{Dot, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::format::*;
use rawrz_gguf::TensorType;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    visit(ty, Scalar)
}

struct Scalar;

impl FormatVisitor for Scalar {
    type Out = Dot;

    fn small<F: Format32>(self) -> Dot {
        Dot::Block32(dot_32::<F, 1>, dot_32::<F, 2>, dot_32::<F, WIDE>)
    }

    fn large<F: Format256>(self) -> Dot {
        Dot::Block256(dot_256::<F, 1>, dot_256::<F, 2>, dot_256::<F, WIDE>)
    }
}

/// # Safety
/// Every row pointer is good for as many blocks as `acts` has.
unsafe fn dot_32<F: Format32, const N: usize>(rows: &TileRows, acts: [Row32<'_>; N], out: &mut TileOut<N>) {
    for (acts, out) in acts.iter().zip(out) {
        for (row, out) in rows.iter().zip(out) {
            let len = acts.quants.len() / F::TYPE.block_len() * F::TYPE.block_bytes();
            // SAFETY: as the caller promises.
            *out = row_dot_32::<F>(unsafe { std::slice::from_raw_parts(*row, len) }, acts);
        }
    }
}

fn row_dot_32<F: Format32>(row: &[u8], acts: &Row32<'_>) -> f32 {
    let mut acc = 0.0f32;
    for unit in 0..acts.scales.len() * F::PARTS {
        let Small { quants, scale, minimum } = F::unpack(row, unit);
        let b = unit / F::PARTS;
        let sum = int_dot(&quants, F::OFFSET, &acts.quants[b * 32..]);
        acc = (scale * acts.scales[b]).mul_add(sum as f32, acc);
        if F::HAS_MINIMUM {
            acc = minimum.mul_add(acts.scaled_sums[b], acc);
        }
    }
    acc
}

fn int_dot(quants: &[u8], offset: u8, activations: &[i8]) -> i32 {
    quants.iter().zip(activations).map(|(w, a)| (i32::from(*w) - i32::from(offset)) * i32::from(*a)).sum()
}

/// # Safety
/// Every row pointer is good for as many super-blocks as `acts` has.
unsafe fn dot_256<F: Format256, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    for (acts, out) in acts.iter().zip(out) {
        for (row, out) in rows.iter().zip(out) {
            // SAFETY: as the caller promises.
            let row = unsafe { std::slice::from_raw_parts(*row, acts.scales.len() * F::TYPE.block_bytes()) };
            *out = row_dot_256::<F>(row, acts);
        }
    }
}

fn row_dot_256<F: Format256>(row: &[u8], acts: &Row256<'_>) -> f32 {
    let (mut acc, mut block) = (0.0f32, Super::EMPTY);
    for (b, bytes) in row.chunks_exact(F::TYPE.block_bytes()).enumerate() {
        F::unpack(bytes, &mut block);
        let (mut sum, mut minimum) = (0, 0);
        for group in 0..16 {
            let quants = &block.quants[16 * group..][..16];
            let dot = int_dot(quants, F::OFFSET, &acts.quants[256 * b + 16 * group..]);
            sum += i32::from(block.scales[group]) * dot;
            minimum += i32::from(block.minimums[group]) * i32::from(acts.sums[16 * b + group]);
        }
        acc = (block.scale * acts.scales[b]).mul_add(sum as f32, acc);
        if F::HAS_MINIMUMS {
            acc = (-(block.minimum_scale * acts.scales[b])).mul_add(minimum as f32, acc);
        }
    }
    acc
}
