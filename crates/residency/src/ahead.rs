//! Mapping files that are in memory already, ahead of the first pass that needs them.
//!
//! A thread maps them, as far as the system can without reading, while the rest of a model is set up: computing then
//! meets no faults. What is yet to be read is left to the first pass and its advice.

use crate::mapped::MappedPart;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Bytes that are mapped between two looks at whether to go on: two large pages, or some milliseconds of small ones.
const STEP_BYTES: usize = 4 << 20;

/// A thread that maps ranges of parts, in order, until it is through, comes to bytes that are not in memory, or this is
/// dropped.
#[derive(Debug)]
pub(crate) struct MapAhead {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MapAhead {
    /// Without a thread, where the system refuses one, the first pass maps what it uses.
    pub(crate) fn start(ranges: Vec<(Arc<MappedPart>, Range<usize>)>) -> MapAhead {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = {
            let stop = Arc::clone(&stop);
            move || stop.load(Ordering::Relaxed)
        };
        let work = move || {
            for (part, range) in ranges {
                for from in range.clone().step_by(STEP_BYTES) {
                    if is_stopped() || !part.map_resident(from..range.end.min(from + STEP_BYTES)) {
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("rawrz-map".into()).spawn(work).ok();
        MapAhead { stop, thread }
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It maps and does nothing else: what it could not map, the pass meets itself.
            let _ = thread.join();
        }
    }
}

impl Drop for MapAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{Extent, MappedSource, PartedFile};
    use std::process::Command;

    const LEN: usize = 9 << 20;

    fn source(dir: &std::path::Path) -> MappedSource {
        let paths = [dir.join("a"), dir.join("b")];
        for path in &paths {
            std::fs::write(path, vec![7; LEN]).unwrap();
            std::fs::File::open(path).unwrap().sync_all().unwrap();
        }
        MappedSource::new(vec![PartedFile::open(&paths).unwrap()]).unwrap()
    }

    fn part(source: &MappedSource, part: usize) -> Arc<MappedPart> {
        Arc::clone(&source.mapped_parts()[0][part])
    }

    fn mapped_kib(part: &MappedPart) -> usize {
        let address = format!("{:x}-", part.bytes().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut of_map = smaps.lines().skip_while(|line| !line.starts_with(&address));
        let rss = of_map.find(|line| line.starts_with("Rss:")).unwrap();
        rss.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_in_memory_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        source.map_ahead([Extent { file: 0, offset: 5000, len: LEN as u64 }]);
        // Of the second file only the beginning.
        let [first, second] = [part(&source, 0), part(&source, 1)];
        let started = std::time::Instant::now();
        while mapped_kib(&second) == 0 && started.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert!(mapped_kib(&first) >= (LEN - 8192) >> 10, "{} KiB", mapped_kib(&first));
        assert!((1..LEN >> 10).contains(&mapped_kib(&second)), "{} KiB", mapped_kib(&second));
    }

    #[test]
    fn what_is_not_in_memory_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        // Drops the file from the page cache, where its file system has one.
        let drop_pages = ["if=a", "iflag=nocache", "count=0", "status=none"];
        assert!(Command::new("dd").args(drop_pages).current_dir(dir.path()).status().unwrap().success());
        let first = part(&source, 0);
        let is_resident = first.is_resident(&(0..LEN));
        let mut ahead = MapAhead::start(vec![(Arc::clone(&first), 0..LEN)]);
        ahead.join();
        assert_eq!(mapped_kib(&first), if is_resident { LEN >> 10 } else { 0 });
    }
}
