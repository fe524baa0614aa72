//! What differs between operating systems: faults in mapped files, advice, and what the system says of memory.

mod memory;
mod pages;
mod shared_cache;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as imp;
#[cfg(windows)]
use windows as imp;

pub(crate) use pages::Pages;
pub(crate) use shared_cache::hand_over;

pub use memory::{ProcessMemory, memory_limit, process_memory, total_memory};

use crate::lease::Health;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// How many maps one process may guard at once: shards times parts of all open models.
pub const MAX_GUARDED_MAPS: usize = 4096;

/// One guarded range. A signal handler reads the table, so it is made of atomics alone and never grows.
struct Slot {
    /// Address of the first byte; 0 while the slot is free, 1 while it is being filled.
    base: AtomicUsize,
    len: AtomicUsize,
    failed: AtomicPtr<std::sync::atomic::AtomicBool>,
}

static SLOTS: [Slot; MAX_GUARDED_MAPS] = [const {
    Slot { base: AtomicUsize::new(0), len: AtomicUsize::new(0), failed: AtomicPtr::new(std::ptr::null_mut()) }
}; MAX_GUARDED_MAPS];

/// One more than the highest slot ever used, so that a lookup is short.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// The range that holds an address.
struct GuardedRange {
    base: usize,
    len: usize,
    slot: &'static Slot,
}

impl GuardedRange {
    /// Finds the guarded range around `address`. Safe to call from a signal handler.
    fn around(address: usize) -> Option<GuardedRange> {
        let used = SLOTS_USED.load(Ordering::Acquire).min(MAX_GUARDED_MAPS);
        SLOTS[..used].iter().find_map(|slot| {
            let base = slot.base.load(Ordering::Acquire);
            let len = slot.len.load(Ordering::Acquire);
            (base > 1 && address >= base && address - base < len).then_some(GuardedRange { base, len, slot })
        })
    }

    /// Marks the bytes of the range as bad. Safe to call from a signal handler.
    fn fail(&self) {
        let flag = self.slot.failed.load(Ordering::Acquire);
        if !flag.is_null() {
            // SAFETY: the flag belongs to the `Health` that the guard of this slot keeps alive; the slot is
            // cleared before the guard lets go of it, and a fault in the range means the map, which outlives
            // nothing but the guard, is still in use.
            unsafe { (*flag).store(true, Ordering::Release) };
        }
    }

    #[cfg(windows)]
    fn has_failed(&self) -> bool {
        let flag = self.slot.failed.load(Ordering::Acquire);
        // SAFETY: as in `fail`.
        !flag.is_null() && unsafe { (*flag).load(Ordering::Acquire) }
    }
}

/// Turns faults in one mapped range into a failed [`Health`] instead of a dead process.
///
/// While the guard lives, a page of the range that the system cannot provide (the file was truncated, its
/// device failed) reads as zeros from then on and the health says so.
#[derive(Debug)]
pub(crate) struct FaultGuard {
    index: usize,
    health: Arc<Health>,
}

impl FaultGuard {
    /// Guards `len` bytes at address `base` of a read-only file map; `None` when all slots are taken.
    pub(crate) fn new(base: usize, len: usize, health: Arc<Health>) -> Option<FaultGuard> {
        imp::install_handler();
        for (index, slot) in SLOTS.iter().enumerate() {
            if slot.base.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                slot.len.store(len, Ordering::Release);
                slot.failed.store(std::ptr::from_ref(health.flag()).cast_mut(), Ordering::Release);
                slot.base.store(base, Ordering::Release);
                SLOTS_USED.fetch_max(index + 1, Ordering::AcqRel);
                return Some(FaultGuard { index, health });
            }
        }
        None
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        let slot = &SLOTS[self.index];
        let base = slot.base.swap(1, Ordering::AcqRel);
        imp::release_range(base, self.health.check().is_err());
        slot.failed.store(std::ptr::null_mut(), Ordering::Release);
        slot.len.store(0, Ordering::Release);
        slot.base.store(0, Ordering::Release);
    }
}

/// Asks the system to start reading `len` bytes at `offset` of `map` now. Advice: failure is of no matter.
pub(crate) fn advise_will_need(map: &memmap2::Mmap, offset: usize, len: usize) {
    imp::advise_will_need(map, offset, len);
}

/// Whether the byte at `offset` of `map` is in memory; `false` where the system does not tell.
pub(crate) fn is_resident(map: &memmap2::Mmap, offset: usize) -> bool {
    imp::is_resident(map, offset)
}

/// Maps `len` bytes at `offset` of `map`, reading what is not in memory; `false` where the system cannot, also if there are
/// no bytes.
pub(crate) fn populate(map: &memmap2::Mmap, offset: usize, len: usize) -> bool {
    imp::populate(map, offset, len)
}

/// Tells the system that `map` will be read as a whole, so that it may read and map it in large pages: faster reads from
/// the disk, fewer faults, fewer misses of the translation buffer. Advice: failure is of no matter.
pub(crate) fn advise_large_pages(map: &memmap2::Mmap) {
    imp::advise_large_pages(map);
}

/// Keeps the pages of `map` in memory while it is mapped. An error where the system's limit does not allow it.
pub(crate) fn lock(map: &memmap2::Mmap) -> io::Result<()> {
    imp::lock(map)
}

/// The memory of a file under a name that other programs can open, while this lives. No such thing on Unix, where the file
/// itself is the name.
pub(crate) use imp::{GIVES_BACK_PARTS, Section};

/// Gives the memory of `file` a name, on systems that have such names.
pub(crate) fn share(file: &File, name: &str) -> io::Result<Option<Section>> {
    imp::share(file, name)
}

/// Whether readers that share a handle wait for each other.
pub(crate) const HANDLE_PER_READER: bool = cfg!(windows);

/// Opens `path` for reads that pass by the page cache. They start, end and land on multiples of 4096.
pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    imp::open_direct(path)
}

/// Reads at `offset` without moving a file position; the number of bytes is 0 only at the end of the file.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    imp::read_at(file, buffer, offset)
}

/// Writes at `offset` without moving a file position; fewer bytes than there are may go.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    imp::write_at(file, bytes, offset)
}

/// Makes reads and writes of an open file pass by the page cache, or not. They start, end and land on multiples of
/// 4096 then. An error where the system cannot change it.
pub(crate) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    imp::set_direct(file, direct)
}

/// Tells the system that what was read of `file` through the page cache is not needed there. Advice.
pub(crate) fn drop_cached(file: &File, offset: u64, len: u64) {
    imp::drop_cached(file, offset, len);
}
