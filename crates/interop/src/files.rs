//! What operating systems do alike, said once.

use std::io;
use std::path::Path;

/// How a file came to have the bytes of another without a second copy of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    HardLink,
    Symlink,
    Reflink,
}

/// Gives `link` the bytes of `target`: by a hard link, else a symbolic link, else a reflink. That is a file of its own, so
/// it is made as `staged`, on the same file system, and renamed when it is whole.
///
/// # Errors
/// Why the last kind failed.
pub(crate) fn share(target: &Path, link: &Path, staged: &Path) -> io::Result<Shared> {
    if std::fs::hard_link(target, link).is_ok() {
        return Ok(Shared::HardLink);
    }
    if symlink(target, link).is_ok() {
        return Ok(Shared::Symlink);
    }
    let made = reflink_copy::reflink(target, staged).and_then(|()| std::fs::rename(staged, link));
    if made.is_err() {
        let _ = std::fs::remove_file(staged);
    }
    made.map(|()| Shared::Reflink)
}

/// Makes `link` a file that names `target`.
#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Makes `link` a file that names `target`.
#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Whether two paths lead to one file, by links of any kind.
#[cfg(unix)]
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}
