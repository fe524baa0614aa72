//! Unigram (T5): of all ways to cover a text with tokens, the one with the best sum of scores.

use rawrz_gguf::{Gguf, ValueType};

use crate::TokenId;
use crate::error::TokenizerError;
use crate::spm::ESCAPED_SPACE;
use crate::vocab::{Attr, Vocab, check_positions, wrong_elements};

const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The part of a unigram tokenizer that belongs to the vocabulary.
pub(crate) struct Unigram {
    /// Tokens that may cover text, in order of their texts.
    tokens: Box<[TokenId]>,
    /// User-defined tokens, in order of their texts: normalization leaves them, and what starts like them, alone.
    user_defined: Box<[TokenId]>,
    unknown_score: f64,
    unk: TokenId,
    add_space_prefix: bool,
    merge_spaces: bool,
    charsmap: Option<CharsMap>,
}

/// The best way to cover a text up to some position.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    last: TokenId,
    from: u32,
}

impl Unigram {
    /// Goes by the types in the file, so it must be built before special tokens are looked for.
    pub(crate) fn new(gguf: &Gguf, vocab: &Vocab, unk: Option<TokenId>) -> Result<Unigram, TokenizerError> {
        vocab.check_scores()?;
        let sorted = |bits: u8| {
            let mut ids: Vec<TokenId> =
                (0..vocab.len() as TokenId).filter(|id| vocab.attr(*id).any(bits)).collect();
            ids.sort_unstable_by_key(|id| vocab.text(*id));
            ids.into_boxed_slice()
        };
        let worst = (0..vocab.len() as TokenId)
            .filter(|id| vocab.attr(*id).any(Attr::NORMAL))
            .map(|id| vocab.score(id))
            .fold(f32::MAX, f32::min);
        let flag = |key| Ok::<bool, TokenizerError>(gguf.get_bool(key)?.unwrap_or(false));
        Ok(Unigram {
            tokens: sorted(Attr::NORMAL | Attr::USER_DEFINED | Attr::UNUSED),
            user_defined: sorted(Attr::USER_DEFINED),
            unknown_score: f64::from(worst - UNKNOWN_PENALTY),
            unk: unk.ok_or(TokenizerError::MissingSpecialToken { which: "unknown" })?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix")?,
            merge_spaces: flag("tokenizer.ggml.remove_extra_whitespaces")?,
            charsmap: CharsMap::from_gguf(gguf)?,
        })
    }

    /// Appends the tokens of a text.
    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        out: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        let text = self.normalize(vocab, text.as_bytes())?;
        check_positions(text.len())?;
        if text.is_empty() {
            return Ok(());
        }
        let unreached = Best { score: -f64::MAX, last: self.unk, from: 0 };
        let mut best = vec![unreached; text.len() + 1];
        best[0].score = 0.0;
        let mut from = 0;
        while from < text.len() {
            let n_char_bytes = char_bytes(text[from]).min(text.len() - from);
            let so_far = best[from].score;
            let mut offer = |end: usize, last: TokenId, score: f64| {
                if so_far + score > best[end].score {
                    best[end] = Best { score: so_far + score, last, from: from as u32 };
                }
            };
            let mut whole_char = false;
            let mut range = &self.tokens[..];
            for (depth, &byte) in text[from..].iter().enumerate() {
                range = narrow(vocab, range, depth, byte);
                let Some(&id) = range.first() else { break };
                // A token that ends here comes first among those that go on.
                if vocab.text(id).len() == depth + 1 {
                    whole_char |= depth + 1 == n_char_bytes;
                    let score = match vocab.attr(id).any(Attr::USER_DEFINED) {
                        true => 0.0,
                        false => f64::from(vocab.score(id)),
                    };
                    offer(from + depth + 1, id, score);
                }
            }
            if !whole_char {
                offer(from + n_char_bytes, self.unk, self.unknown_score);
            }
            from += n_char_bytes;
        }

        let first = out.len();
        let mut at = text.len();
        let mut after_unknown = false;
        loop {
            let step = best[at];
            let unknown = step.last == self.unk;
            if !(unknown && after_unknown) {
                out.push(step.last);
            }
            after_unknown = unknown;
            at = step.from as usize;
            if at == 0 {
                break;
            }
        }
        out[first..].reverse();
        Ok(())
    }

    fn normalize(&self, vocab: &Vocab, text: &[u8]) -> Result<Vec<u8>, TokenizerError> {
        let mut out = Vec::with_capacity(text.len() + text.len() / 4 + 3);
        let mut space_added = false;
        let mut in_word = false;
        let mut at = 0;
        while at < text.len() {
            let (normal, n_consumed) = self.normalize_prefix(vocab, &text[at..])?;
            for &byte in normal {
                if byte == b' ' {
                    in_word = false;
                    if !self.merge_spaces {
                        out.extend_from_slice(ESCAPED_SPACE.as_bytes());
                    }
                    continue;
                }
                if !in_word {
                    in_word = true;
                    if self.add_space_prefix && !space_added || self.merge_spaces {
                        out.extend_from_slice(ESCAPED_SPACE.as_bytes());
                        space_added = true;
                    }
                }
                out.push(byte);
            }
            at += n_consumed;
        }
        Ok(out)
    }

    /// What the start of a text that is not empty becomes, and how many bytes of it that covers.
    fn normalize_prefix<'t>(
        &'t self,
        vocab: &'t Vocab,
        text: &'t [u8],
    ) -> Result<(&'t [u8], usize), TokenizerError> {
        let mut n_shared = 0;
        let mut range = &self.user_defined[..];
        for (depth, &byte) in text.iter().enumerate() {
            range = narrow(vocab, range, depth, byte);
            if range.is_empty() {
                break;
            }
            n_shared = depth + 1;
        }
        if n_shared > 0 {
            return Ok((&text[..n_shared], n_shared));
        }
        if let Some(charsmap) = &self.charsmap
            && let Some(found) = charsmap.longest_prefix(vocab, text)?
        {
            return Ok(found);
        }
        // A user-defined token may have ended within a character, so what follows need not start with one.
        let n_bytes = char_bytes(text[0]).min(text.len());
        match std::str::from_utf8(&text[..n_bytes]) {
            Ok(_) => Ok((&text[..n_bytes], n_bytes)),
            Err(_) => Ok((b"\xEF\xBF\xBD", 1)),
        }
    }

    /// Heap bytes held.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.tokens.len() + self.user_defined.len()) * 4
    }
}

/// Of tokens that agree in their first `depth` bytes, those with this byte next.
fn narrow<'i>(vocab: &Vocab, ids: &'i [TokenId], depth: usize, byte: u8) -> &'i [TokenId] {
    let next = |id: &TokenId| vocab.text(*id).get(depth).copied();
    let from = ids.partition_point(|id| next(id) < Some(byte));
    let rest = &ids[from..];
    &rest[..rest.partition_point(|id| next(id) == Some(byte))]
}

/// Bytes of the UTF-8 sequence that starts with this byte; 1 for a byte that starts none.
fn char_bytes(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// SentencePiece's table of character replacements: an XOR-compressed double array of 32-bit units over the texts to be
/// replaced, then the replacements, each ended by a zero byte. Read in place.
struct CharsMap {
    units_at: usize,
    n_units: usize,
    texts_at: usize,
    n_text_bytes: usize,
}

const OUT_OF_BOUNDS: TokenizerError = TokenizerError::CharacterMap { what: "an index points past its end" };

impl CharsMap {
    fn from_gguf(gguf: &Gguf) -> Result<Option<CharsMap>, TokenizerError> {
        let Some(array) = gguf.get_array(CHARSMAP)? else {
            return Ok(None);
        };
        if !matches!(array.element_type(), ValueType::U8 | ValueType::I8) {
            return Err(wrong_elements(CHARSMAP, "u8 or i8", array));
        }
        let raw = array.raw_bytes();
        let (header, rest) = raw
            .split_first_chunk::<4>()
            .ok_or(TokenizerError::CharacterMap { what: "it is shorter than its header" })?;
        let n_unit_bytes = u32::from_le_bytes(*header) as usize;
        if n_unit_bytes >= rest.len() {
            return Err(TokenizerError::CharacterMap { what: "its array runs past its end" });
        }
        let base = (**gguf.bytes()).as_ref().as_ptr() as usize;
        let units_at = rest.as_ptr() as usize - base;
        Ok(Some(CharsMap {
            units_at,
            n_units: n_unit_bytes / 4,
            texts_at: units_at + n_unit_bytes,
            n_text_bytes: rest.len() - n_unit_bytes,
        }))
    }

    fn unit(&self, vocab: &Vocab, index: u32) -> Result<u32, TokenizerError> {
        let index = index as usize;
        if index >= self.n_units {
            return Err(OUT_OF_BOUNDS);
        }
        let bytes = vocab.raw().get(self.units_at + 4 * index..).unwrap_or_default();
        bytes.first_chunk().map(|chunk| u32::from_le_bytes(*chunk)).ok_or(OUT_OF_BOUNDS)
    }

    /// The replacement of the longest prefix that has one, and the length of the prefix in bytes.
    fn longest_prefix<'v>(
        &self,
        vocab: &'v Vocab,
        text: &[u8],
    ) -> Result<Option<(&'v [u8], usize)>, TokenizerError> {
        // Bits of a unit: 0..8 and 31 the label, 8 whether a replacement ends here, 9 the scale of the offset, and the
        // offset from bit 10. A unit that holds a replacement's place has it in bits 0..31.
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        if self.n_units == 0 {
            return Ok(None);
        }
        let mut longest = None;
        let mut index = offset(self.unit(vocab, 0)?);
        for (depth, &byte) in text.iter().enumerate() {
            if byte == 0 {
                break;
            }
            index ^= u32::from(byte);
            let unit = self.unit(vocab, index)?;
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            index ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let place = self.unit(vocab, index)? & !(1 << 31);
                longest = Some((place as usize, depth + 1));
            }
        }
        let Some((place, n_consumed)) = longest else {
            return Ok(None);
        };
        let texts = vocab.raw().get(self.texts_at..self.texts_at + self.n_text_bytes);
        let text = texts.and_then(|texts| texts.get(place..)).ok_or(OUT_OF_BOUNDS)?;
        let end = text
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(TokenizerError::CharacterMap { what: "a replacement has no end" })?;
        Ok(Some((&text[..end], n_consumed)))
    }
}
