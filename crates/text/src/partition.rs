//! Splitting special tokens out of a text before it is tokenized.
//!
//! Longer tokens win over shorter ones wherever they stand; among occurrences of one token the leftmost wins. Time is
//! linear in the text for each distinct length of a special token, whatever the number of tokens.

use crate::TokenId;
use crate::vocab::{Attr, Vocab};

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A special token that stands in the text.
    Token(TokenId),
    /// Bytes `from..to` of the text: never empty, and whole characters.
    Text { from: usize, to: usize },
}

/// A set of byte values.
#[derive(Debug, Clone, Copy, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0
    }
}

/// The special tokens of one length, by what a match must start and end with.
#[derive(Debug)]
struct Length {
    len_bytes: usize,
    first: ByteSet,
    last: ByteSet,
}

/// Finds special tokens in texts.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Longest first: all special tokens.
    all: Vec<Length>,
    /// Longest first: those that count even in text that must not be parsed for special tokens.
    user_defined: Vec<Length>,
}

const SPECIAL: u8 = Attr::CONTROL | Attr::USER_DEFINED | Attr::UNKNOWN;

fn counts(attr: Attr, parse_special: bool) -> bool {
    attr.any(SPECIAL) && (parse_special || !attr.any(Attr::CONTROL | Attr::UNKNOWN))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

impl Partition {
    /// Also gives the special tokens in order of id.
    pub(crate) fn new(vocab: &Vocab) -> (Partition, Vec<TokenId>) {
        let ids: Vec<TokenId> =
            (0..vocab.len() as TokenId).filter(|id| vocab.attr(*id).any(SPECIAL)).collect();
        let lengths = |parse_special: bool| {
            let mut lengths: Vec<Length> = Vec::new();
            for &id in ids.iter().filter(|id| counts(vocab.attr(**id), parse_special)) {
                let text = vocab.text(id);
                let (Some(&first), Some(&last)) = (text.first(), text.last()) else {
                    continue;
                };
                let at = match lengths.binary_search_by(|l| text.len().cmp(&l.len_bytes)) {
                    Ok(at) => at,
                    Err(at) => {
                        let (first, last) = Default::default();
                        lengths.insert(at, Length { len_bytes: text.len(), first, last });
                        at
                    }
                };
                lengths[at].first.add(first);
                lengths[at].last.add(last);
            }
            lengths
        };
        (Partition { all: lengths(true), user_defined: lengths(false) }, ids)
    }

    /// Cuts the text into special tokens and what lies between.
    pub(crate) fn split(&self, vocab: &Vocab, text: &str, parse_special: bool) -> Vec<Fragment> {
        let bytes = text.as_bytes();
        let mut fragments = Vec::new();
        if !bytes.is_empty() {
            fragments.push(Fragment::Text { from: 0, to: bytes.len() });
        }
        let lengths = if parse_special { &self.all } else { &self.user_defined };
        let mut found = Vec::new();
        for length in lengths {
            let untouched = fragments.iter().all(|fragment| {
                let Fragment::Text { from, to } = *fragment else { return true };
                found.clear();
                length.find(vocab, bytes, from, to, parse_special, &mut found);
                found.is_empty()
            });
            if untouched {
                continue;
            }
            let before = std::mem::take(&mut fragments);
            for fragment in before {
                let Fragment::Text { from, to } = fragment else {
                    fragments.push(fragment);
                    continue;
                };
                found.clear();
                length.find(vocab, bytes, from, to, parse_special, &mut found);
                let taken = settle(vocab, bytes, from, to, length.len_bytes, &mut found);
                let mut rest = from;
                for cut in taken {
                    if cut.from > rest {
                        fragments.push(Fragment::Text { from: rest, to: cut.from });
                    }
                    fragments.push(Fragment::Token(cut.id));
                    rest = cut.to;
                }
                if to > rest {
                    fragments.push(Fragment::Text { from: rest, to });
                }
            }
        }
        fragments
    }
}

impl Length {
    /// All occurrences in `bytes[from..to]`, also those that overlap, by position.
    fn find(
        &self,
        vocab: &Vocab,
        bytes: &[u8],
        from: usize,
        to: usize,
        parse_special: bool,
        found: &mut Vec<(usize, TokenId)>,
    ) {
        for (at, window) in (from..).zip(bytes[from..to].windows(self.len_bytes)) {
            if self.first.has(window[0])
                && self.last.has(window[self.len_bytes - 1])
                && let Some(id) = vocab.find(window)
                && counts(vocab.attr(id), parse_special)
            {
                found.push((at, id));
            }
        }
    }
}

/// A special token and the bytes that it takes, with the whitespace it swallows.
struct Cut {
    id: TokenId,
    from: usize,
    to: usize,
}

/// Which of the occurrences hold: all of the lowest id from left to right, then of the next id in what is left.
fn settle(
    vocab: &Vocab,
    bytes: &[u8],
    from: usize,
    to: usize,
    len_bytes: usize,
    found: &mut [(usize, TokenId)],
) -> Vec<Cut> {
    let overlap = found.windows(2).any(|pair| pair[1].0 - pair[0].0 < len_bytes && pair[0].1 != pair[1].1);
    if overlap {
        found.sort_unstable_by_key(|&(at, id)| (id, at));
    }
    // Cuts by position. Without overlaps between different tokens they come in order.
    let mut cuts: std::collections::BTreeMap<usize, Cut> = std::collections::BTreeMap::new();
    for &(at, id) in found.iter() {
        let left = cuts.range(..=at).next_back().map_or(from, |(_, cut)| cut.to);
        let right = cuts.range(at..).next().map_or(to, |(_, cut)| cut.from);
        if at < left || at + len_bytes > right {
            continue;
        }
        let attr = vocab.attr(id);
        let mut cut = Cut { id, from: at, to: at + len_bytes };
        if attr.any(Attr::LSTRIP) {
            while cut.from > left && is_space(bytes[cut.from - 1]) {
                cut.from -= 1;
            }
        }
        if attr.any(Attr::RSTRIP) {
            while cut.to < right && is_space(bytes[cut.to]) {
                cut.to += 1;
            }
        }
        cuts.insert(cut.from, cut);
    }
    cuts.into_values().collect()
}
