//! Character maps: from codes in strings to characters, or to how long codes are (Adobe Technical Note 5014; ISO 32000-1,
//! 9.7.5 and 9.10.3).
//!
//! Ranges are kept as ranges: a hostile one of four thousand million codes takes as much room as any other.

use super::object::{Lexer, Object};
use crate::DocumentError;
use crate::budget::Budget;

/// Ranges that a map may have. The largest that fonts have are some ten thousand.
const MAX_RANGES: usize = 1 << 17;
/// Ranges that tell how long codes are, which are looked through for each code.
const MAX_CODE_SPACES: usize = 64;
/// UTF-16 units that one code may stand for; ligatures have four.
const MAX_UNITS: usize = 32;

/// A map of codes, by their length in bytes and their value.
#[derive(Debug, Default)]
pub(super) struct CMap {
    /// Sorted by length and first code.
    ranges: Vec<Range>,
    /// Lengths of codes, with the first and last of each.
    code_spaces: Vec<(usize, u32, u32)>,
}

#[derive(Debug)]
struct Range {
    len_bytes: usize,
    first: u32,
    last: u32,
    /// What the first stands for, in UTF-16; the last unit counts up.
    units: Vec<u16>,
}

impl CMap {
    pub(super) fn parse(data: &[u8], budget: &mut Budget) -> Result<CMap, DocumentError> {
        let mut map = CMap::default();
        let mut lexer = Lexer::of_content(data);
        let mut operands: Vec<Object> = Vec::new();
        while let Some(object) = lexer.object(budget)? {
            let Object::Keyword(word) = object else {
                operands.push(object);
                if operands.len() > MAX_RANGES * 3 {
                    return Err(too_many());
                }
                continue;
            };
            match &word[..] {
                b"endcodespacerange" => {
                    for pair in operands.chunks_exact(2) {
                        if let (Some((len, first)), Some((_, last))) = (code(&pair[0]), code(&pair[1])) {
                            map.code_spaces.push((len, first, last));
                        }
                        if map.code_spaces.len() > MAX_CODE_SPACES {
                            return Err(too_many());
                        }
                    }
                }
                b"endbfchar" => {
                    for pair in operands.chunks_exact(2) {
                        if let (Some((len_bytes, code)), Some(units)) = (code(&pair[0]), units(&pair[1])) {
                            map.put(Range { len_bytes, first: code, last: code, units })?;
                        }
                    }
                }
                b"endbfrange" => {
                    for range in operands.chunks_exact(3) {
                        if let (Some((len, first)), Some((_, last))) = (code(&range[0]), code(&range[1])) {
                            map.put_range(len, first, last, &range[2])?;
                        }
                    }
                }
                _ => {}
            }
            operands.clear();
        }
        // Stable: of ranges with the same beginning the last counts.
        map.ranges.sort_by_key(|range| (range.len_bytes, range.first));
        Ok(map)
    }

    fn put_range(
        &mut self,
        len_bytes: usize,
        first: u32,
        last: u32,
        to: &Object,
    ) -> Result<(), DocumentError> {
        match to {
            Object::Array(each) => {
                for (code, to) in (first..=last).zip(each) {
                    if let Some(units) = units(to) {
                        self.put(Range { len_bytes, first: code, last: code, units })?;
                    }
                }
                Ok(())
            }
            to => match units(to) {
                Some(units) => self.put(Range { len_bytes, first, last, units }),
                None => Ok(()),
            },
        }
    }

    fn put(&mut self, range: Range) -> Result<(), DocumentError> {
        self.ranges.push(range);
        if self.ranges.len() > MAX_RANGES { Err(too_many()) } else { Ok(()) }
    }

    /// About the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.ranges.len() * 80 + self.code_spaces.len() * 16
    }

    /// The characters of a code, where the map has it.
    pub(super) fn text(&self, len_bytes: usize, code: u32) -> Option<String> {
        let end = self.ranges.partition_point(|range| (range.len_bytes, range.first) <= (len_bytes, code));
        let range = self.ranges[..end].last()?;
        if range.len_bytes != len_bytes || code > range.last {
            return None;
        }
        let mut units = range.units.clone();
        let last = units.last_mut()?;
        *last = last.wrapping_add((code - range.first) as u16);
        // A map that names half a pair of surrogates says nothing.
        String::from_utf16(&units).ok()
    }

    /// How many bytes the code at the start of `bytes` has, where the map says.
    pub(super) fn code_bytes(&self, bytes: &[u8]) -> Option<usize> {
        (1..=4.min(bytes.len())).find(|len| {
            let value = number(&bytes[..*len]);
            self.code_spaces.iter().any(|(of, first, last)| of == len && (*first..=*last).contains(&value))
        })
    }
}

fn too_many() -> DocumentError {
    DocumentError::TooMany { what: "ranges in one character map", limit: MAX_RANGES }
}

/// Up to four bytes as a number, the first the most.
pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn code(object: &Object) -> Option<(usize, u32)> {
    let bytes = object.string().filter(|bytes| (1..=4).contains(&bytes.len()))?;
    Some((bytes.len(), number(bytes)))
}

fn units(object: &Object) -> Option<Vec<u16>> {
    let bytes = object.string().filter(|bytes| !bytes.is_empty() && bytes.len() <= 2 * MAX_UNITS)?;
    match bytes {
        // Some writers give one byte for a Latin character.
        [one] => Some(vec![u16::from(*one)]),
        bytes => Some(bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()),
    }
}
