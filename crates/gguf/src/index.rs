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
    pub(crate) fn build<'a>(n: u32, name_of: impl Fn(u32) -> &'a [u8]) -> Result<NameIndex, (u32, u32)> {
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
    pub(crate) fn find<'a>(&self, name: &[u8], name_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
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

/// Eight bytes at a time, each folded in by a wide multiplication. Speed counts, not strength: see [`NameIndex`].
fn hash(name: &[u8]) -> u64 {
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word ^ 0xf39c_c060_5ced_c835) * 0x9e37_79b9_7f4a_7c15;
        (product >> 64) as u64 ^ product as u64
    };
    let (words, tail) = name.as_chunks::<8>();
    let hash = words.iter().fold(name.len() as u64, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let mut word = [0; 8];
    word[..tail.len()].copy_from_slice(tail);
    fold(hash, u64::from_le_bytes(word))
}
