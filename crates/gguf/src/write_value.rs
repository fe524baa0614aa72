//! Metadata values on their way into a file.

use std::io::{self, Write};

use crate::value::{Array, Value, ValueType};

/// A metadata value to be written. Most are made by `into()` from numbers, text, slices, or the [`Value`] of a file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WriteValue<'a> {
    /// A number, a truth value, text, or an array of another file.
    Value(Value<'a>),
    /// Array of `u8`.
    U8s(&'a [u8]),
    /// Array of `i8`.
    I8s(&'a [i8]),
    /// Array of `u16`.
    U16s(&'a [u16]),
    /// Array of `i16`.
    I16s(&'a [i16]),
    /// Array of `u32`.
    U32s(&'a [u32]),
    /// Array of `i32`.
    I32s(&'a [i32]),
    /// Array of `u64`.
    U64s(&'a [u64]),
    /// Array of `i64`.
    I64s(&'a [i64]),
    /// Array of `f32`.
    F32s(&'a [f32]),
    /// Array of `f64`.
    F64s(&'a [f64]),
    /// Array of `bool`.
    Bools(&'a [bool]),
    /// Array of text.
    Strs(&'a [&'a str]),
    /// Array of text.
    Strings(&'a [String]),
    /// Array of arrays; each element must be one.
    Arrays(Vec<WriteValue<'a>>),
}

macro_rules! from {
    ($($ty:ty => |$v:ident| $value:expr;)*) => {
        $(impl<'a> From<$ty> for WriteValue<'a> {
            fn from($v: $ty) -> WriteValue<'a> {
                $value
            }
        })*
    };
}

from! {
    Value<'a> => |v| WriteValue::Value(v);
    u8 => |v| WriteValue::Value(Value::U8(v));
    i8 => |v| WriteValue::Value(Value::I8(v));
    u16 => |v| WriteValue::Value(Value::U16(v));
    i16 => |v| WriteValue::Value(Value::I16(v));
    u32 => |v| WriteValue::Value(Value::U32(v));
    i32 => |v| WriteValue::Value(Value::I32(v));
    u64 => |v| WriteValue::Value(Value::U64(v));
    i64 => |v| WriteValue::Value(Value::I64(v));
    f32 => |v| WriteValue::Value(Value::F32(v));
    f64 => |v| WriteValue::Value(Value::F64(v));
    bool => |v| WriteValue::Value(Value::Bool(v));
    &'a str => |v| WriteValue::Value(Value::Str(v));
    &'a String => |v| WriteValue::Value(Value::Str(v));
    Array<'a> => |v| WriteValue::Value(Value::Array(v));
    &'a [u8] => |v| WriteValue::U8s(v);
    &'a [i8] => |v| WriteValue::I8s(v);
    &'a [u16] => |v| WriteValue::U16s(v);
    &'a [i16] => |v| WriteValue::I16s(v);
    &'a [u32] => |v| WriteValue::U32s(v);
    &'a [i32] => |v| WriteValue::I32s(v);
    &'a [u64] => |v| WriteValue::U64s(v);
    &'a [i64] => |v| WriteValue::I64s(v);
    &'a [f32] => |v| WriteValue::F32s(v);
    &'a [f64] => |v| WriteValue::F64s(v);
    &'a [bool] => |v| WriteValue::Bools(v);
    &'a [&'a str] => |v| WriteValue::Strs(v);
    &'a [String] => |v| WriteValue::Strings(v);
    Vec<WriteValue<'a>> => |v| WriteValue::Arrays(v);
}

impl WriteValue<'_> {
    pub(crate) fn value_type(&self) -> ValueType {
        match self {
            WriteValue::Value(value) => value.value_type(),
            _ => ValueType::Array,
        }
    }

    /// Levels of arrays in this value; `None` when an element of an array of arrays is no array.
    pub(crate) fn depth(&self) -> Option<usize> {
        match self {
            WriteValue::Value(Value::Array(array)) => Some(array.depth()),
            WriteValue::Value(_) => Some(0),
            WriteValue::Arrays(elements) => {
                let mut deepest = 0;
                for element in elements {
                    deepest = deepest.max(element.depth().filter(|&depth| depth > 0)?);
                }
                Some(1 + deepest)
            }
            _ => Some(1),
        }
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            WriteValue::Value(value) => write_value(value, out),
            WriteValue::U8s(v) => {
                array_header(ValueType::U8, v.len(), out)?;
                out.write_all(v)
            }
            WriteValue::I8s(v) => numbers(ValueType::I8, v, |v| v.to_le_bytes(), out),
            WriteValue::U16s(v) => numbers(ValueType::U16, v, |v| v.to_le_bytes(), out),
            WriteValue::I16s(v) => numbers(ValueType::I16, v, |v| v.to_le_bytes(), out),
            WriteValue::U32s(v) => numbers(ValueType::U32, v, |v| v.to_le_bytes(), out),
            WriteValue::I32s(v) => numbers(ValueType::I32, v, |v| v.to_le_bytes(), out),
            WriteValue::U64s(v) => numbers(ValueType::U64, v, |v| v.to_le_bytes(), out),
            WriteValue::I64s(v) => numbers(ValueType::I64, v, |v| v.to_le_bytes(), out),
            WriteValue::F32s(v) => numbers(ValueType::F32, v, |v| v.to_le_bytes(), out),
            WriteValue::F64s(v) => numbers(ValueType::F64, v, |v| v.to_le_bytes(), out),
            WriteValue::Bools(v) => numbers(ValueType::Bool, v, |v| [u8::from(*v)], out),
            WriteValue::Strs(v) => texts(v.iter().copied(), out),
            WriteValue::Strings(v) => texts(v.iter().map(String::as_str), out),
            WriteValue::Arrays(elements) => {
                array_header(ValueType::Array, elements.len(), out)?;
                elements.iter().try_for_each(|element| element.write(out))
            }
        }
    }
}

fn write_value(value: &Value<'_>, out: &mut impl Write) -> io::Result<()> {
    match *value {
        Value::U8(v) => out.write_all(&v.to_le_bytes()),
        Value::I8(v) => out.write_all(&v.to_le_bytes()),
        Value::U16(v) => out.write_all(&v.to_le_bytes()),
        Value::I16(v) => out.write_all(&v.to_le_bytes()),
        Value::U32(v) => out.write_all(&v.to_le_bytes()),
        Value::I32(v) => out.write_all(&v.to_le_bytes()),
        Value::U64(v) => out.write_all(&v.to_le_bytes()),
        Value::I64(v) => out.write_all(&v.to_le_bytes()),
        Value::F32(v) => out.write_all(&v.to_le_bytes()),
        Value::F64(v) => out.write_all(&v.to_le_bytes()),
        Value::Bool(v) => out.write_all(&[u8::from(v)]),
        Value::Str(v) => text(v, out),
        Value::Array(v) => {
            array_header(v.element_type(), v.len(), out)?;
            out.write_all(v.raw_bytes())
        }
    }
}

pub(crate) fn text(text: &str, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn array_header(element_type: ValueType, len: usize, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&element_type.id().to_le_bytes())?;
    out.write_all(&(len as u64).to_le_bytes())
}

fn numbers<T, const N: usize>(
    element_type: ValueType,
    values: &[T],
    bytes: impl Fn(&T) -> [u8; N],
    out: &mut impl Write,
) -> io::Result<()> {
    array_header(element_type, values.len(), out)?;
    values.iter().try_for_each(|v| out.write_all(&bytes(v)))
}

fn texts<'t>(values: impl ExactSizeIterator<Item = &'t str>, out: &mut impl Write) -> io::Result<()> {
    array_header(ValueType::Str, values.len(), out)?;
    for value in values {
        text(value, out)?;
    }
    Ok(())
}
