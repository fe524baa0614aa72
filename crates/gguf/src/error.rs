//! What can be wrong with a file: every error says where (a byte offset) and what (a key or tensor).

use std::fmt;

use crate::TensorType;
use crate::value::ValueType;

/// Longest piece of a hostile name that an error repeats.
const SHOWN_BYTES: usize = 96;

/// What an error is about. Names are cut to a bounded length and shown with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The fixed fields at the start of the file.
    Header,
    /// A metadata key.
    Key(Box<str>),
    /// A metadata entry whose key could not be read; counted from 0.
    KeyNumber(u64),
    /// A tensor.
    Tensor(Box<str>),
    /// A directory entry whose name could not be read; counted from 0.
    TensorNumber(u64),
}

impl Name {
    pub(crate) fn key(name: &str) -> Name {
        Name::Key(shorten(name).into())
    }

    pub(crate) fn tensor(name: &str) -> Name {
        Name::Tensor(shorten(name).into())
    }
}

/// The longest prefix of `name` that fits and ends between characters.
fn shorten(name: &str) -> &str {
    let mut end = name.len().min(SHOWN_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Header => f.write_str("the header"),
            Name::Key(name) => write!(f, "key {name:?}"),
            Name::KeyNumber(i) => write!(f, "key number {i}"),
            Name::Tensor(name) => write!(f, "tensor {name:?}"),
            Name::TensorNumber(i) => write!(f, "tensor number {i}"),
        }
    }
}

/// Why a file, a value or a set of shards was refused. Offsets count bytes from the start of the (joined) file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The header runs past the bytes at hand. When they are a prefix of the file, a longer prefix may parse.
    #[error("truncated at byte {offset}: {what} of {name} needs {needed_bytes} bytes, {left_bytes} are left")]
    Truncated {
        /// Where the field starts.
        offset: u64,
        /// The field.
        what: &'static str,
        /// Whose field.
        name: Name,
        /// Bytes the field needs, at least.
        needed_bytes: u64,
        /// Bytes from `offset` to the end.
        left_bytes: u64,
    },
    /// More header bytes were given than the file is said to have.
    #[error("{header_bytes} header bytes given for a file of {file_bytes} bytes")]
    HeaderLongerThanFile {
        /// Bytes given.
        header_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: it starts with bytes {found:02x?} (offset 0), not \"GGUF\"")]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A big-endian file.
    #[error(
        "big-endian GGUF (version {version} byte-swapped at offset 4) is not supported; convert it to little-endian"
    )]
    BigEndian {
        /// The version when read as big-endian.
        version: u32,
    },
    /// Version 1, whose lengths are 32-bit.
    #[error("GGUF version 1 (offset 4) is not supported; convert the file with a current llama.cpp")]
    Version1,
    /// A version that is neither 2 nor 3.
    #[error("GGUF version {version} (offset 4) is not supported; versions 2 and 3 are")]
    UnsupportedVersion {
        /// The version found.
        version: u32,
    },
    /// More metadata entries or tensors than the limit, or than the bytes that follow could hold.
    #[error("the header declares {count} {what} (offset {offset}), at most {limit} are possible")]
    CountTooLarge {
        /// Where the count is.
        offset: u64,
        /// What is counted: `metadata entries` or `tensors`.
        what: &'static str,
        /// The count found.
        count: u64,
        /// The largest count that would be accepted here.
        limit: u64,
    },
    /// A metadata key of no characters.
    #[error("{name} is empty (offset {offset})")]
    EmptyKey {
        /// Where the key's text starts.
        offset: u64,
        /// Which key.
        name: Name,
    },
    /// A key or tensor name longer than the format allows.
    #[error("the name of {name} has {len_bytes} bytes (offset {offset}), at most {limit_bytes} are allowed")]
    NameTooLong {
        /// Where the length is.
        offset: u64,
        /// Whose name.
        name: Name,
        /// The length found.
        len_bytes: u64,
        /// The longest length allowed.
        limit_bytes: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} of {name} is not valid UTF-8 at offset {offset}")]
    InvalidUtf8 {
        /// The first byte that is wrong.
        offset: u64,
        /// The field.
        what: &'static str,
        /// Whose field.
        name: Name,
    },
    /// Two metadata entries of one name.
    #[error("{name} appears a second time at offset {offset}; it is first at offset {first_offset}")]
    DuplicateKey {
        /// Where the second starts.
        offset: u64,
        /// Where the first starts.
        first_offset: u64,
        /// The key.
        name: Name,
    },
    /// A metadata value of a type that GGUF does not define.
    #[error("{name} has unknown value type {id} (offset {offset})")]
    UnknownValueType {
        /// Where the type id is.
        offset: u64,
        /// The key.
        name: Name,
        /// The id found.
        id: u32,
    },
    /// An array with elements of a type that GGUF does not define.
    #[error("the array of {name} has unknown element type {id} (offset {offset})")]
    UnknownElementType {
        /// Where the type id is.
        offset: u64,
        /// The key.
        name: Name,
        /// The id found.
        id: u32,
    },
    /// Arrays nested deeper than the limit.
    #[error("the arrays of {name} nest deeper than {limit} levels (offset {offset})")]
    TooDeep {
        /// Where the array that is too deep starts.
        offset: u64,
        /// The key.
        name: Name,
        /// The deepest nesting allowed.
        limit: usize,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("{name} has truth value {value} (offset {offset}); 0 and 1 are defined")]
    InvalidBool {
        /// Where the byte is.
        offset: u64,
        /// The key.
        name: Name,
        /// The byte found.
        value: u8,
    },
    /// `general.alignment` is not an unsigned 32-bit integer.
    #[error("general.alignment (offset {offset}) has type {found}, not u32")]
    AlignmentType {
        /// Where the key starts.
        offset: u64,
        /// The type found.
        found: ValueType,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment (offset {offset}) is {alignment}, not a power of two")]
    AlignmentNotPowerOfTwo {
        /// Where the key starts.
        offset: u64,
        /// The value found.
        alignment: u32,
    },
    /// Two tensors of one name.
    #[error("{name} appears a second time at offset {offset}; it is first at offset {first_offset}")]
    DuplicateTensor {
        /// Where the second directory entry starts.
        offset: u64,
        /// Where the first directory entry starts.
        first_offset: u64,
        /// The tensor.
        name: Name,
    },
    /// More dimensions than ggml tensors have.
    #[error("{name} has {n_dims} dimensions (offset {offset}), at most 4 are allowed")]
    TooManyDims {
        /// Where the count is.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The count found.
        n_dims: u32,
    },
    /// The number of weights does not fit 63 bits.
    #[error("{name} has dimensions {dims:?} (offset {offset}), whose product overflows")]
    TooManyElements {
        /// Where the dimensions are.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The dimensions found; absent ones are 1.
        dims: [u64; 4],
    },
    /// A tensor type that ggml had once and removed.
    #[error(
        "{name} has type {type_name} (id {id}, offset {offset}), which was removed from GGUF; quantize the model again"
    )]
    RemovedTensorType {
        /// Where the id is.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The id found.
        id: u32,
        /// The name the type had.
        type_name: &'static str,
    },
    /// A tensor type that ggml does not define.
    #[error("{name} has unknown tensor type {id} (offset {offset})")]
    UnknownTensorType {
        /// Where the id is.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The id found.
        id: u32,
    },
    /// A row that is not a whole number of blocks.
    #[error(
        "{name} has rows of {row_len} weights (offset {offset}), not a multiple of the {block_len} of a {ty} block"
    )]
    RowNotWholeBlocks {
        /// Where the dimensions are.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The tensor's type.
        ty: TensorType,
        /// Weights in a row.
        row_len: u64,
        /// Weights in a block.
        block_len: usize,
    },
    /// The tensor's size in bytes, or its place in the file, does not fit 64 bits.
    #[error("{name} has a size or place that overflows (offset {offset})")]
    ExtentOverflow {
        /// Where the directory entry starts.
        offset: u64,
        /// The tensor.
        name: Name,
    },
    /// The tensor's data does not start at a multiple of the alignment.
    #[error(
        "{name} has data offset {data_offset} (offset {offset}), not a multiple of the alignment {alignment}"
    )]
    Misaligned {
        /// Where the data offset is.
        offset: u64,
        /// The tensor.
        name: Name,
        /// The data offset found, from the start of the data section.
        data_offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// The tensor's data runs past the end of the file.
    #[error(
        "{name} ends at byte {end} (directory entry at offset {offset}), the file has {file_bytes} bytes"
    )]
    OutOfFile {
        /// Where the directory entry starts.
        offset: u64,
        /// The tensor.
        name: Name,
        /// One past the last byte of the tensor.
        end: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// The data of two tensors overlap.
    #[error(
        "{name} at byte {start} overlaps {other}, which ends at byte {other_end} (directory entry at offset {offset})"
    )]
    Overlap {
        /// Where the directory entry of `name` starts.
        offset: u64,
        /// The tensor that starts too early.
        name: Name,
        /// The first byte of its data.
        start: u64,
        /// The tensor it runs into.
        other: Name,
        /// One past the last byte of that tensor.
        other_end: u64,
    },
    /// A value has another type than asked for.
    #[error("{name} (offset {offset}) has type {found}, expected {expected}")]
    WrongType {
        /// Where the value starts.
        offset: u64,
        /// The key.
        name: Name,
        /// What was asked for.
        expected: &'static str,
        /// The type found.
        found: ValueType,
    },
    /// An integer does not fit the type asked for.
    #[error("{name} (offset {offset}) is {value}, which does not fit {expected}")]
    OutOfRange {
        /// Where the value starts.
        offset: u64,
        /// The key.
        name: Name,
        /// The type asked for.
        expected: &'static str,
        /// The value found.
        value: i128,
    },
    /// No file was given.
    #[error("a model needs at least one file")]
    NoShards,
    /// A file of a sharded model lacks `split.no`.
    #[error("file {position} of the sharded model lacks split.no")]
    ShardNumberMissing {
        /// Position in the list, from 0.
        position: usize,
    },
    /// The files are in the wrong order, or one is of another place.
    #[error("file {position} of the sharded model has split.no {found}, expected {position}")]
    ShardOutOfOrder {
        /// Position in the list, from 0.
        position: usize,
        /// `split.no` of that file.
        found: u64,
    },
    /// The number of files differs from `split.count`.
    #[error("split.count of file {position} is {declared}, but {given} files were given")]
    ShardCount {
        /// Position in the list, from 0.
        position: usize,
        /// `split.count` of that file; 1 when absent.
        declared: u64,
        /// Number of files.
        given: usize,
    },
    /// The number of tensors differs from `split.tensors.count`.
    #[error("split.tensors.count is {declared}, but the files hold {found} tensors")]
    ShardTensorCount {
        /// `split.tensors.count` of the first file.
        declared: u64,
        /// Tensors in all files together.
        found: u64,
    },
    /// Two files hold a tensor of the same name.
    #[error("{name} is in file {first} and again in file {second} of the sharded model (offset {offset})")]
    ShardDuplicateTensor {
        /// Where the second directory entry starts, in its file.
        offset: u64,
        /// The tensor.
        name: Name,
        /// Position of the first file.
        first: usize,
        /// Position of the second file.
        second: usize,
    },
}
