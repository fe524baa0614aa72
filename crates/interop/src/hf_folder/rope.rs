//! How rotation angles are stretched for longer contexts, as `config.json` says it.

use super::ExportError;
use super::hyper::{Arch, Hyper, Keys, decimal};
use crate::output::OutputError;
use rawrz_gguf::decode_row;
use rawrz_residency::{Extent, MappedSource, Source};
use serde_json::{Value as Json, json};

/// `low_freq_factor`, `high_freq_factor` and `original_max_position_embeddings` of all Llama 3.1, 3.2 and 3.3 models.
const LLAMA3_ROPE: (f64, f64, f64) = (1.0, 4.0, 8192.0);

/// `rope_scaling` of `config.json`: how angles are stretched for longer contexts.
pub(super) fn scaling(keys: &Keys<'_>, hyper: &Hyper, source: &MappedSource) -> Result<Json, ExportError> {
    let magnitude = keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.f32("rope.scale_linear")?.unwrap_or(1.0),
    };
    // 0 is how converters spell "not scaled".
    let factor = if factor == 0.0 { 1.0 } else { factor };
    let divisors = match keys.shards.tensor("rope_freqs.weight") {
        Some((shard, tensor)) if hyper.arch == Arch::Llama => {
            if tensor.dims.n_elements() != hyper.head_dim / 2 {
                return Err(ExportError::Shape {
                    name: tensor.name.to_owned(),
                    expected: vec![hyper.head_dim / 2],
                    found: tensor.dims.as_slice().to_vec(),
                });
            }
            let extent = Extent { file: shard as u32, offset: tensor.file_offset, len: tensor.len_bytes };
            let mut divisors = vec![0.0; (hyper.head_dim / 2) as usize];
            let mut bytes = Vec::new();
            source.copy(&[extent], &mut bytes).map_err(OutputError::from)?;
            decode_row(tensor.ty, &bytes, &mut divisors)?;
            Some(divisors)
        }
        _ => None,
    };
    if let Some(divisors) = divisors {
        let base = f64::from(keys.f32("rope.freq_base")?.unwrap_or(10_000.0));
        return llama3_scaling(&divisors, base).ok_or_else(|| ExportError::Unsupported {
            what: "rotation factors (rope_freqs.weight) that are not those of Llama 3".to_owned(),
        });
    }
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    let is_plain = kind == "none" || (kind == "linear" && factor == 1.0);
    if magnitude != 1.0 && kind != "yarn" {
        let what =
            format!("a magnitude of rotated values (metadata key {})", keys.name("rope.scaling.attn_factor"));
        return Err(ExportError::Unsupported { what });
    }
    match kind {
        _ if is_plain => Ok(Json::Null),
        "linear" => Ok(json!({"rope_type": "linear", "type": "linear", "factor": decimal(factor)})),
        "yarn" => {
            let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(hyper.context_len);
            let mut scaling = json!({
                "rope_type": "yarn",
                "type": "yarn",
                "factor": decimal(factor),
                "original_max_position_embeddings": original,
            });
            if magnitude != 1.0 {
                // Here the whole magnitude is meant, in a GGUF what multiplies YaRN's own.
                let own = if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(factor).ln() + 1.0 };
                scaling["attention_factor"] = (f64::from(magnitude) * own).into();
            }
            Ok(scaling)
        }
        other => Err(ExportError::Unsupported { what: format!("rope scaling {other:?}") }),
    }
}

/// The parameters of Llama 3's scaling, if these are the divisors that follow from them.
fn llama3_scaling(divisors: &[f32], base: f64) -> Option<Json> {
    let (low, high, original) = LLAMA3_ROPE;
    // The slowest angle is divided by the whole factor.
    let factor = f64::from(*divisors.last()?);
    let n = divisors.len() as f64;
    let is_right = divisors.iter().enumerate().all(|(i, found)| {
        let wavelength = std::f64::consts::TAU * base.powf(i as f64 / n);
        let expected = if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        (f64::from(*found) - expected).abs() <= 1e-3 * expected
    });
    (is_right && factor > 1.0).then(|| {
        json!({
            "rope_type": "llama3",
            "factor": decimal(factor as f32),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_factors_are_known_again() {
        let (base, factor, original) = (500_000f64, 8.0, 8192.0);
        let divisors: Vec<f32> = (0..64)
            .map(|i| {
                let wavelength = std::f64::consts::TAU * base.powf(f64::from(i) / 64.0);
                let smooth = ((original / wavelength - 1.0) / 3.0f64).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            })
            .collect();
        let scaling = llama3_scaling(&divisors, base).unwrap();
        assert_eq!(scaling["factor"], 8.0);
        assert_eq!(scaling["original_max_position_embeddings"], 8192);
        let mut other = divisors.clone();
        other[30] *= 1.1;
        assert!(llama3_scaling(&other, base).is_none());
        assert!(llama3_scaling(&divisors, 10_000.0).is_none());
        assert!(llama3_scaling(&[1.0; 64], base).is_none());
        assert!(llama3_scaling(&[], base).is_none());
    }
}
