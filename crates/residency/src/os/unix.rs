//! Unix: SIGBUS in a guarded map becomes a failed health; `madvise` for reading ahead.

use super::GuardedRange;
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Once, OnceLock};

static INSTALL: Once = Once::new();

/// What handled the signals before us, asked for every fault that is not ours.
static PREVIOUS: OnceLock<[(c_int, libc::sigaction); 2]> = OnceLock::new();

pub(super) fn install_handler() {
    INSTALL.call_once(|| {
        // macOS reports some faults in a file map as SIGSEGV.
        let previous = [libc::SIGBUS, libc::SIGSEGV].map(|signal| (signal, current_action(signal)));
        let _ = PREVIOUS.set(previous);
        set_handler(libc::SIGBUS);
        if cfg!(target_vendor = "apple") {
            set_handler(libc::SIGSEGV);
        }
    });
}

fn current_action(signal: c_int) -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only reads the current one into `action`, which is large enough; all-zero
    // bytes are a valid `sigaction` should the call fail.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

fn set_handler(signal: c_int) {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
    // SAFETY: `on_fault` has the signature that SA_SIGINFO asks for and calls only functions that are safe
    // in a signal handler; SA_ONSTACK lets it run where the standard library has set an alternate stack.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(range) = GuardedRange::around(address) {
        range.fail();
        if replace_with_zeros(&range, address) {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Puts zero pages over the guarded range from the page of `address` on, so that the faulting read can go on.
/// The rest of the range goes with it: one fault is enough to give the file up, and one signal is cheaper
/// than one for each page.
fn replace_with_zeros(range: &GuardedRange, address: usize) -> bool {
    // SAFETY: `sysconf` is async-signal-safe in practice on every system we build for and has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let from = address & !(page - 1);
    let len = range.base + range.len - from;
    // SAFETY: the pages lie inside a read-only file map that is ours (the guard lives, so the map does), and
    // a fixed map replaces them in one step; references into the range stay valid and read zeros.
    let mapped = unsafe {
        libc::mmap(
            from as *mut libc::c_void,
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Hands a fault that is not ours to whoever handled the signal before, or to the system's default.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().and_then(|p| p.iter().find(|(s, _)| *s == signal));
    let Some((_, action)) = previous else { return reset_to_default(signal) };
    if action.sa_sigaction == libc::SIG_DFL || action.sa_sigaction == libc::SIG_IGN {
        return reset_to_default(signal);
    }
    // SAFETY: the address was installed as a handler of this kind by whoever came before us.
    unsafe {
        if action.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(action.sa_sigaction);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(action.sa_sigaction);
            handler(signal);
        }
    }
}

/// With the default action back, the faulting instruction runs again and ends the process as it should.
fn reset_to_default(signal: c_int) {
    // SAFETY: all-zero bytes are SIG_DFL with no flags.
    unsafe {
        let action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

pub(super) fn release_range(_base: usize, _failed: bool) {
    // Unmapping the range takes any zero pages in it along.
}

pub(super) fn advise_will_need(map: &memmap2::Mmap, offset: usize, len: usize) {
    let _ = map.advise_range(memmap2::Advice::WillNeed, offset, len);
}

#[cfg(target_os = "linux")]
pub(super) fn is_resident(map: &memmap2::Mmap, offset: usize) -> bool {
    // SAFETY: asks for a number and has no effect.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let address = map.as_ptr().wrapping_add(offset / page * page).cast_mut();
    let mut residency = 0;
    // SAFETY: the page lies in the map, and its state fits the one byte.
    unsafe { libc::mincore(address.cast(), 1, &mut residency) == 0 && residency & 1 == 1 }
}

#[cfg(target_os = "linux")]
pub(super) fn populate(map: &memmap2::Mmap, offset: usize, len: usize) -> bool {
    // Since Linux 5.14. A page that cannot be read is an error here, not a signal.
    map.advise_range(memmap2::Advice::PopulateRead, offset, len).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_resident(_map: &memmap2::Mmap, _offset: usize) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(super) fn populate(_map: &memmap2::Mmap, _offset: usize, _len: usize) -> bool {
    false
}

pub(super) fn advise_large_pages(map: &memmap2::Mmap) {
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

/// As [`advise_large_pages`], for a range of memory that no file backs.
pub(super) fn advise_large_anonymous_pages(map: &memmap2::MmapMut, offset: usize, len: usize) {
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(memmap2::Advice::HugePage, offset, len);
    #[cfg(not(target_os = "linux"))]
    let _ = (map, offset, len);
}

/// Whether [`give_back`] does.
pub(crate) const GIVES_BACK_PARTS: bool = cfg!(target_os = "linux");

/// Gives whole pages of anonymous memory back to the system, which nothing refers to any more.
pub(super) fn give_back(map: &memmap2::MmapRaw, offset: usize, len: usize) {
    // SAFETY: what is there now is never read again.
    #[cfg(target_os = "linux")]
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
    // Others keep the pages until they need them.
    #[cfg(not(target_os = "linux"))]
    let _ = (map, offset, len);
}

pub(super) fn lock(map: &memmap2::Mmap) -> io::Result<()> {
    map.lock()
}

/// There is none: a file's memory is shared by whoever maps the file.
#[derive(Debug)]
pub(crate) enum Section {}

pub(super) fn share(_file: &File, _name: &str) -> io::Result<Option<Section>> {
    Ok(None)
}

pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    #[cfg(target_vendor = "apple")]
    set_direct(&file, true)?;
    Ok(file)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn set_direct(_file: &File, direct: bool) -> io::Result<()> {
    if direct { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(super) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    #[cfg(target_os = "linux")]
    // SAFETY: the descriptor is open, and the commands take and give an int.
    let result = unsafe {
        match libc::fcntl(fd, libc::F_GETFL) {
            -1 => -1,
            flags if direct => libc::fcntl(fd, libc::F_SETFL, flags | libc::O_DIRECT),
            flags => libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_DIRECT),
        }
    };
    #[cfg(target_vendor = "apple")]
    // SAFETY: the descriptor is open, and the command takes an int.
    let result = unsafe { libc::fcntl(fd, libc::F_NOCACHE, libc::c_int::from(direct)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

pub(super) fn drop_cached(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: advice on an open descriptor; numbers that do not fit are refused.
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), offset as i64, len as i64, libc::POSIX_FADV_DONTNEED)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}
