//! Reading files into memory and mapping them, ahead of the first pass that needs them.
//!
//! A thread does, from the moment a model is opened: computing then meets no faults, and the disk works while the rest of the
//! model is set up. The thread reads through the map, as a fault would, and not by advice: only so does the system read into
//! large pages, which are faster to read, to map and to compute from for as long as the file stays in memory.

use crate::extent::Extent;
use crate::mapped::MappedPart;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes that are read and mapped between two looks at whether to go on: two large pages, or some milliseconds of small ones.
const STEP_BYTES: usize = 4 << 20;

/// An extent and where it lies.
pub(crate) type Located = (Extent, Vec<(Arc<MappedPart>, Range<usize>)>);

/// A thread that reads and maps extents, in order, until it is through or this is dropped.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
    /// Places in the order.
    places: HashMap<Extent, usize>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How many extents are read; more than there are, once the thread ends.
    done: Mutex<usize>,
    grown: Condvar,
}

impl Shared {
    fn set_done(&self, done: usize) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = done;
        self.grown.notify_all();
    }

    /// What cannot be read is left to those who use it.
    fn read(&self, reads: &[Located]) {
        for (i, (_, pieces)) in reads.iter().enumerate() {
            for (part, range) in pieces {
                for from in range.clone().step_by(STEP_BYTES) {
                    let is_stopped = self.stop.load(Ordering::Relaxed);
                    if is_stopped || !part.populate(from..range.end.min(from + STEP_BYTES)) {
                        return;
                    }
                }
            }
            self.set_done(i + 1);
        }
    }
}

/// Nobody waits for a thread that is gone.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_done(usize::MAX);
    }
}

impl ReadAhead {
    /// `None` where the system cannot, or refuses a thread.
    pub(crate) fn start(reads: Vec<Located>) -> Option<ReadAhead> {
        let can_populate = reads.first()?.1.first()?.0.can_populate();
        if !can_populate {
            return None;
        }
        let shared = Arc::new(Shared::default());
        // Of what is read twice, the first time counts.
        let places = reads.iter().enumerate().rev().map(|(i, (extent, _))| (*extent, i)).collect();
        let ended = Ended(Arc::clone(&shared));
        let work = move || ended.0.read(&reads);
        let thread = std::thread::Builder::new().name("rawrz-read".into()).spawn(work).ok()?;
        Some(ReadAhead { shared, places, thread: Some(thread) })
    }

    /// Whether the thread has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until an extent of those that are read is there.
    pub(crate) fn wait_for(&self, extent: Extent) {
        let Some(&place) = self.places.get(&extent) else { return };
        let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.shared.grown.wait_while(done, |done| *done <= place));
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // What it could not read, the pass meets itself.
            let _ = thread.join();
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{MappedSource, PartedFile};
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

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { file: 0, offset, len }
    }

    fn mapped_kib(part: &MappedPart) -> usize {
        let address = format!("{:x}-", part.bytes().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut of_map = smaps.lines().skip_while(|line| !line.starts_with(&address));
        let rss = of_map.find(|line| line.starts_with("Rss:")).unwrap();
        rss.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Drops a file from the page cache, where its file system has one.
    fn forget(dir: &std::path::Path, name: &str) {
        let of = format!("if={name}");
        let drop_pages = [&*of, "iflag=nocache", "count=0", "status=none"];
        assert!(Command::new("dd").args(drop_pages).current_dir(dir).status().unwrap().success());
    }

    #[test]
    fn ranges_are_read_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let [first, second] = [part(&source, 0), part(&source, 1)];
        for name in ["a", "b"] {
            forget(dir.path(), name);
        }
        // Of the second file only the beginning.
        let extents = [extent(5000, LEN as u64 - 5000), extent(LEN as u64, 5000)];
        let pieces = [vec![(Arc::clone(&first), 5000..LEN)], vec![(Arc::clone(&second), 0..5000)]];
        let ahead = ReadAhead::start(extents.into_iter().zip(pieces).collect()).unwrap();
        // Not one of those that are read.
        ahead.wait_for(extent(5000, 1));
        extents.into_iter().for_each(|extent| ahead.wait_for(extent));
        assert!(first.is_resident(&(5000..LEN)));
        assert!(mapped_kib(&first) >= (LEN - 8192) >> 10, "{} KiB", mapped_kib(&first));
        assert!((1..LEN >> 10).contains(&mapped_kib(&second)), "{} KiB", mapped_kib(&second));
    }

    #[test]
    fn what_cannot_be_read_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let [first, second] = [part(&source, 0), part(&source, 1)];
        std::fs::File::options().write(true).open(dir.path().join("a")).unwrap().set_len(1).unwrap();
        let extents = [extent(0, LEN as u64), extent(LEN as u64, LEN as u64)];
        let pieces = [vec![(first, 0..LEN)], vec![(Arc::clone(&second), 0..LEN)]];
        let ahead = ReadAhead::start(extents.into_iter().zip(pieces).collect()).unwrap();
        extents.into_iter().for_each(|extent| ahead.wait_for(extent));
        assert_eq!(mapped_kib(&second), 0);
    }
}
