//! Metadata values, borrowed from the file's bytes.
//!
//! The parser has checked every value, so the accessors here do not fail on a file that stays as it was. Should the
//! bytes change underneath (a file truncated or rewritten while mapped), text that is no longer UTF-8 reads as empty
//! and iterators end early; nothing reads out of bounds.

use std::fmt;
use std::ops::Range;

/// Deepest nesting of arrays in one value; llama.cpp reads one level, files in the wild have at most two.
pub const MAX_ARRAY_DEPTH: usize = 8;

macro_rules! value_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $size:expr;)*) => {
        /// Type of a metadata value, with the ids of the GGUF specification.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ValueType {
            $($(#[$doc])* $variant = $id,)*
        }

        impl ValueType {
            /// Every type, by ascending id.
            pub const ALL: &'static [ValueType] = &[$(ValueType::$variant),*];

            /// The type with this id in the file.
            pub const fn from_id(id: u32) -> Option<ValueType> {
                match id {
                    $($id => Some(ValueType::$variant),)*
                    _ => None,
                }
            }

            /// A short name, such as `u32` or `array`.
            pub const fn name(self) -> &'static str {
                match self { $(ValueType::$variant => $name,)* }
            }

            /// Bytes of a value, where all values of the type have the same size.
            pub const fn fixed_bytes(self) -> Option<usize> {
                match self { $(ValueType::$variant => $size,)* }
            }
        }
    };
}

value_types! {
    /// Unsigned 8-bit integer.
    U8 = 0, "u8", Some(1);
    /// Signed 8-bit integer.
    I8 = 1, "i8", Some(1);
    /// Unsigned 16-bit integer.
    U16 = 2, "u16", Some(2);
    /// Signed 16-bit integer.
    I16 = 3, "i16", Some(2);
    /// Unsigned 32-bit integer.
    U32 = 4, "u32", Some(4);
    /// Signed 32-bit integer.
    I32 = 5, "i32", Some(4);
    /// IEEE binary32.
    F32 = 6, "f32", Some(4);
    /// One byte, 0 or 1.
    Bool = 7, "bool", Some(1);
    /// Length and UTF-8 text.
    Str = 8, "string", None;
    /// Element type, length and elements.
    Array = 9, "array", None;
    /// Unsigned 64-bit integer.
    U64 = 10, "u64", Some(8);
    /// Signed 64-bit integer.
    I64 = 11, "i64", Some(8);
    /// IEEE binary64.
    F64 = 12, "f64", Some(8);
}

impl ValueType {
    /// The id in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes that a value of this type has at least: the fixed size, or the length fields.
    pub(crate) const fn min_bytes(self) -> usize {
        match self {
            ValueType::Str => 8,
            ValueType::Array => 12,
            other => match other.fixed_bytes() {
                Some(size) => size,
                None => unreachable!(),
            },
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One metadata value. Text and arrays point into the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Unsigned 8-bit integer.
    U8(u8),
    /// Signed 8-bit integer.
    I8(i8),
    /// Unsigned 16-bit integer.
    U16(u16),
    /// Signed 16-bit integer.
    I16(i16),
    /// Unsigned 32-bit integer.
    U32(u32),
    /// Signed 32-bit integer.
    I32(i32),
    /// Unsigned 64-bit integer.
    U64(u64),
    /// Signed 64-bit integer.
    I64(i64),
    /// IEEE binary32.
    F32(f32),
    /// IEEE binary64.
    F64(f64),
    /// Truth value.
    Bool(bool),
    /// Text.
    Str(&'a str),
    /// Array, possibly of arrays.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F32(_) => ValueType::F32,
            Value::F64(_) => ValueType::F64,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
        }
    }

    /// The value of any integer type; `None` for other types.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The array, if it is one.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Reads the value of type `ty` at the start of `bytes` and says how many bytes it takes.
    /// `None` when the bytes are not those the parser saw.
    pub(crate) fn read(ty: ValueType, bytes: &'a [u8]) -> Option<(Value<'a>, usize)> {
        fn chunk<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk().copied()
        }
        Some(match ty {
            ValueType::U8 => (Value::U8(*bytes.first()?), 1),
            ValueType::I8 => (Value::I8(i8::from_le_bytes(chunk(bytes)?)), 1),
            ValueType::U16 => (Value::U16(u16::from_le_bytes(chunk(bytes)?)), 2),
            ValueType::I16 => (Value::I16(i16::from_le_bytes(chunk(bytes)?)), 2),
            ValueType::U32 => (Value::U32(u32::from_le_bytes(chunk(bytes)?)), 4),
            ValueType::I32 => (Value::I32(i32::from_le_bytes(chunk(bytes)?)), 4),
            ValueType::F32 => (Value::F32(f32::from_le_bytes(chunk(bytes)?)), 4),
            ValueType::Bool => (Value::Bool(*bytes.first()? != 0), 1),
            ValueType::U64 => (Value::U64(u64::from_le_bytes(chunk(bytes)?)), 8),
            ValueType::I64 => (Value::I64(i64::from_le_bytes(chunk(bytes)?)), 8),
            ValueType::F64 => (Value::F64(f64::from_le_bytes(chunk(bytes)?)), 8),
            ValueType::Str => {
                let text = string_span(bytes, 0)?;
                let end = text.end;
                (Value::Str(text_at(bytes, text)), end)
            }
            ValueType::Array => {
                let array = Array::read(bytes, MAX_ARRAY_DEPTH)?;
                let len_bytes = array.bytes.len().checked_add(ARRAY_HEADER_BYTES)?;
                (Value::Array(array), len_bytes)
            }
        })
    }
}

/// Element type (u32) and length (u64) before the elements.
const ARRAY_HEADER_BYTES: usize = 12;

/// The span of the text of the string whose length field is at `at`; bounds are checked against `bytes`.
fn string_span(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let len_bytes = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    let start = at + 8;
    let end = start.checked_add(usize::try_from(len_bytes).ok()?)?;
    (end <= bytes.len()).then_some(start..end)
}

fn text_at(bytes: &[u8], span: Range<usize>) -> &str {
    std::str::from_utf8(&bytes[span]).unwrap_or("")
}

/// An array of metadata, read in place: nothing is copied, iterators decode as they go.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    element_type: ValueType,
    len: usize,
    /// Exactly the elements.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The array whose header starts at `bytes[0]`, with at most `depth_left` levels of arrays.
    fn read(bytes: &'a [u8], depth_left: usize) -> Option<Array<'a>> {
        let depth_left = depth_left.checked_sub(1)?;
        let element_type = ValueType::from_id(u32::from_le_bytes(*bytes.first_chunk()?))?;
        let len = u64::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        let len = usize::try_from(len).ok()?;
        let elements = &bytes[ARRAY_HEADER_BYTES..];
        let len_bytes = elements_bytes(element_type, len, elements, depth_left)?;
        Some(Array { element_type, len, bytes: &elements[..len_bytes] })
    }

    /// An array over elements whose extent the parser found.
    pub(crate) fn from_parts(element_type: ValueType, len: usize, bytes: &'a [u8]) -> Array<'a> {
        Array { element_type, len, bytes }
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they lie in the file: fixed-size values little-endian and packed, strings each after its
    /// 64-bit length, arrays each after element type and length.
    pub fn raw_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Levels of arrays: 1 for an array of plain values or text, more for arrays of arrays.
    pub fn depth(&self) -> usize {
        let inner = match self.element_type {
            ValueType::Array => self.iter().filter_map(|value| value.as_array()),
            _ => return 1,
        };
        1 + inner.map(|array| array.depth()).max().unwrap_or(0)
    }

    /// The elements in order.
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter { element_type: self.element_type, left: self.len, bytes: self.bytes }
    }

    /// The strings of an array of strings; `None` for another element type.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.element_type == ValueType::Str).then_some(Strings { left: self.len, pos: 0, bytes: self.bytes })
    }

    fn fixed<const N: usize, T>(
        &self,
        element_type: ValueType,
        read: fn([u8; N]) -> T,
    ) -> Option<impl ExactSizeIterator<Item = T> + DoubleEndedIterator + Clone + use<'a, N, T>> {
        let chunks = (self.element_type == element_type).then_some(self.bytes.as_chunks::<N>().0)?;
        Some(chunks.iter().map(move |chunk| read(*chunk)))
    }

    /// The values of an array of `u8` in place; `None` for another element type.
    pub fn u8s(&self) -> Option<&'a [u8]> {
        (self.element_type == ValueType::U8).then_some(self.bytes)
    }

    /// The values of an array of `u32`; `None` for another element type.
    pub fn u32s(&self) -> Option<impl ExactSizeIterator<Item = u32> + DoubleEndedIterator + Clone + use<'a>> {
        self.fixed(ValueType::U32, u32::from_le_bytes)
    }

    /// The values of an array of `i32`; `None` for another element type.
    pub fn i32s(&self) -> Option<impl ExactSizeIterator<Item = i32> + DoubleEndedIterator + Clone + use<'a>> {
        self.fixed(ValueType::I32, i32::from_le_bytes)
    }

    /// The values of an array of `f32`; `None` for another element type.
    pub fn f32s(&self) -> Option<impl ExactSizeIterator<Item = f32> + DoubleEndedIterator + Clone + use<'a>> {
        self.fixed(ValueType::F32, f32::from_le_bytes)
    }

    /// The values of an array of `bool`; `None` for another element type.
    pub fn bools(
        &self,
    ) -> Option<impl ExactSizeIterator<Item = bool> + DoubleEndedIterator + Clone + use<'a>> {
        self.fixed(ValueType::Bool, |[byte]| byte != 0)
    }

    /// The values of an array of any integer type; `None` for another element type.
    pub fn integers(&self) -> Option<impl Iterator<Item = i128> + Clone + use<'a>> {
        let integer = matches!(
            self.element_type,
            ValueType::U8
                | ValueType::I8
                | ValueType::U16
                | ValueType::I16
                | ValueType::U32
                | ValueType::I32
                | ValueType::U64
                | ValueType::I64
        );
        integer.then(|| self.iter().filter_map(|value| value.as_integer()))
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element_type, self.len)
    }
}

/// Equal when element types, lengths and bytes are: floats compare by their bits.
impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.element_type == other.element_type && self.len == other.len && self.bytes == other.bytes
    }
}

/// Bytes that `len` elements at the start of `bytes` take. The depth is checked again here, since bytes that change
/// underneath must not exhaust the stack.
fn elements_bytes(element_type: ValueType, len: usize, bytes: &[u8], depth_left: usize) -> Option<usize> {
    let len_bytes = match (element_type.fixed_bytes(), element_type) {
        (Some(size), _) => len.checked_mul(size)?,
        (None, ValueType::Str) => {
            let mut pos = 0;
            for _ in 0..len {
                pos = string_span(bytes, pos)?.end;
            }
            pos
        }
        (None, _) => {
            let mut pos = 0;
            for _ in 0..len {
                let inner = Array::read(bytes.get(pos..)?, depth_left)?;
                pos += ARRAY_HEADER_BYTES + inner.bytes.len();
            }
            pos
        }
    };
    (len_bytes <= bytes.len()).then_some(len_bytes)
}

/// Iterator over the elements of an [`Array`].
#[derive(Debug, Clone)]
pub struct ArrayIter<'a> {
    element_type: ValueType,
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.left == 0 {
            return None;
        }
        let Some((value, len_bytes)) = Value::read(self.element_type, self.bytes) else {
            self.left = 0;
            return None;
        };
        self.bytes = &self.bytes[len_bytes..];
        self.left -= 1;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// Iterator over the strings of an [`Array`].
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    left: usize,
    pos: usize,
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    /// The same strings as byte spans of [`Array::raw_bytes`], for callers that keep offsets instead of text.
    pub fn spans(self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let Strings { left, pos, bytes } = self;
        let mut pos = pos;
        (0..left).map_while(move |_| {
            let span = string_span(bytes, pos)?;
            pos = span.end;
            Some(span)
        })
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.left == 0 {
            return None;
        }
        let Some(span) = string_span(self.bytes, self.pos) else {
            self.left = 0;
            return None;
        };
        self.left -= 1;
        self.pos = span.end;
        Some(text_at(self.bytes, span))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}
