//! SentencePiece byte-pair encoding: neighbours whose joined text is a token are merged, best score first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::TokenId;
use crate::error::TokenizerError;
use crate::vocab::{Vocab, text_of_byte};

/// U+2581, which stands for a space.
pub(crate) const ESCAPED_SPACE: &str = "\u{2581}";

/// A run of characters that is a token, or a single character. Merged symbols keep their place with no bytes.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len_bytes: u32,
    prev: u32,
    next: u32,
}

const NO_NEIGHBOUR: u32 = u32::MAX;

/// Two neighbours that join to a token. The best score comes first, then the leftmost.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both when the pair was found; if they have changed since, the pair is gone.
    len_bytes: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        // Scores are checked to be numbers. Both zeros are equal, so this is no `total_cmp`.
        let by_score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        by_score.then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// Appends the tokens of a text in which spaces are escaped.
pub(crate) fn encode(vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
    let bytes = text.as_bytes();
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (start, c) in text.char_indices() {
        let at = symbols.len() as u32;
        symbols.push(Symbol {
            start: start as u32,
            len_bytes: c.len_utf8() as u32,
            prev: at.checked_sub(1).unwrap_or(NO_NEIGHBOUR),
            next: at + 1,
        });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NO_NEIGHBOUR;
    }
    let joined = |symbols: &[Symbol], left: u32, right: u32| -> Option<Pair> {
        if left == NO_NEIGHBOUR || right == NO_NEIGHBOUR {
            return None;
        }
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        let len_bytes = l.len_bytes + r.len_bytes;
        let start = l.start as usize;
        let id = vocab.find(bytes.get(start..start + len_bytes as usize)?)?;
        Some(Pair { score: vocab.score(id), left, right, len_bytes })
    };

    let mut pairs: BinaryHeap<Pair> =
        (1..symbols.len() as u32).filter_map(|right| joined(&symbols, right - 1, right)).collect();
    while let Some(pair) = pairs.pop() {
        let left = symbols[pair.left as usize];
        let right = symbols[pair.right as usize];
        let gone = left.len_bytes == 0 || right.len_bytes == 0;
        if gone || left.len_bytes + right.len_bytes != pair.len_bytes {
            continue;
        }
        symbols[pair.left as usize] = Symbol { len_bytes: pair.len_bytes, next: right.next, ..left };
        symbols[pair.right as usize].len_bytes = 0;
        if right.next != NO_NEIGHBOUR {
            symbols[right.next as usize].prev = pair.left;
        }
        pairs.extend(joined(&symbols, left.prev, pair.left));
        pairs.extend(joined(&symbols, pair.left, right.next));
    }

    for symbol in symbols.iter().filter(|symbol| symbol.len_bytes > 0) {
        let start = symbol.start as usize;
        let text = &bytes[start..start + symbol.len_bytes as usize];
        match vocab.find(text) {
            Some(id) => out.push(id),
            None => {
                for &byte in text {
                    let id = vocab.find(&text_of_byte(byte)).or_else(|| vocab.find(&[byte]));
                    out.push(id.ok_or(TokenizerError::NoByteToken { byte })?);
                }
            }
        }
    }
    Ok(())
}
