//! The model's own files in the folder, without a second copy of their bytes.

use super::ExportError;
use super::record::Kind;
use crate::files::symlink;
use crate::output::io_error;
use std::path::Path;

/// Makes `link` lead to the bytes of `file`: a hard link, else a symbolic link, else a reflink.
pub(super) fn link(file: &Path, link: &Path) -> Result<Kind, ExportError> {
    // Where the path is a link itself, the file is what is linked.
    let target = std::fs::canonicalize(file).map_err(io_error("look at", file))?;
    if std::fs::hard_link(&target, link).is_ok() {
        return Ok(Kind::HardLink);
    }
    if symlink(&target, link).is_ok() {
        return Ok(Kind::Symlink);
    }
    match reflink_copy::reflink(&target, link) {
        Ok(()) => Ok(Kind::Reflink),
        Err(source) => Err(ExportError::NoLink { file: target, link: link.to_owned(), source }),
    }
}
