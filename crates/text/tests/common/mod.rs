//! Small vocabularies built in memory.
#![allow(dead_code)] // Each test file uses its own share of it.

use rawrz_gguf::{Gguf, Header, WriteValue, Writer};
use rawrz_text::{EncodeOptions, TokenId, Tokenizer, TokenizerError};

/// The types of `tokenizer.ggml.token_type`.
pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// A vocabulary under construction.
#[derive(Clone, Default)]
pub(crate) struct Vocabulary {
    pub(crate) model: String,
    pub(crate) pre: Option<String>,
    pub(crate) tokens: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) merges: Option<Vec<String>>,
    pub(crate) flags: Vec<(&'static str, bool)>,
    pub(crate) ids: Vec<(&'static str, u32)>,
    pub(crate) texts: Vec<(&'static str, String)>,
    pub(crate) charsmap: Option<Vec<u8>>,
}

impl Vocabulary {
    pub(crate) fn new(model: &str) -> Vocabulary {
        Vocabulary { model: model.to_owned(), ..Vocabulary::default() }
    }

    pub(crate) fn token(&mut self, text: &str, kind: i32, score: f32) -> TokenId {
        self.tokens.push(text.to_owned());
        self.types.push(kind);
        self.scores.push(score);
        self.tokens.len() as TokenId - 1
    }

    pub(crate) fn flag(mut self, key: &'static str, value: bool) -> Vocabulary {
        self.flags.push((key, value));
        self
    }

    pub(crate) fn id(mut self, key: &'static str, value: u32) -> Vocabulary {
        self.ids.push((key, value));
        self
    }

    pub(crate) fn gguf(&self) -> Gguf {
        self.gguf_with(&[])
    }

    /// The file, where `instead` replaces or adds keys.
    pub(crate) fn gguf_with(&self, instead: &[(&'static str, WriteValue<'_>)]) -> Gguf {
        let mut header = Header::new();
        let mut entries: Vec<(&'static str, WriteValue<'_>)> = vec![
            ("tokenizer.ggml.model", WriteValue::from(&self.model)),
            ("tokenizer.ggml.tokens", WriteValue::from(&self.tokens[..])),
            ("tokenizer.ggml.token_type", WriteValue::from(&self.types[..])),
            ("tokenizer.ggml.scores", WriteValue::from(&self.scores[..])),
        ];
        if let Some(pre) = &self.pre {
            entries.push(("tokenizer.ggml.pre", WriteValue::from(pre)));
        }
        if let Some(merges) = &self.merges {
            entries.push(("tokenizer.ggml.merges", WriteValue::from(&merges[..])));
        }
        if let Some(charsmap) = &self.charsmap {
            entries.push(("tokenizer.ggml.precompiled_charsmap", WriteValue::from(&charsmap[..])));
        }
        entries.extend(self.flags.iter().map(|(key, value)| (*key, WriteValue::from(*value))));
        entries.extend(self.ids.iter().map(|(key, value)| (*key, WriteValue::from(*value))));
        entries.extend(self.texts.iter().map(|(key, value)| (*key, WriteValue::from(value))));
        for (key, value) in instead {
            match entries.iter_mut().find(|(k, _)| k == key) {
                Some(entry) => entry.1 = value.clone(),
                None => entries.push((key, value.clone())),
            }
        }
        for (key, value) in entries {
            header.set(key, value).expect("the key is written");
        }
        let bytes = Writer::start(Vec::new(), &header).and_then(Writer::finish).expect("the file is written");
        Gguf::from_vec(bytes).expect("the file parses")
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        self.try_tokenizer().expect("the vocabulary loads")
    }

    pub(crate) fn try_tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_gguf(&self.gguf())
    }
}

/// The GPT-2 alphabet in order of bytes.
pub(crate) fn byte_alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100..;
    let mut char_of = |byte: u32| if printable(byte) { byte } else { next.next().expect("endless") };
    (0..256).map(|byte| char::from_u32(char_of(byte)).expect("a character")).collect()
}

/// Byte-pair: every byte, some merges, and special tokens.
pub(crate) fn byte_pair() -> Vocabulary {
    let mut vocab = Vocabulary::new("gpt2");
    vocab.pre = Some("gpt-2".to_owned());
    vocab.token("<|endoftext|>", CONTROL, 0.0);
    vocab.token("<|im_start|>", CONTROL, 0.0);
    vocab.token("<|im_end|>", CONTROL, 0.0);
    for c in byte_alphabet() {
        vocab.token(&c.to_string(), NORMAL, 0.0);
    }
    let merges =
        ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġwor l", "Ġworl d", "a a", "aa aa", "Ã ©"];
    for merge in merges {
        vocab.token(&merge.replace(' ', ""), NORMAL, 0.0);
    }
    vocab.token("[user]", USER_DEFINED, 0.0);
    vocab.merges = Some(merges.map(str::to_owned).to_vec());
    vocab.ids = vec![("tokenizer.ggml.bos_token_id", 0), ("tokenizer.ggml.eos_token_id", 0)];
    vocab
}

/// SentencePiece: specials, bytes, and scored pieces.
pub(crate) fn sentence_piece() -> Vocabulary {
    let mut vocab = Vocabulary::new("llama");
    vocab.token("<unk>", UNKNOWN, 0.0);
    vocab.token("<s>", CONTROL, 0.0);
    vocab.token("</s>", CONTROL, 0.0);
    for byte in 0..=255u8 {
        vocab.token(&format!("<0x{byte:02X}>"), BYTE, 0.0);
    }
    let pieces = [
        "▁", "h", "e", "l", "o", "w", "r", "d", "a", "b", "c", "he", "ll", "▁he", "▁hell", "▁hello", "ab",
        "bc", "aa",
    ];
    for (i, piece) in pieces.iter().enumerate() {
        // "ab" and "bc" tie, so that the leftmost decides.
        let score = if matches!(*piece, "ab" | "bc") { -100.0 } else { -(i as f32) };
        vocab.token(piece, NORMAL, score);
    }
    vocab
}

/// WordPiece, with the word start of GGUF files.
pub(crate) fn word_piece() -> Vocabulary {
    let mut vocab = Vocabulary::new("bert");
    for text in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
        vocab.token(text, CONTROL, 0.0);
    }
    for text in ["▁hello", "▁he", "llo", "▁wor", "ld", "▁,", "▁!", "▁中", "▁e", "▁1"] {
        vocab.token(text, NORMAL, 0.0);
    }
    vocab.ids = vec![
        ("tokenizer.ggml.bos_token_id", 2),
        ("tokenizer.ggml.seperator_token_id", 3),
        ("tokenizer.ggml.unknown_token_id", 1),
        ("tokenizer.ggml.padding_token_id", 0),
        ("tokenizer.ggml.mask_token_id", 4),
    ];
    vocab
}

/// Unigram: the best sum of scores is not the longest match.
pub(crate) fn unigram() -> Vocabulary {
    let mut vocab = Vocabulary::new("t5");
    vocab.token("<pad>", CONTROL, 0.0);
    vocab.token("</s>", CONTROL, 0.0);
    vocab.token("<unk>", UNKNOWN, 0.0);
    for (text, score) in
        [("▁", -2.0), ("▁a", -3.0), ("ab", -9.0), ("a", -3.0), ("b", -3.0), ("▁ab", -9.5), ("c", -4.0)]
    {
        vocab.token(text, NORMAL, score);
    }
    vocab.token("<x>", USER_DEFINED, 0.0);
    vocab.flag("tokenizer.ggml.add_space_prefix", true).flag("tokenizer.ggml.remove_extra_whitespaces", true)
}

pub(crate) fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    tokenizer.encode(text, EncodeOptions::default()).expect("the text encodes")
}

pub(crate) fn parsed(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    let options = EncodeOptions { add_special: true, parse_special: true };
    tokenizer.encode(text, options).expect("the text encodes")
}

/// The texts of the tokens of a text.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    texts(tokenizer, &plain(tokenizer, text))
}

pub(crate) fn texts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.token_text(*id).expect("it is in the vocabulary").to_owned()).collect()
}
