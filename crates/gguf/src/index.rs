//! Finds an entry by name: a sorted list of hashes with positions, so that a search touches few cache lines.

use std::cmp::Ordering;

/// Sorted by hash, then name. Hostile names with equal hashes cost string comparisons, never more than a binary search.
#[derive(Debug, Default)]
pub(crate) struct NameIndex {
    slots: Box<[(u64, u32)]>,
}

impl NameIndex {
    /// Builds the index of `n` entries; `name_of(i)` is the name of entry `i`.
    /// A name that appears twice is an error: the positions of the first and the second entry.
    pub(crate) fn build<'a>(n: u32, name_of: impl Fn(u32) -> &'a str) -> Result<NameIndex, (u32, u32)> {
        let mut slots: Box<[(u64, u32)]> = (0..n).map(|i| (hash(name_of(i)), i)).collect();
        slots.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| name_of(a.1).cmp(name_of(b.1))).then(a.1.cmp(&b.1))
        });
        let duplicate = slots
            .windows(2)
            .filter(|pair| pair[0].0 == pair[1].0 && name_of(pair[0].1) == name_of(pair[1].1))
            .map(|pair| (pair[0].1, pair[1].1))
            .min_by_key(|&(_, second)| second);
        match duplicate {
            Some(pair) => Err(pair),
            None => Ok(NameIndex { slots }),
        }
    }

    /// The entry of this name.
    pub(crate) fn find<'a>(&self, name: &str, name_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let wanted = hash(name);
        self.slots
            .binary_search_by(|&(hash, i)| match hash.cmp(&wanted) {
                Ordering::Equal => name_of(i).cmp(name),
                unequal => unequal,
            })
            .ok()
            .map(|at| self.slots[at].1)
    }
}

/// FNV-1a. Names are short, so a byte at a time is fast enough.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
