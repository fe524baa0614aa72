//! Choosing the next token from logits.
//!
//! The steps and their order are those users of local models know: penalties, top-k, top-p, min-p,
//! temperature, then a draw. A temperature of 0 takes the most likely token after penalties.

use rawrz_text::TokenId;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 takes the most likely token; higher values flatten the distribution.
    pub temperature: f32,
    /// Keep only the so many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Logits of recent tokens are divided by it when positive, multiplied when negative; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalties look at.
    pub repeat_last_n: usize,
    /// Taken from a logit once for each recent appearance of its token.
    pub frequency_penalty: f32,
    /// Taken from a logit when its token appeared recently.
    pub presence_penalty: f32,
    /// The same seed gives the same draws; none takes one from the system.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
        }
    }
}

impl SamplerOptions {
    /// Takes the most likely token, always.
    pub fn greedy() -> SamplerOptions {
        SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
    }
}

/// A token that is still in the draw.
#[derive(Clone, Copy)]
struct Candidate {
    id: TokenId,
    logit: f32,
}

/// Chooses tokens; holds the state of the draws.
pub struct Sampler {
    options: SamplerOptions,
    random: SplitMix64,
    /// Kept from draw to draw.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler at the start of its seed's sequence.
    pub fn new(options: &SamplerOptions) -> Sampler {
        let seed = options.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Sampler { options: options.clone(), random: SplitMix64(seed), candidates: Vec::new() }
    }

    /// The next token after `history`, given `logits` for every token of the vocabulary.
    ///
    /// # Panics
    /// When `logits` is empty.
    pub fn sample(&mut self, logits: &[f32], history: &[TokenId]) -> TokenId {
        self.sample_among(logits, history, None).expect("logits are not empty")
    }

    /// As [`Sampler::sample`], among the tokens whose bit is set in `mask`, the first token's bit being the lowest of the
    /// first word; `None` when there are none.
    pub fn sample_among(
        &mut self,
        logits: &[f32],
        history: &[TokenId],
        mask: Option<&[u32]>,
    ) -> Option<TokenId> {
        let is_set =
            |mask: &[u32], id: usize| mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        let penalties = self.penalties(history);
        let logit = |id: TokenId| match penalties.get(&id) {
            Some(count) => self.options.penalised(logits[id as usize], *count),
            None => logits[id as usize],
        };
        let may_come = |id: &TokenId| mask.is_none_or(|mask| is_set(mask, *id as usize));
        let ids = (0..logits.len() as TokenId).filter(may_come);
        let all = ids.map(|id| Candidate { id, logit: logit(id) });
        if self.options.temperature <= 0.0 {
            let best = all.reduce(|best, c| if c.logit > best.logit { c } else { best });
            return best.map(|c| c.id);
        }
        self.candidates.clear();
        self.candidates.extend(all);
        if self.candidates.is_empty() {
            return None;
        }
        self.narrow();
        Some(self.draw())
    }

    /// How often each recent token appeared; empty when no penalty is set.
    fn penalties(&self, history: &[TokenId]) -> HashMap<TokenId, u32> {
        let o = &self.options;
        let mut counts = HashMap::new();
        if o.repeat_penalty != 1.0 || o.frequency_penalty != 0.0 || o.presence_penalty != 0.0 {
            for id in history.iter().rev().take(o.repeat_last_n) {
                *counts.entry(*id).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Sorts the candidates, most likely first, and drops those that top-k, top-p and min-p leave out.
    fn narrow(&mut self) {
        let by_logit = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
        let candidates = &mut self.candidates;
        let k = self.options.top_k;
        if k > 0 && k < candidates.len() {
            candidates.select_nth_unstable_by(k - 1, by_logit);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(by_logit);
        let top = candidates[0].logit;
        if self.options.top_p < 1.0 {
            let weight = |c: &Candidate| f64::from(c.logit - top).exp();
            let total: f64 = candidates.iter().map(weight).sum();
            let mut reached = 0.0;
            let within = candidates.iter().take_while(|c| {
                let before = reached;
                reached += weight(c) / total;
                before < f64::from(self.options.top_p)
            });
            let keep = within.count().max(1);
            candidates.truncate(keep);
        }
        if self.options.min_p > 0.0 {
            let lowest = top + self.options.min_p.ln();
            let keep = candidates.iter().take_while(|c| c.logit >= lowest).count().max(1);
            candidates.truncate(keep);
        }
    }

    fn draw(&mut self) -> TokenId {
        let (top, temperature) = (self.candidates[0].logit, f64::from(self.options.temperature));
        let weight = |c: &Candidate| (f64::from(c.logit - top) / temperature).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut left = self.random.next_unit() * total;
        for candidate in &self.candidates {
            left -= weight(candidate);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a last sliver of the interval to nobody.
        self.candidates[0].id
    }
}

impl SamplerOptions {
    fn penalised(&self, logit: f32, count: u32) -> f32 {
        let scaled = if logit > 0.0 { logit / self.repeat_penalty } else { logit * self.repeat_penalty };
        scaled - count as f32 * self.frequency_penalty - self.presence_penalty
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and any seed is good.
struct SplitMix64(u64);

impl SplitMix64 {
    /// Uniform in [0, 1), with 53 bits.
    fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything off except a temperature of 1.
    fn plain() -> SamplerOptions {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(1),
            ..SamplerOptions::default()
        }
    }

    /// Shares of `n` draws.
    fn shares(options: &SamplerOptions, logits: &[f32], n: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(options);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, &[]) as usize] += 1;
        }
        counts.iter().map(|c| f64::from(*c) / n as f64).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 0.015), "{got:?} {expected:?}");
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let mut sampler = Sampler::new(&SamplerOptions::greedy());
        assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, 1.0], &[]), 1);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0], &[]), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.5f32, 0.25, 0.25].map(f32::ln);
        assert_close(&shares(&plain(), &logits, 20_000), &[0.5, 0.25, 0.25]);
        let cold = SamplerOptions { temperature: 0.5, ..plain() };
        assert_close(&shares(&cold, &logits, 20_000), &[2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]);
    }

    #[test]
    fn filters_leave_out_what_they_should() {
        let logits = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        let top_k = SamplerOptions { top_k: 2, ..plain() };
        assert_close(&shares(&top_k, &logits, 20_000), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        let top_p = SamplerOptions { top_p: 0.75, ..plain() };
        assert_close(&shares(&top_p, &logits, 20_000), &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
        let min_p = SamplerOptions { min_p: 0.6, ..plain() };
        assert_close(&shares(&min_p, &logits, 20_000), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        let none_left = SamplerOptions { top_p: 0.0, min_p: 1.0, ..plain() };
        assert_close(&shares(&none_left, &logits, 100), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn penalties_lower_recent_tokens() {
        let greedy = SamplerOptions::greedy;
        let pick = |options: SamplerOptions, logits: &[f32], history: &[TokenId]| {
            Sampler::new(&options).sample(logits, history)
        };
        let repeat = || SamplerOptions { repeat_penalty: 2.0, ..greedy() };
        assert_eq!(pick(repeat(), &[3.0, 2.0], &[0]), 1);
        assert_eq!(pick(repeat(), &[-1.0, -1.5], &[0]), 1);
        let short = SamplerOptions { repeat_last_n: 1, ..repeat() };
        assert_eq!(pick(short, &[3.0, 2.0], &[0, 1]), 0);
        let frequency = || SamplerOptions { frequency_penalty: 0.4, ..greedy() };
        assert_eq!(pick(frequency(), &[3.0, 2.0], &[0, 0]), 0);
        assert_eq!(pick(frequency(), &[3.0, 2.0], &[0, 0, 0]), 1);
        let presence = || SamplerOptions { presence_penalty: 0.7, ..greedy() };
        assert_eq!(pick(presence(), &[3.0, 2.0], &[0, 0, 0]), 0);
        assert_eq!(pick(presence(), &[3.0, 2.5], &[0]), 1);
    }

    #[test]
    fn a_mask_leaves_what_it_allows() {
        let logits: Vec<f32> = (0..70).map(|i| i as f32).collect();
        let mask = [1 << 5, 1, 1 << 3];
        for options in [SamplerOptions::greedy(), SamplerOptions { temperature: 0.001, ..plain() }] {
            let mut sampler = Sampler::new(&options);
            assert_eq!(sampler.sample_among(&logits, &[], Some(&mask)), Some(67));
            assert_eq!(
                sampler.sample_among(&logits, &[], Some(&mask[..1])),
                Some(5),
                "past its end nothing is"
            );
            assert_eq!(sampler.sample_among(&logits, &[], Some(&[0; 3])), None);
        }
    }

    #[test]
    fn a_seed_repeats_its_draws() {
        let run = |seed| {
            let mut sampler = Sampler::new(&SamplerOptions { seed, ..plain() });
            (0..64).map(|_| sampler.sample(&[0.0; 100], &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(Some(7)), run(Some(7)));
        assert_ne!(run(Some(7)), run(Some(8)));
        assert_ne!(run(None), run(None));
    }
}
