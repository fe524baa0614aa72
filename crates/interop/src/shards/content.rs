//! What a file will hold, told before a byte of it is written: a header in memory, ranges of the model, padding.
//!
//! The same description is what a file is written from, what an interrupted one is compared with to find where it goes
//! on, and what the finished one is checked against.

use rawrz_gguf::{Header, TensorInfo, WriteError, Writer};
use rawrz_residency::{Extent, MappedSource, ReadError, Source};

/// Most bytes that are handed on at once.
const CHUNK_BYTES: u64 = 4 << 20;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Range(Extent),
    Zeros(u64),
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::Range(extent) => extent.len,
            Segment::Zeros(len) => *len,
        }
    }
}

/// The bytes of a file, in order.
#[derive(Debug, Default)]
pub(super) struct Content {
    segments: Vec<Segment>,
    len: u64,
}

impl Content {
    fn push(&mut self, segment: Segment) {
        if segment.len() > 0 {
            // Tensors that a header has accepted add up to less than 2^63 bytes.
            self.len += segment.len();
            self.segments.push(segment);
        }
    }

    /// A GGUF file: `header`, and the data of its tensors, given in its order with the shard that each lies in.
    pub(super) fn of_gguf<'t>(
        header: &Header<'_>,
        tensors: impl Iterator<Item = (usize, TensorInfo<'t>)>,
    ) -> Result<Content, WriteError> {
        let mut bytes = Vec::new();
        Writer::start(&mut bytes, header)?;
        let mut content = Content::default();
        content.push(Segment::Bytes(bytes));
        for (shard, tensor) in tensors {
            let extent = Extent { file: shard as u32, offset: tensor.file_offset, len: tensor.len_bytes };
            content.push(Segment::Range(extent));
            let padded = tensor.len_bytes.next_multiple_of(header.alignment());
            content.push(Segment::Zeros(padded - tensor.len_bytes));
        }
        Ok(content)
    }

    /// The bytes of a logical file as they are.
    pub(super) fn of_file(file: usize, len_bytes: u64) -> Content {
        let mut content = Content::default();
        content.push(Segment::Range(Extent { file: file as u32, offset: 0, len: len_bytes }));
        content
    }

    /// Length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether logical file `file` of `source`, of which the tensors come, has just these bytes. Tensors are not read:
    /// they do when they lie where they would be written to.
    pub(super) fn is_layout_of(&self, source: &MappedSource, file: u32) -> Result<bool, ReadError> {
        if source.file_len_bytes(file as usize) != self.len {
            return Ok(false);
        }
        let mut offset = 0;
        for segment in &self.segments {
            let here = Extent { file, offset, len: segment.len() };
            let is_same = match segment {
                Segment::Range(extent) => *extent == here,
                Segment::Bytes(bytes) => {
                    has_bytes(source, here, |chunk, at| bytes[at as usize..].starts_with(chunk))?
                }
                Segment::Zeros(_) => has_bytes(source, here, |chunk, _| chunk.iter().all(|byte| *byte == 0))?,
            };
            if !is_same {
                return Ok(false);
            }
            offset += segment.len();
        }
        Ok(true)
    }
}

fn has_bytes(
    source: &MappedSource,
    extent: Extent,
    is_right: impl Fn(&[u8], u64) -> bool,
) -> Result<bool, ReadError> {
    let mut at = 0;
    while at < extent.len {
        let len = source.lease_len(extent.slice(at, extent.len - at), 1);
        let lease = source.lease(extent.slice(at, len))?;
        let right = is_right(&lease, at);
        lease.release()?;
        if !right {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

/// A place in a [`Content`], moving forward.
pub(super) struct Cursor<'c> {
    content: &'c Content,
    source: &'c MappedSource,
    segment: usize,
    /// Bytes of the segment that are behind.
    done: u64,
}

impl<'c> Cursor<'c> {
    /// At byte `offset`.
    pub(super) fn new(content: &'c Content, source: &'c MappedSource, offset: u64) -> Cursor<'c> {
        let (mut segment, mut done) = (0, offset);
        while let Some(len) = content.segments.get(segment).map(Segment::len).filter(|len| done >= *len) {
            done -= len;
            segment += 1;
        }
        Cursor { content, source, segment, done }
    }

    /// Hands on the next bytes, at most `limit` and at most 4 MiB, and moves past them; `None` at the end.
    /// What `take` gives counts only if this is no error.
    pub(super) fn next<R>(
        &mut self,
        limit: u64,
        take: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, ReadError> {
        let Some(segment) = self.content.segments.get(self.segment) else { return Ok(None) };
        let left = segment.len() - self.done;
        let mut len = left.min(limit).min(CHUNK_BYTES);
        let taken = match segment {
            Segment::Bytes(bytes) => take(&bytes[self.done as usize..(self.done + len) as usize]),
            Segment::Zeros(_) => {
                len = len.min(ZEROS.len() as u64);
                take(&ZEROS[..len as usize])
            }
            Segment::Range(extent) => {
                len = self.source.lease_len(extent.slice(self.done, len), 1);
                let lease = self.source.lease(extent.slice(self.done, len))?;
                let taken = take(&lease);
                lease.release()?;
                taken
            }
        };
        self.done += len;
        if self.done == segment.len() {
            (self.segment, self.done) = (self.segment + 1, 0);
        }
        Ok(Some(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rawrz_residency::PartedFile;

    #[test]
    fn a_cursor_gives_every_byte_from_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a.part0"), dir.path().join("a.part1")];
        std::fs::write(&paths[0], b"01234").unwrap();
        std::fs::write(&paths[1], b"56789").unwrap();
        let source = MappedSource::new(vec![PartedFile::open(&paths).unwrap()]).unwrap();
        let mut content = Content::default();
        content.push(Segment::Bytes(b"head".to_vec()));
        content.push(Segment::Range(Extent { file: 0, offset: 3, len: 5 }));
        content.push(Segment::Zeros(3));
        content.push(Segment::Range(Extent { file: 0, offset: 0, len: 0 }));
        content.push(Segment::Bytes(b"end".to_vec()));
        let all = b"head34567\0\0\0end";
        assert_eq!(content.len(), all.len() as u64);
        for offset in 0..=all.len() {
            for limit in [1, 2, 100] {
                let mut cursor = Cursor::new(&content, &source, offset as u64);
                let mut got = Vec::new();
                while cursor.next(limit, |bytes| got.extend_from_slice(bytes)).unwrap().is_some() {}
                assert_eq!(got, all[offset..]);
            }
        }
    }
}
