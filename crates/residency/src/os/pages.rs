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
    /// Of so many bytes each, which are whole pages, one after the other from a large page on; in large pages as far as
    /// these are full, where the system can.
    pub(crate) fn cut(lens: &[usize]) -> io::Result<Vec<Pages>> {
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let total =
            lens.iter().try_fold(0usize, |sum, len| sum.checked_add(*len)).ok_or_else(out_of_memory)?;
        let is_large = total >= LARGE_PAGE;
        // The rest is never written to, and so never there.
        let padding = if is_large { LARGE_PAGE } else { 0 };
        let map = MmapMut::map_anon(total.checked_add(padding).ok_or_else(out_of_memory)?.max(1))?;
        let mut start = if is_large { map.as_ptr().align_offset(LARGE_PAGE) } else { 0 };
        if is_large {
            imp::advise_large_anonymous_pages(&map, start, total / LARGE_PAGE * LARGE_PAGE);
        }
        let map = Arc::new(MmapRaw::from(map));
        let next = |len: &usize| {
            let pages = Pages { map: Arc::clone(&map), start, len: *len };
            start += len;
            pages
        };
        Ok(lens.iter().map(next).collect())
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

impl Drop for Pages {
    /// The system takes back what was cut from a map that others still need. The last one takes the map with it.
    fn drop(&mut self) {
        if Arc::strong_count(&self.map) > 1 {
            imp::give_back(&self.map, self.start, self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_zeroed_apart_and_begin_at_a_large_page() {
        for (n, len) in [(1, 4096), (3, 4096), (5, 1 << 20), (2, 3 << 20), (0, 4096)] {
            let mut all = Pages::cut(&vec![len; n]).unwrap();
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

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_dropped_goes_back_at_once() {
        fn resident_kib(at: *const u8) -> usize {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let holds = |line: &&str| {
                let bounds = line.split_whitespace().next().and_then(|range| range.split_once('-'));
                let hex = |text| usize::from_str_radix(text, 16).ok();
                bounds.is_some_and(|(from, to)| {
                    hex(from).zip(hex(to)).is_some_and(|(from, to)| (from..to).contains(&(at as usize)))
                })
            };
            let rss =
                smaps.lines().skip_while(|line| !holds(line)).find(|line| line.starts_with("Rss:")).unwrap();
            rss.split_whitespace().nth(1).unwrap().parse().unwrap()
        }
        let lens = [LARGE_PAGE + 4096, 16 * LARGE_PAGE, 8192, LARGE_PAGE - 4096];
        let mut all = Pages::cut(&lens).unwrap();
        all.iter_mut().for_each(|pages| pages.bytes_mut().fill(1));
        let at = all[0].bytes().as_ptr();
        let before = resident_kib(at);
        drop(all.drain(1..3));
        let after = resident_kib(at);
        // Of other tests there may be something in the same map.
        assert!(after + (24 << 10) < before, "{before} KiB, then {after} KiB");
        assert!(all.iter().all(|pages| pages.bytes().iter().all(|byte| *byte == 1)));
    }

    #[test]
    fn what_no_machine_has_is_an_error() {
        assert!(Pages::cut(&[usize::MAX, 4096]).is_err());
        assert!(Pages::cut(&[usize::MAX / 2]).is_err());
    }
}
