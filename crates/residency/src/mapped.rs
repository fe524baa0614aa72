//! The mapped source: the page cache itself, lent without a copy.

use crate::ahead::ReadAhead;
use crate::extent::Extent;
use crate::file::{FileIdentity, OpenError, Part, PartedFile};
use crate::lease::{Health, Lease};
use crate::os;
use crate::source::{Arrived, Planned, ReadError, Source};
use memmap2::Mmap;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How far ahead of the current lease a first pass asks the system to read, in bytes: enough requests in
/// flight for any disk, and little enough to stay resident until it is used.
const READ_AHEAD_BYTES: u64 = 32 << 20;

/// How many planned extents a lease may skip: more than the parts of an attention block.
const OUT_OF_ORDER: usize = 16;

/// One part of a logical file, mapped.
///
/// ```text
///   logical file   |---- part 0 ----|-- part 1 --|------ part 2 ------|
///                  0                start_1      start_2              len
///   address space  [map 0]     [map 1]      [map 2]      (not adjacent)
/// ```
#[derive(Debug)]
pub(crate) struct MappedPart {
    // Declared before `map`: the guard lets go of the range before it is unmapped.
    _guard: os::FaultGuard,
    map: Mmap,
    health: Arc<Health>,
    part: Part,
}

impl MappedPart {
    fn open(part: Part) -> Result<MappedPart, OpenError> {
        if usize::try_from(part.identity.len_bytes).is_err() {
            return Err(OpenError::TooLarge { path: part.path });
        }
        // SAFETY: a map of a file is unsound only where its bytes change or vanish under a reference.
        // Vanishing pages are replaced by zero pages and reported by the fault guard registered just below.
        // A writer that changes bytes in place can change what is read; nothing derived from the bytes of the
        // map is trusted for memory safety after it was validated: offsets taken from the header are copied
        // when they are parsed, and kernels index by sizes that were checked then.
        let map = unsafe { Mmap::map(&part.file) }.map_err(|e| OpenError::io(&part.path, e))?;
        let health = Arc::new(Health::new(part.path.clone()));
        let guard = os::FaultGuard::new(map.as_ptr() as usize, map.len(), Arc::clone(&health))
            .ok_or(OpenError::TooManyMaps { limit: os::MAX_GUARDED_MAPS })?;
        Ok(MappedPart { _guard: guard, map, health, part })
    }

    fn end(&self) -> u64 {
        self.part.start + self.part.identity.len_bytes
    }

    pub(crate) fn part(&self) -> &Part {
        &self.part
    }

    /// The bytes of the part.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn advise_will_need(&self, offset: usize, len: usize) {
        os::advise_will_need(&self.map, offset, len);
    }

    /// Whether `range` is in the page cache, by its ends and as far as the system tells.
    pub(crate) fn is_resident(&self, range: &Range<usize>) -> bool {
        range.is_empty()
            || os::is_resident(&self.map, range.start) && os::is_resident(&self.map, range.end - 1)
    }

    /// Reads and maps `range`; `false` where that cannot be done.
    pub(crate) fn populate(&self, range: Range<usize>) -> bool {
        os::populate(&self.map, range.start, range.len())
    }

    /// Whether the system knows how to [`populate`](MappedPart::populate).
    pub(crate) fn can_populate(&self) -> bool {
        self.populate(0..0)
    }

    /// Keeps the part in memory while it is mapped.
    pub(crate) fn lock(&self) -> io::Result<()> {
        os::lock(&self.map)
    }

    pub(crate) fn check_unchanged(&self) -> Result<(), ReadError> {
        self.health.check()?;
        let path = || self.part.path.clone();
        match self.part.change() {
            Ok(None) => Ok(()),
            Ok(Some(what)) => {
                self.health.fail();
                Err(ReadError::Changed { path: path(), what })
            }
            Err(source) => {
                self.health.fail();
                Err(ReadError::Io { path: path(), offset: self.part.start, source })
            }
        }
    }
}

/// The first bytes of a logical file, shared with whoever parses them. Derived from the map when the file
/// has one part (no copy), else a joined copy of as much as was asked for.
#[derive(Clone, Debug)]
pub struct MappedBytes(HeaderBytes);

#[derive(Clone, Debug)]
enum HeaderBytes {
    Map(Arc<MappedPart>),
    Joined(Arc<[u8]>),
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            HeaderBytes::Map(part) => &part.map,
            HeaderBytes::Joined(bytes) => bytes,
        }
    }
}

/// Where the first pass over a plan stands with its advice to the system.
#[derive(Debug, Default)]
struct Advised {
    /// The plan of the pass, in reading order.
    extents: Vec<Extent>,
    /// Index of the next extent that a lease is expected for.
    next: usize,
    /// Extents before this index were advised.
    advised: usize,
    /// Bytes advised but not yet leased.
    ahead_bytes: u64,
    /// A whole pass was advised: what it read is in the page cache as far as memory allows.
    finished: bool,
}

/// Lends the bytes of read-only maps. Nothing is copied, except a row that straddles two raw byte parts.
#[derive(Debug)]
pub struct MappedSource {
    files: Vec<Vec<Arc<MappedPart>>>,
    first_pass: Mutex<Advised>,
    /// Alternatives of choices that the system was told of, by their first ranges.
    advised: Mutex<HashSet<Extent>>,
    /// What reads ahead of the first pass, where something does.
    read_ahead: OnceLock<Option<ReadAhead>>,
}

impl MappedSource {
    /// Maps every part of `files`. Reads nothing yet.
    pub fn new(files: Vec<PartedFile>) -> Result<MappedSource, OpenError> {
        let files = files
            .into_iter()
            .map(|file| file.parts.into_iter().map(|p| MappedPart::open(p).map(Arc::new)).collect())
            .collect::<Result<_, _>>()?;
        Ok(MappedSource {
            files,
            first_pass: Mutex::default(),
            advised: Mutex::default(),
            read_ahead: OnceLock::new(),
        })
    }

    /// Tells the system that the files will be read as a whole, through the map.
    pub fn expect_whole_reads(&self) {
        self.files.iter().flatten().for_each(|part| os::advise_large_pages(&part.map));
    }

    /// Begins to read and map `extents`, in order and beside whatever else is done. Only the first call does anything;
    /// dropping the source ends it. Where the system has no way to do that, the first pass advises it instead.
    pub fn read_ahead(&self, extents: impl IntoIterator<Item = Extent>) {
        self.read_ahead.get_or_init(|| {
            let located = |extent| {
                let pieces = pieces(self.parts(extent).ok()?, extent);
                Some((extent, pieces.map(|(part, range)| (Arc::clone(part), range)).collect()))
            };
            ReadAhead::start(extents.into_iter().filter_map(located).collect())
        });
    }

    pub(crate) fn mapped_parts(&self) -> &[Vec<Arc<MappedPart>>] {
        &self.files
    }

    /// Length of logical file `file` in bytes.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn file_len_bytes(&self, file: usize) -> u64 {
        self.files[file].last().map_or(0, |part| part.end())
    }

    /// The first part of logical file `file`: the whole file when it has only one.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn first_part(&self, file: usize) -> MappedBytes {
        MappedBytes(HeaderBytes::Map(Arc::clone(&self.files[file][0])))
    }

    /// A copy of the first `len_bytes` bytes of logical file `file`, or of all of it when it is shorter: for
    /// a header that runs past the first raw byte part.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn joined_prefix(&self, file: usize, len_bytes: u64) -> Result<MappedBytes, ReadError> {
        let len = len_bytes.min(self.file_len_bytes(file));
        let extent = Extent { file: file as u32, offset: 0, len };
        let bytes = join(&self.files[file], extent);
        self.check(file)?;
        Ok(MappedBytes(HeaderBytes::Joined(bytes.into())))
    }

    /// An error when logical file `file` is no longer what was opened.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn check(&self, file: usize) -> Result<(), ReadError> {
        self.files[file].iter().try_for_each(|part| part.check_unchanged())
    }

    /// A number for the device that the first file lies on, where the system tells.
    pub fn device(&self) -> Option<u64> {
        self.files.first()?.first()?.part.device()
    }

    /// What all parts of all files were when they were opened.
    pub fn identities(&self) -> impl Iterator<Item = &FileIdentity> {
        self.files.iter().flatten().map(|part| &part.part.identity)
    }

    /// Paths of the first part of each logical file, in order.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().map(|parts| &parts[0].part.path)
    }

    fn parts(&self, extent: Extent) -> Result<&[Arc<MappedPart>], ReadError> {
        let out_of_range =
            || ReadError::OutOfRange { file: extent.file, offset: extent.offset, len: extent.len };
        let parts = self.files.get(extent.file as usize).ok_or_else(out_of_range)?;
        let file_end = parts.last().map_or(0, |part| part.end());
        match extent.end() {
            Some(end) if end <= file_end => Ok(parts),
            _ => Err(out_of_range()),
        }
    }

    /// Tells the system that `extent` will be read.
    fn advise(&self, extent: Extent) {
        for (part, range) in self.parts(extent).into_iter().flat_map(|parts| pieces(parts, extent)) {
            // The system would look at every page of what it has already.
            if !part.is_resident(&range) {
                os::advise_will_need(&part.map, range.start, range.len());
            }
        }
    }

    /// Leaves it to the thread to read what is not in memory: a fault beside it would make the disk jump, and read less at a
    /// time.
    fn wait_for(&self, ahead: &ReadAhead, extent: Extent) {
        let mut pieces = self.parts(extent).into_iter().flat_map(|parts| pieces(parts, extent));
        if !ahead.is_over() && pieces.any(|(part, range)| !part.is_resident(&range)) {
            ahead.wait_for(extent);
        }
    }

    /// Tells the system what a first pass will read next. Later passes find it in the page cache.
    fn advise_ahead(&self, extent: Extent) {
        let mut state = self.first_pass.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        // Nothing is planned any more after a whole pass.
        // A lease may cover only some rows of a planned extent; the plan moves on with the first of them. A few may be
        // leased in another order than planned, as biases after all matrices that share an input.
        let place = |e: &Extent| (e.file, e.offset) == (extent.file, extent.offset);
        let Some(skipped) = state.extents[state.next..].iter().take(OUT_OF_ORDER).position(place) else {
            return;
        };
        for _ in 0..=skipped {
            state.next += 1;
            if state.next <= state.advised {
                state.ahead_bytes = state.ahead_bytes.saturating_sub(state.extents[state.next - 1].len);
            } else {
                state.advised = state.next;
            }
        }
        while state.advised < state.extents.len() && state.ahead_bytes < READ_AHEAD_BYTES {
            let ahead = state.extents[state.advised];
            self.advise(ahead);
            state.ahead_bytes += ahead.len;
            state.advised += 1;
        }
    }
}

/// The pieces of `extent` that lie in each part, as ranges of the part's map.
fn pieces(
    parts: &[Arc<MappedPart>],
    extent: Extent,
) -> impl Iterator<Item = (&Arc<MappedPart>, Range<usize>)> {
    let end = extent.offset + extent.len;
    parts.iter().filter_map(move |part| {
        let from = extent.offset.max(part.part.start);
        let to = end.min(part.end());
        // Both fit: a part's length was checked to fit in `usize` when it was mapped.
        (from < to).then(|| (part, (from - part.part.start) as usize..(to - part.part.start) as usize))
    })
}

fn join(parts: &[Arc<MappedPart>], extent: Extent) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(extent.len as usize);
    for (part, range) in pieces(parts, extent) {
        bytes.extend_from_slice(&part.map[range]);
    }
    bytes.into_boxed_slice()
}

impl Source for MappedSource {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        for parts in &self.files {
            parts.iter().try_for_each(|part| part.check_unchanged())?;
        }
        let mut state = self.first_pass.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.finished {
            *state =
                Advised { extents: reads.iter().map(|read| read.extent).collect(), ..Advised::default() };
        }
        Ok(())
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        let Ok(parts) = self.parts(extent) else { return extent.len };
        let in_first_part = pieces(parts, extent).next().map_or(0, |(_, range)| range.len() as u64);
        (in_first_part / unit * unit).max(unit)
    }

    fn max_held_bytes(&self) -> u64 {
        u64::MAX
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        let parts = self.parts(extent)?;
        match self.read_ahead.get() {
            Some(Some(ahead)) => self.wait_for(ahead, extent),
            _ => self.advise_ahead(extent),
        }
        let mut found = pieces(parts, extent);
        let Some((part, range)) = found.next() else {
            return Ok(Lease::mapped(&[], &parts[0].health));
        };
        part.health.check()?;
        if range.len() as u64 == extent.len {
            return Ok(Lease::mapped(&part.map[range], &part.health));
        }
        // The lease reports the health of its first part; the others are looked at here, after the copy.
        let lease = Lease::joined(join(parts, extent), &part.health);
        for (part, _) in found {
            part.health.check()?;
        }
        Ok(lease)
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        // Once for each: afterwards it is in the page cache, as far as memory allows, and the call would be for nothing.
        let mut advised = self.advised.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |ranges: &&&[Extent]| ranges.first().is_some_and(|first| advised.insert(*first));
        for ranges in wanted.iter().filter(is_new) {
            ranges.iter().for_each(|range| self.advise(*range));
        }
        Ok(wanted.len())
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        // Mapped bytes never have to be waited for, or else wherever they are used.
        self.take_any(wanted).map(Some)
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        for parts in &self.files {
            parts.iter().try_for_each(|part| part.check_unchanged())?;
        }
        let mut state = self.first_pass.lock().unwrap_or_else(PoisonError::into_inner);
        if state.advised == state.extents.len() && !state.extents.is_empty() {
            *state = Advised { finished: true, ..Advised::default() };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(dir: &std::path::Path, parts: &[&[u8]]) -> (MappedSource, Vec<PathBuf>) {
        let paths: Vec<_> = (0..parts.len()).map(|i| dir.join(format!("p{i}"))).collect();
        for (path, bytes) in paths.iter().zip(parts) {
            std::fs::write(path, bytes).unwrap();
        }
        let file = PartedFile::open(&paths).unwrap();
        (MappedSource::new(vec![file]).unwrap(), paths)
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { file: 0, offset, len }
    }

    #[test]
    fn lends_the_map_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path(), &[b"0123456789"]);
        let lease = source.lease(extent(2, 5)).unwrap();
        assert_eq!(&*lease, b"23456");
        let map = source.files[0][0].map.as_ptr_range();
        assert!(map.contains(&lease.as_ptr()));
        lease.release().unwrap();
    }

    #[test]
    fn parts_read_as_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path(), &[b"0123", b"45", b"6789abc"]);
        assert_eq!(source.file_len_bytes(0), 13);
        for offset in 0..13 {
            for len in 0..=13 - offset {
                let lease = source.lease(extent(offset, len)).unwrap();
                let (from, to) = (offset as usize, (offset + len) as usize);
                assert_eq!(&*lease, &b"0123456789abc"[from..to]);
                lease.release().unwrap();
            }
        }
        assert_eq!(source.joined_prefix(0, 6).unwrap().as_ref(), b"012345");
        // Rows of 3 bytes: the first part holds one whole row, then one straddles.
        assert_eq!(source.lease_len(extent(0, 12), 3), 3);
        assert_eq!(source.lease_len(extent(3, 9), 3), 3);
        assert_eq!(source.lease_len(extent(6, 6), 3), 6);
    }

    #[test]
    fn extents_outside_the_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path(), &[b"0123"]);
        for bad in [extent(0, 5), extent(5, 0), extent(u64::MAX, 2)] {
            assert!(matches!(source.lease(bad), Err(ReadError::OutOfRange { .. })), "{bad:?}");
        }
        let other_file = Extent { file: 1, offset: 0, len: 1 };
        assert!(matches!(source.lease(other_file), Err(ReadError::OutOfRange { .. })));
    }

    #[test]
    fn a_pass_advises_its_plan_once() {
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path(), &[&[7; 4096]]);
        let mut plan: Vec<_> =
            (0..4).map(|i| Planned { extent: extent(i * 1024, 1024), unit: 1024, stage: 0 }).collect();
        source.begin_pass(&plan).unwrap();
        // Leased in another order, as biases are.
        plan.swap(1, 2);
        for read in &plan {
            source.lease(read.extent).unwrap().release().unwrap();
        }
        source.end_pass().unwrap();
        assert!(source.first_pass.lock().unwrap().finished);
    }

    #[test]
    fn alternatives_are_advised_once() {
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path(), &[&[7; 4096], &[8; 4096]]);
        let experts = [[extent(0, 100), extent(4000, 200)], [extent(100, 100), extent(5000, 200)]];
        let wanted: Vec<&[Extent]> = experts.iter().map(|ranges| &ranges[..]).collect();
        for n in [1, 2, 2] {
            assert_eq!(source.request(&wanted[..n]).unwrap(), n);
            assert_eq!(source.advised.lock().unwrap().len(), n);
        }
        let arrived = source.take_any(&wanted).unwrap();
        assert_eq!((arrived.index, arrived.leases.len()), (0, 2));
        assert_eq!(arrived.leases[1][..], [[7; 96].as_slice(), &[8; 104]].concat());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_written_to_is_refused_by_the_next_pass() {
        let dir = tempfile::tempdir().unwrap();
        let (source, paths) = source(dir.path(), &[b"0123456789"]);
        source.begin_pass(&[]).unwrap();
        source.end_pass().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&paths[0], b"abcdefghij").unwrap();
        let error = source.begin_pass(&[]).unwrap_err();
        assert!(matches!(error, ReadError::Changed { .. }), "{error}");
        assert!(source.lease(extent(0, 1)).is_err(), "a changed file stays refused");
    }

    #[cfg(unix)]
    #[test]
    fn truncation_under_a_live_map_is_an_error_not_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let len = 1 << 20;
        let (source, paths) = source(dir.path(), &[&vec![5u8; len]]);
        source.begin_pass(&[]).unwrap();
        let lease = source.lease(extent(0, len as u64)).unwrap();
        assert_eq!(lease[0], 5);
        std::fs::OpenOptions::new().write(true).open(&paths[0]).unwrap().set_len(4096).unwrap();
        // Reading past the new end raises SIGBUS where nothing guards the map.
        let sum: u64 = lease.iter().map(|b| u64::from(*b)).sum();
        assert_eq!(sum, 4096 * 5);
        let error = lease.release().unwrap_err();
        assert!(matches!(error, ReadError::Faulted { .. }), "{error}");
        assert!(source.end_pass().is_err());
        assert!(source.begin_pass(&[]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn truncation_within_the_last_page_is_found_at_the_end_of_the_pass() {
        let dir = tempfile::tempdir().unwrap();
        let (source, paths) = source(dir.path(), &[&[5u8; 4000]]);
        source.begin_pass(&[]).unwrap();
        let lease = source.lease(extent(0, 4000)).unwrap();
        std::fs::OpenOptions::new().write(true).open(&paths[0]).unwrap().set_len(100).unwrap();
        drop(lease);
        assert!(matches!(source.end_pass(), Err(ReadError::Changed { .. })));
    }
}
