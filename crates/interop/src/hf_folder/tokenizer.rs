//! `tokenizer.json`: the vocabulary of a GGUF in the format of Hugging Face's `tokenizers`, so that it gives the ids that
//! RawrZ gives.
//!
//! - `gpt2` vocabularies: byte-level BPE. The pre-tokenizer is the one that `tokenizer.ggml.pre` names, as regular
//!   expressions; there is no normalizer, since the GGUF has none.
//! - `llama` vocabularies (SentencePiece): pairs merge by the score of what they become, which is BPE with the merges
//!   sorted by score. Spaces are U+2581; what has no token falls back to bytes.
//!
//! Control tokens and those that users defined are added tokens, taken out of the text as it is.

use super::ExportError;
use super::json::JsonList;
use rawrz_gguf::Gguf;
use rawrz_text::{BpeRules, TokenId, Tokenizer};
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Value as Json, json};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Write};

/// Longest token of a SentencePiece vocabulary that is written: each of its halves is looked up, so that the time grows
/// with the square. Real ones have at most a hundred or two.
const MAX_PIECE_BYTES: usize = 1024;

const SPACE: &str = "\u{2581}";

/// What kind of vocabulary it is, with what its merges are made of.
pub(super) enum Kind<'a> {
    ByteLevel { rules: BpeRules, merges: rawrz_gguf::Strings<'a> },
    SentencePiece,
}

impl<'a> Kind<'a> {
    /// Refuses by name what cannot be written.
    pub(super) fn of(gguf: &'a Gguf) -> Result<Kind<'a>, ExportError> {
        match gguf.get_str("tokenizer.ggml.model")?.unwrap_or_default() {
            "gpt2" => {
                let pre = gguf.get_str("tokenizer.ggml.pre")?.filter(|pre| !pre.is_empty());
                let pre = pre.unwrap_or("default");
                let unsupported = || ExportError::Unsupported { what: format!("the pre-tokenizer {pre:?}") };
                let rules = BpeRules::of(pre).ok_or_else(unsupported)?;
                const MERGES: &str = "tokenizer.ggml.merges";
                let merges = gguf.get_array(MERGES)?.and_then(|merges| merges.strings());
                let merges = merges.ok_or_else(|| ExportError::MissingKey { key: MERGES.to_owned() })?;
                Ok(Kind::ByteLevel { rules, merges })
            }
            "llama" => Ok(Kind::SentencePiece),
            other => Err(ExportError::Unsupported { what: format!("the tokenizer model {other:?}") }),
        }
    }
}

/// Writes `tokenizer.json`.
pub(super) fn write(kind: &Kind<'_>, tokenizer: &Tokenizer, out: &mut impl Write) -> Result<(), ExportError> {
    let merges = match kind {
        Kind::ByteLevel { merges, .. } => Merges::ByteLevel(byte_level_merges(tokenizer, merges)?),
        Kind::SentencePiece => Merges::SentencePiece(sentence_piece_merges(tokenizer)?),
    };
    write_all(kind, tokenizer, &merges, out).map_err(ExportError::Write)
}

fn write_all(
    kind: &Kind<'_>,
    tokenizer: &Tokenizer,
    merges: &Merges,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut top = JsonList::object(out)?;
    top.field("version", &"1.0")?;
    top.field("truncation", &Json::Null)?;
    top.field("padding", &Json::Null)?;
    let mut added = JsonList::array(top.key("added_tokens")?)?;
    for (id, text) in tokens(tokenizer) {
        if let Some(token) = tokenizer.added_token(id) {
            added.item(&json!({
                "id": id,
                "content": text,
                "single_word": false,
                "lstrip": token.strips_left,
                "rstrip": token.strips_right,
                "normalized": false,
                "special": token.is_control,
            }))?;
        }
    }
    added.end()?;
    top.field("normalizer", &normalizer(kind, tokenizer))?;
    top.field("pre_tokenizer", &pre_tokenizer(kind))?;
    top.field("post_processor", &post_processor(kind, tokenizer))?;
    top.field("decoder", &decoder(kind, tokenizer))?;

    let is_sentence_piece = matches!(kind, Kind::SentencePiece);
    let unk = tokenizer.special_tokens().unk.filter(|_| is_sentence_piece);
    let ignores_merges = matches!(kind, Kind::ByteLevel { rules, .. } if rules.ignores_merges);
    let mut model = JsonList::object(top.key("model")?)?;
    model.field("type", &"BPE")?;
    model.field("dropout", &Json::Null)?;
    model.field("unk_token", &unk.and_then(|id| tokenizer.token_text(id)))?;
    model.field("continuing_subword_prefix", &Json::Null)?;
    model.field("end_of_word_suffix", &Json::Null)?;
    model.field("fuse_unk", &is_sentence_piece)?;
    model.field("byte_fallback", &is_sentence_piece)?;
    model.field("ignore_merges", &ignores_merges)?;
    let mut vocab = JsonList::object(model.key("vocab")?)?;
    for (id, text) in tokens(tokenizer) {
        vocab.field(text, &id)?;
    }
    vocab.end()?;
    let mut list = JsonList::array(model.key("merges")?)?;
    match merges {
        Merges::ByteLevel(merges) => {
            merges
                .iter()
                .try_for_each(|&(left, right)| list.item(&[Text(tokenizer, left), Text(tokenizer, right)]))?;
        }
        Merges::SentencePiece(merges) => {
            merges
                .iter()
                .try_for_each(|m| list.item(&[Text(tokenizer, m.left), Text(tokenizer, m.right)]))?;
        }
    }
    list.end()?;
    model.end()?;
    top.end()
}

/// The text of a token, where it is written.
struct Text<'t>(&'t Tokenizer, TokenId);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.token_text(self.1).unwrap_or_default())
    }
}

fn tokens(tokenizer: &Tokenizer) -> impl Iterator<Item = (TokenId, &str)> {
    (0..tokenizer.vocab_len() as TokenId).filter_map(|id| Some((id, tokenizer.token_text(id)?)))
}

enum Merges {
    ByteLevel(Vec<(TokenId, TokenId)>),
    SentencePiece(Vec<ScoredMerge>),
}

/// The merges of the file. Of two merges of one pair the first counts, so the second is left out.
fn byte_level_merges(
    tokenizer: &Tokenizer,
    merges: &rawrz_gguf::Strings<'_>,
) -> Result<Vec<(TokenId, TokenId)>, ExportError> {
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for merge in merges.clone() {
        // The first character may be a space itself.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let Some((left, right)) =
            merge[first..].find(' ').map(|at| (&merge[..first + at], &merge[first + at + 1..]))
        else {
            // It never applies.
            continue;
        };
        if right.is_empty() {
            continue;
        }
        let find = |text: &str| {
            tokenizer.find(text).ok_or_else(|| ExportError::Unsupported {
                what: format!("a merge of {left:?} and {right:?} with {text:?}, which is no token"),
            })
        };
        let pair = (find(left)?, find(right)?);
        find(&[left, right].concat())?;
        if seen.insert(pair) {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

struct ScoredMerge {
    product: TokenId,
    left: TokenId,
    right: TokenId,
}

/// Every pair of tokens that joins to a token, best score first.
fn sentence_piece_merges(tokenizer: &Tokenizer) -> Result<Vec<ScoredMerge>, ExportError> {
    let mut merges = Vec::new();
    for (product, text) in tokens(tokenizer) {
        if text.len() > MAX_PIECE_BYTES {
            let what = format!("token {product}, which has {} bytes (at most {MAX_PIECE_BYTES})", text.len());
            return Err(ExportError::Unsupported { what });
        }
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(left), Some(right)) = (tokenizer.find(&text[..at]), tokenizer.find(&text[at..])) {
                merges.push(ScoredMerge { product, left, right });
            }
        }
    }
    // Scores were checked to be numbers. The sort is stable: halves of one token stay in order.
    let order = |merge: &ScoredMerge| Reverse(Ordered(tokenizer.score(merge.product)));
    merges.sort_by(|a, b| order(a).cmp(&order(b)).then(a.product.cmp(&b.product)));
    Ok(merges)
}

/// A score, ordered as numbers are: both zeros are one.
#[derive(PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> std::cmp::Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(std::cmp::Ordering::Equal)
    }
}

fn normalizer(kind: &Kind<'_>, tokenizer: &Tokenizer) -> Json {
    if let Kind::ByteLevel { .. } = kind {
        return Json::Null;
    }
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    match tokenizer.adds_space() {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, escape]}),
        false => escape,
    }
}

fn pre_tokenizer(kind: &Kind<'_>) -> Json {
    let Kind::ByteLevel { rules, .. } = kind else { return Json::Null };
    let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut stages: Vec<Json> = rules.regexes.iter().map(split).collect();
    stages.push(json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    }));
    json!({"type": "Sequence", "pretokenizers": stages})
}

/// Adds the tokens that the vocabulary wants around a text, and around each of a pair.
fn post_processor(kind: &Kind<'_>, tokenizer: &Tokenizer) -> Json {
    let named = |id: Option<TokenId>| id.and_then(|id| Some((id, tokenizer.token_text(id)?)));
    let begin = named(tokenizer.bos().filter(|_| tokenizer.adds_bos()));
    let end = named(tokenizer.eos().filter(|_| tokenizer.adds_eos()));
    if begin.is_none() && end.is_none() {
        return match kind {
            Kind::ByteLevel { .. } => json!({
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true
            }),
            Kind::SentencePiece => Json::Null,
        };
    }
    let special = |token: Option<(TokenId, &str)>, type_id: u32| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": type_id}}))
    };
    let around = |sequence: &str, type_id: u32| -> Vec<Json> {
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        special(begin, type_id).into_iter().chain([text]).chain(special(end, type_id)).collect()
    };
    let mut tokens = serde_json::Map::new();
    for (id, text) in begin.into_iter().chain(end) {
        tokens.insert(text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let pair: Vec<Json> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
}

fn decoder(kind: &Kind<'_>, tokenizer: &Tokenizer) -> Json {
    if let Kind::ByteLevel { .. } = kind {
        return json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
        });
    }
    let mut stages = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if tokenizer.adds_space() {
        stages.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": stages})
}

/// `tokenizer_config.json`.
pub(super) fn config(tokenizer: &Tokenizer, context_len: u64) -> Json {
    let ids = tokenizer.special_tokens();
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": context_len,
    });
    let named = [
        ("bos_token", ids.bos),
        ("eos_token", ids.eos),
        ("unk_token", ids.unk),
        ("pad_token", ids.pad),
        ("sep_token", ids.sep),
        ("mask_token", ids.mask),
    ];
    for (key, id) in named {
        if let Some(text) = id.and_then(|id| tokenizer.token_text(id)) {
            config[key] = text.into();
        }
    }
    config
}

/// `generation_config.json`: all tokens that end a generation.
pub(super) fn generation_config(tokenizer: &Tokenizer) -> Json {
    let ids = tokenizer.special_tokens();
    let mut config = json!({"eos_token_id": tokenizer.eog_ids()});
    for (key, id) in [("bos_token_id", ids.bos), ("pad_token_id", ids.pad)] {
        if let Some(id) = id {
            config[key] = id.into();
        }
    }
    config
}
