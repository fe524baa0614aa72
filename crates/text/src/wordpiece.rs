//! WordPiece: words of normalized text, each covered by the longest tokens from left to right.

use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::error::TokenizerError;
use crate::unicode::{base_of, class_of, to_lower};
use crate::vocab::Vocab;

/// How BERT normalizes text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordPiece {
    lowercase: bool,
    strip_accents: bool,
    unk: TokenId,
}

/// Marks the start of a word in the vocabulary.
const WORD_START: &str = "\u{2581}";

impl WordPiece {
    pub(crate) fn new(gguf: &Gguf, unk: Option<TokenId>) -> Result<WordPiece, TokenizerError> {
        let lowercase = gguf.get_bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strip = gguf.get_bool("tokenizer.ggml.normalizer.strip_accents")?;
        let unk = unk.ok_or(TokenizerError::MissingSpecialToken { which: "unknown" })?;
        Ok(WordPiece { lowercase, strip_accents: strip.unwrap_or(lowercase), unk })
    }

    /// Appends the tokens of a text.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut word = String::new();
        for c in text.chars() {
            let c = if self.strip_accents { base_of(c) } else { c };
            let class = class_of(c);
            if class.is_whitespace() {
                self.encode_word(vocab, &mut word, out);
                continue;
            }
            let dropped = c == '\0' || c == '\u{fffd}' || class.is_control();
            if dropped || self.strip_accents && class.is_mark() {
                continue;
            }
            let ascii_symbol = u32::from(c) < 0x7f && class.is_symbol();
            let alone = class.is_punctuation() || ascii_symbol || is_chinese(c);
            let c = if self.lowercase { to_lower(c) } else { c };
            if alone {
                self.encode_word(vocab, &mut word, out);
                word.push(c);
                self.encode_word(vocab, &mut word, out);
            } else {
                word.push(c);
            }
        }
        self.encode_word(vocab, &mut word, out);
    }

    /// Appends the tokens of the word and empties it.
    fn encode_word(&self, vocab: &Vocab, word: &mut String, out: &mut Vec<TokenId>) {
        if word.is_empty() {
            return;
        }
        word.insert_str(0, WORD_START);
        let n_before = out.len();
        let mut rest = word.as_str();
        while !rest.is_empty() {
            // One byte more than the longest token, as the reference counts; such a text is no token.
            let longest = rest.len().min(vocab.max_token_bytes() + 1);
            let token = (1..=longest)
                .rev()
                .filter(|end| rest.is_char_boundary(*end))
                .find_map(|end| Some((vocab.find(&rest.as_bytes()[..end])?, end)));
            let Some((id, end)) = token else {
                out.truncate(n_before);
                break;
            };
            out.push(id);
            rest = &rest[end..];
        }
        if out.len() == n_before {
            out.push(self.unk);
        }
        word.clear();
    }
}

/// Ideographs that are words of their own. The fifth range starts late, as it does in the original.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b73f}' | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}' | '\u{2f800}'..='\u{2fa1f}')
}
