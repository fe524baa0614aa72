//! The model's own files in the folder, without a second copy of their bytes.

use super::ExportError;
use super::record::Kind;
use crate::files::{Shared, share};
use crate::output::{io_error, suffixed};
use std::path::Path;

/// Makes `link` lead to the bytes of `file`: a hard link, else a symbolic link, else a reflink.
pub(super) fn link(file: &Path, link: &Path) -> Result<Kind, ExportError> {
    // Where the path is a link itself, the file is what is linked.
    let target = std::fs::canonicalize(file).map_err(io_error("look at", file))?;
    match share(&target, link, &suffixed(link, ".part")) {
        Ok(Shared::HardLink) => Ok(Kind::HardLink),
        Ok(Shared::Symlink) => Ok(Kind::Symlink),
        Ok(Shared::Reflink) => Ok(Kind::Reflink),
        Err(source) => Err(ExportError::NoLink { file: target, link: link.to_owned(), source }),
    }
}
