//! Manifests and their layers, as Ollama's store has them.

use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";

/// Types of layers.
pub(super) const MODEL: &str = "application/vnd.ollama.image.model";
pub(super) const TEMPLATE: &str = "application/vnd.ollama.image.template";
pub(super) const PARAMS: &str = "application/vnd.ollama.image.params";

/// Annotation of a manifest that RawrZ wrote: the file that the model layer is a link to.
const SOURCE: &str = "rawrz.source";
/// Annotation: how the model layer came to be.
const HOW: &str = "rawrz.link";
/// Annotation: length and time of change of the source when it was linked.
const SOURCE_LEN: &str = "rawrz.source.bytes";
const SOURCE_MODIFIED: &str = "rawrz.source.modified_ns";

/// A manifest. Fields that are not known here are not kept: only manifests that RawrZ made are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: String,
    pub(super) config: Layer,
    /// Go writes a list without elements as null.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) layers: Vec<Layer>,
    /// Ollama does not look at these, and loses them when it copies a model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// A blob with a meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
}

/// What RawrZ noted of a model that it linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub source: crate::FileRecord,
    /// How its bytes are in the store.
    pub how: super::LinkKind,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Layer>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Layer {
    pub(super) fn new(media_type: &str, digest: Digest, size: u64) -> Layer {
        Layer { media_type: media_type.to_owned(), digest: format!("sha256:{digest}"), size }
    }

    /// The digest, if it is one: a manifest is a file that others write, too.
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(self.digest.strip_prefix("sha256:")?)
    }
}

impl Manifest {
    pub(super) fn new(config: (Digest, u64), layers: Vec<Layer>, origin: &Origin) -> Manifest {
        let source = &origin.source;
        let annotations = [
            (SOURCE, source.path.display().to_string()),
            (HOW, origin.how.as_str().to_owned()),
            (SOURCE_LEN, source.len_bytes.to_string()),
            (SOURCE_MODIFIED, source.modified_ns.to_string()),
        ];
        Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            config: Layer::new(CONFIG_TYPE, config.0, config.1),
            layers,
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
        }
    }

    /// Reads a manifest of Ollama's or of ours.
    pub(super) fn parse(json: &[u8]) -> Result<Manifest, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// What RawrZ noted, if it wrote the manifest.
    pub(super) fn origin(&self) -> Option<Origin> {
        let get = |key| self.annotations.get(key);
        Some(Origin {
            source: crate::FileRecord {
                path: get(SOURCE)?.into(),
                len_bytes: get(SOURCE_LEN)?.parse().ok()?,
                modified_ns: get(SOURCE_MODIFIED)?.parse().ok()?,
            },
            how: super::LinkKind::parse(get(HOW)?)?,
        })
    }

    /// The layer of the model's weights.
    pub(super) fn model(&self) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.media_type == MODEL)
    }

    /// Digests of all blobs that the manifest needs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.layers.iter().chain([&self.config]).filter_map(Layer::digest)
    }

    /// Bytes of all blobs together.
    pub(super) fn len_bytes(&self) -> u64 {
        self.layers.iter().chain([&self.config]).map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::LinkKind;

    #[test]
    fn round_trip() {
        let source =
            crate::FileRecord { path: "/models/m.gguf".into(), len_bytes: 7, modified_ns: 1_700_000_000_000 };
        let origin = Origin { source, how: LinkKind::Symlink };
        let layer = Layer::new(MODEL, Digest::of(b"m"), 7);
        let manifest = Manifest::new((Digest::of(b"c"), 1), vec![layer.clone()], &origin);
        let json = serde_json::to_string(&manifest).unwrap();
        assert!(json.starts_with(r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:"#), "{json}");
        let read = Manifest::parse(json.as_bytes()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!((read.origin(), read.model(), read.len_bytes()), (Some(origin), Some(&layer), 8));
    }

    #[test]
    fn manifests_of_others_are_read_as_far_as_they_go() {
        let read = Manifest::parse(
            br#"{"schemaVersion":2,"mediaType":"x","config":{"digest":"sha256:zz","size":3},"layers":null,"y":1}"#,
        )
        .unwrap();
        assert_eq!((read.origin(), read.blobs().count(), read.len_bytes()), (None, 0, 3));
        for bad in ["", "[]", "{}", r#"{"schemaVersion":-1}"#] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
