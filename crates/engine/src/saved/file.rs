//! One timeline in a file.
//!
//! ```text
//!   header   magic, length of identity, identity, checksum
//!   record   segment, tokens in it, bytes of cache; tokens; cache; checksum
//!   record   ..
//! ```
//!
//! Numbers are 32 bits, little-endian; a checksum is the CRC-32 of all before it since the last one. A record of segment
//! `s` takes the place of all that was there from segment `s` on, so a timeline that grows, or goes on otherwise than it
//! did, is written as what is new of it. What follows the last whole record was cut off while it was written, and is
//! overwritten. The directory is read without the caches; whether a record is as it was written shows when it is used.

use rawrz_text::TokenId;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

const MAGIC: &[u8; 8] = b"RAWRZKV1";

/// Longest identity.
const MAX_IDENTITY_BYTES: u32 = 64 << 10;

/// Segment, tokens, bytes of cache.
const RECORD_HEAD_BYTES: u64 = 12;
const CHECKSUM_BYTES: u64 = 4;

/// What a record says and where its cache lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) tokens: Vec<TokenId>,
    cache_at: u64,
    cache_bytes: u32,
}

/// The content of a file: a record for each segment in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) segments: Vec<Record>,
    /// Where the last whole record ends.
    pub(super) end: u64,
}

impl Content {
    pub(super) fn n_tokens(&self) -> usize {
        self.segments.iter().map(|record| record.tokens.len()).sum()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.segments.iter().flat_map(|record| record.tokens.iter().copied())
    }

    /// Bytes of the file that count.
    pub(super) fn live_bytes(&self) -> u64 {
        let record = |r: &Record| {
            RECORD_HEAD_BYTES + r.tokens.len() as u64 * 4 + u64::from(r.cache_bytes) + CHECKSUM_BYTES
        };
        self.segments.iter().map(record).sum()
    }
}

/// Begins an empty file.
pub(super) fn create(file: &mut File, identity: &[u8]) -> io::Result<Content> {
    let mut head = MAGIC.to_vec();
    head.extend((identity.len() as u32).to_le_bytes());
    head.extend(identity);
    head.extend(crc32fast::hash(&head).to_le_bytes());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)?;
    Ok(Content { segments: Vec::new(), end: head.len() as u64 })
}

/// Reads a file's directory. `None` when it is of another identity, or no such file. `segment_len` is
/// the most tokens of a record, and of all but the last.
pub(super) fn read(file: &mut File, identity: &[u8], segment_len: usize) -> io::Result<Option<Content>> {
    let len = file.metadata()?.len();
    let mut reader = Checked::new(file)?;
    let Some(end) = read_header(&mut reader, identity)? else { return Ok(None) };
    let mut content = Content { segments: Vec::new(), end };
    while let Some((segment, record)) = read_record(&mut reader, len, segment_len)? {
        // Only a segment that follows on whole ones, or stands in one's place, makes sense.
        let whole = content.segments.iter().take_while(|record| record.tokens.len() == segment_len).count();
        if segment > whole.min(content.segments.len()) {
            break;
        }
        content.end = record.cache_at + u64::from(record.cache_bytes) + CHECKSUM_BYTES;
        content.segments.truncate(segment);
        content.segments.push(record);
    }
    Ok(Some(content))
}

fn read_header(reader: &mut Checked, identity: &[u8]) -> io::Result<Option<u64>> {
    let mut head = [0; 12];
    if !reader.fill(&mut head)? || head[..8] != *MAGIC {
        return Ok(None);
    }
    let identity_len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if identity_len > MAX_IDENTITY_BYTES || identity_len as usize != identity.len() {
        return Ok(None);
    }
    let mut found = vec![0; identity.len()];
    let is_ours = reader.fill(&mut found)? && found == identity;
    Ok((is_ours && reader.checksum()?).then_some(reader.at))
}

/// The next record and its segment; `None` at the end, or where the rest is not whole.
fn read_record(
    reader: &mut Checked,
    file_len: u64,
    segment_len: usize,
) -> io::Result<Option<(usize, Record)>> {
    let mut head = [0; RECORD_HEAD_BYTES as usize];
    if !reader.fill(&mut head)? {
        return Ok(None);
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (segment, n_tokens, cache_bytes) = (number(0), number(4), number(8));
    let needed = u64::from(n_tokens) * 4 + u64::from(cache_bytes) + CHECKSUM_BYTES;
    // Nothing is taken for what a damaged head promises.
    if n_tokens == 0 || n_tokens as usize > segment_len || needed > file_len.saturating_sub(reader.at) {
        return Ok(None);
    }
    let mut tokens = vec![0; n_tokens as usize * 4];
    if !reader.fill(&mut tokens)? {
        return Ok(None);
    }
    let token = |b: &[u8]| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let record =
        Record { tokens: tokens.chunks_exact(4).map(token).collect(), cache_at: reader.at, cache_bytes };
    reader.pass_over(u64::from(cache_bytes) + CHECKSUM_BYTES)?;
    Ok(Some((segment as usize, record)))
}

/// Writes a record after the last whole one. `content` is as before when it fails, and so is the file to those who read it.
pub(super) fn append(
    file: &mut File,
    content: &mut Content,
    segment: usize,
    tokens: &[TokenId],
    cache: &[u8],
) -> io::Result<()> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a segment of more than 4 GiB");
    let cache_bytes = u32::try_from(cache.len()).map_err(|_| too_large())?;
    let mut head = Vec::with_capacity(RECORD_HEAD_BYTES as usize + tokens.len() * 4);
    for number in [segment as u32, tokens.len() as u32, cache_bytes] {
        head.extend(number.to_le_bytes());
    }
    tokens.iter().for_each(|token| head.extend(token.to_le_bytes()));
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(cache);
    // What an earlier, longer state left behind must not be taken for the rest of a record that is cut off.
    file.set_len(content.end)?;
    file.seek(SeekFrom::Start(content.end))?;
    file.write_all(&head)?;
    file.write_all(cache)?;
    file.write_all(&crc.finalize().to_le_bytes())?;
    let cache_at = content.end + head.len() as u64;
    content.segments.truncate(segment);
    content.segments.push(Record { tokens: tokens.to_vec(), cache_at, cache_bytes });
    content.end = cache_at + u64::from(cache_bytes) + CHECKSUM_BYTES;
    Ok(())
}

/// Reads the cache of a record; an error when it is not as it was written.
pub(super) fn read_cache(file: &mut File, segment: usize, record: &Record) -> io::Result<Vec<u8>> {
    let mut cache = vec![0; record.cache_bytes as usize];
    file.seek(SeekFrom::Start(record.cache_at))?;
    file.read_exact(&mut cache)?;
    let mut sum = [0; 4];
    file.read_exact(&mut sum)?;
    let mut crc = crc32fast::Hasher::new();
    for number in [segment as u32, record.tokens.len() as u32, record.cache_bytes] {
        crc.update(&number.to_le_bytes());
    }
    record.tokens.iter().for_each(|token| crc.update(&token.to_le_bytes()));
    crc.update(&cache);
    match crc.finalize() == u32::from_le_bytes(sum) {
        true => Ok(cache),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum is wrong")),
    }
}

/// Reads in order and sums up.
struct Checked<'a> {
    file: &'a mut File,
    crc: crc32fast::Hasher,
    at: u64,
}

impl Checked<'_> {
    fn new(file: &mut File) -> io::Result<Checked<'_>> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Checked { file, crc: crc32fast::Hasher::new(), at: 0 })
    }

    /// Whether there was enough to fill `buffer`.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact(buffer) {
            Ok(()) => {
                self.crc.update(buffer);
                self.at += buffer.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn pass_over(&mut self, len: u64) -> io::Result<()> {
        self.at = self.file.seek(SeekFrom::Current(i64::try_from(len).unwrap_or(i64::MAX)))?;
        Ok(())
    }

    /// Whether the sum of what was read since the last one is the one that stands here.
    fn checksum(&mut self) -> io::Result<bool> {
        let expected = std::mem::take(&mut self.crc).finalize();
        let mut found = [0; 4];
        let is_there = self.fill(&mut found)?;
        self.crc = crc32fast::Hasher::new();
        Ok(is_there && u32::from_le_bytes(found) == expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 4;

    fn reread(file: &mut File) -> Option<Content> {
        read(file, b"model", SEGMENT).unwrap()
    }

    fn written() -> (File, Content) {
        let mut file = tempfile::tempfile().unwrap();
        let mut content = create(&mut file, b"model").unwrap();
        append(&mut file, &mut content, 0, &[1, 2, 3, 4], b"first").unwrap();
        append(&mut file, &mut content, 1, &[5, 6], b"second segment").unwrap();
        (file, content)
    }

    #[test]
    fn records_come_back_and_take_each_others_place() {
        let (mut file, mut content) = written();
        assert_eq!(reread(&mut file).as_ref(), Some(&content));
        assert_eq!(content.tokens().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read_cache(&mut file, 1, &content.segments[1]).unwrap(), b"second segment");
        let live = content.live_bytes();
        // It grows, then goes on otherwise from its beginning.
        append(&mut file, &mut content, 1, &[5, 6, 7, 8], b"more").unwrap();
        append(&mut file, &mut content, 2, &[9], b"x").unwrap();
        assert_eq!((reread(&mut file).unwrap(), content.n_tokens()), (content.clone(), 9));
        append(&mut file, &mut content, 0, &[7], b"y").unwrap();
        let again = reread(&mut file).unwrap();
        assert_eq!((again.tokens().collect::<Vec<_>>(), again.n_tokens()), (vec![7], 1));
        assert!(again.live_bytes() < live && again.end > live);
    }

    #[test]
    fn a_file_cut_anywhere_keeps_what_is_whole() {
        let (mut file, content) = written();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        for len in 0..bytes.len() {
            let mut cut = tempfile::tempfile().unwrap();
            cut.write_all(&bytes[..len]).unwrap();
            let Some(mut read) = reread(&mut cut) else { continue };
            assert!(read.segments.len() < 2);
            assert!(read.segments[..] == content.segments[..read.segments.len()]);
            // And it goes on from there.
            let segment = read.segments.len();
            append(&mut cut, &mut read, segment, &[9], b"z").unwrap();
            assert_eq!(reread(&mut cut).unwrap(), read);
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (mut file, _) = written();
        let len = file.metadata().unwrap().len();
        for at in 0..len {
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            let mut put = |byte: u8| {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&[byte]).unwrap();
            };
            put(!byte[0]);
            if let Some(read) = reread(&mut file) {
                let is_good = |(i, record)| read_cache(&mut file, i, record).is_ok();
                assert!(
                    read.segments.iter().enumerate().map(is_good).filter(|good| *good).count() < 2,
                    "byte {at}"
                );
            }
            let mut put = |byte: u8| {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&[byte]).unwrap();
            };
            put(byte[0]);
        }
    }

    #[test]
    fn files_of_others_and_records_out_of_place_are_not_taken() {
        let (mut file, _) = written();
        assert_eq!(read(&mut file, b"other", SEGMENT).unwrap(), None);
        assert_eq!(read(&mut file, b"longer identity", SEGMENT).unwrap(), None);
        // Segments of another length: the first record is too long, so nothing counts.
        assert_eq!(read(&mut file, b"model", 3).unwrap().unwrap().n_tokens(), 0);
        let mut file = tempfile::tempfile().unwrap();
        let mut content = create(&mut file, b"model").unwrap();
        append(&mut file, &mut content, 0, &[1, 2], b"half").unwrap();
        // After half a segment there is no next one.
        append(&mut file, &mut content, 1, &[5, 6], b"second").unwrap();
        assert_eq!(reread(&mut file).unwrap().n_tokens(), 2);
    }
}
