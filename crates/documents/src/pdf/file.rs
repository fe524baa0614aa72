//! Where objects are in a file.

use super::object::{Dict, Lexer, Object};
use super::{damaged, filter};
use crate::DocumentError;
use crate::budget::Budget;
use std::collections::HashMap;

/// Objects that a file may have. A book of a thousand pages has some ten thousand.
const MAX_OBJECTS: usize = 1 << 20;
/// How often a reference may lead to another before it leads nowhere.
const MAX_HOPS: usize = 16;

/// A file whose objects were found.
pub(super) struct File<'a> {
    data: &'a [u8],
    /// By their numbers; the last in the file counts.
    places: HashMap<u32, Place>,
    /// What object streams hold.
    streams: Vec<Vec<u8>>,
    /// The document's catalog, as the last trailer that has one says.
    pub(super) root: Option<Object>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where in the file the object is, or the stream that it is in.
    file_offset: usize,
    /// The stream that it is in, and its offset there.
    in_stream: Option<(usize, usize)>,
}

/// A stream as it lies in the file.
pub(super) struct Stream<'a> {
    pub(super) dict: Dict,
    raw: &'a [u8],
}

impl<'a> File<'a> {
    pub(super) fn open(data: &'a [u8], budget: &mut Budget) -> Result<File<'a>, DocumentError> {
        let mut file = File { data, places: HashMap::new(), streams: Vec::new(), root: None };
        let object_streams = file.find_objects(budget)?;
        for (id, file_offset) in object_streams {
            file.open_object_stream(id, file_offset, budget)?;
        }
        Ok(file)
    }

    /// Numbers of all objects, in order.
    pub(super) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.places.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Finds `1 0 obj` and `trailer` in the file, and returns the object streams in their order.
    fn find_objects(&mut self, budget: &mut Budget) -> Result<Vec<(u32, usize)>, DocumentError> {
        let mut object_streams = Vec::new();
        let mut at = 0;
        while at < self.data.len() {
            let rest = &self.data[at..];
            if rest.starts_with(b"obj")
                && let Some(id) = self.number_before(at)
            {
                let mut lexer = Lexer::of_file(self.data, at + 3);
                self.put(id, Place { file_offset: at + 3, in_stream: None })?;
                if let Some(Object::Dict(dict)) = lexer.object(budget)? {
                    let start = stream_start(&mut lexer);
                    if dict.is_type("ObjStm") && start.is_some() {
                        object_streams.push((id, at + 3));
                    }
                    if dict.is_type("XRef") {
                        self.take_trailer(&dict)?;
                    }
                    if let Some(start) = start {
                        let length = dict.get("Length").and_then(Object::count);
                        lexer.at = start + self.stream_bytes(start, length, budget)?;
                    }
                }
                at = lexer.at.max(at + 3);
            } else if rest.starts_with(b"trailer") {
                let mut lexer = Lexer::of_file(self.data, at + 7);
                if let Some(Object::Dict(dict)) = lexer.object(budget)? {
                    self.take_trailer(&dict)?;
                }
                at = lexer.at.max(at + 7);
            } else {
                at += 1;
                budget.work(1)?;
            }
        }
        Ok(object_streams)
    }

    fn put(&mut self, id: u32, place: Place) -> Result<(), DocumentError> {
        self.places.insert(id, place);
        match self.places.len() > MAX_OBJECTS {
            true => Err(DocumentError::TooMany { what: "objects", limit: MAX_OBJECTS }),
            false => Ok(()),
        }
    }

    fn take_trailer(&mut self, dict: &Dict) -> Result<(), DocumentError> {
        if !matches!(dict.get("Encrypt"), None | Some(Object::Null)) {
            return Err(DocumentError::Encrypted);
        }
        if let Some(root) = dict.get("Root") {
            self.root = Some(root.clone());
        }
        Ok(())
    }

    /// The number of the object that an `obj` at `at` begins.
    fn number_before(&self, at: usize) -> Option<u32> {
        // Numbers of ten digits and a space between them are what programs write; a longer look back would be paid for
        // every `obj` of many.
        let before = self.data[at.saturating_sub(32)..at].trim_ascii_end();
        let (before, generation) = split_digits(before);
        let spaces = before.trim_ascii_end();
        let (_, number) = split_digits(spaces);
        let is_one = !generation.is_empty() && spaces.len() < before.len();
        number.parse().ok().filter(|_| is_one)
    }

    /// Bytes of the stream that begins at `start`: what it says, where that is true, else up to its end.
    fn stream_bytes(
        &self,
        start: usize,
        length: Option<usize>,
        budget: &mut Budget,
    ) -> Result<usize, DocumentError> {
        let rest = &self.data[start..];
        if let Some(length) = length.filter(|length| *length <= rest.len()) {
            let after = rest[length..].trim_ascii_start();
            if after.starts_with(b"endstream") || after.starts_with(b"endobj") {
                return Ok(length);
            }
        }
        let end = rest.windows(9).position(|window| window == b"endstream");
        let bytes = end.unwrap_or(rest.len());
        budget.work(bytes)?;
        Ok(bytes)
    }

    fn open_object_stream(
        &mut self,
        id: u32,
        file_offset: usize,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let Some(stream) = self.stream_at(file_offset, budget)? else {
            return Ok(());
        };
        let Some(data) = filter::decode(self, &stream.dict, stream.raw, budget)? else {
            return Err(damaged(format!("object stream {id} is packed as a picture")));
        };
        budget.keep(data.len())?;
        let count = |file: &File<'_>, key: &str, budget: &mut Budget| {
            let value = stream.dict.get(key).map(|value| file.resolve(value, budget)).transpose()?;
            Ok::<_, DocumentError>(value.and_then(|value| value.count()).unwrap_or(0))
        };
        let (n, first) = (count(self, "N", budget)?, count(self, "First", budget)?);
        let index = self.streams.len();
        let mut lexer = Lexer::of_content(&data);
        for _ in 0..n {
            let (Some(id), Some(offset)) = (lexer.object(budget)?, lexer.object(budget)?) else {
                break;
            };
            let (Some(id), Some(offset)) = (id.count(), offset.count()) else {
                break;
            };
            let (Ok(id), offset) = (u32::try_from(id), first.saturating_add(offset)) else {
                break;
            };
            if offset < data.len() && self.places.get(&id).is_none_or(|place| place.file_offset < file_offset)
            {
                self.put(id, Place { file_offset, in_stream: Some((index, offset)) })?;
            }
        }
        self.streams.push(data);
        Ok(())
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.places.contains_key(&id)
    }

    /// Object `id`, which is null where there is none.
    pub(super) fn get(&self, id: u32, budget: &mut Budget) -> Result<Object, DocumentError> {
        let Some(place) = self.places.get(&id) else {
            return Ok(Object::Null);
        };
        let mut lexer = match place.in_stream {
            Some((index, offset)) => Lexer::of_file(&self.streams[index], offset),
            None => Lexer::of_file(self.data, place.file_offset),
        };
        Ok(lexer.object(budget)?.unwrap_or(Object::Null))
    }

    /// What an object is, or what it refers to.
    pub(super) fn resolve(&self, object: &Object, budget: &mut Budget) -> Result<Object, DocumentError> {
        let Object::Ref(mut id) = *object else {
            return Ok(object.clone());
        };
        for _ in 0..MAX_HOPS {
            match self.get(id, budget)? {
                Object::Ref(next) => id = next,
                object => return Ok(object),
            }
        }
        Ok(Object::Null)
    }

    /// The value of a key, resolved.
    pub(super) fn value(&self, dict: &Dict, key: &str, budget: &mut Budget) -> Result<Object, DocumentError> {
        match dict.get(key) {
            Some(value) => self.resolve(value, budget),
            None => Ok(Object::Null),
        }
    }

    /// The value of a key, if it is a dictionary or a stream's.
    pub(super) fn dict(
        &self,
        dict: &Dict,
        key: &str,
        budget: &mut Budget,
    ) -> Result<Option<Dict>, DocumentError> {
        Ok(self.value(dict, key, budget)?.into_dict())
    }

    /// The stream that an object refers to.
    pub(super) fn stream(
        &self,
        object: &Object,
        budget: &mut Budget,
    ) -> Result<Option<Stream<'a>>, DocumentError> {
        let Object::Ref(mut id) = *object else {
            return Ok(None);
        };
        for _ in 0..MAX_HOPS {
            let Some(Place { file_offset, in_stream: None }) = self.places.get(&id) else {
                return Ok(None);
            };
            if let Some(stream) = self.stream_at(*file_offset, budget)? {
                return Ok(Some(stream));
            }
            match self.get(id, budget)? {
                Object::Ref(next) => id = next,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn stream_at(
        &self,
        file_offset: usize,
        budget: &mut Budget,
    ) -> Result<Option<Stream<'a>>, DocumentError> {
        let mut lexer = Lexer::of_file(self.data, file_offset);
        let Some(Object::Dict(dict)) = lexer.object(budget)? else {
            return Ok(None);
        };
        let Some(start) = stream_start(&mut lexer) else {
            return Ok(None);
        };
        let length = self.value(&dict, "Length", budget)?.count();
        let bytes = self.stream_bytes(start, length, budget)?;
        Ok(Some(Stream { dict, raw: &self.data[start..start + bytes] }))
    }

    /// What a stream holds; nothing for pictures.
    pub(super) fn content(
        &self,
        stream: &Stream<'_>,
        budget: &mut Budget,
    ) -> Result<Option<Vec<u8>>, DocumentError> {
        filter::decode(self, &stream.dict, stream.raw, budget)
    }
}

/// Where the bytes of a stream begin, if the word follows.
fn stream_start(lexer: &mut Lexer<'_>) -> Option<usize> {
    lexer.skip_space();
    if !lexer.take(b"stream") {
        return None;
    }
    // One end of line, which is not part of the data.
    if !lexer.take(b"\r\n") && !lexer.take(b"\n") {
        lexer.take(b"\r");
    }
    Some(lexer.at)
}

/// The digits at the end of `bytes`, and what is before them.
fn split_digits(bytes: &[u8]) -> (&[u8], &str) {
    let n_digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, digits) = bytes.split_at(bytes.len() - n_digits);
    (before, std::str::from_utf8(digits).unwrap_or(""))
}
