//! Windows: an in-page error in a guarded map becomes a failed health; prefetching for reading ahead.
//!
//! Windows refuses to truncate a file while it is mapped, so what remains is a device that fails or vanishes.

use super::GuardedRange;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::sync::Once;
use windows_sys::Win32::Foundation::{
    ERROR_ALREADY_EXISTS, ERROR_HANDLE_EOF, EXCEPTION_ACCESS_VIOLATION, EXCEPTION_IN_PAGE_ERROR,
};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_NO_BUFFERING;
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, MEMORY_MAPPED_VIEW_ADDRESS, PAGE_READONLY,
    PrefetchVirtualMemory, UnmapViewOfFile, VirtualAlloc, VirtualFree, VirtualLock, WIN32_MEMORY_RANGE_ENTRY,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Zero pages are committed this many bytes at a time: the allocation granularity of the system.
const COMMIT_BYTES: usize = 64 << 10;

static INSTALL: Once = Once::new();

pub(super) fn install_handler() {
    INSTALL.call_once(|| {
        // SAFETY: `on_exception` has the signature asked for and stays in the program for good.
        unsafe { AddVectoredExceptionHandler(1, Some(on_exception)) };
    });
}

unsafe extern "system" fn on_exception(pointers: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: the system passes valid pointers to a vectored handler.
    let record = unsafe { &*(*pointers).ExceptionRecord };
    let in_page = record.ExceptionCode == EXCEPTION_IN_PAGE_ERROR;
    if !in_page && record.ExceptionCode != EXCEPTION_ACCESS_VIOLATION {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    let address = record.ExceptionInformation[1];
    let Some(range) = GuardedRange::around(address) else { return EXCEPTION_CONTINUE_SEARCH };
    if in_page && !range.has_failed() {
        range.fail();
        // SAFETY: the view is ours while the guard lives. Readers that run between the two calls fault with
        // an access violation and come here too, where they wait for the reservation.
        unsafe {
            UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: range.base as *mut c_void });
            VirtualAlloc(range.base as *const c_void, range.len, MEM_RESERVE, PAGE_READONLY);
        }
    } else if !range.has_failed() {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    let from = address & !(COMMIT_BYTES - 1);
    let len = COMMIT_BYTES.min(range.base + range.len - from);
    for _ in 0..1000 {
        // SAFETY: commits zero pages inside the reservation made above, over no live data.
        let page = unsafe { VirtualAlloc(from as *const c_void, len, MEM_COMMIT, PAGE_READONLY) };
        if !page.is_null() {
            return EXCEPTION_CONTINUE_EXECUTION;
        }
        std::thread::yield_now();
    }
    EXCEPTION_CONTINUE_SEARCH
}

pub(super) fn release_range(base: usize, failed: bool) {
    if failed {
        // SAFETY: after a fault the range is a reservation of ours, no longer a view. Where the file failed
        // for another reason the range is still a view, which this call refuses to free.
        unsafe { VirtualFree(base as *mut c_void, 0, MEM_RELEASE) };
    }
}

pub(super) fn advise_will_need(map: &memmap2::Mmap, offset: usize, len: usize) {
    let range = WIN32_MEMORY_RANGE_ENTRY {
        // SAFETY: `offset` lies inside the map.
        VirtualAddress: unsafe { map.as_ptr().add(offset) } as *mut c_void,
        NumberOfBytes: len,
    };
    // SAFETY: one valid range entry, of memory that is mapped.
    unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0) };
}

pub(super) fn is_resident(_map: &memmap2::Mmap, _offset: usize) -> bool {
    false
}

pub(super) fn populate(_map: &memmap2::Mmap, _offset: usize, _len: usize) -> bool {
    false
}

/// Large pages of file views need a privilege that users do not have.
pub(super) fn advise_large_pages(_map: &memmap2::Mmap) {}

pub(super) fn advise_large_anonymous_pages(_map: &memmap2::MmapMut, _offset: usize, _len: usize) {}

/// A view of a section goes back as a whole.
pub(crate) const GIVES_BACK_PARTS: bool = false;

pub(super) fn give_back(_map: &memmap2::MmapRaw, _offset: usize, _len: usize) {}

pub(super) fn lock(map: &memmap2::Mmap) -> io::Result<()> {
    // SAFETY: the range is the map's.
    match unsafe { VirtualLock(map.as_ptr() as *const c_void, map.len()) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A named file mapping.
#[derive(Debug)]
pub(crate) struct Section {
    _handle: OwnedHandle,
}

pub(super) fn share(file: &File, name: &str) -> io::Result<Option<Section>> {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SAFETY: the handle is open, no attributes are given, and the name ends with a zero.
    let handle = unsafe {
        CreateFileMappingW(file.as_raw_handle(), std::ptr::null(), PAGE_READONLY, 0, 0, name.as_ptr())
    };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // The call may give a mapping of another file that has the name; the error says so then.
    let is_another = io::Error::last_os_error().raw_os_error() == Some(ERROR_ALREADY_EXISTS as i32);
    // SAFETY: the handle was made just now, and nobody else closes it.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    if is_another {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a section of that name is there"));
    }
    Ok(Some(Section { _handle: handle }))
}

pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FILE_FLAG_NO_BUFFERING).open(path)
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.seek_read(buffer, offset) {
        // What Unix says at the end of a file.
        Err(error) if error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32) => Ok(0),
        result => result,
    }
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}

/// A handle is direct from when it is opened, or never.
pub(super) fn set_direct(_file: &File, direct: bool) -> io::Result<()> {
    if direct { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

pub(super) fn drop_cached(_file: &File, _offset: u64, _len: u64) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Extent, MappedSource, PartedFile, Source};
    use windows_sys::Win32::System::Diagnostics::Debug::RaiseException;

    /// What the system raises when the device below a mapped page fails, with its arguments: reading, the
    /// address, and the status of the device.
    fn raise_in_page_error(address: *const u8) {
        const STATUS_DEVICE_NOT_CONNECTED: usize = 0xC000_009D;
        let arguments = [0, address as usize, STATUS_DEVICE_NOT_CONNECTED];
        // SAFETY: the arguments are as many as are said, and the handler goes on after it.
        unsafe { RaiseException(EXCEPTION_IN_PAGE_ERROR as u32, 0, 3, arguments.as_ptr()) };
    }

    #[test]
    fn a_device_that_fails_under_a_map_is_an_error_and_the_next_map_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let len = 5 * COMMIT_BYTES + 123;
        std::fs::write(&path, vec![0xAA; len]).unwrap();
        let open = || MappedSource::new(vec![PartedFile::open(&[path.clone()]).unwrap()]).unwrap();
        let all = Extent { file: 0, offset: 0, len: len as u64 };

        for failing_at in [0, 3 * COMMIT_BYTES + 17, len - 1] {
            let source = open();
            source.begin_pass(&[]).unwrap();
            let lease = source.lease(all).unwrap();
            assert!(lease.iter().all(|byte| *byte == 0xAA));
            raise_in_page_error(&lease[failing_at]);
            // Everything stays readable, from other threads too.
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert!(lease.iter().all(|byte| *byte == 0)));
                }
            });
            assert!(lease.release().is_err());
            assert!(source.end_pass().is_err());
            assert!(source.begin_pass(&[]).is_err(), "the file stays refused");
            drop(source);
            assert!(open().lease(all).unwrap().iter().all(|byte| *byte == 0xAA));
        }
    }
}
