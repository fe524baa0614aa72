use super::*;
use std::time::Duration;

const PAGE: usize = 8192;

fn storage(delay: Duration) -> Arc<FaultyStorage<ScratchFile>> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(FaultyStorage::new(ScratchFile::create(folder.path()).unwrap(), delay))
}

/// What page `page` holds, the `version`th time it is written.
fn content(page: u64, version: u8) -> Buffer {
    let mut buffer = Buffer::new(PAGE as u64).unwrap();
    for (i, byte) in buffer.bytes_mut().iter_mut().enumerate() {
        *byte = (i as u64 * 31 + page * 7) as u8 ^ version;
    }
    buffer
}

fn spill(storage: &Arc<FaultyStorage<ScratchFile>>, n_pages: u64, n_buffers: usize) -> Spill {
    let spill = Spill::new(Box::new(Arc::clone(storage)), PAGE, n_buffers).unwrap();
    (0..n_pages).for_each(|page| spill.write(page, content(page, 0).bytes()).unwrap());
    spill
}

/// Leases pages two at a time.
fn round(spill: &Spill, pages: impl Iterator<Item = u64>) -> Result<(), SpillError> {
    let pages: Vec<u64> = pages.collect();
    for pair in pages.chunks(2) {
        let leased: Vec<_> = pair.iter().map(|page| spill.lease(*page)).collect::<Result<_, _>>()?;
        for (page, leased) in pair.iter().zip(&leased) {
            assert!(**leased == *content(*page, 0).bytes(), "page {page}");
        }
    }
    Ok(())
}

#[test]
fn pages_come_back_in_any_order() {
    for (n_buffers, delay) in [(4, 0), (4, 1), (7, 0), (32, 0)] {
        let storage = storage(Duration::from_millis(delay));
        let spill = spill(&storage, 20, n_buffers);
        // Not said beforehand.
        round(&spill, [3, 1, 19, 0].into_iter()).unwrap();
        spill.expect(vec![2..9, 5..5, 12..20]);
        for _ in 0..3 {
            round(&spill, (2..9).chain(12..20)).unwrap();
        }
        // Another order than was said, then another one said.
        round(&spill, (0..20).rev()).unwrap();
        round(&spill, (4..9).chain(14..20).chain(2..4)).unwrap();
        spill.expect(vec![0..1, 1..3]);
        round(&spill, (0..3).chain(0..3).chain(7..9)).unwrap();
        spill.expect(Vec::new());
        round(&spill, 5..7).unwrap();
    }
}

#[test]
fn a_round_is_read_once_and_ahead() {
    let storage = storage(Duration::ZERO);
    let spill = spill(&storage, 16, 4);
    spill.expect(vec![0..8, 8..16]);
    for _ in 0..5 {
        round(&spill, 0..16).unwrap();
    }
    drop(spill);
    let n_reads = storage.n_reads();
    assert!((5 * 16..=5 * 16 + 4).contains(&n_reads), "{n_reads}: no page twice, four buffers ahead at most");
}

#[test]
fn what_was_written_last_is_what_comes() {
    let storage = storage(Duration::ZERO);
    let spill = spill(&storage, 8, 4);
    spill.expect(vec![0..4, 4..8]);
    for version in 1..50 {
        let page = u64::from(version) % 8;
        spill.write(page, content(page, version).bytes()).unwrap();
        assert!(*spill.lease(page).unwrap() == *content(page, version).bytes(), "version {version}");
        spill.write(page, content(page, 0).bytes()).unwrap();
        let mut back = Buffer::new(PAGE as u64).unwrap();
        spill.read(page, back.bytes_mut()).unwrap();
        assert!(back.bytes() == content(page, 0).bytes());
    }
    round(&spill, 0..8).unwrap();
}

#[test]
fn every_fault_at_every_moment_is_an_error_and_what_comes_after_is_right() {
    use SpillFault::*;
    let storage = storage(Duration::ZERO);
    let spill = spill(&storage, 12, 4);
    let (mut n_failed, mut n_early) = (0, 0);
    for after in 0..30 {
        for fault in [ReadError { after }, ShortRead { after }, ReadPanic { after }] {
            spill.expect(vec![0..5, 5..12]);
            storage.inject(Some(fault));
            let result = round(&spill, (0..12).chain(0..12));
            match &result {
                Err(SpillError::Read { .. }) => assert!(!matches!(fault, ShortRead { .. })),
                Err(SpillError::Short { got, .. }) => {
                    assert!(matches!(fault, ShortRead { .. }) && *got < PAGE)
                }
                // It struck pages read ahead that nobody wanted, or nothing.
                Ok(()) => n_early += 1,
                Err(error) => panic!("{fault:?}: {error}"),
            }
            n_failed += usize::from(result.is_err());
            storage.inject(None);
            // What was read ahead may have failed too: it is told once.
            for _ in 0..6 {
                if round(&spill, 0..12).is_ok() {
                    break;
                }
            }
            round(&spill, 0..12).unwrap();
        }
        for fault in [DiskFull { after: after % 3 }, ShortWrite { after: after % 3 }] {
            storage.inject(Some(fault));
            let write = |page: u64| spill.write(page, content(page, 0).bytes());
            let error = (0..4).map(write).find_map(Result::err);
            assert!(matches!(error, Some(SpillError::Write { .. })), "{fault:?}");
            storage.inject(None);
            (0..4).for_each(|page| write(page).unwrap());
            round(&spill, 0..12).unwrap();
        }
    }
    println!("{n_failed} reads failed, {n_early} faults were not met");
    assert!(n_failed >= 60);
}

#[test]
fn the_file_has_no_name_and_goes_with_its_handle() {
    let folder = tempfile::tempdir().unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    let file = ScratchFile::create(folder.path()).unwrap();
    let is_direct = file.is_direct();
    let spill = Spill::new(Box::new(file), PAGE, 4).unwrap();
    spill.write(3, content(3, 0).bytes()).unwrap();
    if cfg!(unix) {
        assert_eq!(names(), 0);
    }
    assert!(*spill.lease(3).unwrap() == *content(3, 0).bytes());
    drop(spill);
    assert_eq!(names(), 0);
    println!("direct: {is_direct}");
    let missing = ScratchFile::create(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(missing, SpillError::Create { .. }) && missing.to_string().contains("missing"));
}

#[test]
fn where_direct_writes_are_refused_the_page_cache_serves() {
    let folder = tempfile::tempdir().unwrap();
    let file = ScratchFile::create(folder.path()).unwrap();
    // A length that direct writes do not take: from here on the file is not direct.
    file.write(&[7; 100], 0).unwrap();
    let mut back = [0; 100];
    assert_eq!(file.read(&mut back, 0).unwrap(), 100);
    assert_eq!(back, [7; 100]);
    assert!(!file.is_direct() || !cfg!(target_os = "linux"));
    let spill = Spill::new(Box::new(file), PAGE, 2).unwrap();
    (0..5).for_each(|page| spill.write(page, content(page, 0).bytes()).unwrap());
    (0..5).for_each(|page| assert!(*spill.lease(page).unwrap() == *content(page, 0).bytes()));
}

/// A memory file system of one size; unmounted when dropped.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None` where we may not mount one.
    fn new(len_bytes: u64) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={len_bytes}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|done| done.status.success()).then(|| SmallDisk(folder))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_is_an_error_of_the_page_and_those_before_stay_right() {
    let Some(disk) = SmallDisk::new(4 * PAGE as u64) else {
        println!("skipped: mounting a small disk takes root");
        return;
    };
    let file = ScratchFile::create(disk.0.path()).unwrap();
    let spill = Spill::new(Box::new(file), PAGE, 4).unwrap();
    let write = |page: u64| spill.write(page, content(page, 0).bytes());
    (0..4).for_each(|page| write(page).unwrap());
    for _ in 0..2 {
        match write(4).unwrap_err() {
            SpillError::Write { source, .. } => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
            error => panic!("{error}"),
        }
        round(&spill, 0..4).unwrap();
    }
    // What is there already may be written anew.
    write(2).unwrap();
    round(&spill, (0..4).rev()).unwrap();
}
