//! Which experts the tokens of a batch use, and the same seen from the experts.
//!
//! ```text
//!   by token   [token][n_used]     likeliest expert first
//!   by expert  groups of uses      experts ascending, in each the tokens ascending
//! ```

use crate::kernels::Ops;
use std::ops::Range;

/// An expert that is used, and where its uses stand among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) expert: usize,
    /// Uses of the expert, one for each token that it has; not empty.
    pub(super) uses: Range<usize>,
}

impl Group {
    pub(super) fn n_tokens(&self) -> usize {
        self.uses.len()
    }
}

/// What a token takes from one expert.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    /// Index of the use, whose output is the expert's for this token.
    pub(super) at: u32,
    pub(super) weight: f32,
}

/// The uses of a batch.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) groups: Vec<Group>,
    /// Token of each use, in the order of `groups`.
    pub(super) tokens: Vec<u32>,
    /// `[token][n_used]`, the likeliest expert first; the weights of a token sum to 1.
    pub(super) shares: Vec<Share>,
}

/// Bytes of the routing of one token, while it is made.
pub(super) fn bytes_per_token(n_used: usize) -> u64 {
    (n_used * (size_of::<u32>() * 2 + size_of::<Share>())) as u64
}

impl Routing {
    /// Each token uses the `n_used` experts with the largest values in its row of `router`, `[token][n_experts]`, and
    /// weighs them by the softmax over these: the softmax over all, made to sum to 1.
    ///
    /// Of equal values the lower index counts as the larger one. NaN counts as larger than all numbers, so that what is
    /// damaged is used and shows.
    pub(super) fn new(router: &[f32], n_experts: usize, n_used: usize, ops: &Ops) -> Routing {
        let n_uses = router.len() / n_experts * n_used;
        let mut picks: Vec<u32> = Vec::with_capacity(n_uses);
        let mut shares = vec![Share::default(); n_uses];
        // Of each expert: first how many uses it has, then where its next one goes.
        let mut next = vec![0; n_experts];
        let (mut best, mut weights) = (Vec::with_capacity(n_used + 1), Vec::with_capacity(n_used));
        for (values, shares) in router.chunks_exact(n_experts).zip(shares.chunks_exact_mut(n_used)) {
            pick(values, n_used, &mut best);
            weights.clear();
            weights.extend(best.iter().map(|expert| values[*expert as usize]));
            ops.softmax(&mut weights);
            shares.iter_mut().zip(&weights).for_each(|(share, weight)| share.weight = *weight);
            best.iter().for_each(|expert| next[*expert as usize] += 1);
            picks.extend(&best);
        }
        let mut groups = Vec::new();
        let mut first = 0;
        for (expert, next) in next.iter_mut().enumerate() {
            let end = first + *next;
            if end > first {
                groups.push(Group { expert, uses: first..end });
            }
            *next = first;
            first = end;
        }
        let mut tokens = vec![0; n_uses];
        for (i, (expert, share)) in picks.iter().zip(&mut shares).enumerate() {
            let at = &mut next[*expert as usize];
            tokens[*at] = (i / n_used) as u32;
            share.at = *at as u32;
            *at += 1;
        }
        Routing { groups, tokens, shares }
    }
}

/// The indices of the `n` largest of `values`, in falling order.
fn pick(values: &[f32], n: usize, best: &mut Vec<u32>) {
    let is_larger = |a: f32, b: f32| a > b || (a.is_nan() && !b.is_nan());
    best.clear();
    for (i, value) in values.iter().enumerate() {
        let place = best.partition_point(|other| !is_larger(*value, values[*other as usize]));
        if place < n {
            best.insert(place, i as u32);
            best.truncate(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    fn picked(values: &[f32], n: usize) -> Vec<u32> {
        let mut best = vec![7; 3];
        pick(values, n, &mut best);
        best
    }

    #[test]
    fn the_largest_are_picked_whatever_the_values() {
        assert_eq!(picked(&[1.0, 3.0, 2.0, 0.0], 2), [1, 2]);
        assert_eq!(picked(&[1.0, 3.0, 2.0, 0.0], 4), [1, 2, 0, 3]);
        assert_eq!(picked(&[2.0, 5.0, 2.0, 5.0, 2.0], 4), [1, 3, 0, 2], "ties go to the lower index");
        assert_eq!(picked(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(picked(&[1.0, f32::NAN, f32::INFINITY, -f32::NAN], 3), [1, 3, 2], "NaN shows");
        assert_eq!(picked(&[f32::NEG_INFINITY; 3], 2), [0, 1]);
        assert_eq!(picked(&[f32::NAN; 3], 2), [0, 1]);
    }

    #[test]
    fn tokens_are_grouped_by_expert_and_weights_sum_to_one() {
        let router = [[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 1.0, 0.5], [0.0, 1.0, 0.0, 9.0]].concat();
        let routing = Routing::new(&router, 4, 2, &Ops::new(Isa::detect()));
        let group = |expert, uses| Group { expert, uses };
        assert_eq!(routing.groups, [group(0, 0..1), group(1, 1..3), group(2, 3..5), group(3, 5..6)]);
        assert_eq!(routing.tokens, [1, 0, 2, 0, 1, 2]);
        let places: Vec<u32> = routing.shares.iter().map(|share| share.at).collect();
        assert_eq!(places, [1, 3, 0, 4, 5, 2]);
        let weights: Vec<f32> = routing.shares.iter().map(|share| share.weight).collect();
        for (pair, difference) in weights.chunks_exact(2).zip([1.0f32, 2.0, 8.0]) {
            assert!((pair[0] + pair[1] - 1.0).abs() < 1e-6, "{pair:?}");
            assert!((pair[0] - 1.0 / (1.0 + (-difference).exp())).abs() < 1e-6, "{pair:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_a_number_spoils_the_weights_of_its_token_only() {
        let router = [0.0, f32::NAN, 1.0, 0.0, 1.0, 2.0];
        let routing = Routing::new(&router, 3, 2, &Ops::new(Isa::detect()));
        let bad: Vec<bool> = routing.shares.iter().map(|share| share.weight.is_nan()).collect();
        assert_eq!(bad, [true, true, false, false]);
    }
}
