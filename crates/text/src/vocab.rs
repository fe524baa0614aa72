//! The tokens of a file: texts in place, an index from text to id, types and scores.
//!
//! Heap per token: one `u32` offset, one byte of type and about two `u32` slots of the index. Texts and scores stay in
//! the file's bytes.

use rawrz_gguf::{Array, Bytes, Gguf, ValueType};

use crate::TokenId;
use crate::error::{TokenizerError, shorten};
use crate::keyed::{Keyed, Slots, Word};
use crate::texts::Texts;

pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Types of a token as a set of bits: some tokens end up with more than the one that the file gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attr(pub(crate) u8);

impl Attr {
    pub(crate) const UNKNOWN: u8 = 1;
    pub(crate) const UNUSED: u8 = 2;
    pub(crate) const NORMAL: u8 = 4;
    pub(crate) const CONTROL: u8 = 8;
    pub(crate) const USER_DEFINED: u8 = 16;
    pub(crate) const BYTE: u8 = 32;
    /// Swallows whitespace before it.
    pub(crate) const LSTRIP: u8 = 64;
    /// Swallows whitespace after it.
    pub(crate) const RSTRIP: u8 = 128;

    /// The types of `tokenizer.ggml.token_type`; values that are not defined mean none of them.
    fn from_file(value: i32) -> u8 {
        match value {
            1 => Attr::NORMAL,
            2 => Attr::UNKNOWN,
            3 => Attr::CONTROL,
            4 => Attr::USER_DEFINED,
            5 => Attr::UNUSED,
            6 => Attr::BYTE,
            _ => 0,
        }
    }

    pub(crate) const fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// Where the scores lie in the file's bytes.
#[derive(Debug, Clone, Copy)]
enum Scores {
    None,
    F32 { at: usize },
    I32 { at: usize },
}

pub(crate) struct Vocab {
    bytes: Bytes,
    texts: TokenTexts,
    attrs: Vec<u8>,
    scores: Scores,
    index: TextIndex,
    max_token_bytes: usize,
}

/// Texts by id.
struct TokenTexts {
    in_file: Texts,
    /// Tokens that have no text in the file, in order of id, with the text `[EMPTY_id]` that the reference gives them.
    unnamed: Vec<(TokenId, Box<[u8]>)>,
}

impl TokenTexts {
    /// The text of a token of the file whose bytes are `raw`; empty for an id that there is not.
    fn get<'a>(&'a self, raw: &'a [u8], id: TokenId) -> &'a [u8] {
        match self.in_file.get(raw, id as usize) {
            b"" => match self.unnamed.binary_search_by_key(&id, |(id, _)| *id) {
                Ok(i) => &self.unnamed[i].1,
                Err(_) => b"",
            },
            text => text,
        }
    }

    fn heap_bytes(&self) -> usize {
        let unnamed: usize = self.unnamed.iter().map(|(_, text)| text.len() + 24).sum();
        self.in_file.heap_bytes() + unnamed
    }
}

fn elements(array: Array<'_>, key: &'static str, n_tokens: usize) -> Result<usize, TokenizerError> {
    if array.len() < n_tokens {
        return Err(TokenizerError::TooShort { key, found: array.len(), n_tokens });
    }
    Ok(array.raw_bytes().as_ptr() as usize)
}

impl Vocab {
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Vocab, TokenizerError> {
        let bytes = gguf.bytes().clone();
        let raw = (*bytes).as_ref();
        let base = raw.as_ptr() as usize;

        let tokens = gguf.get_array(TOKENS)?.ok_or(TokenizerError::Missing { key: TOKENS })?;
        let n_tokens = tokens.len();
        if n_tokens == 0 {
            return Err(TokenizerError::Empty);
        }
        at_most(TOKENS, n_tokens as u64, Slots::MAX_LEN)?;
        let in_file = Texts::new(TOKENS, tokens, base)?;
        let mut unnamed = Vec::new();
        let mut max_token_bytes = 0;
        for id in 0..n_tokens {
            let len_bytes = in_file.len_bytes(id);
            if len_bytes == 0 {
                unnamed.push((id as TokenId, format!("[EMPTY_{id}]").into_bytes().into_boxed_slice()));
            }
            max_token_bytes = max_token_bytes.max(len_bytes);
        }
        let longest_unnamed = unnamed.iter().map(|(_, text)| text.len()).max();
        max_token_bytes = max_token_bytes.max(longest_unnamed.unwrap_or(0));

        let attrs = match gguf.get_array(TYPES)? {
            None => vec![Attr::NORMAL; n_tokens],
            Some(types) => {
                let values = types.i32s().ok_or_else(|| wrong_elements(TYPES, "i32", types))?;
                elements(types, TYPES, n_tokens)?;
                values.take(n_tokens).map(Attr::from_file).collect()
            }
        };
        let scores = match gguf.get_array(SCORES)? {
            None => Scores::None,
            Some(scores) => {
                let at = elements(scores, SCORES, n_tokens)? - base;
                match scores.element_type() {
                    ValueType::F32 => Scores::F32 { at },
                    ValueType::I32 => Scores::I32 { at },
                    _ => return Err(wrong_elements(SCORES, "f32 or i32", scores)),
                }
            }
        };
        let texts = TokenTexts { in_file, unnamed };
        let (index, same) = TextIndex::of(&texts, raw, n_tokens as TokenId);
        if let Some((first, second)) = same {
            let text = shorten(texts.get(raw, first));
            return Err(TokenizerError::DuplicateToken { text, first, second });
        }
        let vocab = Vocab { bytes, texts, attrs, scores, index, max_token_bytes };
        vocab.check_byte_tokens()?;
        Ok(vocab)
    }

    fn check_byte_tokens(&self) -> Result<(), TokenizerError> {
        for id in 0..self.len() as TokenId {
            if self.attr(id).any(Attr::BYTE) && byte_of_text(self.text(id)).is_none() {
                let text = shorten(self.text(id));
                return Err(TokenizerError::ByteToken { id, text });
            }
        }
        Ok(())
    }

    /// For the models that order by scores, which needs them to be comparable.
    pub(crate) fn check_scores(&self) -> Result<(), TokenizerError> {
        match (0..self.len() as TokenId).find(|id| self.score(*id).is_nan()) {
            Some(id) => Err(TokenizerError::Score { id }),
            None => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.attrs.len()
    }

    /// Length of the longest token in bytes.
    pub(crate) fn max_token_bytes(&self) -> usize {
        self.max_token_bytes
    }

    /// The bytes that the file was parsed from.
    pub(crate) fn raw(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// The text of a token as the vocabulary has it; empty for an id that it does not have.
    pub(crate) fn text(&self, id: TokenId) -> &[u8] {
        self.texts.get(self.raw(), id)
    }

    /// The token with this text.
    pub(crate) fn find(&self, text: &[u8]) -> Option<TokenId> {
        if text.is_empty() || text.len() > self.max_token_bytes {
            return None;
        }
        self.index.find(text, |id| self.text(id))
    }

    pub(crate) fn attr(&self, id: TokenId) -> Attr {
        Attr(self.attrs.get(id as usize).copied().unwrap_or(0))
    }

    pub(crate) fn set_attr(&mut self, id: TokenId, attr: u8) {
        self.attrs[id as usize] = attr;
    }

    /// The score of a token; 0 when the file has no scores.
    pub(crate) fn score(&self, id: TokenId) -> f32 {
        let four = |at: usize| -> [u8; 4] {
            let from = at + 4 * id as usize;
            self.raw().get(from..).and_then(|rest| rest.first_chunk().copied()).unwrap_or_default()
        };
        match self.scores {
            Scores::None => 0.0,
            Scores::F32 { at } => f32::from_le_bytes(four(at)),
            Scores::I32 { at } => i32::from_le_bytes(four(at)) as f32,
        }
    }

    /// Heap bytes that the vocabulary holds.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.texts.heap_bytes() + self.attrs.capacity() + self.index.slots.heap_bytes()
    }
}

pub(crate) fn wrong_elements(key: &'static str, expected: &'static str, array: Array<'_>) -> TokenizerError {
    TokenizerError::ElementType { key, expected, found: array.element_type().name() }
}

pub(crate) fn at_most(key: &'static str, found: u64, limit: u64) -> Result<(), TokenizerError> {
    match found <= limit {
        true => Ok(()),
        false => Err(TokenizerError::TooLong { key, found, limit }),
    }
}

/// Refuses a text whose positions 32 bits cannot count, once it is escaped or normalized to so many bytes.
pub(crate) fn check_positions(len_bytes: usize) -> Result<(), TokenizerError> {
    match u32::try_from(len_bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(TokenizerError::TextTooLong { len_bytes, limit_bytes: u32::MAX as usize }),
    }
}

/// The byte of a token written `<0xXX>`.
pub(crate) fn byte_of_text(text: &[u8]) -> Option<u8> {
    let &[b'<', b'0', b'x', high, low, b'>'] = text else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// The text `<0xXX>` of a byte.
pub(crate) fn text_of_byte(byte: u8) -> [u8; 6] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'<', b'0', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)], b'>']
}

/// From texts to ids.
struct TextIndex {
    slots: Slots,
    key: Keyed,
}

impl TextIndex {
    /// An index of the ids below `n_tokens`, and the first two that have the same text.
    fn of(texts: &TokenTexts, raw: &[u8], n_tokens: TokenId) -> (TextIndex, Option<(TokenId, TokenId)>) {
        let key = Keyed::new();
        let hash_of = |id: TokenId| {
            let (rest, len_bytes) = texts.in_file.get_with_rest(raw, id as usize);
            Some(match Word::first_of(rest, len_bytes) {
                Some(word) if !word.is_empty() => key.of_word(word),
                _ => key.of_bytes(texts.get(raw, id)),
            })
        };
        let (slots, same) = Slots::of(0..n_tokens, hash_of, |a, b| texts.get(raw, a) == texts.get(raw, b));
        (TextIndex { slots, key }, same)
    }

    fn find<'a>(&self, text: &[u8], text_of: impl Fn(TokenId) -> &'a [u8]) -> Option<TokenId> {
        self.slots.find(self.key.of_bytes(text), |id| text_of(id) == text)
    }
}
