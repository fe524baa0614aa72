//! Byte-pair encoding: pieces of text, merged pair by pair in the order of the vocabulary's merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::error::TokenizerError;
use crate::keyed::{Keyed, Slots, Word};
use crate::pretokenizer::{Alphabet, PreTokenizer};
use crate::spm::ESCAPED_SPACE;
use crate::texts::Texts;
use crate::vocab::{Vocab, at_most, check_positions, text_of_byte};

const MERGES: &str = "tokenizer.ggml.merges";

/// The character that stands for a byte in the GPT-2 alphabet: itself if it is printable Latin-1, else one from U+0100.
pub(crate) fn char_of_byte(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        // The other bytes in order: 0x00..=0x20, 0x7f..=0xa0, 0xad.
        0..=0x20 => hidden(u32::from(byte)),
        0x7f..=0xa0 => hidden(u32::from(byte) - 0x7f + 0x21),
        0xad => hidden(0x43),
    }
}

fn hidden(n: u32) -> char {
    char::from_u32(0x100 + n).unwrap_or('\u{100}')
}

/// The byte that a character of the GPT-2 alphabet stands for.
pub(crate) fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Merges by the texts that they join: ranks, which are the places of merges in the file's list.
///
/// Texts stay in the file's bytes, and no token is looked up until text is encoded: opening a model waits for this table.
struct MergeTable {
    texts: Texts,
    slots: Slots,
    key: Keyed,
}

impl MergeTable {
    fn new(texts: Texts, raw: &[u8]) -> MergeTable {
        let key = Keyed::new();
        let parts = |rank: u32| parts_of(texts.get(raw, rank as usize));
        let hash_of = |rank: u32| {
            let (rest, len_bytes) = texts.get_with_rest(raw, rank as usize);
            match Word::first_of(rest, len_bytes) {
                Some(word) => {
                    let at = word.find_after_first(b' ')?;
                    let [left, right] = [word.before(at), word.after(at)];
                    (!right.is_empty()).then(|| key.of_pair(key.of_word(left), key.of_word(right)))
                }
                None => {
                    let [left, right] = parts(rank);
                    (!right.is_empty()).then(|| key.of_pair(key.of_bytes(left), key.of_bytes(right)))
                }
            }
        };
        // A merge without parts keeps its rank and never applies.
        // Of two merges of one pair the first counts.
        let (slots, _) = Slots::of(0..texts.len() as u32, hash_of, |a, b| parts(a) == parts(b));
        MergeTable { texts, slots, key }
    }

    /// The rank of a pair.
    fn find(&self, raw: &[u8], left: Part<'_>, right: Part<'_>) -> Option<u32> {
        let is_it = |rank: u32| parts_of(self.texts.get(raw, rank as usize)) == [left.text, right.text];
        self.slots.find(self.key.of_pair(left.hash, right.hash), is_it)
    }
}

/// One of the two texts that a merge joins.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a [u8],
    hash: u64,
}

/// The two parts of a merge, at each side of the first space that is not the first character; the second is empty if
/// there are none.
fn parts_of(text: &[u8]) -> [&[u8]; 2] {
    match text.iter().skip(1).position(|byte| *byte == b' ') {
        Some(at) => [&text[..at + 1], &text[at + 2..]],
        None => [text, &[]],
    }
}

/// The part of a byte-pair tokenizer that belongs to the vocabulary.
pub(crate) struct Bpe {
    pre: &'static PreTokenizer,
    table: MergeTable,
}

/// One symbol of a piece under way. Merged symbols keep their place with no bytes.
#[derive(Clone, Copy)]
struct Symbol {
    /// Of its text, as the table of merges has it.
    hash: u64,
    start: u32,
    len_bytes: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    fn text<'a>(&self, piece: &'a [u8]) -> &'a [u8] {
        &piece[self.start as usize..][..self.len_bytes as usize]
    }
}

const NO_NEIGHBOUR: u32 = u32::MAX;

/// Two neighbours that have a merge. Ordered by rank, then from left to right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both when the pair was found; if they have changed since, the pair is gone.
    len_bytes: u32,
}

/// Buffers that are kept from piece to piece.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Reverse<Pair>>,
    written: String,
}

/// Where pieces of a text occurred last, by their hash, and where their tokens are: most words of a text repeat.
struct Seen<'t>(Vec<(&'t str, Range<usize>)>);

impl<'t> Seen<'t> {
    const LEAST_TEXT_BYTES: usize = 512;
    const MAX_PIECES: usize = 1 << 12;

    fn for_text(text: &str) -> Seen<'t> {
        let n_pieces = match text.len() {
            ..Seen::LEAST_TEXT_BYTES => 0,
            len => (len / 16).next_power_of_two().min(Seen::MAX_PIECES),
        };
        Seen(vec![("", 0..0); n_pieces])
    }

    /// Appends the tokens of a piece as they were before, or has them appended.
    fn repeat_or(
        &mut self,
        piece: &'t str,
        key: Keyed,
        out: &mut Vec<TokenId>,
        append: impl FnOnce(&mut Vec<TokenId>),
    ) {
        let from = out.len();
        let n_pieces = self.0.len();
        if n_pieces == 0 {
            return append(out);
        }
        let place = &mut self.0[key.of_bytes(piece.as_bytes()) as usize & (n_pieces - 1)];
        if place.0 == piece {
            out.extend_from_within(place.1.clone());
        } else {
            append(out);
            *place = (piece, from..out.len());
        }
    }
}

impl Bpe {
    pub(crate) fn new(
        gguf: &Gguf,
        pre: &'static PreTokenizer,
        needs_merges: bool,
    ) -> Result<Bpe, TokenizerError> {
        let raw = (**gguf.bytes()).as_ref();
        let texts = match gguf.get_array(MERGES)? {
            None if needs_merges => return Err(TokenizerError::Missing { key: MERGES }),
            None => Texts::NONE,
            Some(array) => {
                at_most(MERGES, array.len() as u64, Slots::MAX_LEN)?;
                Texts::new(MERGES, array, raw.as_ptr() as usize)?
            }
        };
        Ok(Bpe { pre, table: MergeTable::new(texts, raw) })
    }

    /// Appends the tokens of a text.
    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        out: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        if self.pre.escape_spaces {
            let escaped = text.replace(' ', ESCAPED_SPACE);
            check_positions(escaped.len())?;
            self.encode_escaped(vocab, &escaped, out);
        } else {
            self.encode_escaped(vocab, text, out);
        }
        Ok(())
    }

    fn encode_escaped(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut scratch = Scratch::default();
        let mut seen = Seen::for_text(text);
        self.pre.split(text, &mut |piece| {
            if self.pre.split_at_escaped_spaces && !is_newlines(piece) {
                for_each_word(piece, &mut |word| self.encode_piece(vocab, word, &mut scratch, out));
                return;
            }
            seen.repeat_or(piece, self.table.key, out, |out| {
                self.encode_piece(vocab, piece, &mut scratch, out)
            });
        });
    }

    fn encode_piece(&self, vocab: &Vocab, piece: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let Scratch { symbols, pairs, written } = scratch;
        let whole = self.pre.ignore_merges || self.pre.whole_newlines && is_newlines(piece);
        // What symbols and tokens are cut from: the piece, or how its bytes are written.
        let piece = match self.pre.alphabet {
            Alphabet::Chars => piece,
            Alphabet::Bytes => {
                written.clear();
                written.extend(piece.bytes().map(char_of_byte));
                written
            }
        };
        if whole && let Some(id) = vocab.find(piece.as_bytes()) {
            out.push(id);
            return;
        }
        self.first_symbols(piece, symbols);
        let text = piece.as_bytes();
        pairs.clear();
        for right in 1..symbols.len() as u32 {
            self.add_pair(vocab, text, symbols, pairs, right - 1, right);
        }
        while let Some(Reverse(pair)) = pairs.pop() {
            let left = symbols[pair.left as usize];
            let right = symbols[pair.right as usize];
            let gone = left.len_bytes == 0 || right.len_bytes == 0;
            if gone || left.len_bytes + right.len_bytes != pair.len_bytes {
                continue;
            }
            let joined = Symbol { len_bytes: pair.len_bytes, next: right.next, ..left };
            let hash = self.table.key.of_bytes(joined.text(text));
            symbols[pair.left as usize] = Symbol { hash, ..joined };
            symbols[pair.right as usize].len_bytes = 0;
            if right.next != NO_NEIGHBOUR {
                symbols[right.next as usize].prev = pair.left;
            }
            self.add_pair(vocab, text, symbols, pairs, left.prev, pair.left);
            self.add_pair(vocab, text, symbols, pairs, pair.left, right.next);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len_bytes > 0) {
            match vocab.find(symbol.text(text)) {
                Some(id) => out.push(id),
                None => self.fall_back(vocab, symbol.text(text), out),
            }
        }
    }

    fn first_symbols(&self, piece: &str, symbols: &mut Vec<Symbol>) {
        symbols.clear();
        for (start, c) in piece.char_indices() {
            let at = symbols.len() as u32;
            let text = &piece.as_bytes()[start..start + c.len_utf8()];
            symbols.push(Symbol {
                hash: self.table.key.of_bytes(text),
                start: start as u32,
                len_bytes: text.len() as u32,
                prev: at.checked_sub(1).unwrap_or(NO_NEIGHBOUR),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NO_NEIGHBOUR;
        }
    }

    fn add_pair(
        &self,
        vocab: &Vocab,
        text: &[u8],
        symbols: &[Symbol],
        pairs: &mut BinaryHeap<Reverse<Pair>>,
        left: u32,
        right: u32,
    ) {
        if left == NO_NEIGHBOUR || right == NO_NEIGHBOUR {
            return;
        }
        let [l, r] = [left, right].map(|at| symbols[at as usize]);
        let part = |symbol: &Symbol| Part { text: symbol.text(text), hash: symbol.hash };
        if let Some(rank) = self.table.find(vocab.raw(), part(&l), part(&r)) {
            let len_bytes = l.len_bytes + r.len_bytes;
            pairs.push(Reverse(Pair { rank, left, right, len_bytes }));
        }
    }

    /// Tokens for a symbol that has none: one per byte, where there is one. Bytes that the GPT-2 alphabet writes outside
    /// ASCII are dropped, as in the reference.
    fn fall_back(&self, vocab: &Vocab, text: &[u8], out: &mut Vec<TokenId>) {
        for &byte in text {
            let id = match self.pre.alphabet {
                Alphabet::Bytes if byte.is_ascii_graphic() => vocab.find(&[byte]),
                Alphabet::Bytes => None,
                Alphabet::Chars => vocab.find(&text_of_byte(byte)),
            };
            out.extend(id);
        }
    }

    /// Heap bytes held.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.table.texts.heap_bytes() + self.table.slots.heap_bytes()
    }
}

fn is_newlines(piece: &str) -> bool {
    piece.bytes().all(|byte| byte == b'\n')
}

/// Words that start with an escaped space each; one is put before the first word if it has none.
fn for_each_word(piece: &str, each: &mut dyn FnMut(&str)) {
    let owned;
    let mut rest = piece;
    if !rest.starts_with(ESCAPED_SPACE) {
        owned = format!("{ESCAPED_SPACE}{rest}");
        rest = &owned;
    }
    while !rest.is_empty() {
        let inner = rest.get(ESCAPED_SPACE.len()..).unwrap_or_default();
        let end = inner.find(ESCAPED_SPACE).map_or(rest.len(), |at| at + ESCAPED_SPACE.len());
        each(&rest[..end]);
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_alphabet_is_a_bijection() {
        let mut chars: Vec<char> = (0..=255).map(char_of_byte).collect();
        assert!((0..=255u8).all(|byte| byte_of_char(char_of_byte(byte)) == Some(byte)));
        chars.sort_unstable();
        chars.dedup();
        assert_eq!(chars.len(), 256);
        assert_eq!(char_of_byte(b' '), 'Ġ');
        assert_eq!(char_of_byte(b'\n'), 'Ċ');
        assert_eq!(byte_of_char(' '), None);
        assert_eq!(byte_of_char('\u{144}'), None);
    }
}
