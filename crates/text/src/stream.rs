//! Text from tokens as they come, in whole characters.

use crate::TokenId;
use crate::tokenizer::Tokenizer;

/// Turns a stream of tokens into text. What it gives is always whole characters: bytes of a character that is not yet
/// complete wait for the next token. Bytes that can be part of no character become U+FFFD. All that it gives, joined,
/// is the text of all tokens at once.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    special: bool,
    /// The space that the vocabulary puts before a text is still to come, and is to be taken off.
    strip_space: bool,
    /// Bytes of a character under way: at most three between calls.
    pending: Vec<u8>,
    text: String,
}

impl<'t> StreamDecoder<'t> {
    /// For tokens that continue a text, as a generation does. Control tokens are shown only when `special`.
    pub fn new(tokenizer: &'t Tokenizer, special: bool) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, special, strip_space: false, pending: Vec::new(), text: String::new() }
    }

    /// For tokens from the start of a text: the space that the vocabulary puts there is taken off.
    pub fn at_start(tokenizer: &'t Tokenizer, special: bool) -> StreamDecoder<'t> {
        let strip_space = tokenizer.adds_space();
        StreamDecoder { strip_space, ..StreamDecoder::new(tokenizer, special) }
    }

    /// The text that this token completes; may be empty.
    pub fn push(&mut self, id: TokenId) -> &str {
        let n_before = self.pending.len();
        self.tokenizer.append_piece(id, self.special, &mut self.pending);
        if self.strip_space && self.pending.len() > n_before {
            self.strip_space = false;
            if self.pending[n_before] == b' ' && !self.tokenizer.is_control(id) {
                self.pending.remove(n_before);
            }
        }
        self.text.clear();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    self.text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (whole, after) = rest.split_at(error.valid_up_to());
                    self.text.push_str(std::str::from_utf8(whole).unwrap_or_default());
                    rest = after;
                    let Some(n_bad) = error.error_len() else { break };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[n_bad..];
                }
            }
        }
        let n_done = self.pending.len() - rest.len();
        self.pending.drain(..n_done);
        &self.text
    }

    /// What is left at the end: U+FFFD if the last character is not complete. The decoder can then be used again.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.pending.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}
