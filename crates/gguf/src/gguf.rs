//! One parsed file.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Name};
use crate::parse::{self, Directory, KeyEntry, TensorEntry, ValueSpan, raw_name, text};
use crate::tensor::TensorInfo;
use crate::value::{Array, Value};

/// The bytes of a file's header: a mapped file, or bytes in memory. They must not move or change while in use.
/// Should they change all the same, values may read as empty or garbled, but nothing panics or reads out of bounds.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// One GGUF file: its metadata and tensor directory. Keeps the bytes alive and copies no text or array out of them.
pub struct Gguf {
    bytes: Bytes,
    file_bytes: u64,
    directory: Directory,
}

impl Gguf {
    /// Parses and checks a file of `file_len` bytes, of which `header` is a prefix that holds at least all metadata and
    /// the tensor directory. The whole file is a fine header.
    ///
    /// # Errors
    /// [`Error::Truncated`] when metadata or directory run past `header`: a longer prefix may then parse, if the file
    /// has one. Any other error is final. Tensor extents are checked against `file_len`.
    pub fn parse(header: Bytes, file_len: u64) -> Result<Gguf, Error> {
        let directory = parse::parse((*header).as_ref(), file_len)?;
        Ok(Gguf { bytes: header, file_bytes: file_len, directory })
    }

    /// Parses a whole file that is in memory.
    ///
    /// # Errors
    /// As [`Gguf::parse`].
    pub fn from_vec(file: Vec<u8>) -> Result<Gguf, Error> {
        let file_len = file.len() as u64;
        Gguf::parse(Arc::new(file), file_len)
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.directory.alignment
    }

    /// Start of the data section in bytes. In a file without tensors it may lie past the end.
    pub fn data_offset(&self) -> u64 {
        self.directory.data_offset
    }

    /// Bytes of metadata and tensor directory, without the padding that follows.
    pub fn header_len(&self) -> u64 {
        self.directory.header_len
    }

    /// Length of the file in bytes, as given to [`Gguf::parse`].
    pub fn file_len(&self) -> u64 {
        self.file_bytes
    }

    /// The bytes that were given as header.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn raw(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    fn key_entry(&self, key: &str) -> Option<&KeyEntry> {
        let raw = self.raw();
        let keys = &self.directory.keys;
        let at = self.directory.key_index.find(key.as_bytes(), |i| raw_name(raw, &keys[i as usize].name))?;
        Some(&keys[at as usize])
    }

    fn value(&self, entry: &KeyEntry) -> Option<Value<'_>> {
        match &entry.value {
            ValueSpan::Single(ty, span) => {
                Value::read(*ty, self.raw().get(span.clone())?).map(|(value, _)| value)
            }
            ValueSpan::Array(element_type, len, span) => {
                Some(Value::Array(Array::from_parts(*element_type, *len, self.raw().get(span.clone())?)))
            }
        }
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.key_entry(key)?)
    }

    /// All metadata in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.directory
            .keys
            .iter()
            .filter_map(|entry| Some((text(self.raw(), &entry.name), self.value(entry)?)))
    }

    /// Number of metadata entries.
    pub fn n_keys(&self) -> usize {
        self.directory.keys.len()
    }

    fn info(&self, entry: &TensorEntry) -> TensorInfo<'_> {
        TensorInfo {
            name: text(self.raw(), &entry.name),
            ty: entry.ty,
            dims: entry.dims,
            file_offset: entry.file_offset,
            len_bytes: entry.len_bytes,
        }
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        let raw = self.raw();
        let tensors = &self.directory.tensors;
        let at = self
            .directory
            .tensor_index
            .find(name.as_bytes(), |i| raw_name(raw, &tensors[i as usize].name))?;
        Some(self.info(&tensors[at as usize]))
    }

    /// All tensors in the order of the directory.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.directory.tensors.iter().map(|entry| self.info(entry))
    }

    /// Number of tensors.
    pub fn n_tensors(&self) -> usize {
        self.directory.tensors.len()
    }

    /// Where the directory entry of a tensor starts, for errors.
    pub(crate) fn entry_offset(&self, name: &str) -> u64 {
        let raw = self.raw();
        let tensors = &self.directory.tensors;
        self.directory
            .tensor_index
            .find(name.as_bytes(), |i| raw_name(raw, &tensors[i as usize].name))
            .map_or(0, |at| tensors[at as usize].entry_offset())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(entry) = self.key_entry(key) else {
            return Ok(None);
        };
        let Some(value) = self.value(entry) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(mismatch(entry, key, expected, value)),
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Option<T>, Error> {
        self.typed(key, expected, |value| T::try_from(value.as_integer()?).ok())
    }

    /// An integer of any stored type whose value fits `u32`; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is no integer, [`Error::OutOfRange`] when it does not fit.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.integer(key, "u32")
    }

    /// An integer of any stored type whose value fits `u64`; `None` when the key is absent.
    ///
    /// # Errors
    /// As [`Gguf::get_u32`].
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.integer(key, "u64")
    }

    /// An integer of any stored type whose value fits `i32`; `None` when the key is absent.
    ///
    /// # Errors
    /// As [`Gguf::get_u32`].
    pub fn get_i32(&self, key: &str) -> Result<Option<i32>, Error> {
        self.integer(key, "i32")
    }

    /// A float, stored as `f32` or `f64` (then rounded to nearest); `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is no float.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "f32", |value| match value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// A truth value; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is of another type.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "bool", |value| match value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A text; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is of another type.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "string", |value| value.as_str())
    }

    /// An array of any element type; `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] when the value is no array.
    pub fn get_array(&self, key: &str) -> Result<Option<Array<'_>>, Error> {
        self.typed(key, "array", |value| value.as_array())
    }
}

#[cold]
fn mismatch(entry: &KeyEntry, key: &str, expected: &'static str, value: Value<'_>) -> Error {
    let offset = match &entry.value {
        ValueSpan::Single(_, span) | ValueSpan::Array(_, _, span) => span.start as u64,
    };
    let name = Name::key(key);
    match value.as_integer() {
        Some(value) if matches!(expected, "u32" | "u64" | "i32") => {
            Error::OutOfRange { offset, name, expected, value }
        }
        _ => Error::WrongType { offset, name, expected, found: value.value_type() },
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.version())
            .field("alignment", &self.alignment())
            .field("n_keys", &self.n_keys())
            .field("n_tensors", &self.n_tensors())
            .field("file_len", &self.file_bytes)
            .finish()
    }
}
