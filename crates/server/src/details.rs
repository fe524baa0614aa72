//! What a model file says of itself, read from its header.

use crate::constrain::VocabularySize;
use crate::error::ApiResult;
use crate::library::hex;
use crate::state::Named;
use rawrz_engine::ModelFiles;
use rawrz_gguf::{ArrayIter, ShardSet, TensorInfo, Value};
use rawrz_interop::About;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Elements of arrays of metadata that are shown; vocabularies have a hundred thousand.
const SHOWN_ELEMENTS: usize = 8;

/// Texts of tokens that begin the part before a hole.
const INFILL: [&str; 4] = ["<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>"];

/// Models whose details are kept.
const MAX_KEPT: usize = 256;

/// A model file's details.
pub(crate) struct Details {
    /// What every part of the project says of it in the same words.
    pub(crate) about: About,
    pub(crate) file_bytes: u64,
    pub(crate) template: Option<String>,
    pub(crate) vocabulary: VocabularySize,
    /// Whether it has tokens to fill a hole in a text with.
    pub(crate) has_infill: bool,
    modified: SystemTime,
    metadata: Map<String, Json>,
}

type Kept = HashMap<PathBuf, (u64, SystemTime, Arc<Details>)>;

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

impl Details {
    /// Those of the model at `path`; kept as long as size and time of the file stay as they are.
    pub(crate) fn read(path: &Path) -> ApiResult<Arc<Details>> {
        let on_disk = std::fs::metadata(path).ok();
        let stamp = on_disk.as_ref().and_then(|file| Some((file.len(), file.modified().ok()?)));
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_or_insert_default();
        if let (Some(stamp), Some((len, modified, details))) = (stamp, kept.get(path))
            && stamp == (*len, *modified)
        {
            return Ok(Arc::clone(details));
        }
        let modified = stamp.map_or(UNIX_EPOCH, |(_, modified)| modified);
        let details = Arc::new(Details::of(ModelFiles::open(path)?.shards(), modified));
        if let Some((len, modified)) = stamp {
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(path.to_path_buf(), (len, modified, Arc::clone(&details)));
        }
        Ok(details)
    }

    fn of(shards: &ShardSet, modified: SystemTime) -> Details {
        let gguf = shards.first();
        let text = |key: &str| gguf.get(key).and_then(|value| value.as_str().map(str::to_owned));
        let about = About::of(shards);
        let mut short: Map<String, Json> =
            gguf.metadata().map(|(key, value)| (key.to_owned(), shown(&value))).collect();
        short.insert("general.parameter_count".to_owned(), about.n_parameters.into());
        // Templates are told by themselves.
        short.remove("tokenizer.chat_template");
        let names_infill = |words: &[&str]| {
            words.iter().any(|word| gguf.get(&format!("tokenizer.ggml.{word}_token_id")).is_some())
        };
        let tokens = gguf.get("tokenizer.ggml.tokens").and_then(|tokens| tokens.as_array()?.strings());
        let (mut vocabulary, mut in_vocabulary) = (VocabularySize::default(), false);
        for token in tokens.into_iter().flatten() {
            vocabulary.n_tokens += 1;
            vocabulary.text_bytes += token.len() as u64;
            in_vocabulary |= INFILL.contains(&token);
        }
        Details {
            file_bytes: shards.shards().iter().map(rawrz_gguf::Gguf::file_len).sum(),
            template: text("tokenizer.chat_template"),
            vocabulary,
            has_infill: names_infill(&["fim_pre", "prefix"]) || in_vocabulary,
            modified,
            metadata: short,
            about,
        }
    }

    pub(crate) fn modified_unix_s(&self) -> i64 {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// When the file was last changed, or what was made of it.
    pub(crate) fn modified_at(&self, created_unix_s: Option<i64>) -> String {
        let seconds = created_unix_s.unwrap_or_else(|| self.modified_unix_s());
        chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339()
    }

    /// A digest that changes when the model does. Reading whole files for it would take minutes, so it is of what is known
    /// without: names, size, time of change, header.
    pub(crate) fn digest(&self, model: &Named) -> String {
        let said =
            json!([model.base.name, self.file_bytes, self.modified_unix_s(), self.metadata, model.created]);
        hex(&Sha256::digest(said.to_string().as_bytes()))
    }

    /// Scalars as they are, of arrays the first elements.
    pub(crate) fn metadata(&self) -> &Map<String, Json> {
        &self.metadata
    }
}

/// The tensors of the model at `path`. They are not kept: a large model has thousands.
pub(crate) fn tensors(path: &Path) -> ApiResult<Json> {
    let files = ModelFiles::open(path)?;
    let tensor = |tensor: TensorInfo<'_>| json!({"name": tensor.name, "type": tensor.ty.to_string().to_uppercase(), "shape": tensor.dims.as_slice()});
    Ok(files.shards().tensors().map(|(_, found)| tensor(found)).collect())
}

/// A value of metadata; of an array the first elements.
fn shown(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::Array(array) => {
            let elements: ArrayIter<'_> = array.iter();
            elements.take(SHOWN_ELEMENTS).map(|element| shown(&element)).collect()
        }
        other => match (other.as_str(), other.as_integer()) {
            (Some(text), _) => Json::String(text.to_owned()),
            (None, Some(int)) => i64::try_from(int).map_or_else(|_| json!(int as f64), Json::from),
            (None, None) => Json::Null,
        },
    }
}
