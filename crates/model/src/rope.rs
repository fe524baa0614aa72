//! Rotary position embedding: the angles, and how they are stretched for longer contexts.
//!
//! RoFormer (arXiv 2104.09864); linear scaling is position interpolation (arXiv 2306.15595); YaRN is arXiv
//! 2309.00071 with its published constants beta_fast = 32 and beta_slow = 1, which these architectures fix.

use crate::config::Keys;
use crate::error::BindError;

const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

/// How rotation angles are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None {
        /// Factor of every rotated value.
        magnitude: f32,
    },
    /// All angles divided by `factor`.
    Linear {
        /// At least 1 in practice.
        factor: f32,
        /// Factor of every rotated value.
        magnitude: f32,
    },
    /// Slow angles divided by `factor`, fast ones kept, a ramp between.
    Yarn {
        /// The stretch.
        factor: f32,
        /// Factor of every rotated value, before YaRN's own.
        magnitude: f32,
        /// Context the model had before it was stretched.
        original_context_len: usize,
    },
}

impl RopeScaling {
    pub(crate) fn read(keys: &Keys<'_>, context_len: usize) -> Result<RopeScaling, BindError> {
        let key = "rope.scaling.factor";
        let factor = match keys.f32(key)? {
            Some(factor) => Some((key, factor)),
            None => keys.f32("rope.scale_linear")?.map(|factor| ("rope.scale_linear", factor)),
        };
        let bad = |key: &str, value: f32| BindError::BadValue {
            key: keys.name(key),
            problem: format!("{value} is not a positive factor"),
        };
        // 0 is how converters spell "not scaled".
        let factor = match factor {
            None | Some((_, 0.0)) => 1.0,
            Some((key, factor)) if factor < 0.0 => return Err(bad(key, factor)),
            Some((_, factor)) => factor,
        };
        let key = "rope.scaling.attn_factor";
        let magnitude = keys.f32(key)?.unwrap_or(1.0);
        if magnitude <= 0.0 {
            return Err(bad(key, magnitude));
        }
        match keys.str("rope.scaling.type")?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None { magnitude }),
            "linear" if factor == 1.0 => Ok(RopeScaling::None { magnitude }),
            "linear" => Ok(RopeScaling::Linear { factor, magnitude }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                magnitude,
                original_context_len: keys
                    .count("rope.scaling.original_context_length", 1 << 28)?
                    .unwrap_or(context_len),
            }),
            other => Err(BindError::Unsupported {
                what: format!("rope scaling {other:?} (metadata key {})", keys.name("rope.scaling.type")),
            }),
        }
    }

    /// The same magnitude with angles as trained: what local layers use beside scaled global ones.
    pub(crate) fn unscaled(self) -> RopeScaling {
        match self {
            RopeScaling::None { magnitude }
            | RopeScaling::Linear { magnitude, .. }
            | RopeScaling::Yarn { magnitude, .. } => RopeScaling::None { magnitude },
        }
    }
}

/// The angles of one rotation: by how much each pair turns from one position to the next.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// Radians for one position, `[rope_dim / 2]`.
    steps: Vec<f64>,
    /// Factor of every rotated value.
    magnitude: f64,
}

impl Rope {
    /// `freq_divisors` (Llama 3's `rope_freqs`) has one value for each pair when there is any.
    pub(crate) fn new(dim: usize, base: f32, scaling: RopeScaling, freq_divisors: Option<&[f32]>) -> Rope {
        let base = f64::from(base);
        let dim_f = dim as f64;
        let trained = |i: usize| {
            let divisor = freq_divisors.map_or(1.0, |d| f64::from(d[i]));
            base.powf(-2.0 * i as f64 / dim_f) / divisor
        };
        let (steps, magnitude): (Vec<f64>, f64) = match scaling {
            RopeScaling::None { magnitude } => ((0..dim / 2).map(trained).collect(), f64::from(magnitude)),
            RopeScaling::Linear { factor, magnitude } => {
                ((0..dim / 2).map(|i| trained(i) / f64::from(factor)).collect(), f64::from(magnitude))
            }
            RopeScaling::Yarn { factor, magnitude, original_context_len } => {
                let factor = f64::from(factor);
                // The pair that makes `turns` turns within the original context.
                let pair_of = |turns: f64| {
                    let context = original_context_len as f64;
                    dim_f * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
                };
                let low = pair_of(BETA_FAST).floor().max(0.0);
                let high = pair_of(BETA_SLOW).ceil().min(dim_f - 1.0);
                let step = |i: usize| {
                    let keep = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    trained(i) / factor * (1.0 - keep) + trained(i) * keep
                };
                let own = if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
                ((0..dim / 2).map(step).collect(), f64::from(magnitude) * own)
            }
        };
        Rope { steps, magnitude }
    }

    /// Cosines and sines for each of `positions`.
    pub(crate) fn table(&self, positions: impl Iterator<Item = usize>) -> RopeTable {
        let mut table = RopeTable { pairs: self.steps.len(), cos: Vec::new(), sin: Vec::new() };
        for position in positions {
            for step in &self.steps {
                let (sin, cos) = (position as f64 * step).sin_cos();
                table.cos.push((cos * self.magnitude) as f32);
                table.sin.push((sin * self.magnitude) as f32);
            }
        }
        table
    }
}

/// Cosines and sines of a batch of positions.
pub(crate) struct RopeTable {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Cosines and sines of the `t`th position of the batch, `[rope_dim / 2]` each.
    pub(crate) fn at(&self, t: usize) -> (&[f32], &[f32]) {
        let range = t * self.pairs..(t + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RopeScaling = RopeScaling::None { magnitude: 1.0 };

    #[test]
    fn plain_angles_follow_the_paper() {
        let rope = Rope::new(8, 10_000.0, PLAIN, None);
        for (step, exact) in rope.steps.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((step - exact).abs() < 1e-12);
        }
        let table = rope.table(5..7);
        assert!((table.at(1).0[0] - 6f32.cos()).abs() < 1e-6);
        assert!((table.at(1).1[1] - 0.6f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn linear_scaling_and_divisors_slow_the_angles() {
        let linear = RopeScaling::Linear { factor: 4.0, magnitude: 1.0 };
        assert_eq!(Rope::new(4, 100.0, linear, None).steps[0], 0.25);
        let divided = Rope::new(4, 100.0, PLAIN, Some(&[2.0, 8.0]));
        assert!((divided.steps[0] - 0.5).abs() < 1e-12);
        assert!((divided.steps[1] - 0.1 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn yarn_keeps_fast_angles_and_stretches_slow_ones() {
        let yarn = RopeScaling::Yarn { factor: 8.0, magnitude: 1.0, original_context_len: 4096 };
        let (scaled, plain) = (Rope::new(128, 10_000.0, yarn, None), Rope::new(128, 10_000.0, PLAIN, None));
        assert_eq!(scaled.steps[0], plain.steps[0]);
        assert!((scaled.steps[63] - plain.steps[63] / 8.0).abs() < 1e-12);
        assert!((scaled.magnitude - (1.0 + 0.1 * 8f64.ln())).abs() < 1e-6);
    }
}
