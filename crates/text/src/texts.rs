//! Arrays of texts that stay in the file's bytes.

use rawrz_gguf::Array;

use crate::error::TokenizerError;
use crate::vocab::{at_most, wrong_elements};

/// Where the texts of an array lie: four bytes for each.
pub(crate) struct Texts {
    /// Start of the array's elements within the file's bytes.
    at: usize,
    /// `starts[i]` is where text `i` starts, counted from `at`; its 64-bit length precedes it. One more than there are
    /// texts.
    starts: Vec<u32>,
}

impl Texts {
    pub(crate) const NONE: Texts = Texts { at: 0, starts: Vec::new() };

    /// The texts of the array `key` of a file whose bytes start at address `base`.
    pub(crate) fn new(key: &'static str, array: Array<'_>, base: usize) -> Result<Texts, TokenizerError> {
        let texts = array.strings().ok_or_else(|| wrong_elements(key, "string", array))?;
        at_most(key, array.raw_bytes().len() as u64, u64::from(u32::MAX) - 16)?;
        let n = array.len();
        let mut starts = Vec::with_capacity(n + 1);
        let mut end = 0;
        for span in texts.spans() {
            starts.push(span.start as u32);
            end = span.end;
        }
        if starts.len() != n {
            return Err(TokenizerError::TooShort { key, found: starts.len(), n_tokens: n });
        }
        starts.push((end + 8) as u32);
        Ok(Texts { at: array.raw_bytes().as_ptr() as usize - base, starts })
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Length of text `i` in bytes.
    pub(crate) fn len_bytes(&self, i: usize) -> usize {
        (self.starts[i + 1] - 8 - self.starts[i]) as usize
    }

    /// Text `i` of the file whose bytes are `raw`; empty for one that there is not.
    pub(crate) fn get<'a>(&self, raw: &'a [u8], i: usize) -> &'a [u8] {
        let (rest, len_bytes) = self.get_with_rest(raw, i);
        &rest[..len_bytes]
    }

    /// As [`Texts::get`], with the bytes of the file after it, and its length.
    pub(crate) fn get_with_rest<'a>(&self, raw: &'a [u8], i: usize) -> (&'a [u8], usize) {
        let (Some(&start), Some(&next)) = (self.starts.get(i), self.starts.get(i + 1)) else {
            return (&[], 0);
        };
        let rest = raw.get(self.at + start as usize..).unwrap_or_default();
        (rest, rest.len().min((next - 8 - start) as usize))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.starts.capacity() * 4
    }
}
