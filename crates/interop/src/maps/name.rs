//! Names of maps.

use std::fmt;

/// Longest name in bytes. Ollama takes 80 for a model; this leaves room for a file's ending on every system.
const MAX_BYTES: usize = 80;

/// A name that is safe as the name of a file on every system, and as the name of a model in Ollama: lower-case letters
/// `a` to `z`, digits, `.`, `_` and `-`; it begins with a letter or digit and does not end with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapName(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot be a name: {why}; use up to {MAX_BYTES} of the letters a to z, digits, `.`, `_` and `-`, \
     beginning with a letter or digit"
)]
pub struct NameError {
    text: String,
    why: &'static str,
}

impl MapName {
    /// Checks a name. Capitals count as lower-case letters: names do not depend on case, as files do not on some systems.
    ///
    /// # Errors
    /// When it could be taken for something else: a path, a hidden file, a device of Windows, a model's file.
    pub fn parse(text: &str) -> Result<MapName, NameError> {
        let name = text.to_ascii_lowercase();
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_BYTES {
            "it is too long"
        } else if !name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
            "it has a character that is not allowed"
        } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
            "it begins with a sign"
        } else if name.ends_with('.') {
            "it ends with a dot"
        } else if name.ends_with(".gguf") {
            "it ends like a model's file"
        } else if is_device(&name) {
            "Windows keeps it for a device"
        } else {
            return Ok(MapName(name));
        };
        // The text may be a whole hostile file name; an error need not repeat all of it.
        let text = text.chars().take(MAX_BYTES).collect();
        Err(NameError { text, why })
    }

    /// The name that a file suggests: its own without ending and shard number, with other characters replaced.
    pub fn suggested_by(file_name: &str) -> Option<MapName> {
        let lower = file_name.to_ascii_lowercase();
        let stem = lower.split_once(".part").map_or(&*lower, |(stem, _)| stem);
        let stem = stem.strip_suffix(".gguf").unwrap_or(stem);
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|c| c.is_ascii_digit());
        let stem = match stem.rsplit_once("-of-") {
            Some((rest, count)) if digits(count) => match rest.rsplit_once('-') {
                Some((stem, number)) if digits(number) => stem,
                _ => stem,
            },
            _ => stem,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name: String = stem.chars().map(|c| if is_plain(c) { c } else { '-' }).take(MAX_BYTES).collect();
        let name = name.trim_start_matches(['.', '_', '-']).trim_end_matches(['.', '-']);
        MapName::parse(name).ok()
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether Windows takes a file of this name, with whatever ending, for a device.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    matches!(stem, "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "qwen2.5-coder", "Llama_3", "7b", &"x".repeat(80), "con1", "come", "a..b"] {
            assert_eq!(MapName::parse(good).unwrap().as_str(), good.to_ascii_lowercase());
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a\nb",
            "a b",
            ".hidden",
            "-x",
            "_x",
            "x.",
            "a:b",
            "é",
            "nul",
            "CON.txt",
            "com1",
            "lpt9.x",
            "m.gguf",
            "a\0b",
            &"x".repeat(81),
        ] {
            assert!(MapName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_suggest_names() {
        for (file, name) in [
            ("SmolLM2-135M.Q4_1.gguf", Some("smollm2-135m.q4_1")),
            ("llama-70b-00001-of-00009.gguf", Some("llama-70b")),
            ("m.gguf.part00", Some("m")),
            ("my model (1).gguf", Some("my-model--1")),
            ("__x.gguf", Some("x")),
            ("nul.gguf", None),
            ("漢.gguf", None),
        ] {
            assert_eq!(MapName::suggested_by(file).as_ref().map(MapName::as_str), name, "{file}");
        }
    }
}
