//! Small files that appear whole or not at all.

use crate::output::folder_of;
use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` to `path`, replacing what was there in one step. Readers see the old or the new content, also when the
/// machine stops in between.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_by(folder_of(path), path, bytes)
}

/// As [`write_whole`], by a file in `folder`, which is on the same file system: for places where others remove what they
/// do not know.
pub(crate) fn write_whole_by(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rawrz-");
    // Others may read what the folder lets them see, as with any file that a program makes.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for content in ["one", "two, longer"] {
            write_whole(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert!(write_whole(&dir.path().join("missing/f"), b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
