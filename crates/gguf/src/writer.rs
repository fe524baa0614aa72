//! Writes GGUF as a stream: declare everything in a [`Header`], then hand over the data of one tensor after the other.
//!
//! Memory is one small entry per key and tensor; text, arrays and tensor data stay where the caller has them.
//! Output is version 3, little-endian, tensors in order of declaration without gaps but for padding, the last one padded
//! too, which is what llama.cpp requires. (Arrays of arrays are legal GGUF, but llama.cpp refuses files with them.)

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};

use crate::TensorType;
use crate::gguf::Gguf;
use crate::parse::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_KEY_BYTES, MAX_KEYS, MAX_TENSORS};
use crate::tensor::{Dims, SizeError, tensor_bytes};
use crate::value::{MAX_ARRAY_DEPTH, Value};
use crate::write_value::{WriteValue, text};

/// Longest tensor name that is written. The format allows 64 bytes, llama.cpp 63 (`GGML_MAX_NAME` with its terminator).
pub const MAX_WRITTEN_NAME_BYTES: usize = 63;

const VERSION: u32 = 3;

/// Why a file could not be declared or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A key is empty or longer than the format allows.
    #[error("a key of {len_bytes} bytes cannot be written (1 to {MAX_KEY_BYTES} are allowed)")]
    KeyLength {
        /// Its length.
        len_bytes: usize,
    },
    /// A key is declared twice.
    #[error("key {key:?} is declared twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// More metadata entries or tensors than a reader accepts.
    #[error("more than {limit} {what} cannot be written")]
    TooMany {
        /// `metadata entries` or `tensors`.
        what: &'static str,
        /// The most there can be.
        limit: u64,
    },
    /// An array of arrays has an element that is no array.
    #[error("key {key:?}: an element of an array of arrays is no array")]
    NotAnArray {
        /// The key.
        key: String,
    },
    /// Arrays nest deeper than a reader accepts.
    #[error("key {key:?}: arrays nest deeper than {MAX_ARRAY_DEPTH} levels")]
    TooDeep {
        /// The key.
        key: String,
    },
    /// `general.alignment` is not a power of two stored as `u32`.
    #[error("general.alignment must be a power of two stored as u32")]
    Alignment,
    /// A tensor name is too long for llama.cpp.
    #[error("tensor name {name:?} has {} bytes, at most {MAX_WRITTEN_NAME_BYTES} are allowed", name.len())]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// A tensor is declared twice.
    #[error("tensor {name:?} is declared twice")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A shape has more than 4 dimensions or too many weights, or is too large to have an offset.
    #[error("tensor {name:?}: shape {dims:?} is not possible")]
    BadShape {
        /// The name.
        name: String,
        /// The shape.
        dims: Vec<u64>,
    },
    /// A row that is not a whole number of blocks.
    #[error("tensor {name:?}: a row of {row_len} weights is not a whole number of {ty} blocks")]
    RowNotWholeBlocks {
        /// The name.
        name: String,
        /// The type.
        ty: TensorType,
        /// Weights in a row.
        row_len: u64,
    },
    /// Data is given for another tensor than the next one.
    #[error("tensor {found:?} is written where {} is due", expected.as_deref().unwrap_or("no tensor"))]
    OutOfOrder {
        /// The tensor that is next, if any is left.
        expected: Option<String>,
        /// The tensor that was named.
        found: String,
    },
    /// Data before the first tensor was begun.
    #[error("tensor data was written before a tensor was begun")]
    NoTensor,
    /// More data than the tensor has.
    #[error("tensor {name:?}: {excess_bytes} bytes too many")]
    TooLong {
        /// The tensor.
        name: String,
        /// By how much the data is too long.
        excess_bytes: u64,
    },
    /// Less data than the tensor has.
    #[error("tensor {name:?}: {missing_bytes} bytes are missing")]
    TooShort {
        /// The tensor.
        name: String,
        /// By how much the data is too short.
        missing_bytes: u64,
    },
    /// The output refused.
    #[error("writing GGUF: {0}")]
    Io(#[from] io::Error),
}

struct Declared {
    name: String,
    ty: TensorType,
    dims: Dims,
    len_bytes: u64,
}

/// What a file will hold: its metadata and the names, types and shapes of its tensors, in order.
///
/// ```
/// use rawrz_gguf::{Gguf, Header, TensorType, Writer};
///
/// let mut header = Header::new();
/// header.set("general.architecture", "llama")?;
/// header.set("llama.block_count", 1u32)?;
/// header.set("tokenizer.ggml.tokens", &["a", "b"][..])?;
/// header.add_tensor("output_norm.weight", TensorType::F32, &[2])?;
///
/// let mut writer = Writer::start(Vec::new(), &header)?;
/// writer.write_tensor("output_norm.weight", &[0, 0, 128, 63, 0, 0, 128, 63])?;
/// let file: Vec<u8> = writer.finish()?;
///
/// let gguf = Gguf::from_vec(file)?;
/// assert_eq!(gguf.get_u32("llama.block_count")?, Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Header<'a> {
    alignment: u32,
    keys: Vec<(Cow<'a, str>, WriteValue<'a>)>,
    key_names: HashSet<Cow<'a, str>>,
    tensors: Vec<Declared>,
    tensor_names: HashSet<String>,
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Header<'a> {
    /// No metadata, no tensors, alignment 32.
    pub fn new() -> Header<'a> {
        Header {
            alignment: DEFAULT_ALIGNMENT,
            keys: Vec::new(),
            key_names: HashSet::new(),
            tensors: Vec::new(),
            tensor_names: HashSet::new(),
        }
    }

    /// The metadata and tensors of a file, in its order.
    ///
    /// # Errors
    /// When the file has a tensor name that llama.cpp would not read.
    pub fn copy_of(file: &'a Gguf) -> Result<Header<'a>, WriteError> {
        let mut header = Header::new();
        for (key, value) in file.metadata() {
            header.set(key, value)?;
        }
        for tensor in file.tensors() {
            header.add_tensor(tensor.name, tensor.ty, tensor.dims.as_slice())?;
        }
        Ok(header)
    }

    /// Adds a metadata entry. `general.alignment` also sets the alignment of tensor data.
    ///
    /// # Errors
    /// When the key is empty, too long or already there, or the value is not writable.
    pub fn set(
        &mut self,
        key: impl Into<Cow<'a, str>>,
        value: impl Into<WriteValue<'a>>,
    ) -> Result<(), WriteError> {
        let (key, value) = (key.into(), value.into());
        if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES {
            return Err(WriteError::KeyLength { len_bytes: key.len() });
        }
        if self.keys.len() as u64 == MAX_KEYS {
            return Err(WriteError::TooMany { what: "metadata entries", limit: MAX_KEYS });
        }
        match value.depth() {
            Some(depth) if depth > MAX_ARRAY_DEPTH => {
                return Err(WriteError::TooDeep { key: key.into() });
            }
            Some(_) => {}
            None => return Err(WriteError::NotAnArray { key: key.into() }),
        }
        if key == ALIGNMENT_KEY {
            match value {
                WriteValue::Value(Value::U32(alignment)) if alignment.is_power_of_two() => {
                    self.alignment = alignment;
                }
                _ => return Err(WriteError::Alignment),
            }
        }
        if !self.key_names.insert(key.clone()) {
            return Err(WriteError::DuplicateKey { key: key.into() });
        }
        self.keys.push((key, value));
        Ok(())
    }

    /// Declares the next tensor; `dims` in ggml's order, the row first.
    ///
    /// # Errors
    /// When the name is too long or already there, or the shape is not possible for the type.
    pub fn add_tensor(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        dims: &[u64],
    ) -> Result<(), WriteError> {
        let name = name.into();
        if name.len() > MAX_WRITTEN_NAME_BYTES {
            return Err(WriteError::NameTooLong { name });
        }
        if self.tensors.len() as u64 == MAX_TENSORS {
            return Err(WriteError::TooMany { what: "tensors", limit: MAX_TENSORS });
        }
        let Some(shape) = Dims::new(dims) else {
            let dims = dims.to_vec();
            return Err(WriteError::BadShape { name, dims });
        };
        let len_bytes = match tensor_bytes(ty, &shape) {
            Ok(len_bytes) => len_bytes,
            Err(SizeError::RowNotWholeBlocks) => {
                return Err(WriteError::RowNotWholeBlocks { name, ty, row_len: shape.row_len() });
            }
            Err(SizeError::Overflow) => {
                let dims = dims.to_vec();
                return Err(WriteError::BadShape { name, dims });
            }
        };
        if !self.tensor_names.insert(name.clone()) {
            return Err(WriteError::DuplicateTensor { name });
        }
        self.tensors.push(Declared { name, ty, dims: shape, len_bytes });
        Ok(())
    }

    /// Name and size in bytes of each tensor, in the order in which the data must be written.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, u64)> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.len_bytes))
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment.into()
    }

    /// Bytes of metadata and tensor directory, without padding.
    pub fn header_len(&self) -> u64 {
        let mut counter = Counter(0);
        // Counting does not fail.
        let _ = self.write(&mut counter, &vec![0; self.tensors.len()]);
        counter.0
    }

    /// Where each tensor starts in the data section.
    fn offsets(&self) -> Result<Vec<u64>, WriteError> {
        let mut next: u64 = 0;
        let mut offsets = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            offsets.push(next);
            next = next
                .checked_add(tensor.len_bytes)
                .and_then(|end| end.checked_next_multiple_of(self.alignment.into()))
                // A reader adds the start of the data section to every offset.
                .filter(|&end| end <= i64::MAX as u64)
                .ok_or_else(|| WriteError::BadShape {
                    name: tensor.name.clone(),
                    dims: tensor.dims.as_slice().to_vec(),
                })?;
        }
        Ok(offsets)
    }

    fn write(&self, out: &mut impl Write, offsets: &[u64]) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.tensors.len() as u64).to_le_bytes())?;
        out.write_all(&(self.keys.len() as u64).to_le_bytes())?;
        for (key, value) in &self.keys {
            text(key, out)?;
            out.write_all(&value.value_type().id().to_le_bytes())?;
            value.write(out)?;
        }
        for (tensor, offset) in self.tensors.iter().zip(offsets) {
            text(&tensor.name, out)?;
            let dims = tensor.dims.as_slice();
            out.write_all(&(dims.len() as u32).to_le_bytes())?;
            for dim in dims {
                out.write_all(&dim.to_le_bytes())?;
            }
            out.write_all(&tensor.ty.id().to_le_bytes())?;
            out.write_all(&offset.to_le_bytes())?;
        }
        Ok(())
    }
}

/// Counts what is written, and passes it on to nowhere.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file being written. Data goes straight to the output; wrap a file in `BufWriter` when chunks are small.
pub struct Writer<W: Write> {
    out: W,
    alignment: u64,
    /// Name and size of each tensor.
    tensors: Vec<(String, u64)>,
    /// Tensors begun so far; the last of them is the current one.
    n_begun: usize,
    /// Bytes still due for the current tensor.
    left_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes metadata, tensor directory and padding.
    ///
    /// # Errors
    /// When the tensors are too large to have offsets, or the output refuses.
    pub fn start(mut out: W, header: &Header<'_>) -> Result<Writer<W>, WriteError> {
        let offsets = header.offsets()?;
        let alignment = u64::from(header.alignment);
        {
            // Headers are written in pieces of a few bytes.
            let mut buffered = io::BufWriter::with_capacity(64 << 10, &mut out);
            header.write(&mut buffered, &offsets)?;
            pad(&mut buffered, header.header_len(), alignment)?;
            buffered.flush()?;
        }
        Ok(Writer {
            out,
            alignment,
            tensors: header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.len_bytes)).collect(),
            n_begun: 0,
            left_bytes: 0,
        })
    }

    /// Begins the next tensor, which must be `name`.
    ///
    /// # Errors
    /// When the one before is not complete, another one is due, or the output refuses.
    pub fn begin_tensor(&mut self, name: &str) -> Result<(), WriteError> {
        self.end_tensor()?;
        match self.tensors.get(self.n_begun) {
            Some((expected, len_bytes)) if expected == name => {
                self.left_bytes = *len_bytes;
                self.n_begun += 1;
                Ok(())
            }
            other => Err(WriteError::OutOfOrder {
                expected: other.map(|(expected, _)| expected.clone()),
                found: name.to_owned(),
            }),
        }
    }

    /// Writes the next bytes of the current tensor.
    ///
    /// # Errors
    /// When no tensor was begun, the bytes are more than are due (then none is written), or the output refuses.
    pub fn write_data(&mut self, chunk: &[u8]) -> Result<(), WriteError> {
        let Some((name, len_bytes)) = self.n_begun.checked_sub(1).map(|i| &self.tensors[i]) else {
            return Err(WriteError::NoTensor);
        };
        let chunk_bytes = chunk.len() as u64;
        if chunk_bytes > self.left_bytes {
            return Err(WriteError::TooLong {
                name: name.clone(),
                excess_bytes: chunk_bytes - self.left_bytes,
            });
        }
        self.out.write_all(chunk)?;
        self.left_bytes -= chunk_bytes;
        if self.left_bytes == 0 && chunk_bytes > 0 {
            pad(&mut self.out, *len_bytes, self.alignment)?;
        }
        Ok(())
    }

    /// Writes a whole tensor, which must be the next one.
    ///
    /// # Errors
    /// As [`Writer::begin_tensor`] and [`Writer::write_data`], and when the data is too short.
    pub fn write_tensor(&mut self, name: &str, data: &[u8]) -> Result<(), WriteError> {
        self.begin_tensor(name)?;
        self.write_data(data)?;
        self.end_tensor()
    }

    fn end_tensor(&self) -> Result<(), WriteError> {
        if self.left_bytes == 0 {
            return Ok(());
        }
        Err(WriteError::TooShort {
            name: self.tensors[self.n_begun - 1].0.clone(),
            missing_bytes: self.left_bytes,
        })
    }

    /// Ends the file and gives back the output, flushed.
    ///
    /// # Errors
    /// When the last tensor is not complete, tensors were not written at all, or the output refuses.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.end_tensor()?;
        if let Some((name, len_bytes)) = self.tensors.get(self.n_begun) {
            return Err(WriteError::TooShort { name: name.clone(), missing_bytes: *len_bytes });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Zeros from `len_bytes` to the next multiple of `alignment`.
fn pad(out: &mut impl Write, len_bytes: u64, alignment: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = len_bytes.next_multiple_of(alignment) - len_bytes;
    while left > 0 {
        let n = left.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..n as usize])?;
        left -= n;
    }
    Ok(())
}
