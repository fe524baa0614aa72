//! A file that appears whole and checked under its final name, or not at all.
//!
//! `NAME.part` grows beside where `NAME` will stand. When all of it is on the disk it is read back, past the page cache
//! where the file system allows it, and compared with what it was made of; only then it is renamed. So whatever stands
//! under a final name was right. A part that a killed run left is compared in the same way, and kept as far as it is
//! right: nothing has to be believed that an earlier run wrote down.

use super::OnBytes;
use super::content::{Content, Cursor};
use crate::output::{OutputError, exists, folder_of, io_error, suffixed, sync_folder};
use rawrz_residency::{MappedSource, PartedFile};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A file to be made.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

/// Counts bytes written and bytes checked, and asks the caller whether to go on.
pub(super) struct Work<'a, 'f> {
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) on_bytes: &'a mut OnBytes<'f>,
}

impl Work<'_, '_> {
    fn add(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done_bytes += bytes;
        (self.on_bytes)(self.done_bytes, self.total_bytes)
    }

    fn add_or_stop(&mut self, bytes: u64) -> Result<(), OutputError> {
        match self.add(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(OutputError::Stopped),
        }
    }
}

impl Output {
    fn part_path(&self) -> PathBuf {
        suffixed(&self.path, ".part")
    }

    /// Bytes that are still to be written, as far as lengths tell.
    pub(super) fn missing_bytes(&self) -> Result<u64, OutputError> {
        if exists(&self.path)? {
            return Ok(0);
        }
        let there = std::fs::metadata(self.part_path()).map_or(0, |metadata| metadata.len());
        Ok(self.content.len().saturating_sub(there))
    }

    /// Makes the file, or finds that it is there and right: then `true`. The caller keeps other processes away.
    pub(super) fn make(&self, source: &MappedSource, work: &mut Work<'_, '_>) -> Result<bool, OutputError> {
        if exists(&self.path)? {
            let same = self.equal_prefix(&self.path, source, work)?;
            if same != self.content.len() {
                return Err(OutputError::Occupied { path: self.path.clone() });
            }
            work.add_or_stop(same)?;
            return Ok(true);
        }
        let part = self.part_path();
        // Never followed: a link that somebody laid in the way is not written through.
        if std::fs::symlink_metadata(&part).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(OutputError::Occupied { path: part });
        }
        let made = self.write(&part, source, work).and_then(|()| self.publish(&part, source, work));
        match made {
            // What a stopped run leaves, the next one uses.
            Ok(()) | Err(OutputError::Stopped) => {}
            // After a failure nothing half-made stays. The failure is what has to be told.
            Err(_) => drop(std::fs::remove_file(&part)),
        }
        made.map(|()| false)
    }

    /// How many bytes from its start the file at `path` has in common with what it should hold, to within 4 MiB; all
    /// only when it is no longer than that either.
    fn equal_prefix(
        &self,
        path: &Path,
        source: &MappedSource,
        work: &mut Work<'_, '_>,
    ) -> Result<u64, OutputError> {
        let metadata = std::fs::metadata(path).map_err(io_error("look at", path))?;
        if !metadata.is_file() || metadata.len() == 0 || metadata.len() > self.content.len() {
            return Ok(0);
        }
        let made = MappedSource::new(vec![PartedFile::open(&[path.to_owned()])?])?;
        let mut cursor = Cursor::new(&self.content, source, 0);
        let (mut same, mut result) = (0, Ok(()));
        let mut compare = |mut block: &[u8]| -> Result<ControlFlow<()>, OutputError> {
            let len = block.len() as u64;
            while !block.is_empty() {
                let equal = cursor.next(block.len() as u64, |bytes| {
                    let (head, rest) = block.split_at(bytes.len());
                    block = rest;
                    (head == bytes).then_some(bytes.len() as u64)
                })?;
                match equal.flatten() {
                    Some(n) => same += n,
                    None => return Ok(ControlFlow::Break(())),
                }
            }
            work.add_or_stop(len)?;
            Ok(ControlFlow::Continue(()))
        };
        let _ = made.scan(0, &mut |block| {
            compare(block).unwrap_or_else(|error| {
                result = Err(error);
                ControlFlow::Break(())
            })
        })?;
        result.map(|()| same)
    }

    /// Writes what is missing of the part and brings it to the disk.
    fn write(&self, part: &Path, source: &MappedSource, work: &mut Work<'_, '_>) -> Result<(), OutputError> {
        let cannot = || io_error("write", part);
        let options = File::options().write(true).create(true).truncate(false).clone();
        let mut file = options.open(part).map_err(cannot())?;
        let before = work.done_bytes;
        let at = self.equal_prefix(part, source, work)?;
        // Compared bytes are behind as written ones are; those that differ are not.
        work.done_bytes = before + at;
        file.set_len(at).map_err(cannot())?;
        file.seek(SeekFrom::Start(at)).map_err(cannot())?;
        let mut cursor = Cursor::new(&self.content, source, at);
        while let Some(written) =
            cursor.next(u64::MAX, |bytes| file.write_all(bytes).map(|()| bytes.len() as u64))?
        {
            work.add_or_stop(written.map_err(cannot())?)?;
        }
        file.sync_all().map_err(cannot())
    }

    /// Reads the part back, and gives it its name when it is right.
    fn publish(
        &self,
        part: &Path,
        source: &MappedSource,
        work: &mut Work<'_, '_>,
    ) -> Result<(), OutputError> {
        let same = self.equal_prefix(part, source, work)?;
        if same != self.content.len() {
            return Err(OutputError::Damaged { path: part.to_owned(), offset: same });
        }
        if exists(&self.path)? {
            return Err(OutputError::Occupied { path: self.path.clone() });
        }
        std::fs::rename(part, &self.path).map_err(io_error("finish", &self.path))?;
        sync_folder(folder_of(&self.path)).map_err(io_error("finish", &self.path))
    }
}
