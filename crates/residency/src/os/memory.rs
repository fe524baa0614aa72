//! What the operating system says about memory: this process's, the machine's, and the limits above it.

/// Memory of this process as the system accounts for it, in bytes. `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Highest resident set so far.
    pub peak_resident: Option<u64>,
    /// Resident pages that no file backs: heap, stacks, KV cache, scratch.
    pub anonymous: Option<u64>,
    /// Resident pages of files: the mapped weights and the program itself.
    pub file_backed: Option<u64>,
}

pub use imp::{memory_limit, process_memory, total_memory};

#[cfg(target_os = "linux")]
mod imp {
    use super::ProcessMemory;
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    /// The value of `key` in a `key:   value kB` file such as `/proc/self/status`.
    fn kib_field(text: &str, key: &str) -> Option<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Memory of this process now.
    pub fn process_memory() -> ProcessMemory {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        ProcessMemory {
            peak_resident: kib_field(&status, "VmHWM"),
            anonymous: kib_field(&status, "RssAnon"),
            file_backed: kib_field(&status, "RssFile"),
        }
    }

    /// RAM of the machine in bytes.
    pub fn total_memory() -> Option<u64> {
        kib_field(&read_to_string("/proc/meminfo").ok()?, "MemTotal")
    }

    /// The lowest memory limit of all control groups around this process, in bytes: `memory.max` and
    /// `memory.high` on every level (v2), `memory.limit_in_bytes` on every level (v1).
    pub fn memory_limit() -> Option<u64> {
        let groups = read_to_string("/proc/self/cgroup").ok()?;
        limit_below(Path::new("/sys/fs/cgroup"), &groups)
    }

    fn limit_below(root: &Path, groups: &str) -> Option<u64> {
        let mut limits = Vec::new();
        for line in groups.lines() {
            // `hierarchy-id:controllers:path`; v2 has no controllers.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (base, names): (PathBuf, &[&str]) = if controllers.is_empty() {
                (root.to_path_buf(), &["memory.max", "memory.high"])
            } else if controllers.split(',').any(|c| c == "memory") {
                (root.join("memory"), &["memory.limit_in_bytes"])
            } else {
                continue;
            };
            let leaf = base.join(path.trim_start_matches('/'));
            // A container sees its own group at the root, so levels that do not exist are passed over.
            for level in leaf.ancestors().take_while(|level| level.starts_with(&base)) {
                for name in names {
                    let text = read_to_string(level.join(name)).unwrap_or_default();
                    // "max" (v2) is no limit; nor is v1's page-rounded `i64::MAX`.
                    let limit = text.trim().parse::<u64>().ok();
                    limits.extend(limit.filter(|bytes| *bytes < 1 << 60));
                }
            }
        }
        limits.into_iter().min()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn reads_fields_in_kib() {
            let text = "VmPeak:\t  99 kB\nVmHWM:\t    1234 kB\n";
            assert_eq!(kib_field(text, "VmHWM"), Some(1234 * 1024));
            assert_eq!(kib_field(text, "RssAnon"), None);
        }

        #[test]
        fn the_lowest_limit_of_every_level_counts() {
            let root = tempfile::tempdir().unwrap();
            let set = |path: &str, value: &str| {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, value).unwrap();
            };
            set("a/b/memory.max", "max\n");
            set("a/b/memory.high", "7000\n");
            set("a/memory.max", "5000\n");
            set("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
            set("memory/memory.limit_in_bytes", "6000\n");
            let limit = |groups| limit_below(root.path(), groups);
            assert_eq!(limit("0::/a/b\n"), Some(5000));
            assert_eq!(limit("4:cpu,memory:/x\n1:cpuset:/\n"), Some(6000));
            assert_eq!(limit("0::/a/b\n4:memory:/x\n"), Some(5000));
            assert_eq!(limit("1:cpuset:/\n"), None);
        }
    }
}

#[cfg(target_vendor = "apple")]
mod imp {
    use super::ProcessMemory;

    /// Memory of this process: macOS tells the peak.
    pub fn process_memory() -> ProcessMemory {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is large enough and all-zero bytes are a valid `rusage`.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        // macOS counts `ru_maxrss` in bytes.
        ProcessMemory { peak_resident: u64::try_from(usage.ru_maxrss).ok(), ..Default::default() }
    }

    /// RAM of the machine in bytes.
    pub fn total_memory() -> Option<u64> {
        let mut bytes = 0u64;
        let mut len = size_of::<u64>();
        // SAFETY: the name is a C string, and `bytes` and `len` describe the 8 bytes that hw.memsize fills.
        let rc = unsafe {
            libc::sysctlbyname(
                c"hw.memsize".as_ptr(),
                (&raw mut bytes).cast(),
                &mut len,
                std::ptr::null_mut(),
                0,
            )
        };
        (rc == 0).then_some(bytes)
    }

    /// macOS has no control groups.
    pub fn memory_limit() -> Option<u64> {
        None
    }
}

#[cfg(all(unix, not(target_os = "linux"), not(target_vendor = "apple")))]
mod imp {
    use super::ProcessMemory;

    /// Not told on this system.
    pub fn process_memory() -> ProcessMemory {
        ProcessMemory::default()
    }

    /// Not told on this system.
    pub fn total_memory() -> Option<u64> {
        None
    }

    /// Not told on this system.
    pub fn memory_limit() -> Option<u64> {
        None
    }
}

#[cfg(windows)]
mod imp {
    use super::ProcessMemory;
    use windows_sys::Win32::System::ProcessStatus::{
        GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS, PROCESS_MEMORY_COUNTERS_EX,
    };
    use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
    use windows_sys::Win32::System::Threading::GetCurrentProcess;

    /// Memory of this process now. `anonymous` is the private commit charge.
    pub fn process_memory() -> ProcessMemory {
        // SAFETY: all-zero bytes are a valid counters structure, and its size is passed along.
        let (ok, counters) = unsafe {
            let mut counters: PROCESS_MEMORY_COUNTERS_EX = std::mem::zeroed();
            counters.cb = size_of::<PROCESS_MEMORY_COUNTERS_EX>() as u32;
            let pointer = (&raw mut counters).cast::<PROCESS_MEMORY_COUNTERS>();
            (GetProcessMemoryInfo(GetCurrentProcess(), pointer, counters.cb), counters)
        };
        if ok == 0 {
            return ProcessMemory::default();
        }
        ProcessMemory {
            peak_resident: Some(counters.PeakWorkingSetSize as u64),
            anonymous: Some(counters.PrivateUsage as u64),
            file_backed: None,
        }
    }

    /// RAM of the machine in bytes.
    pub fn total_memory() -> Option<u64> {
        // SAFETY: all-zero bytes are a valid status structure, and its size is set as asked for.
        unsafe {
            let mut status: MEMORYSTATUSEX = std::mem::zeroed();
            status.dwLength = size_of::<MEMORYSTATUSEX>() as u32;
            (GlobalMemoryStatusEx(&mut status) != 0).then_some(status.ullTotalPhys)
        }
    }

    /// Job objects are not looked at.
    pub fn memory_limit() -> Option<u64> {
        None
    }
}
