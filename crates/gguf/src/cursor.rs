//! A position in untrusted bytes; every read is checked, and a failure says what was being read.

use crate::error::{Error, Name};

/// What is being read, for the error; turned into an owned [`Name`] only when one is made.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    Header,
    Key(&'a str),
    KeyNumber(u64),
    Tensor(&'a str),
    TensorNumber(u64),
}

impl Subject<'_> {
    #[cold]
    pub(crate) fn to_name(self) -> Name {
        match self {
            Subject::Header => Name::Header,
            Subject::Key(name) => Name::key(name),
            Subject::KeyNumber(i) => Name::KeyNumber(i),
            Subject::Tensor(name) => Name::tensor(name),
            Subject::TensorNumber(i) => Name::TensorNumber(i),
        }
    }
}

/// Invariant: `pos <= bytes.len()`.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, pos: 0 }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn offset(&self) -> u64 {
        self.pos as u64
    }

    pub(crate) fn left_bytes(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// The error of a field that needs `needed_bytes` at the current position.
    #[cold]
    pub(crate) fn truncated(&self, what: &'static str, subject: Subject<'_>, needed_bytes: u64) -> Error {
        Error::Truncated {
            offset: self.offset(),
            what,
            name: subject.to_name(),
            needed_bytes,
            left_bytes: self.left_bytes(),
        }
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        len_bytes: u64,
        what: &'static str,
        subject: Subject<'_>,
    ) -> Result<&'a [u8], Error> {
        let taken = usize::try_from(len_bytes).ok().and_then(|len| self.bytes[self.pos..].get(..len));
        match taken {
            Some(taken) => {
                self.pos += taken.len();
                Ok(taken)
            }
            None => Err(self.truncated(what, subject, len_bytes)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str, subject: Subject<'_>) -> Result<[u8; N], Error> {
        match self.bytes[self.pos..].first_chunk::<N>() {
            Some(chunk) => {
                self.pos += N;
                Ok(*chunk)
            }
            None => Err(self.truncated(what, subject, N as u64)),
        }
    }

    /// Moves past up to `limit` texts (each a length and UTF-8) and says how many; stops before one that is cut or no
    /// UTF-8. Vocabularies have hundreds of thousands of texts, so this loop decides how long opening a file takes.
    pub(crate) fn skip_texts(&mut self, limit: u64) -> u64 {
        let mut rest = &self.bytes[self.pos..];
        let mut skipped = 0;
        while skipped < limit {
            let Some((len_bytes, tail)) = rest.split_first_chunk() else {
                break;
            };
            let Ok(len_bytes) = usize::try_from(u64::from_le_bytes(*len_bytes)) else {
                break;
            };
            let Some((text, after)) = tail.split_at_checked(len_bytes) else {
                break;
            };
            if !is_short_utf8(tail, len_bytes) && std::str::from_utf8(text).is_err() {
                break;
            }
            rest = after;
            skipped += 1;
        }
        self.pos = self.bytes.len() - rest.len();
        skipped
    }

    #[inline]
    pub(crate) fn magic(&mut self) -> Result<[u8; 4], Error> {
        self.array("the magic", Subject::Header)
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str, subject: Subject<'_>) -> Result<u32, Error> {
        self.array(what, subject).map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str, subject: Subject<'_>) -> Result<u64, Error> {
        self.array(what, subject).map(u64::from_le_bytes)
    }
}

/// Whether the first `len` bytes of `bytes` are UTF-8 of a kind that can be checked at once: at most 15 bytes, of
/// characters of one or two bytes. That is most of a vocabulary, and takes half the time of the general check.
/// `false` decides nothing.
#[inline]
fn is_short_utf8(bytes: &[u8], len: usize) -> bool {
    const TOP: u128 = u128::from_ne_bytes([0x80; 16]);
    // With 16 bytes, the successor of a leading byte could be out of sight.
    let Some(word) = bytes.first_chunk().filter(|_| len < 16) else {
        return false;
    };
    let word = u128::from_le_bytes(*word) & ((1 << (8 * len)) - 1);
    // The tests below leave their answer in the top bit of each byte.
    let high = word & TOP;
    let second = high & !(word << 1); // 10......
    let first = high & (word << 1); // 11......
    let three_or_four = first & (word << 2); // 111.....
    let overlong = first & !(word << 3 | word << 4 | word << 5 | word << 6); // 1100000.
    three_or_four == 0 && overlong == 0 && second == first << 8
}

#[cfg(test)]
mod tests {
    use super::is_short_utf8;
    use proptest::prelude::*;

    /// Every pair of bytes before each kind of byte, at each place in a word.
    #[test]
    fn short_check_agrees_with_the_general_one() {
        const KINDS: [u8; 12] = [0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xf0, 0xff];
        for i in 0..1usize << 16 {
            for (k, kind) in KINDS.into_iter().enumerate() {
                let at = (i + k) % 14;
                let mut bytes = [b'x'; 16];
                bytes[at] = i as u8;
                bytes[at + 1] = (i >> 8) as u8;
                bytes[15.min(at + 2)] = kind;
                for len in [at + 1, at + 2, 15] {
                    let text = std::str::from_utf8(&bytes[..len]);
                    let plain = text.is_ok_and(|text| text.chars().all(|c| c.len_utf8() <= 2));
                    assert_eq!(is_short_utf8(&bytes, len), plain, "{:02x?}", &bytes[..len]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn short_check_never_errs(bytes in prop::collection::vec(any::<u8>(), 0..40), len in 0usize..40) {
            prop_assume!(len <= bytes.len());
            if is_short_utf8(&bytes, len) {
                prop_assert!(std::str::from_utf8(&bytes[..len]).is_ok());
            }
        }
    }
}
