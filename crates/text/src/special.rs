//! Special tokens: ids from keys and from well-known texts, the tokens that end a generation, and whitespace that
//! tokens swallow. The rules are those of llama.cpp b11434.

use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::error::TokenizerError;
use crate::vocab::{Attr, Vocab};

/// Ids of special tokens. `None`: the vocabulary has no such token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// End of turn.
    pub eot: Option<TokenId>,
    /// End of message.
    pub eom: Option<TokenId>,
    /// Stands for text that has no token.
    pub unk: Option<TokenId>,
    /// Separator.
    pub sep: Option<TokenId>,
    /// Padding.
    pub pad: Option<TokenId>,
    /// Masked text.
    pub mask: Option<TokenId>,
    /// Fill in the middle: what precedes the hole.
    pub fim_prefix: Option<TokenId>,
    /// Fill in the middle: what follows the hole.
    pub fim_suffix: Option<TokenId>,
    /// Fill in the middle: the hole.
    pub fim_middle: Option<TokenId>,
    /// Fill in the middle: padding.
    pub fim_pad: Option<TokenId>,
    /// Fill in the middle: name of the repository.
    pub fim_repository: Option<TokenId>,
    /// Fill in the middle: between files.
    pub fim_separator: Option<TokenId>,
}

/// Texts that mark the end of a turn when no key does, most specific first.
const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM: &[&str] = &["<|eom_id|>"];
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEPARATOR: &[&str] = &["<|file_sep|>"];

/// Texts that end a generation.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Control tokens of gpt-oss that are part of what the model says.
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

fn find(vocab: &Vocab, text: &str) -> Option<TokenId> {
    vocab.find(text.as_bytes())
}

fn make_control(vocab: &mut Vocab, id: TokenId) {
    vocab.set_attr(id, vocab.attr(id).0 | Attr::CONTROL);
}

/// Reads the ids from the keys over the defaults of the tokenizer model. An id outside the vocabulary counts as not
/// given, as in the reference: files with such ids are in use.
pub(crate) fn ids_from_keys(
    gguf: &Gguf,
    n_tokens: usize,
    defaults: SpecialTokens,
) -> Result<SpecialTokens, TokenizerError> {
    let mut ids = defaults;
    let in_range = |id: &TokenId| (*id as usize) < n_tokens;
    let read = |slot: &mut Option<TokenId>, name: &str| -> Result<(), TokenizerError> {
        *slot = slot.filter(in_range);
        // -1 is in use for "none".
        let key = format!("tokenizer.ggml.{name}_token_id");
        let given = gguf.get(&key).and_then(|value| value.as_integer());
        match given {
            Some(-1) => Ok(()),
            _ => {
                if let Some(id) = gguf.get_u32(&key)?.filter(in_range) {
                    *slot = Some(id);
                }
                Ok(())
            }
        }
    };
    read(&mut ids.bos, "bos")?;
    read(&mut ids.eos, "eos")?;
    read(&mut ids.eot, "eot")?;
    read(&mut ids.eom, "eom")?;
    read(&mut ids.unk, "unknown")?;
    // The key is misspelt in the format.
    read(&mut ids.sep, "seperator")?;
    read(&mut ids.pad, "padding")?;
    read(&mut ids.mask, "mask")?;
    read(&mut ids.fim_prefix, "fim_pre")?;
    read(&mut ids.fim_suffix, "fim_suf")?;
    read(&mut ids.fim_middle, "fim_mid")?;
    read(&mut ids.fim_pad, "fim_pad")?;
    read(&mut ids.fim_repository, "fim_rep")?;
    read(&mut ids.fim_separator, "fim_sep")?;
    // Older names of three of them.
    read(&mut ids.fim_prefix, "prefix")?;
    read(&mut ids.fim_suffix, "suffix")?;
    read(&mut ids.fim_middle, "middle")?;
    Ok(ids)
}

/// Finds special tokens by their texts, makes them control tokens and gives the ids that end a generation, ascending.
pub(crate) fn find_by_text(vocab: &mut Vocab, ids: &mut SpecialTokens) -> Vec<TokenId> {
    for (slot, texts) in [
        (&mut ids.eot, EOT),
        (&mut ids.eom, EOM),
        (&mut ids.fim_prefix, FIM_PREFIX),
        (&mut ids.fim_suffix, FIM_SUFFIX),
        (&mut ids.fim_middle, FIM_MIDDLE),
        (&mut ids.fim_pad, FIM_PAD),
        (&mut ids.fim_repository, FIM_REPOSITORY),
        (&mut ids.fim_separator, FIM_SEPARATOR),
    ] {
        if slot.is_none()
            && let Some(id) = texts.iter().find_map(|text| find(vocab, text))
        {
            *slot = Some(id);
            make_control(vocab, id);
        }
    }

    let mut eog: Vec<TokenId> = Vec::new();
    eog.extend([ids.fim_pad, ids.fim_repository, ids.fim_separator].into_iter().flatten());
    for text in END_OF_GENERATION {
        if let Some(id) = find(vocab, text) {
            eog.push(id);
            make_control(vocab, id);
        }
    }
    for text in ALWAYS_SHOWN {
        if let Some(id) = find(vocab, text) {
            vocab.set_attr(id, Attr::USER_DEFINED);
        }
    }
    eog.extend([ids.eos, ids.eot, ids.eom].into_iter().flatten());
    eog.sort_unstable();
    eog.dedup();

    // Where a message may end in a call, `<|end|>` closes a part of the answer, not the answer.
    let ends = |eog: &[TokenId], text: &str| find(vocab, text).filter(|id| eog.binary_search(id).is_ok());
    let calls = ends(&eog, "<|call|>").or(ends(&eog, "<|calls|>"));
    let returns = ends(&eog, "<|return|>").or(ends(&eog, "<|flush|>"));
    let inner_end = ends(&eog, "<|end|>").filter(|_| calls.is_some() && returns.is_some());
    // Where another token ends the answer, `</s>` is plain text.
    let marker = ends(&eog, "<|tool_response>").or(ends(&eog, "<|plamo:eos|>"));
    let plain_s = ends(&eog, "</s>").filter(|_| marker.is_some());
    if let Some(id) = inner_end {
        eog.retain(|other| *other != id);
        vocab.set_attr(id, Attr::USER_DEFINED);
    }
    if let Some(id) = plain_s {
        eog.retain(|other| *other != id);
        vocab.set_attr(id, Attr::NORMAL);
    }
    eog
}

/// Tokens that swallow whitespace beside them, which files do not say: known by the names of models.
pub(crate) fn set_strips(vocab: &mut Vocab, gguf: &Gguf, special: &[TokenId]) -> Result<(), TokenizerError> {
    let name = gguf.get_str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    let pre = gguf.get_str("tokenizer.ggml.pre")?.unwrap_or_default();
    let arch = gguf.get_str("general.architecture")?.unwrap_or_default();
    let any = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let add = |vocab: &mut Vocab, text: &str, bit: u8| {
        if let Some(id) = find(vocab, text) {
            vocab.set_attr(id, vocab.attr(id).0 | bit);
        }
    };

    if any(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert"])
        || any(arch, &["nomic-bert-moe", "jina-bert-v3"])
    {
        add(vocab, "<mask>", Attr::LSTRIP);
    } else if any(&name, &["phi-3", "phi3"]) {
        for &id in special {
            vocab.set_attr(id, vocab.attr(id).0 | Attr::RSTRIP);
        }
        add(vocab, "</s>", Attr::RSTRIP);
        for text in ["<unk>", "<s>", "<|endoftext|>"] {
            if let Some(id) = find(vocab, text) {
                vocab.set_attr(id, vocab.attr(id).0 & !Attr::RSTRIP);
            }
        }
    } else if name.contains("modern-bert") {
        add(vocab, "[MASK]", Attr::LSTRIP);
    }
    Ok(())
}
