//! The streamed source over blocks in memory, which fail and dawdle as they are told to.

use super::*;
use crate::source::Choice;
use std::io;
use std::sync::atomic::AtomicUsize;

/// What the disk does to one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Io,
    Short,
    Panic,
    Slow,
    /// The device is not there any more: this read and all after it fail.
    Gone,
}

/// A file whose bytes are known, and trouble for one read of it.
struct FakeBlocks {
    data: Arc<Vec<u8>>,
    n_reads: Arc<AtomicUsize>,
    trouble: Arc<Mutex<Option<(usize, Trouble)>>>,
    changed: Arc<Mutex<bool>>,
}

impl Blocks for FakeBlocks {
    fn read(&self, _reader: usize, extent: Extent, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let number = self.n_reads.fetch_add(1, Ordering::Relaxed);
        let strikes = |(at, trouble): &mut (usize, Trouble)| number >= *at && *trouble != Trouble::Gone;
        let mut slot = self.trouble.lock().unwrap();
        let trouble = match *slot {
            Some((at, Trouble::Gone)) if number >= at => Some(Trouble::Gone),
            _ => slot.take_if(strikes).map(|(_, trouble)| trouble),
        };
        drop(slot);
        let path = || "fake".into();
        match trouble {
            Some(Trouble::Io) => {
                let source = io::Error::other("input/output error");
                return Err(ReadError::Io { path: path(), offset: extent.offset, source });
            }
            Some(Trouble::Short) => {
                let (wanted, got) = (extent.len, extent.len / 2);
                return Err(ReadError::Short { path: path(), offset: extent.offset, wanted, got });
            }
            Some(Trouble::Gone) => {
                let source = io::Error::new(io::ErrorKind::NotFound, "no such device");
                return Err(ReadError::Io { path: path(), offset: extent.offset, source });
            }
            Some(Trouble::Panic) => panic!("a reader fell over"),
            Some(Trouble::Slow) => std::thread::sleep(Duration::from_millis(30)),
            None => {}
        }
        let head = (extent.offset % 4096) as usize;
        let bytes = &self.data[extent.offset as usize..][..extent.len as usize];
        buffer[head..head + bytes.len()].copy_from_slice(bytes);
        Ok(head)
    }

    fn check(&self) -> Result<(), ReadError> {
        match *self.changed.lock().unwrap() {
            true => Err(ReadError::Changed { path: "fake".into(), what: "it was replaced".to_owned() }),
            false => Ok(()),
        }
    }

    fn is_direct(&self) -> bool {
        true
    }
}

struct Bench {
    source: StreamedSource,
    plan: PassPlan,
    data: Arc<Vec<u8>>,
    n_reads: Arc<AtomicUsize>,
    trouble: Arc<Mutex<Option<(usize, Trouble)>>>,
    changed: Arc<Mutex<bool>>,
}

const ROW: u64 = 1000;
const N_ROWS: u64 = 600;
const ALTERNATIVE: u64 = 5000;

/// Six reads of 600 rows with a small range before each, a choice of eight alternatives in every other stage.
fn plan() -> PassPlan {
    let (mut plan, mut offset) = (PassPlan::default(), 77);
    let mut extent = |len: u64| {
        let extent = Extent { file: 0, offset, len };
        offset += len;
        extent
    };
    for stage in 0..6 {
        plan.reads.push(Planned { extent: extent(512), unit: 512, stage });
        plan.reads.push(Planned { extent: extent(ROW * N_ROWS), unit: ROW, stage });
        if stage % 2 == 0 {
            let alternatives = (0..8)
                .map(|_| vec![extent(ALTERNATIVE), extent(ALTERNATIVE), extent(2 * ALTERNATIVE)])
                .collect();
            plan.choices.push(Choice { stage, alternatives, n_picked: 2 });
        }
    }
    plan
}

fn options(pinned_bytes: u64, n_buffers: usize, cache_bytes: u64) -> StreamedOptions {
    StreamedOptions {
        piece_bytes: 100 << 10,
        n_buffers,
        pinned_bytes,
        cache_bytes,
        eviction: Eviction::LeastRecent,
        n_readers: 3,
    }
}

/// Memory of one alternative.
const ALTERNATIVE_MEMORY: u64 = 2 * 12_288 + 16_384;

fn bench(options: StreamedOptions) -> Bench {
    bench_of(plan(), options)
}

fn bench_of(plan: PassPlan, options: StreamedOptions) -> Bench {
    let data: Arc<Vec<u8>> =
        Arc::new((0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    let (n_reads, trouble, changed) = (Arc::default(), Arc::default(), Arc::default());
    let blocks = FakeBlocks {
        data: Arc::clone(&data),
        n_reads: Arc::clone(&n_reads),
        trouble: Arc::clone(&trouble),
        changed: Arc::clone(&changed),
    };
    let source = StreamedSource::with_blocks(Box::new(blocks), &plan, &options).unwrap();
    Bench { source, plan, data, n_reads, trouble, changed }
}

impl Bench {
    fn bytes(&self, extent: Extent) -> &[u8] {
        &self.data[extent.offset as usize..][..extent.len as usize]
    }

    /// Reads everything that a pass of `n_reads` reads leases, and compares it.
    fn pass(&self, n_reads: usize, token: usize) -> Result<(), ReadError> {
        self.source.begin_pass(&self.plan.reads[..n_reads])?;
        let result = self.leases(n_reads, token);
        self.source.end_pass()?;
        result
    }

    fn leases(&self, n_reads: usize, token: usize) -> Result<(), ReadError> {
        let rows: Vec<_> = (0..40)
            .map(|i| Extent { file: 0, offset: 3_900_000 + i * 999 * token as u64 % 50_000, len: 999 })
            .collect();
        let mut copied = Vec::new();
        self.source.copy(&rows, &mut copied)?;
        for (row, copied) in rows.iter().zip(copied.chunks(999)) {
            assert_eq!(copied, self.bytes(*row));
        }
        let mut choices = self.plan.choices.iter().peekable();
        for read in &self.plan.reads[..n_reads] {
            let mut done = 0;
            let mut held = Vec::new();
            while done < read.extent.len {
                let rest = read.extent.slice(done, read.extent.len - done);
                let len = self.source.lease_len(rest, read.unit);
                assert!(len.is_multiple_of(read.unit) && len > 0);
                let extent = Extent { len, ..rest };
                if held.iter().map(|l: &Lease<'_>| l.len() as u64).sum::<u64>() + len
                    > self.source.max_held_bytes()
                {
                    held.drain(..).try_for_each(|lease: Lease<'_>| lease.release())?;
                }
                let lease = self.source.lease(extent)?;
                assert!(*lease == *self.bytes(extent), "{extent:?}");
                held.push(lease);
                done += len;
            }
            held.into_iter().try_for_each(|lease| lease.release())?;
            if read.unit == ROW
                && let Some(choice) = choices.next_if(|choice| choice.stage == read.stage)
            {
                let picked: Vec<&[Extent]> =
                    (0..3).map(|i| &choice.alternatives[(token * (i + 1) + i) % 8][..]).collect();
                self.take(picked)?;
            }
        }
        Ok(())
    }

    fn take(&self, mut picked: Vec<&[Extent]>) -> Result<(), ReadError> {
        picked.dedup();
        while !picked.is_empty() {
            let n = self.source.request(&picked)?;
            let mut rest: Vec<_> = picked.drain(..n).collect();
            while !rest.is_empty() {
                let Arrived { index, leases } = self.source.take_any(&rest)?;
                for (extent, lease) in rest[index].iter().zip(leases) {
                    assert!(*lease == *self.bytes(*extent));
                    lease.release()?;
                }
                rest.remove(index);
            }
        }
        Ok(())
    }
}

#[test]
fn every_placement_lends_the_bytes_of_the_file() {
    let all = N_ROWS * ROW * 8;
    for pinned in [0, 300_000, all / 2, all] {
        for n_buffers in [2, 3, 8, 200] {
            for (cached, eviction) in [
                (1, Eviction::LeastFrequent),
                (2, Eviction::LeastRecent),
                (10, Eviction::MostRecent),
                (10, Eviction::LeastFrequent),
                (100, Eviction::LeastRecent),
            ] {
                let options = options(pinned, n_buffers, cached * ALTERNATIVE_MEMORY);
                let bench = bench(StreamedOptions { eviction, ..options });
                for token in 0..6 {
                    // Passes with and without the last reads, as prefill makes them.
                    bench.pass(if token % 3 == 1 { 10 } else { 12 }, token).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_pass_that_waits_for_three_quarters_of_its_time_hands_its_buffers_over() {
    let second = Duration::from_secs(1);
    let began = Instant::now().checked_sub(second).unwrap();
    let waits = |n_waiting| PassWaits { began, stalled_before: second, n_waiting };
    for (n_waiting, waited, expected) in [
        (1, 0.70, false),
        (1, 0.95, true),
        (2, 1.40, false),
        (2, 1.90, true),
        (4, 2.8, false),
        (4, 3.8, true),
    ] {
        let stalled = second + Duration::from_secs_f64(waited);
        assert_eq!(waits(n_waiting).is_mostly_waiting(stalled), expected, "{n_waiting} {waited}");
    }
    assert!(!waits(0).is_mostly_waiting(second), "nothing waited");
    let handed_over = second + second / 10;
    assert!(!waits(0).is_mostly_waiting(handed_over), "handing over alone is no reason to go on with it");
}

#[test]
fn buffers_that_are_handed_over_lend_the_bytes_of_the_file() {
    let bench = bench(options(300_000, 3, ALTERNATIVE_MEMORY));
    for token in 0..6 {
        bench.source.shared.lock().hands_over = true;
        bench.pass(12, token).unwrap();
    }
    let waited = bench.source.stats().stalled;
    assert!(waited > Duration::ZERO);
}

#[test]
fn alternatives_that_readers_take_in_parts_are_the_bytes_of_the_file() {
    let mut plan = PassPlan::default();
    plan.reads.push(Planned { extent: Extent { file: 0, offset: 0, len: 33 }, unit: 33, stage: 0 });
    let len = 2 * STAGING_BYTES + 4321;
    let alternatives = (0..4).map(|i| vec![Extent { file: 0, offset: 33 + i * (len - 7), len }]).collect();
    plan.choices.push(Choice { stage: 0, alternatives, n_picked: 2 });
    let bench = bench_of(plan, options(0, 2, 2 * padded_len(len)));
    bench.source.begin_pass(&[]).unwrap();
    for picked in [[0, 1], [2, 3], [1, 2]] {
        bench.take(picked.map(|i| &bench.plan.choices[0].alternatives[i][..]).to_vec()).unwrap();
    }
    bench.source.end_pass().unwrap();
    assert_eq!(bench.source.stats().choices.misses, 5);
    assert_eq!(bench.n_reads.load(Ordering::Relaxed), 5 * 3, "nothing else was asked for");
}

#[test]
fn what_is_pinned_is_read_once() {
    let bench = bench(options(u64::MAX, 2, 100 * ALTERNATIVE_MEMORY));
    assert_eq!(bench.source.placement().streamed_bytes, 0);
    for _ in 0..3 {
        bench.pass(12, 0).unwrap();
    }
    let stats = bench.source.stats();
    // Two of the three picks of token 0 are the same: 0, 1, 2.
    assert_eq!((stats.choices.misses, stats.choices.hits), (9, 18));
    let n_pieces = bench.source.shared.lock().pieces.iter().filter(|piece| !piece.is_covered()).count();
    assert!(n_pieces < bench.source.index.len(), "pieces that follow each other are joined");
    assert_eq!(bench.n_reads.load(Ordering::Relaxed), n_pieces + 9 * 3 + 3 * 40);
}

#[test]
fn the_ring_is_filled_over_the_end_of_a_pass() {
    let bench = bench(options(0, 6, ALTERNATIVE_MEMORY));
    bench.pass(12, 1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let n_ready = || {
        let state = bench.source.shared.lock();
        let streamed = state.pieces.iter().zip(&state.states).filter(|(piece, _)| !piece.is_pinned);
        streamed.take_while(|(_, state)| matches!(state, PieceState::Ready(_))).count()
    };
    while n_ready() < 6 {
        assert!(Instant::now() < deadline, "the first pieces of the next pass are read ahead");
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = bench.n_reads.load(Ordering::Relaxed);
    bench.pass(12, 1).unwrap();
    let streamed = bench.source.shared.lock().pieces.iter().filter(|piece| !piece.is_pinned).count();
    // Each piece once a pass; the alternatives of three choices, which a cache for one cannot keep; the rows.
    let expected = streamed + 3 * 3 * 3 + 40;
    let read = bench.n_reads.load(Ordering::Relaxed) - before;
    assert!(read.abs_diff(expected) <= 9, "{read} reads, {expected} expected");
}

#[test]
fn any_trouble_at_any_moment_is_an_error_of_its_pass() {
    let count = bench(options(400_000, 4, 3 * ALTERNATIVE_MEMORY));
    count.pass(12, 3).unwrap();
    let n_moments = count.n_reads.load(Ordering::Relaxed);
    let mut n_failed = 0;
    for trouble in [Trouble::Io, Trouble::Short, Trouble::Panic, Trouble::Slow] {
        for moment in (0..n_moments).step_by(7) {
            let bench = bench(options(400_000, 4, 3 * ALTERNATIVE_MEMORY));
            bench.trouble.lock().unwrap().replace((moment, trouble));
            let result = bench.pass(12, 3);
            match (trouble, result) {
                (Trouble::Slow, result) => result.unwrap(),
                (Trouble::Short, Err(error)) => assert!(matches!(error, ReadError::Short { .. })),
                (_, Err(error)) => assert!(matches!(error, ReadError::Io { .. })),
                // It struck what was read ahead for the next pass.
                (_, Ok(())) => continue,
            }
            n_failed += usize::from(trouble != Trouble::Slow);
            for token in 3..6 {
                bench.pass(12, token).unwrap();
            }
        }
    }
    assert!(n_failed > 3 * n_moments / 14, "{n_failed} of {n_moments}");
}

#[test]
fn a_device_that_is_gone_fails_every_pass_until_it_is_back_and_nothing_hangs() {
    let n_moments = {
        let count = bench(options(400_000, 4, 3 * ALTERNATIVE_MEMORY));
        count.pass(12, 3).unwrap();
        count.n_reads.load(Ordering::Relaxed)
    };
    for moment in (0..n_moments).step_by(11) {
        let bench = bench(options(400_000, 4, 3 * ALTERNATIVE_MEMORY));
        bench.trouble.lock().unwrap().replace((moment, Trouble::Gone));
        // A pass that had all its bytes before may go through; none after it does.
        let first = bench.pass(12, 3);
        let errors = first.err().into_iter().chain((4..6).map(|token| bench.pass(12, token).unwrap_err()));
        for error in errors {
            assert!(matches!(error, ReadError::Io { .. }), "{error}");
        }
        bench.trouble.lock().unwrap().take();
        // What was read ahead meanwhile failed too, and is told once for each piece.
        let is_back = (0..bench.source.index.len()).any(|_| bench.pass(12, 3).is_ok());
        assert!(is_back, "moment {moment}");
        bench.pass(12, 4).unwrap();
    }
}

#[test]
fn a_pass_given_up_in_the_middle_costs_the_next_nothing_but_its_reads() {
    let bench = bench(options(0, 4, ALTERNATIVE_MEMORY));
    for stop_after in [0, 1, 3, 6, 11] {
        bench.source.begin_pass(&bench.plan.reads).unwrap();
        bench.leases(stop_after, 2).unwrap();
        // Something is asked for that nobody takes.
        let picked = &bench.plan.choices[0].alternatives[5][..];
        assert_eq!(bench.source.request(&[picked]).unwrap(), 1);
        bench.pass(12, 4).unwrap();
    }
}

#[test]
fn memory_given_back_changes_nothing_but_what_is_read() {
    let bench = bench(options(u64::MAX, 6, 20 * ALTERNATIVE_MEMORY));
    for token in 0..3 {
        bench.pass(12, token).unwrap();
    }
    let mut left = bench.source.shrinkable_bytes();
    assert!(left > 3_000_000);
    while left > 0 {
        bench.source.shrink(700_000);
        let now = bench.source.shrinkable_bytes();
        assert!(now <= left.saturating_sub(700_000), "{now} of {left}");
        left = now;
        for token in 0..3 {
            bench.pass(12, token).unwrap();
        }
    }
    assert_eq!(bench.source.placement().streamed_bytes, 6 * N_ROWS * ROW);
}

#[test]
fn a_file_that_changed_is_refused() {
    let bench = bench(options(0, 4, ALTERNATIVE_MEMORY));
    bench.pass(12, 1).unwrap();
    *bench.changed.lock().unwrap() = true;
    assert!(matches!(bench.pass(12, 1), Err(ReadError::Changed { .. })));
}

#[test]
fn what_is_not_in_the_plan_is_refused() {
    let bench = bench(options(0, 4, ALTERNATIVE_MEMORY));
    bench.source.begin_pass(&bench.plan.reads).unwrap();
    let outside = Extent { file: 0, offset: 3, len: 10 };
    assert!(matches!(bench.source.lease(outside), Err(ReadError::OutOfRange { .. })));
    assert!(matches!(bench.source.request(&[&[outside]]), Err(ReadError::OutOfRange { .. })));
    let never_asked = &bench.plan.choices[0].alternatives[0][..];
    assert!(bench.source.take_any(&[never_asked]).is_err());
}

#[test]
fn a_file_replaced_before_it_is_opened_for_direct_reads_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("model"), dir.path().join("other"));
    // The same bytes, so that nothing but its identity tells.
    let data = vec![7; 5_000_000];
    std::fs::write(&path, &data).unwrap();
    std::fs::write(&other, &data).unwrap();
    let mapped =
        MappedSource::new(vec![crate::PartedFile::open(std::slice::from_ref(&path)).unwrap()]).unwrap();
    let open = || StreamedSource::new(&mapped, &plan(), &options(500_000, 5, 3 * ALTERNATIVE_MEMORY));
    assert!(open().is_ok());
    match std::fs::rename(&other, &path) {
        Ok(()) => assert!(matches!(open(), Err(crate::OpenError::Replaced { path: named }) if named == path)),
        // Windows does not give up a file that is mapped.
        Err(_) if cfg!(windows) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn files_in_parts_are_read_as_one_past_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // The second part starts at no multiple of a block.
    for cuts in [vec![], vec![1_234_567], vec![400_000, 400_001, 2_000_000]] {
        let ends = cuts.iter().copied().chain([data.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let paths: Vec<_> = starts
            .zip(ends)
            .enumerate()
            .map(|(i, (from, to))| {
                let path = dir.path().join(format!("{}-{i}", cuts.len()));
                std::fs::write(&path, &data[from..to]).unwrap();
                path
            })
            .collect();
        let mapped = MappedSource::new(vec![crate::PartedFile::open(&paths).unwrap()]).unwrap();
        let (plan, options) = (plan(), options(500_000, 5, 3 * ALTERNATIVE_MEMORY));
        let source = StreamedSource::new(&mapped, &plan, &options).unwrap();
        let bench = Bench {
            source,
            plan,
            data: Arc::new(data.clone()),
            n_reads: Arc::default(),
            trouble: Arc::default(),
            changed: Arc::default(),
        };
        for token in 0..3 {
            bench.pass(12, token).unwrap();
        }
        // Cut while the engine holds it: an error, whatever is read then.
        std::fs::OpenOptions::new().write(true).open(&paths[0]).unwrap().set_len(100).unwrap();
        assert!(bench.pass(12, 3).is_err());
    }
}
