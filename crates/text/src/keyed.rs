//! Hashes of short texts, and a table that is searched by them.

use std::hash::{BuildHasher, Hasher, RandomState};

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
        let mut state = self.mix(self.0[0], bytes.len() as u64);
        let mut rest = bytes;
        while let Some((chunk, after)) = rest.split_first_chunk().filter(|_| rest.len() > 8) {
            state = self.mix(state, u64::from_le_bytes(*chunk));
            rest = after;
        }
        self.mix(state, word_of(rest))
    }
}

/// At most eight bytes as a word that differs for any two of one length. Without a copy of a length that is not known:
/// it would take longer than the rest.
fn word_of(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
    }
    match *bytes {
        [] => 0,
        [a] => a.into(),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, ..] => u64::from(u32::from_le_bytes([a, b, c, 0])),
    }
}

/// Open addressing with linear probing from hashes to numbers of 24 bits. A slot holds such a number and eight bits of hash.
pub(crate) struct Slots(Vec<u32>);

const EMPTY: u32 = u32::MAX;

/// Where a number that was not found belongs.
pub(crate) struct Vacant {
    at: usize,
    tag: u32,
}

impl Slots {
    /// The most numbers, without the one that makes an empty slot.
    pub(crate) const MAX_LEN: u64 = (1 << 24) - 1;

    pub(crate) fn with_capacity(n: usize) -> Slots {
        // At most five eighths full; a power of two, so that a mask finds the slot.
        Slots(vec![EMPTY; (n * 8 / 5 + 2).next_power_of_two()])
    }

    /// The number with this hash that is the one, or where it belongs.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Result<u32, Vacant> {
        let tag = (hash >> 56) as u32;
        let mask = self.0.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.0[at];
            if slot == EMPTY {
                return Err(Vacant { at, tag });
            }
            if slot >> 24 == tag && is_it(slot & 0xff_ffff) {
                return Ok(slot & 0xff_ffff);
            }
            at = (at + 1) & mask;
        }
    }

    pub(crate) fn fill(&mut self, vacant: Vacant, number: u32) {
        self.0[vacant.at] = vacant.tag << 24 | number;
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.len() * 4
    }
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
    fn order_counts_in_pairs() {
        let key = Keyed::new();
        let [a, b] = [b"a", b"b"].map(|text| key.of_bytes(text));
        assert_ne!(key.of_pair(a, b), key.of_pair(b, a));
        assert_ne!(key.of_pair(a, a), key.of_pair(b, b));
    }
}
