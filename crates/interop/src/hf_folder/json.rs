//! JSON written as it is made: a vocabulary as a tree would take many times its bytes.

use serde::Serialize;
use std::io::{self, Write};

/// Writes one object or array, item by item.
pub(super) struct JsonList<'w, W: Write> {
    out: &'w mut W,
    is_first: bool,
    close: &'static [u8],
}

impl<'w, W: Write> JsonList<'w, W> {
    pub(super) fn object(out: &'w mut W) -> io::Result<JsonList<'w, W>> {
        out.write_all(b"{")?;
        Ok(JsonList { out, is_first: true, close: b"\n}" })
    }

    pub(super) fn array(out: &'w mut W) -> io::Result<JsonList<'w, W>> {
        out.write_all(b"[")?;
        Ok(JsonList { out, is_first: true, close: b"\n]" })
    }

    fn next(&mut self) -> io::Result<&mut W> {
        let separator: &[u8] = if self.is_first { b"\n" } else { b",\n" };
        self.is_first = false;
        self.out.write_all(separator)?;
        Ok(self.out)
    }

    /// Adds an item to an array.
    pub(super) fn item(&mut self, value: &impl Serialize) -> io::Result<()> {
        let out = self.next()?;
        Ok(serde_json::to_writer(out, value)?)
    }

    /// Adds a field to an object.
    pub(super) fn field(&mut self, key: &str, value: &impl Serialize) -> io::Result<()> {
        let out = self.key(key)?;
        Ok(serde_json::to_writer(out, value)?)
    }

    /// Adds the key of a field, whose value the caller writes to what is given.
    pub(super) fn key(&mut self, key: &str) -> io::Result<&mut W> {
        let out = self.next()?;
        serde_json::to_writer(&mut *out, key)?;
        out.write_all(b":")?;
        Ok(out)
    }

    pub(super) fn end(self) -> io::Result<()> {
        self.out.write_all(self.close)
    }
}
