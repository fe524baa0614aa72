//! The online softmax (arXiv 1805.02867), block by block, and how parts of it are put together.

use super::super::vector::{LANES, Vector, exp};
use super::BLOCK;

/// Where the softmax of some query rows stands: of what a row has seen, the largest score, the sum of
/// `exp(score - largest)`, and the values summed with these weights.
///
/// A row that has seen nothing has a sum of 0; any other has at least 1 (or NaN).
pub(crate) struct Rows<'a> {
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    /// `[row][stride]`
    values: &'a mut [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Floats that `n_rows` rows take.
    pub(crate) fn len(n_rows: usize, stride: usize) -> usize {
        n_rows * (2 + stride)
    }

    /// The rows that `floats` holds; `stride` is the length of a value, a multiple of 16.
    pub(crate) fn new(floats: &'a mut [f32], n_rows: usize, stride: usize) -> Rows<'a> {
        let (largest, rest) = floats.split_at_mut(n_rows);
        let (sums, rest) = rest.split_at_mut(n_rows);
        Rows { largest, sums, values: &mut rest[..n_rows * stride], stride }
    }

    /// Makes all rows such as have seen nothing.
    pub(crate) fn clear(&mut self) {
        self.largest.fill(f32::NEG_INFINITY);
        self.sums.fill(0.0);
        self.values.fill(0.0);
    }

    /// All values from row `row` on, `[row][stride]`.
    pub(crate) fn values_from(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..]
    }

    /// Sum and values of row `row`.
    pub(crate) fn row(&self, row: usize) -> (f32, &[f32]) {
        (self.sums[row], &self.values[row * self.stride..][..self.stride])
    }
}

/// What a row sees of a block: places from the first to before the second.
pub(crate) type Visible = (u8, u8);

/// Turns the products of queries and keys of one block, `[row][BLOCK]`, into weights of its values, and brings
/// `rows` to the new largest scores. Weights of places that a row does not see are not to be used.
#[inline(always)]
pub(in super::super) fn weights<V: Vector>(
    visible: &[Visible],
    scale: f32,
    products: &mut [f32],
    rows: &mut Rows<'_>,
) {
    let stride = rows.stride;
    let states = rows.largest.iter_mut().zip(rows.sums.iter_mut());
    let blocks = products.as_chunks_mut::<BLOCK>().0.iter_mut().zip(rows.values.chunks_exact_mut(stride));
    for ((visible, (largest, sum)), (products, values)) in visible.iter().zip(states).zip(blocks) {
        let (from, to) = (usize::from(visible.0), usize::from(visible.1));
        if from == to {
            continue;
        }
        products[..from].fill(f32::NEG_INFINITY);
        products[to..].fill(f32::NEG_INFINITY);
        let groups = products.as_chunks_mut::<LANES>().0;
        let factor = V::splat(scale);
        let mut best = V::splat(f32::NEG_INFINITY);
        for group in groups.iter_mut() {
            let scores = V::from_floats(group).mul(factor);
            scores.write(group);
            best = scores.max(best);
        }
        let best = best.largest();
        if best > *largest {
            let correction = exp_of::<V>(*largest - best);
            for values in values.as_chunks_mut::<LANES>().0 {
                V::from_floats(values).mul(V::splat(correction)).write(values);
            }
            *sum *= correction;
            *largest = best;
        }
        // A position's place in the block fixes its lane; what the row does not see counts as zero.
        let mut lanes = V::splat(0.0);
        for group in groups {
            let weights = exp(V::from_floats(group).sub(V::splat(*largest)));
            weights.write(group);
            lanes = lanes.add(weights);
        }
        *sum += lanes.tree();
    }
}

#[inline(always)]
fn exp_of<V: Vector>(x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    exp(V::splat(x)).write(&mut lanes);
    lanes[0]
}

/// Adds what `part` has seen to `total`, which has seen what comes before it.
#[inline(always)]
pub(in super::super) fn merge<V: Vector>(total: &mut Rows<'_>, part: &Rows<'_>) {
    let stride = total.stride;
    for (row, sum) in total.sums.iter_mut().enumerate() {
        let (part_largest, part_sum) = (part.largest[row], part.sums[row]);
        let largest = &mut total.largest[row];
        let values = &mut total.values[row * stride..][..stride];
        let part_values = &part.values[row * stride..][..stride];
        if part_sum == 0.0 {
            continue;
        }
        if *sum == 0.0 {
            values.copy_from_slice(part_values);
            (*largest, *sum) = (part_largest, part_sum);
            continue;
        }
        let groups = values.as_chunks_mut::<LANES>().0.iter_mut().zip(part_values.as_chunks::<LANES>().0);
        if part_largest > *largest {
            let correction = exp_of::<V>(*largest - part_largest);
            for (values, part) in groups {
                V::from_floats(values).fma(V::splat(correction), V::from_floats(part)).write(values);
            }
            *sum = sum.mul_add(correction, part_sum);
            *largest = part_largest;
        } else {
            let correction = exp_of::<V>(part_largest - *largest);
            for (values, part) in groups {
                V::from_floats(part).fma(V::splat(correction), V::from_floats(values)).write(values);
            }
            *sum = part_sum.mul_add(correction, *sum);
        }
    }
}
