//! What a model file says of itself, in the words that other programs use for it.

use rawrz_gguf::ShardSet;

/// A model in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Architecture, such as `llama`.
    pub architecture: String,
    /// Number of weights.
    pub n_parameters: u64,
    /// How most weights are held, such as `Q4_K_M`; `unknown` where the file does not say.
    pub file_type: &'static str,
    /// Longest context that the model was made for.
    pub context_len: Option<u64>,
}

impl About {
    /// Of a model's header.
    pub fn of(shards: &ShardSet) -> About {
        let first = shards.first();
        let text = |key: &str| first.get(key).and_then(|value| value.as_str());
        let architecture = text("general.architecture").unwrap_or("unknown").to_owned();
        let file_type = first.get("general.file_type").and_then(|value| value.as_integer());
        let context =
            first.get(&format!("{architecture}.context_length")).and_then(|value| value.as_integer());
        About {
            n_parameters: shards.tensors().map(|(_, t)| t.dims.n_elements()).fold(0, u64::saturating_add),
            file_type: file_type.and_then(file_type_name).unwrap_or("unknown"),
            context_len: context.and_then(|len| u64::try_from(len).ok()),
            architecture,
        }
    }

    /// The number of weights as Ollama shows it: `134.52M`, `7.6B`.
    pub fn parameters(&self) -> String {
        let n = self.n_parameters as f64;
        let is_whole = |unit: f64| (n / unit).fract() == 0.0;
        match self.n_parameters {
            1_000_000_000_000.. if is_whole(1e12) => format!("{:.0}T", n / 1e12),
            1_000_000_000_000.. => format!("{:.1}T", n / 1e12),
            1_000_000_000.. if is_whole(1e9) => format!("{:.0}B", n / 1e9),
            1_000_000_000.. => format!("{:.1}B", n / 1e9),
            1_000_000.. if is_whole(1e6) => format!("{:.0}M", n / 1e6),
            1_000_000.. => format!("{:.2}M", n / 1e6),
            1_000.. => format!("{:.0}K", n / 1e3),
            few => few.to_string(),
        }
    }
}

/// The name of a value of `general.file_type`: the `llama_ftype` of llama.cpp. Numbers that are missing were given up.
fn file_type_name(file_type: i128) -> Option<&'static str> {
    // A guessed type is marked by this bit.
    const GUESSED: i128 = 1024;
    Some(match file_type & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_parameters() {
        for (n_parameters, shown) in [
            (999, "999"),
            (12_345, "12K"),
            (134_515_008, "134.52M"),
            (135_000_000, "135M"),
            (7_615_616_512, "7.6B"),
            (70_000_000_000, "70B"),
            (1_500_000_000_000, "1.5T"),
        ] {
            let about =
                About { architecture: String::new(), n_parameters, file_type: "F16", context_len: None };
            assert_eq!(about.parameters(), shown);
        }
    }

    #[test]
    fn file_types() {
        assert_eq!(file_type_name(15), Some("Q4_K_M"));
        assert_eq!(file_type_name(15 + 1024), Some("Q4_K_M"));
        assert_eq!(file_type_name(4), None);
        assert_eq!(file_type_name(-1), None);
    }
}
