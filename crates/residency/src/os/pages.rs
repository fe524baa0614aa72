//! Anonymous memory, some of it cut from one map.

use super::imp;
use memmap2::{MmapMut, MmapRaw};
use std::io;
use std::sync::Arc;

/// The length of a large page of x86-64, and of aarch64 with pages of 4 KiB.
const LARGE_PAGE: usize = 2 << 20;

/// Zeroed anonymous memory that nothing else refers to: a map of its own, or a range of one.
#[derive(Debug)]
pub(crate) struct Pages {
    map: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

impl Pages {
    /// `n` of `len` bytes each, one after the other from a large page on; in large pages as far as these are full, where
    /// the system can.
    pub(crate) fn cut(n: usize, len: usize) -> io::Result<Vec<Pages>> {
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let total = n.checked_mul(len).ok_or_else(out_of_memory)?;
        let is_large = total >= LARGE_PAGE;
        // The rest is never written to, and so never there.
        let padding = if is_large { LARGE_PAGE } else { 0 };
        let map = MmapMut::map_anon(total.checked_add(padding).ok_or_else(out_of_memory)?.max(1))?;
        let first = if is_large { map.as_ptr().align_offset(LARGE_PAGE) } else { 0 };
        if is_large {
            imp::advise_large_anonymous_pages(&map, first, total / LARGE_PAGE * LARGE_PAGE);
        }
        let map = Arc::new(MmapRaw::from(map));
        Ok((0..n).map(|i| Pages { map: Arc::clone(&map), start: first + i * len, len }).collect())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is within the map, which lives as long as this, is zeroed, and is written to through the
        // exclusive reference of `bytes_mut` alone: `cut` gives each range away once.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_zeroed_apart_and_begin_at_a_large_page() {
        for (n, len) in [(1, 4096), (3, 4096), (5, 1 << 20), (2, 3 << 20), (0, 4096)] {
            let mut all = Pages::cut(n, len).unwrap();
            assert_eq!(all.len(), n);
            for (i, pages) in all.iter_mut().enumerate() {
                assert_eq!(pages.bytes().len(), len);
                assert!(pages.bytes().iter().all(|byte| *byte == 0), "{i}");
                pages.bytes_mut().fill(i as u8 + 1);
            }
            for (i, pages) in all.iter().enumerate() {
                assert!(pages.bytes().iter().all(|byte| *byte == i as u8 + 1), "{i}");
                let at = pages.bytes().as_ptr() as usize;
                assert!(n * len < LARGE_PAGE || (at - i * len).is_multiple_of(LARGE_PAGE));
            }
            // What is left keeps the map.
            let last = all.pop();
            drop(all);
            assert!(last.is_none_or(|last| last.bytes().iter().all(|byte| *byte == n as u8)));
        }
    }

    #[test]
    fn what_no_machine_has_is_an_error() {
        assert!(Pages::cut(usize::MAX, 4096).is_err());
        assert!(Pages::cut(1, usize::MAX / 2).is_err());
    }
}
