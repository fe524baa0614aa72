//! Byte-pair encoding: pieces of text, merged pair by pair in the order of the vocabulary's merges.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::error::TokenizerError;
use crate::pretokenizer::{Alphabet, PreTokenizer};
use crate::vocab::{Keyed, Vocab, at_most, text_of_byte, wrong_elements};

const MERGES: &str = "tokenizer.ggml.merges";
/// U+2581, which stands for a space in vocabularies that do not write bytes.
const ESCAPED_SPACE: &str = "\u{2581}";

/// A text that merges deal with: a token, or a number from the vocabulary's length on for a text that only occurs in
/// merges, or [`NO_SYMBOL`] for a character that occurs in neither.
type SymbolId = u32;
const NO_SYMBOL: SymbolId = u32::MAX;

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

/// One merge: which two symbols, and what they become. Its place in the list is its rank.
#[derive(Debug, Clone, Copy)]
struct Merge {
    left: SymbolId,
    right: SymbolId,
    product: SymbolId,
}

/// Merges by pair: open addressing over ranks. A slot holds eight bits of hash and a 24-bit rank.
struct MergeTable {
    merges: Vec<Merge>,
    slots: Vec<u32>,
    key: Keyed,
}

const EMPTY: u32 = u32::MAX;
/// Most merges that ranks of 24 bits can count, without the one that makes an empty slot.
const MAX_MERGES: u64 = (1 << 24) - 1;
/// Merges whose parts are looked up together.
const BATCH: usize = 64;

impl MergeTable {
    fn with_capacity(n_merges: usize) -> MergeTable {
        let n_slots = (n_merges * 8 / 5 + 2).next_power_of_two();
        MergeTable { merges: Vec::with_capacity(n_merges), slots: vec![EMPTY; n_slots], key: Keyed::new() }
    }

    /// The rank of a pair, or the slot where it belongs and its eight bits of hash.
    fn probe(&self, left: SymbolId, right: SymbolId) -> Result<u32, (usize, u32)> {
        let hash = self.key.of_words([left, right]);
        let tag = (hash >> 56) as u32;
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return Err((at, tag));
            }
            let rank = slot & 0xff_ffff;
            if slot >> 24 == tag {
                let merge = self.merges[rank as usize];
                if merge.left == left && merge.right == right {
                    return Ok(rank);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a merge of the next rank. Of two merges of one pair the first counts.
    fn push(&mut self, merge: Merge) {
        let rank = self.merges.len() as u32;
        if let Err((at, tag)) = self.probe(merge.left, merge.right) {
            self.slots[at] = tag << 24 | rank;
        }
        self.merges.push(merge);
    }
}

/// The two parts of a merge, at each side of the first space that is not the first character; the second is empty if
/// there are none.
fn parts_of(text: &[u8]) -> [&[u8]; 2] {
    match text.iter().skip(1).position(|byte| *byte == b' ') {
        Some(at) => [&text[..at + 1], &text[at + 2..]],
        None => [text, &[]],
    }
}

/// The number of a text that is no token, a new one at its first occurrence.
fn extra_symbol(vocab: &Vocab, extra: &mut HashMap<Box<[u8]>, SymbolId>, text: &[u8]) -> SymbolId {
    if let Some(id) = extra.get(text) {
        return *id;
    }
    let id = (vocab.len() + extra.len()) as SymbolId;
    extra.insert(text.into(), id);
    id
}

/// The part of a byte-pair tokenizer that belongs to the vocabulary.
pub(crate) struct Bpe {
    pre: &'static PreTokenizer,
    table: MergeTable,
    /// Texts that occur in merges and are no tokens. Empty for most vocabularies.
    extra: HashMap<Box<[u8]>, SymbolId>,
    /// The symbol of each byte in the GPT-2 alphabet.
    byte_symbols: Box<[SymbolId; 256]>,
}

/// One symbol of a piece under way. Merged symbols keep their place with no bytes.
#[derive(Clone, Copy)]
struct Symbol {
    id: SymbolId,
    start: u32,
    len_bytes: u32,
    prev: u32,
    next: u32,
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

impl Bpe {
    pub(crate) fn new(
        gguf: &Gguf,
        vocab: &Vocab,
        pre: &'static PreTokenizer,
        needs_merges: bool,
    ) -> Result<Bpe, TokenizerError> {
        let mut extra: HashMap<Box<[u8]>, SymbolId> = HashMap::new();
        let mut table = MergeTable::with_capacity(0);
        match gguf.get_array(MERGES)? {
            None if needs_merges => return Err(TokenizerError::Missing { key: MERGES }),
            None => {}
            Some(array) => {
                let texts = array.strings().ok_or_else(|| wrong_elements(MERGES, "string", array))?;
                at_most(MERGES, array.len() as u64, MAX_MERGES)?;
                table = MergeTable::with_capacity(array.len());
                let raw = array.raw_bytes();
                let mut spans = texts.spans();
                let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * BATCH);
                let mut ids = Vec::with_capacity(2 * BATCH);
                let mut joined = Vec::new();
                let mut product = 0;
                loop {
                    parts.clear();
                    parts.extend(spans.by_ref().take(BATCH).flat_map(|span| parts_of(&raw[span])));
                    if parts.is_empty() {
                        break;
                    }
                    vocab.find_all(&parts, &mut ids);
                    for (parts, ids) in parts.chunks_exact(2).zip(ids.chunks_exact(2)) {
                        // A merge without parts keeps its rank and never applies.
                        if parts[1].is_empty() {
                            let none = NO_SYMBOL;
                            table.push(Merge { left: none, right: none, product: none });
                            continue;
                        }
                        let left = ids[0].unwrap_or_else(|| extra_symbol(vocab, &mut extra, parts[0]));
                        let right = ids[1].unwrap_or_else(|| extra_symbol(vocab, &mut extra, parts[1]));
                        joined.clear();
                        joined.extend_from_slice(parts[0]);
                        joined.extend_from_slice(parts[1]);
                        // Most vocabularies number tokens in the order of merges, and this spares the search.
                        product = match vocab.text(product + 1) == joined {
                            true => product + 1,
                            false => match vocab.find(&joined) {
                                Some(id) => id,
                                None => extra_symbol(vocab, &mut extra, &joined),
                            },
                        };
                        table.push(Merge { left, right, product });
                    }
                }
            }
        }
        extra.shrink_to_fit();

        let mut byte_symbols = Box::new([NO_SYMBOL; 256]);
        for byte in 0..=255u8 {
            let mut buffer = [0; 4];
            let text = char_of_byte(byte).encode_utf8(&mut buffer).as_bytes();
            let id = vocab.find(text).or_else(|| extra.get(text).copied());
            byte_symbols[usize::from(byte)] = id.unwrap_or(NO_SYMBOL);
        }
        Ok(Bpe { pre, table, extra, byte_symbols })
    }

    /// Appends the tokens of a text.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut scratch = Scratch::default();
        if self.pre.escape_spaces {
            let escaped = text.replace(' ', ESCAPED_SPACE);
            self.encode_escaped(vocab, &escaped, &mut scratch, out);
        } else {
            self.encode_escaped(vocab, text, &mut scratch, out);
        }
    }

    fn encode_escaped(&self, vocab: &Vocab, text: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        self.pre.split(text, &mut |piece| {
            if self.pre.split_at_escaped_spaces && !is_newlines(piece) {
                for_each_word(piece, &mut |word| self.encode_piece(vocab, word, scratch, out));
            } else {
                self.encode_piece(vocab, piece, scratch, out);
            }
        });
    }

    fn encode_piece(&self, vocab: &Vocab, piece: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        if (self.pre.ignore_merges || self.pre.whole_newlines && is_newlines(piece))
            && let Some(id) = self.find_piece(vocab, piece, &mut scratch.written)
        {
            out.push(id);
            return;
        }
        let Scratch { symbols, pairs, .. } = scratch;
        self.first_symbols(vocab, piece, symbols);
        pairs.clear();
        for right in 1..symbols.len() as u32 {
            self.add_pair(symbols, pairs, right - 1, right);
        }
        while let Some(Reverse(pair)) = pairs.pop() {
            let left = symbols[pair.left as usize];
            let right = symbols[pair.right as usize];
            let gone = left.len_bytes == 0 || right.len_bytes == 0;
            if gone || left.len_bytes + right.len_bytes != pair.len_bytes {
                continue;
            }
            symbols[pair.left as usize] = Symbol {
                id: self.table.merges[pair.rank as usize].product,
                len_bytes: pair.len_bytes,
                next: right.next,
                ..left
            };
            symbols[pair.right as usize].len_bytes = 0;
            if right.next != NO_NEIGHBOUR {
                symbols[right.next as usize].prev = pair.left;
            }
            self.add_pair(symbols, pairs, left.prev, pair.left);
            self.add_pair(symbols, pairs, pair.left, right.next);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len_bytes > 0) {
            if (symbol.id as usize) < vocab.len() {
                out.push(symbol.id);
            } else {
                let start = symbol.start as usize;
                let text = &piece.as_bytes()[start..start + symbol.len_bytes as usize];
                self.fall_back(vocab, text, out);
            }
        }
    }

    /// The token whose text is the whole piece.
    fn find_piece(&self, vocab: &Vocab, piece: &str, written: &mut String) -> Option<TokenId> {
        match self.pre.alphabet {
            Alphabet::Chars => vocab.find(piece.as_bytes()),
            // A written byte takes one byte at least.
            Alphabet::Bytes if piece.len() > vocab.max_token_bytes() => None,
            Alphabet::Bytes => {
                written.clear();
                written.extend(piece.bytes().map(char_of_byte));
                vocab.find(written.as_bytes())
            }
        }
    }

    fn first_symbols(&self, vocab: &Vocab, piece: &str, symbols: &mut Vec<Symbol>) {
        symbols.clear();
        let mut push = |id, start: usize, len_bytes: usize| {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                id,
                start: start as u32,
                len_bytes: len_bytes as u32,
                prev: at.checked_sub(1).unwrap_or(NO_NEIGHBOUR),
                next: at + 1,
            });
        };
        match self.pre.alphabet {
            Alphabet::Bytes => {
                for (start, byte) in piece.bytes().enumerate() {
                    push(self.byte_symbols[usize::from(byte)], start, 1);
                }
            }
            Alphabet::Chars => {
                for (start, c) in piece.char_indices() {
                    let text = &piece.as_bytes()[start..start + c.len_utf8()];
                    let id = vocab.find(text).or_else(|| self.extra.get(text).copied());
                    push(id.unwrap_or(NO_SYMBOL), start, c.len_utf8());
                }
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NO_NEIGHBOUR;
        }
    }

    fn add_pair(&self, symbols: &[Symbol], pairs: &mut BinaryHeap<Reverse<Pair>>, left: u32, right: u32) {
        if left == NO_NEIGHBOUR || right == NO_NEIGHBOUR {
            return;
        }
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        if l.id == NO_SYMBOL || r.id == NO_SYMBOL {
            return;
        }
        if let Ok(rank) = self.table.probe(l.id, r.id) {
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

    /// Heap bytes held, roughly.
    pub(crate) fn heap_bytes(&self) -> usize {
        let extra: usize = self.extra.keys().map(|text| text.len() + 32).sum();
        self.table.merges.capacity() * size_of::<Merge>() + self.table.slots.len() * 4 + extra + 1024
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
