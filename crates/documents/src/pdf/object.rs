//! From bytes to objects: ISO 32000-1, 7.2 and 7.3.
//!
//! Lenient as other readers are: what cannot be read is passed over. An object's depth and its number of parts are bounded,
//! so that it fits into stack and memory.

use super::damaged;
use crate::DocumentError;
use crate::budget::Budget;

/// How deep arrays and dictionaries may be within each other. Real files stay below ten.
const MAX_DEPTH: usize = 64;
/// How many objects may be within one. The largest in real files are arrays of widths and lists of pages.
const MAX_PARTS: usize = 1 << 19;

/// An object, with the escapes of names and strings resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Null,
    Bool(bool),
    Number(f64),
    Name(Vec<u8>),
    String(Vec<u8>),
    Array(Vec<Object>),
    Dict(Dict),
    /// The number of another object.
    Ref(u32),
    /// Any other word: an operator, or one of the file's own such as `endobj`.
    Keyword(Vec<u8>),
}

impl Object {
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Object::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self) -> Option<usize> {
        // A cast saturates; NaN cannot be written.
        self.number().filter(|number| *number >= 0.0).map(|number| number as usize)
    }

    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Object::Name(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn string(&self) -> Option<&[u8]> {
        match self {
            Object::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn array(&self) -> Option<&[Object]> {
        match self {
            Object::Array(elements) => Some(elements),
            _ => None,
        }
    }

    pub(super) fn into_dict(self) -> Option<Dict> {
        match self {
            Object::Dict(dict) => Some(dict),
            _ => None,
        }
    }
}

/// A dictionary, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dict(Vec<(Vec<u8>, Object)>);

impl Dict {
    pub(super) fn get(&self, key: &str) -> Option<&Object> {
        self.0.iter().find(|(name, _)| name == key.as_bytes()).map(|(_, value)| value)
    }

    pub(super) fn is_type(&self, name: &str) -> bool {
        self.get("Type").and_then(Object::name) == Some(name.as_bytes())
    }
}

/// Reads objects from bytes.
pub(super) struct Lexer<'a> {
    data: &'a [u8],
    pub(super) at: usize,
    /// Whether `1 0 R` is a reference, as in files, or three words, as in the contents of pages.
    has_refs: bool,
}

impl<'a> Lexer<'a> {
    /// For a file or an object stream.
    pub(super) fn of_file(data: &'a [u8], at: usize) -> Lexer<'a> {
        Lexer { data, at, has_refs: true }
    }

    /// For what a page shows, or a character map.
    pub(super) fn of_content(data: &'a [u8]) -> Lexer<'a> {
        Lexer { data, at: 0, has_refs: false }
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    /// Passes over white space and comments.
    pub(super) fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                _ if is_space(byte) => self.at += 1,
                b'%' => {
                    while self.peek().is_some_and(|byte| byte != b'\n' && byte != b'\r') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    /// Passes over `word` if it is next.
    pub(super) fn take(&mut self, word: &[u8]) -> bool {
        let is_next = self.data[self.at..].starts_with(word);
        self.at += if is_next { word.len() } else { 0 };
        is_next
    }

    /// The next object; nothing at the end.
    pub(super) fn object(&mut self, budget: &mut Budget) -> Result<Option<Object>, DocumentError> {
        let mut n_parts = 0;
        self.nested(0, &mut n_parts, budget)
    }

    fn nested(
        &mut self,
        depth: usize,
        n_parts: &mut usize,
        budget: &mut Budget,
    ) -> Result<Option<Object>, DocumentError> {
        if depth > MAX_DEPTH {
            return Err(damaged(format!("objects are more than {MAX_DEPTH} deep in each other")));
        }
        *n_parts += 1;
        if *n_parts > MAX_PARTS {
            return Err(DocumentError::TooMany { what: "parts in one object", limit: MAX_PARTS });
        }
        let start = self.at;
        self.skip_space();
        let Some(byte) = self.peek() else {
            return Ok(None);
        };
        let object = match byte {
            b'/' => Object::Name(self.name()),
            b'(' => Object::String(self.literal_string()),
            b'<' if self.data.get(self.at + 1) == Some(&b'<') => {
                self.at += 2;
                Object::Dict(self.dict(depth, n_parts, budget)?)
            }
            b'<' => Object::String(self.hex_string()),
            b'[' => {
                self.at += 1;
                Object::Array(self.array(depth, n_parts, budget)?)
            }
            b'0'..=b'9' | b'+' | b'-' | b'.' => self.number_or_ref(),
            _ => self.word(),
        };
        budget.work(self.at - start + 16)?;
        Ok(Some(object))
    }

    fn array(
        &mut self,
        depth: usize,
        n_parts: &mut usize,
        budget: &mut Budget,
    ) -> Result<Vec<Object>, DocumentError> {
        let mut elements = Vec::new();
        loop {
            self.skip_space();
            if self.take(b"]") || self.ends_object() {
                return Ok(elements);
            }
            match self.nested(depth + 1, n_parts, budget)? {
                Some(element) => elements.push(element),
                None => return Ok(elements),
            }
        }
    }

    fn dict(
        &mut self,
        depth: usize,
        n_parts: &mut usize,
        budget: &mut Budget,
    ) -> Result<Dict, DocumentError> {
        let mut entries = Vec::new();
        loop {
            self.skip_space();
            if self.take(b">>") || self.ends_object() {
                return Ok(Dict(entries));
            }
            let key = match self.nested(depth + 1, n_parts, budget)? {
                Some(Object::Name(key)) => key,
                Some(_) => continue,
                None => return Ok(Dict(entries)),
            };
            self.skip_space();
            // A key without a value.
            if self.data[self.at..].starts_with(b">>") {
                continue;
            }
            match self.nested(depth + 1, n_parts, budget)? {
                Some(value) => entries.push((key, value)),
                None => return Ok(Dict(entries)),
            }
        }
    }

    /// Whether a word follows that no array or dictionary has: the end of this one is missing.
    fn ends_object(&self) -> bool {
        let rest = &self.data[self.at..];
        self.has_refs && [&b"endobj"[..], b"endstream", b"stream"].iter().any(|word| rest.starts_with(word))
    }

    fn name(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut name = Vec::new();
        while let Some(byte) = self.peek().filter(|byte| is_regular(*byte)) {
            self.at += 1;
            let code = self.data.get(self.at..self.at + 2).filter(|_| byte == b'#');
            match code.and_then(|code| Some((hex(code[0])?, hex(code[1])?))) {
                Some((high, low)) => {
                    self.at += 2;
                    name.push(high << 4 | low);
                }
                None => name.push(byte),
            }
        }
        name
    }

    fn literal_string(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut bytes = Vec::new();
        let mut n_open = 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'(' => n_open += 1,
                b')' => {
                    n_open -= 1;
                    if n_open == 0 {
                        break;
                    }
                }
                b'\\' => {
                    self.escape(&mut bytes);
                    continue;
                }
                _ => {}
            }
            bytes.push(byte);
        }
        bytes
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) {
        let Some(byte) = self.peek() else {
            return;
        };
        self.at += 1;
        match byte {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'\r' => _ = self.take(b"\n"),
            b'\n' => {}
            b'0'..=b'7' => {
                let mut code = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = self.peek().filter(|digit| (b'0'..=b'7').contains(digit)) else {
                        break;
                    };
                    self.at += 1;
                    code = code * 8 + u32::from(digit - b'0');
                }
                // Bits above the eighth are to be ignored.
                bytes.push(code as u8);
            }
            other => bytes.push(other),
        }
    }

    fn hex_string(&mut self) -> Vec<u8> {
        self.at += 1;
        let mut bytes = Vec::new();
        let mut high = None;
        while let Some(byte) = self.peek() {
            self.at += 1;
            if byte == b'>' {
                break;
            }
            let Some(digit) = hex(byte) else {
                continue;
            };
            match high.take() {
                Some(high) => bytes.push(high << 4 | digit),
                None => high = Some(digit),
            }
        }
        bytes.extend(high.map(|high: u8| high << 4));
        bytes
    }

    fn number_or_ref(&mut self) -> Object {
        let start = self.at;
        let number = self.number();
        let is_plain = self.data[start..self.at].iter().all(u8::is_ascii_digit);
        if !self.has_refs || !is_plain {
            return Object::Number(number);
        }
        let after = self.at;
        if self.follows_as_ref()
            && let Ok(id) = std::str::from_utf8(&self.data[start..after]).unwrap_or("").parse()
        {
            return Object::Ref(id);
        }
        self.at = after;
        Object::Number(number)
    }

    /// Passes over the ` 0 R` of a reference.
    fn follows_as_ref(&mut self) -> bool {
        let skip = |lexer: &mut Self, is: fn(u8) -> bool| {
            let from = lexer.at;
            while lexer.peek().is_some_and(is) && lexer.at - from < 16 {
                lexer.at += 1;
            }
            lexer.at > from
        };
        skip(self, is_space)
            && skip(self, |byte| byte.is_ascii_digit())
            && skip(self, is_space)
            && self.take(b"R")
            && !self.peek().is_some_and(is_regular)
    }

    fn number(&mut self) -> f64 {
        let is_negative = self.peek() == Some(b'-');
        while matches!(self.peek(), Some(b'+' | b'-')) {
            self.at += 1;
        }
        let (mut value, mut scale) = (0.0, 0.0);
        while let Some(byte) = self.peek() {
            match byte {
                b'0'..=b'9' if scale == 0.0 => value = value * 10.0 + f64::from(byte - b'0'),
                b'0'..=b'9' => {
                    value += f64::from(byte - b'0') * scale;
                    scale /= 10.0;
                }
                b'.' if scale == 0.0 => scale = 0.1,
                // As `12-3` that some programs write: the rest is lost on other readers too.
                b'-' | b'.' => {}
                _ => break,
            }
            self.at += 1;
        }
        let value: f64 = if is_negative { -value } else { value };
        // A thousand digits are not a size that anything has.
        value.clamp(-1e15, 1e15)
    }

    fn word(&mut self) -> Object {
        let start = self.at;
        while self.peek().is_some_and(is_regular) {
            self.at += 1;
        }
        // A bracket that closes nothing.
        if self.at == start {
            self.at += 1;
        }
        match &self.data[start..self.at] {
            b"null" => Object::Null,
            b"true" => Object::Bool(true),
            b"false" => Object::Bool(false),
            word => Object::Keyword(word.to_vec()),
        }
    }
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, 0 | b'\t' | b'\n' | 12 | b'\r' | b' ')
}

pub(super) fn is_regular(byte: u8) -> bool {
    !is_space(byte) && !matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

pub(super) fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}
