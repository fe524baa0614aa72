//! Hashes of short texts, and a table that is searched by them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::hint::black_box;
use std::ops::Range;

/// Keyed hash of short texts. The key is drawn per table, so a file cannot be built to make texts collide.
#[derive(Clone, Copy)]
pub(crate) struct Keyed([u64; 2]);

impl Keyed {
    pub(crate) fn new() -> Keyed {
        let state = RandomState::new();
        let key = |n: u64| {
            let mut hasher = state.build_hasher();
            hasher.write_u64(n);
            hasher.finish()
        };
        Keyed([key(1), key(2) | 1])
    }

    fn mix(self, state: u64, word: u64) -> u64 {
        let product = u128::from(state ^ word) * u128::from(self.0[1] ^ state.rotate_left(32));
        (product as u64) ^ (product >> 64) as u64
    }

    /// The hash of two texts in order, from the hash of each.
    pub(crate) fn of_pair(self, left: u64, right: u64) -> u64 {
        self.mix(self.mix(self.0[0], left), right)
    }

    pub(crate) fn of_bytes(self, bytes: &[u8]) -> u64 {
        let mut state = self.0[0] ^ bytes.len() as u64;
        let mut rest = bytes;
        while let Some((chunk, after)) = rest.split_first_chunk().filter(|_| rest.len() > Word::MAX_LEN) {
            state = self.mix_word(state, u128::from_le_bytes(*chunk));
            rest = after;
        }
        self.mix_word(state, Word::of(rest).bits)
    }

    /// As [`Keyed::of_bytes`].
    pub(crate) fn of_word(self, word: Word) -> u64 {
        self.mix_word(self.0[0] ^ word.len as u64, word.bits)
    }

    fn mix_word(self, state: u64, bits: u128) -> u64 {
        self.mix(self.mix(state, bits as u64), (bits >> 64) as u64)
    }
}

/// A text of at most 16 bytes: the first is the lowest, zeros follow the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    bits: u128,
    len: usize,
}

impl Word {
    const MAX_LEN: usize = 16;

    /// At most 16 bytes. Without a copy of a length that is not known: it would take longer than the rest.
    fn of(bytes: &[u8]) -> Word {
        let len = bytes.len();
        let bits = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
            let last = u128::from(u64::from_le_bytes(*last)) << (8 * (len - 8));
            u128::from(u64::from_le_bytes(*first)) | last
        } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
            let last = u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4));
            (u64::from(u32::from_le_bytes(*first)) | last).into()
        } else {
            let byte = |at: usize| bytes.get(at).map_or(0, |byte| u128::from(*byte) << (8 * at));
            byte(0) | byte(1) | byte(2)
        };
        Word { bits, len }
    }

    /// The first `len` of these bytes, if a number holds them and there are enough to be read at once: of most texts of a
    /// vocabulary, without a branch that depends on their lengths.
    #[inline]
    pub(crate) fn first_of(bytes: &[u8], len: usize) -> Option<Word> {
        let word = bytes.first_chunk().filter(|_| len <= Word::MAX_LEN)?;
        Some(Word { bits: u128::from_le_bytes(*word), len: Word::MAX_LEN }.before(len))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The place of the first byte that is `byte` and not the first.
    #[inline]
    pub(crate) fn find_after_first(self, byte: u8) -> Option<usize> {
        const ONES: u128 = u128::from_le_bytes([1; 16]);
        // A byte is zero where it is `byte`. The lowest zero sets its top bit below, and nothing below it does.
        let zero = (self.bits ^ (ONES * u128::from(byte))) | 0xff;
        let found = zero.wrapping_sub(ONES) & !zero & (ONES << 7);
        let at = found.trailing_zeros() as usize / 8;
        (at < self.len).then_some(at)
    }

    /// What comes before place `len`.
    #[inline]
    pub(crate) fn before(self, len: usize) -> Word {
        Word { bits: self.bits & !u128::MAX.checked_shl(8 * len as u32).unwrap_or(0), len }
    }

    /// What comes after place `at`.
    #[inline]
    pub(crate) fn after(self, at: usize) -> Word {
        let bits = self.bits.checked_shr(8 * (at as u32 + 1)).unwrap_or(0);
        Word { bits, len: self.len.saturating_sub(at + 1) }
    }
}

/// Open addressing with linear probing from hashes to numbers of 24 bits. A slot holds such a number and eight bits of hash.
pub(crate) struct Slots(Vec<u32>);

const EMPTY: u32 = u32::MAX;

/// The place of a slot that is empty.
struct Vacant(usize);

impl Slots {
    /// The most numbers, without the one that makes an empty slot.
    pub(crate) const MAX_LEN: u64 = (1 << 24) - 1;

    /// A table of those of `numbers` that have a hash, and the first pair of which `is_same` says that they mean the same:
    /// the first of such numbers is in the table.
    pub(crate) fn of(
        numbers: Range<u32>,
        hash_of: impl Fn(u32) -> Option<u64>,
        is_same: impl Fn(u32, u32) -> bool,
    ) -> (Slots, Option<(u32, u32)>) {
        // Opening a model waits for this: what takes time is to wait for slots from memory, so a batch is asked for at once.
        const BATCH: usize = 32;
        let mut slots = Slots::with_capacity(numbers.len());
        let mut same = None;
        let mut batch = Vec::with_capacity(BATCH);
        for from in numbers.clone().step_by(BATCH) {
            let until = numbers.end.min(from.saturating_add(BATCH as u32));
            batch.clear();
            batch.extend((from..until).filter_map(|number| Some((number, hash_of(number)?))));
            let in_cache = batch.iter().fold(0, |sum, (_, hash)| sum ^ slots.0[slots.first_place(*hash)]);
            black_box(in_cache);
            for &(number, hash) in &batch {
                match slots.search(hash, |other| is_same(other, number)) {
                    Ok(first) => same = same.or(Some((first, number))),
                    Err(Vacant(at)) => slots.0[at] = tag_of(hash) << 24 | number,
                }
            }
        }
        (slots, same)
    }

    fn with_capacity(n: usize) -> Slots {
        // At most five eighths full; a power of two, so that a mask finds the slot.
        Slots(vec![EMPTY; (n * 8 / 5 + 2).next_power_of_two()])
    }

    /// The number with this hash that is the one.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.search(hash, is_it).ok()
    }

    /// The number with this hash that is the one, or where it belongs.
    fn search(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Result<u32, Vacant> {
        let tag = tag_of(hash);
        let mut at = self.first_place(hash);
        loop {
            let slot = self.0[at];
            if slot == EMPTY {
                return Err(Vacant(at));
            }
            if slot >> 24 == tag && is_it(slot & 0xff_ffff) {
                return Ok(slot & 0xff_ffff);
            }
            at = (at + 1) & (self.0.len() - 1);
        }
    }

    fn first_place(&self, hash: u64) -> usize {
        hash as usize & (self.0.len() - 1)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.len() * 4
    }
}

/// The bits of a hash that a slot holds.
fn tag_of(hash: u64) -> u32 {
    (hash >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let key = Keyed::new();
        for len in 0..40 {
            let text = vec![b'x'; len];
            for at in 0..len {
                let mut other = text.clone();
                other[at] ^= 1;
                assert_ne!(key.of_bytes(&text), key.of_bytes(&other), "byte {at} of {len}");
            }
            assert_ne!(key.of_bytes(&text), key.of_bytes(&[&text[..], b"x"].concat()), "{len}");
            assert_ne!(key.of_bytes(&text), key.of_bytes(&[&text[..], b"\0"].concat()), "{len}");
        }
    }

    #[test]
    fn words_are_texts() {
        let key = Keyed::new();
        let text: Vec<u8> = (b'a'..).take(40).collect();
        for len in 0..=16 {
            let word = Word::first_of(&text, len).unwrap();
            assert_eq!(word, Word::of(&text[..len]));
            assert_eq!(key.of_word(word), key.of_bytes(&text[..len]));
            for at in 0..len {
                assert_eq!(word.find_after_first(text[at]), (at > 0).then_some(at));
                assert_eq!(word.before(at), Word::of(&text[..at]));
                assert_eq!(word.after(at), Word::of(&text[at + 1..len]));
            }
            assert_eq!(word.find_after_first(text[len]), None);
        }
        assert_eq!(Word::first_of(&text, 17), None);
        assert_eq!(Word::first_of(&text[..15], 3), None);
        // The byte above a match: `!` is one above a space, so it would be taken for one if it were reached first.
        for text in ["  !", " !", "x!!", "x! !!"] {
            let text = format!("{text:x<16}").into_bytes();
            let plain = text.iter().skip(1).position(|byte| *byte == b' ').map(|at| at + 1);
            assert_eq!(Word::first_of(&text, 16).unwrap().find_after_first(b' '), plain);
        }
    }

    #[test]
    fn a_table_finds_the_first_of_the_same() {
        let key = Keyed::new();
        let text_of = |number: u32| format!("text {}", number % 700);
        let hash_of = |number: u32| (number != 5).then(|| key.of_bytes(text_of(number).as_bytes()));
        let is_same = |a: u32, b: u32| text_of(a) == text_of(b);
        let find =
            |slots: &Slots, number| slots.find(hash_of(number).unwrap(), |other| is_same(other, number));
        for len in [0, 1, 31, 32, 33, 700] {
            let (slots, same) = Slots::of(0..len, hash_of, is_same);
            assert_eq!(same, None);
            for number in (0..700).filter(|number| *number != 5) {
                assert_eq!(find(&slots, number), (number < len).then_some(number), "{number} of {len}");
            }
        }
        let (slots, same) = Slots::of(0..1500, hash_of, is_same);
        assert_eq!(same, Some((0, 700)));
        assert_eq!(find(&slots, 1400), Some(0));
        assert_eq!(find(&slots, 705), Some(705), "5 has no hash");
    }

    #[test]
    fn order_counts_in_pairs() {
        let key = Keyed::new();
        let [a, b] = [b"a", b"b"].map(|text| key.of_bytes(text));
        assert_ne!(key.of_pair(a, b), key.of_pair(b, a));
        assert_ne!(key.of_pair(a, a), key.of_pair(b, b));
    }
}
