//! Names of models in Ollama: `[HOST/][NAMESPACE/]MODEL[:TAG]`.

use std::fmt;
use std::path::PathBuf;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// Longest host in bytes; the other parts take up to 80.
const MAX_HOST_BYTES: usize = 350;
const MAX_PART_BYTES: usize = 80;

/// A full name. Each part is safe as the name of a folder or file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OllamaName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

/// Why a text is no name of a model in Ollama.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} cannot be a model's name in Ollama: its {part} may have letters, digits, `-`, `_` and `.`, \
     up to {limit_bytes}, beginning with a letter or digit"
)]
pub struct OllamaNameError {
    text: String,
    part: &'static str,
    limit_bytes: usize,
}

impl OllamaName {
    /// Reads a name; what it leaves out is what Ollama takes there.
    ///
    /// # Errors
    /// When a part is empty, too long, or has characters that Ollama does not take. A port in the host is refused, since
    /// Windows cannot have it in the name of a folder.
    pub fn parse(text: &str) -> Result<OllamaName, OllamaNameError> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match *parts {
            [model] => (DEFAULT_HOST, DEFAULT_NAMESPACE, model),
            [namespace, model] => (DEFAULT_HOST, namespace, model),
            [host, namespace, model] => (host, namespace, model),
            _ => return Err(error(text, "path", MAX_PART_BYTES)),
        };
        let checks = [
            ("host", host, MAX_HOST_BYTES, "-_."),
            ("namespace", namespace, MAX_PART_BYTES, "-_"),
            ("model", model, MAX_PART_BYTES, "-_."),
            ("tag", tag, MAX_PART_BYTES, "-_."),
        ];
        for (part, value, limit, signs) in checks {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
            let begins_well = value.starts_with(|c: char| c.is_ascii_alphanumeric());
            if !begins_well || value.len() > limit || !value.chars().all(is_plain) {
                return Err(error(text, part, limit));
            }
        }
        let [host, namespace, model, tag] = [host, namespace, model, tag].map(str::to_owned);
        Ok(OllamaName { host, namespace, model, tag })
    }

    /// Where the manifest is, below the folder of manifests.
    pub(super) fn manifest_path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].into_iter().collect()
    }
}

fn error(text: &str, part: &'static str, limit_bytes: usize) -> OllamaNameError {
    // Names can come from files and requests; a message need not repeat all of one.
    OllamaNameError { text: text.chars().take(120).collect(), part, limit_bytes }
}

/// As Ollama shows it: without the parts that it takes by itself, but with the tag.
impl fmt::Display for OllamaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host != DEFAULT_HOST {
            write!(f, "{}/", self.host)?;
        }
        if self.host != DEFAULT_HOST || self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shown_short() {
        for (text, path, shown) in [
            ("m", "registry.ollama.ai/library/m/latest", "m:latest"),
            ("m:7b", "registry.ollama.ai/library/m/7b", "m:7b"),
            ("me/m.x:q4_K", "registry.ollama.ai/me/m.x/q4_K", "me/m.x:q4_K"),
            ("hf.co/me/m", "hf.co/me/m/latest", "hf.co/me/m:latest"),
        ] {
            let name = OllamaName::parse(text).unwrap();
            assert_eq!(name.manifest_path(), path.split('/').collect::<PathBuf>());
            assert_eq!(name.to_string(), shown);
            assert_eq!(OllamaName::parse(shown).unwrap(), name);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(81);
        for bad in [
            "",
            ":",
            "m:",
            ":x",
            "..",
            "a/..",
            "../m",
            "/m",
            "m/",
            "a//m",
            "a/b/c/d",
            "m\n",
            "m:x\n",
            "a b",
            ".m",
            "m:.x",
            "a.b/m",
            "host:80/a/m",
            "a\\m",
            "m:a/b",
            "é",
            "m\0",
            &long,
        ] {
            assert!(OllamaName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
