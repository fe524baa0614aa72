//! A range of bytes in one logical file.

/// `len` bytes at `offset` of logical file number `file`.
///
/// A logical file is one shard of a model; when a shard is stored as raw byte parts, offsets count through
/// the parts as if they were joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Index of the logical file in its source.
    pub file: u32,
    /// First byte, counted from the start of the logical file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Extent {
    /// The offset just past the last byte; `None` when it does not fit in 64 bits.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// The part of this extent that starts `skip` bytes in and is `len` bytes long.
    ///
    /// # Panics
    /// When the part does not lie inside this extent: callers cut extents by whole rows they counted before.
    pub fn slice(&self, skip: u64, len: u64) -> Extent {
        assert!(
            skip.checked_add(len).is_some_and(|end| end <= self.len),
            "slice {skip}+{len} of an extent of {} bytes",
            self.len
        );
        Extent { file: self.file, offset: self.offset + skip, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_inside() {
        let extent = Extent { file: 1, offset: 100, len: 50 };
        assert_eq!(extent.slice(10, 40), Extent { file: 1, offset: 110, len: 40 });
        assert!(std::panic::catch_unwind(|| extent.slice(10, 41)).is_err());
        assert!(std::panic::catch_unwind(|| extent.slice(u64::MAX, 2)).is_err());
    }
}
