//! The one place that checks a file. What leaves here is known to be in bounds, unique and consistent.
//!
//! Text is checked as UTF-8 here, in the same pass that finds where each value ends. Memory is bounded: 16 bytes of
//! index and one entry per key and per tensor, whose counts are limited by constants and by the bytes of the file.

use std::ops::Range;

use crate::cursor::{Cursor, Subject};
use crate::error::{Error, Name};
use crate::index::NameIndex;
use crate::tensor::{Dims, MAX_DIMS, SizeError, tensor_bytes};
use crate::tensor_type::{TensorType, removed_name};
use crate::value::{MAX_ARRAY_DEPTH, ValueType};

/// First four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// `general.alignment` when the file has none.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Longest key: 2^16 - 1 bytes, by the GGUF specification.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name: 64 bytes, by the GGUF specification.
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// Most metadata entries. Real files have tens; the limit bounds the memory a hostile one takes.
pub const MAX_KEYS: u64 = 1 << 16;
/// Most tensors. Real files have up to some ten thousand; the limit bounds the memory a hostile one takes.
pub const MAX_TENSORS: u64 = 1 << 18;

/// A metadata entry needs a key length, one byte of key, a type and one byte of value.
const MIN_KEY_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;
/// A directory entry needs a name length, a dimension count, a type and an offset.
const MIN_TENSOR_ENTRY_BYTES: u64 = 8 + 4 + 4 + 8;

/// A span of the header.
pub(crate) type Span = Range<usize>;

pub(crate) struct KeyEntry {
    pub(crate) name: Span,
    pub(crate) value: ValueSpan,
}

/// Where a value lies and, so that arrays need no second walk, its outer shape.
pub(crate) enum ValueSpan {
    /// A value that is not an array, with its length field if it is text.
    Single(ValueType, Span),
    /// The elements, without the array's header.
    Array(ValueType, usize, Span),
}

impl ValueSpan {
    pub(crate) fn value_type(&self) -> ValueType {
        match self {
            ValueSpan::Single(ty, _) => *ty,
            ValueSpan::Array(..) => ValueType::Array,
        }
    }
}

pub(crate) struct TensorEntry {
    pub(crate) name: Span,
    pub(crate) ty: TensorType,
    pub(crate) dims: Dims,
    /// Relative to the data section until the section's start is known, then to the file.
    pub(crate) file_offset: u64,
    pub(crate) len_bytes: u64,
}

impl TensorEntry {
    /// Where the directory entry starts: at the length before the name.
    pub(crate) fn entry_offset(&self) -> u64 {
        self.name.start as u64 - 8
    }
}

/// All that is known of a file after checking it.
pub(crate) struct Directory {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) header_len: u64,
    pub(crate) data_offset: u64,
    pub(crate) keys: Vec<KeyEntry>,
    pub(crate) key_index: NameIndex,
    pub(crate) tensors: Vec<TensorEntry>,
    pub(crate) tensor_index: NameIndex,
}

/// The bytes of a name, for the index; none should the file have changed since.
pub(crate) fn raw_name<'a>(bytes: &'a [u8], span: &Span) -> &'a [u8] {
    bytes.get(span.clone()).unwrap_or_default()
}

/// Text at a span that was checked; empty should the bytes have changed since.
pub(crate) fn text<'a>(bytes: &'a [u8], span: &Span) -> &'a str {
    bytes.get(span.clone()).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or("")
}

/// Parses `bytes`, a prefix of a file of `file_bytes` bytes that holds at least metadata and tensor directory.
pub(crate) fn parse(bytes: &[u8], file_bytes: u64) -> Result<Directory, Error> {
    if bytes.len() as u64 > file_bytes {
        return Err(Error::HeaderLongerThanFile { header_bytes: bytes.len() as u64, file_bytes });
    }
    let mut cursor = Cursor::new(bytes);
    let version = read_version(&mut cursor)?;
    let n_tensors_at = cursor.offset();
    let n_tensors = cursor.u64("the tensor count", Subject::Header)?;
    let n_keys_at = cursor.offset();
    let n_keys = cursor.u64("the metadata count", Subject::Header)?;
    let left_bytes = file_bytes - cursor.offset();
    let n_keys =
        checked_count(n_keys, n_keys_at, "metadata entries", MAX_KEYS.min(left_bytes / MIN_KEY_ENTRY_BYTES))?;
    let n_tensors = checked_count(
        n_tensors,
        n_tensors_at,
        "tensors",
        MAX_TENSORS.min(left_bytes / MIN_TENSOR_ENTRY_BYTES),
    )?;

    let keys = read_keys(&mut cursor, n_keys)?;
    let key_index = NameIndex::build(n_keys, |i| raw_name(bytes, &keys[i as usize].name)).map_err(
        |(first, second)| {
            let second = &keys[second as usize].name;
            Error::DuplicateKey {
                offset: second.start as u64,
                first_offset: keys[first as usize].name.start as u64,
                name: Name::key(text(bytes, second)),
            }
        },
    )?;
    let alignment = key_index
        .find(ALIGNMENT_KEY.as_bytes(), |i| raw_name(bytes, &keys[i as usize].name))
        .map_or(Ok(DEFAULT_ALIGNMENT), |i| read_alignment(bytes, &keys[i as usize]))?;
    let alignment = u64::from(alignment);

    let mut tensors = read_tensors(&mut cursor, n_tensors, alignment)?;
    let tensor_index = NameIndex::build(n_tensors, |i| raw_name(bytes, &tensors[i as usize].name)).map_err(
        |(first, second)| {
            let second = &tensors[second as usize];
            Error::DuplicateTensor {
                offset: second.entry_offset(),
                first_offset: tensors[first as usize].entry_offset(),
                name: Name::tensor(text(bytes, &second.name)),
            }
        },
    )?;

    let header_len = cursor.offset();
    // Cannot overflow: a slice has at most 2^63 - 1 bytes and the alignment at most 2^31.
    let data_offset = header_len.next_multiple_of(alignment);
    place_tensors(bytes, file_bytes, data_offset, &mut tensors)?;
    Ok(Directory { version, alignment, header_len, data_offset, keys, key_index, tensors, tensor_index })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let magic = cursor.magic()?;
    if magic != MAGIC {
        return Err(Error::BadMagic { found: magic });
    }
    let version = cursor.u32("the version", Subject::Header)?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::Version1),
        // A small number whose bytes are swapped.
        _ if (1..=0xffff).contains(&version.swap_bytes()) => {
            Err(Error::BigEndian { version: version.swap_bytes() })
        }
        _ => Err(Error::UnsupportedVersion { version }),
    }
}

fn checked_count(count: u64, offset: u64, what: &'static str, limit: u64) -> Result<u32, Error> {
    match u32::try_from(count) {
        Ok(small) if count <= limit => Ok(small),
        _ => Err(Error::CountTooLarge { offset, what, count, limit }),
    }
}

/// Reads a length and that many bytes of UTF-8. The span excludes the length.
#[inline]
fn read_text<'a>(
    cursor: &mut Cursor<'a>,
    what: &'static str,
    subject: Subject<'_>,
) -> Result<(&'a str, Span), Error> {
    let len_bytes = cursor.u64(what, subject)?;
    let start = cursor.pos();
    let raw = cursor.take(len_bytes, what, subject)?;
    match std::str::from_utf8(raw) {
        Ok(text) => Ok((text, start..cursor.pos())),
        Err(error) => Err(Error::InvalidUtf8 {
            offset: (start + error.valid_up_to()) as u64,
            what,
            name: subject.to_name(),
        }),
    }
}

/// Reads a key or tensor name of at most `limit_bytes`.
fn read_name<'a>(
    cursor: &mut Cursor<'a>,
    what: &'static str,
    subject: Subject<'_>,
    limit_bytes: u64,
) -> Result<(&'a str, Span), Error> {
    let len_bytes = cursor.clone().u64(what, subject)?;
    if len_bytes > limit_bytes {
        return Err(Error::NameTooLong {
            offset: cursor.offset(),
            name: subject.to_name(),
            len_bytes,
            limit_bytes,
        });
    }
    read_text(cursor, what, subject)
}

fn read_keys(cursor: &mut Cursor<'_>, n_keys: u32) -> Result<Vec<KeyEntry>, Error> {
    let mut keys = Vec::with_capacity(capacity(cursor, n_keys, MIN_KEY_ENTRY_BYTES));
    for i in 0..n_keys {
        let subject = Subject::KeyNumber(i.into());
        let (key, name) = read_name(cursor, "the name", subject, MAX_KEY_BYTES)?;
        if key.is_empty() {
            return Err(Error::EmptyKey { offset: name.start as u64, name: subject.to_name() });
        }
        let value = read_value(cursor, key)?;
        keys.push(KeyEntry { name, value });
    }
    Ok(keys)
}

/// Entries to reserve room for: no more than the bytes at hand can hold, whatever the count says.
fn capacity(cursor: &Cursor<'_>, count: u32, min_entry_bytes: u64) -> usize {
    (cursor.left_bytes() / min_entry_bytes).min(count.into()) as usize
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueSpan, Error> {
    let offset = cursor.offset();
    let id = cursor.u32("the value type", Subject::Key(key))?;
    let ty =
        ValueType::from_id(id).ok_or_else(|| Error::UnknownValueType { offset, name: Name::key(key), id })?;
    if ty == ValueType::Array {
        let (element_type, len) = read_array_header(cursor, key)?;
        let start = cursor.pos();
        skip_elements(cursor, key, element_type, len, MAX_ARRAY_DEPTH - 1)?;
        // Every element takes a byte or more, so the length fits `usize`.
        return Ok(ValueSpan::Array(element_type, len as usize, start..cursor.pos()));
    }
    let start = cursor.pos();
    skip_elements(cursor, key, ty, 1, 0)?;
    Ok(ValueSpan::Single(ty, start..cursor.pos()))
}

fn read_array_header(cursor: &mut Cursor<'_>, key: &str) -> Result<(ValueType, u64), Error> {
    let subject = Subject::Key(key);
    let offset = cursor.offset();
    let id = cursor.u32("the element type", subject)?;
    let element_type = ValueType::from_id(id).ok_or_else(|| Error::UnknownElementType {
        offset,
        name: Name::key(key),
        id,
    })?;
    let len = cursor.u64("the array length", subject)?;
    let least_bytes = len.saturating_mul(element_type.min_bytes() as u64);
    if least_bytes > cursor.left_bytes() {
        return Err(cursor.truncated("the array", subject, least_bytes));
    }
    Ok((element_type, len))
}

/// Checks `len` values of one type and moves past them. `depth_left` is how many more levels of arrays may follow.
fn skip_elements(
    cursor: &mut Cursor<'_>,
    key: &str,
    ty: ValueType,
    len: u64,
    depth_left: usize,
) -> Result<(), Error> {
    let subject = Subject::Key(key);
    match ty {
        ValueType::Str => {
            let mut left = len;
            while left > 0 {
                left -= cursor.skip_texts(left);
                if left > 0 {
                    // The next one is bad: read it again for the error.
                    read_text(cursor, "the text", subject)?;
                    left -= 1;
                }
            }
        }
        ValueType::Array => {
            for _ in 0..len {
                let Some(depth_left) = depth_left.checked_sub(1) else {
                    return Err(Error::TooDeep {
                        offset: cursor.offset(),
                        name: Name::key(key),
                        limit: MAX_ARRAY_DEPTH,
                    });
                };
                let (element_type, len) = read_array_header(cursor, key)?;
                skip_elements(cursor, key, element_type, len, depth_left)?;
            }
        }
        _ => {
            let start = cursor.offset();
            let len_bytes = len.saturating_mul(ty.min_bytes() as u64);
            let raw = cursor.take(len_bytes, "the value", subject)?;
            if ty == ValueType::Bool
                && let Some(at) = raw.iter().position(|&byte| byte > 1)
            {
                return Err(Error::InvalidBool {
                    offset: start + at as u64,
                    name: Name::key(key),
                    value: raw[at],
                });
            }
        }
    }
    Ok(())
}

fn read_alignment(bytes: &[u8], entry: &KeyEntry) -> Result<u32, Error> {
    let offset = entry.name.start as u64;
    let alignment = match &entry.value {
        ValueSpan::Single(ValueType::U32, span) => {
            bytes.get(span.clone()).and_then(|raw| raw.first_chunk()).map(|raw| u32::from_le_bytes(*raw))
        }
        _ => None,
    };
    let alignment = alignment.ok_or(Error::AlignmentType { offset, found: entry.value.value_type() })?;
    if !alignment.is_power_of_two() {
        return Err(Error::AlignmentNotPowerOfTwo { offset, alignment });
    }
    Ok(alignment)
}

fn read_tensors(cursor: &mut Cursor<'_>, n_tensors: u32, alignment: u64) -> Result<Vec<TensorEntry>, Error> {
    let mut tensors = Vec::with_capacity(capacity(cursor, n_tensors, MIN_TENSOR_ENTRY_BYTES));
    for i in 0..n_tensors {
        tensors.push(read_tensor(cursor, i, alignment)?);
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor<'_>, i: u32, alignment: u64) -> Result<TensorEntry, Error> {
    let entry_at = cursor.offset();
    let number = Subject::TensorNumber(i.into());
    let (tensor, name) = read_name(cursor, "the name", number, MAX_TENSOR_NAME_BYTES)?;
    let subject = Subject::Tensor(tensor);

    let n_dims_at = cursor.offset();
    let n_dims = cursor.u32("the dimension count", subject)?;
    if n_dims as usize > MAX_DIMS {
        return Err(Error::TooManyDims { offset: n_dims_at, name: subject.to_name(), n_dims });
    }
    let dims_at = cursor.offset();
    let mut ne = [1; MAX_DIMS];
    for dim in &mut ne[..n_dims as usize] {
        *dim = cursor.u64("a dimension", subject)?;
    }
    let dims = Dims::new(&ne[..n_dims as usize]).ok_or_else(|| Error::TooManyElements {
        offset: dims_at,
        name: subject.to_name(),
        dims: ne,
    })?;

    let type_at = cursor.offset();
    let id = cursor.u32("the tensor type", subject)?;
    let ty = TensorType::from_id(id).ok_or_else(|| {
        let (offset, name) = (type_at, subject.to_name());
        match removed_name(id) {
            Some(type_name) => Error::RemovedTensorType { offset, name, id, type_name },
            None => Error::UnknownTensorType { offset, name, id },
        }
    })?;
    let len_bytes = tensor_bytes(ty, &dims).map_err(|error| match error {
        SizeError::RowNotWholeBlocks => Error::RowNotWholeBlocks {
            offset: dims_at,
            name: subject.to_name(),
            ty,
            row_len: dims.row_len(),
            block_len: ty.block_len(),
        },
        SizeError::Overflow => Error::ExtentOverflow { offset: entry_at, name: subject.to_name() },
    })?;

    let offset_at = cursor.offset();
    let data_offset = cursor.u64("the data offset", subject)?;
    if !data_offset.is_multiple_of(alignment) {
        return Err(Error::Misaligned { offset: offset_at, name: subject.to_name(), data_offset, alignment });
    }
    Ok(TensorEntry { name, ty, dims, file_offset: data_offset, len_bytes })
}

/// Turns offsets in the data section into offsets in the file, and checks that extents are in the file and disjoint.
fn place_tensors(
    bytes: &[u8],
    file_bytes: u64,
    data_offset: u64,
    tensors: &mut [TensorEntry],
) -> Result<(), Error> {
    let mut ascending = true;
    let mut last_end = 0;
    for tensor in tensors.iter_mut() {
        let extent = data_offset
            .checked_add(tensor.file_offset)
            .and_then(|start| Some((start, start.checked_add(tensor.len_bytes)?)));
        let Some((start, end)) = extent else {
            return Err(Error::ExtentOverflow {
                offset: tensor.entry_offset(),
                name: Name::tensor(text(bytes, &tensor.name)),
            });
        };
        if end > file_bytes {
            return Err(Error::OutOfFile {
                offset: tensor.entry_offset(),
                name: Name::tensor(text(bytes, &tensor.name)),
                end,
                file_bytes,
            });
        }
        tensor.file_offset = start;
        ascending &= start >= last_end;
        last_end = end;
    }
    if ascending {
        return Ok(());
    }
    // Only files with tensors out of order, or overlapping, pay for a sort.
    let mut by_start: Vec<&TensorEntry> = tensors.iter().filter(|t| t.len_bytes > 0).collect();
    by_start.sort_by_key(|tensor| tensor.file_offset);
    for pair in by_start.windows(2) {
        let other_end = pair[0].file_offset + pair[0].len_bytes;
        if other_end > pair[1].file_offset {
            return Err(Error::Overlap {
                offset: pair[1].entry_offset(),
                name: Name::tensor(text(bytes, &pair[1].name)),
                start: pair[1].file_offset,
                other: Name::tensor(text(bytes, &pair[0].name)),
                other_end,
            });
        }
    }
    Ok(())
}
