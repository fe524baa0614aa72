//! Log-probabilities of raw logits, before any sampling.

use rawrz_text::TokenId;

/// A token and its natural log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// ln of its softmax probability.
    pub logprob: f32,
}

/// A token that was chosen, as the model saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token, with its log-probability.
    pub chosen: TokenLogprob,
    /// The most likely tokens at its place, most likely first.
    pub top: Vec<TokenLogprob>,
}

/// ln of the sum of e^logit, in f64: what a logit is taken from to give its log-probability.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - top).exp()).sum();
    top + sum.ln()
}

/// Log-probability of token `id` under `logits`.
///
/// # Panics
/// When `id` is outside `logits`.
pub fn logprob_of(logits: &[f32], id: TokenId) -> f64 {
    f64::from(logits[id as usize]) - log_sum_exp(logits)
}

/// The `k` most likely tokens, most likely first; of equals the one with the lower id.
pub fn top_logprobs(logits: &[f32], k: usize) -> Vec<TokenLogprob> {
    let k = k.min(logits.len());
    if k == 0 {
        return Vec::new();
    }
    let norm = log_sum_exp(logits);
    let mut ids: Vec<TokenId> = (0..logits.len() as TokenId).collect();
    let by_logit =
        |a: &TokenId, b: &TokenId| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < ids.len() {
        ids.select_nth_unstable_by(k - 1, by_logit);
        ids.truncate(k);
    }
    ids.sort_unstable_by(by_logit);
    let logprob = |id: TokenId| (f64::from(logits[id as usize]) - norm) as f32;
    ids.into_iter().map(|id| TokenLogprob { id, logprob: logprob(id) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up() {
        let logits = [1.0, -3.0, 500.0, 499.0, 0.5];
        let all = top_logprobs(&logits, 99);
        let sum: f64 = all.iter().map(|t| f64::from(t.logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(all.iter().map(|t| t.id).collect::<Vec<_>>(), [2, 3, 0, 4, 1]);
        assert_eq!(top_logprobs(&logits, 2), all[..2]);
        assert!((logprob_of(&logits, 3) - f64::from(all[1].logprob)).abs() < 1e-6);
        assert!(top_logprobs(&logits, 0).is_empty());
    }

    #[test]
    fn equals_come_by_id() {
        let ids: Vec<_> = top_logprobs(&[7.0; 6], 3).iter().map(|t| t.id).collect();
        assert_eq!(ids, [0, 1, 2]);
    }
}
