//! What operating systems do alike, said once.

use std::io;
use std::path::Path;

/// Makes `link` a file that names `target`.
#[cfg(unix)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Makes `link` a file that names `target`.
#[cfg(windows)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Whether two paths lead to one file, by links of any kind.
#[cfg(unix)]
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}
