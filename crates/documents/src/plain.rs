//! Plain text: UTF-8, or UTF-16 with a byte order mark.

use crate::budget::Budget;
use crate::{Document, DocumentError};

/// First bytes of kinds of files that are often taken for text documents, and what they are.
const OTHERS: [(&[u8], &str); 7] = [
    (b"\xd0\xcf\x11\xe0", "it is a file of an old Office program; save it as DOCX or PDF"),
    (b"{\\rtf", "it is a file in Rich Text Format; save it as DOCX or PDF"),
    (b"\x89PNG", "it is a picture"),
    (b"\xff\xd8\xff", "it is a picture"),
    (b"GIF8", "it is a picture"),
    (b"\x1f\x8b", "it is a compressed file"),
    (b"7z\xbc\xaf", "it is a compressed file"),
];

pub(crate) fn extract(name: &str, bytes: &[u8], budget: &mut Budget) -> Result<Document, DocumentError> {
    let unsupported = |what: &str| DocumentError::Unsupported { what: format!("{}: {what}", short(name)) };
    if let Some((_, what)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Err(unsupported(what));
    }
    budget.work(bytes.len())?;
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(str::to_owned),
        _ => std::str::from_utf8(bytes).ok().map(str::to_owned),
    };
    let text =
        text.ok_or_else(|| unsupported("it is not text in UTF-8, or in UTF-16 with a byte order mark"))?;
    if text.contains('\0') {
        return Err(unsupported("it has null characters, which text has not"));
    }
    if text.trim().is_empty() {
        return Err(DocumentError::NoText);
    }
    budget.text(text.len())?;
    Ok(Document { text, pages: None })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

/// A name that fits into a message.
fn short(name: &str) -> String {
    let shown: String = name.chars().filter(|char| !char.is_control()).take(80).collect();
    match shown.is_empty() {
        true => "the file".to_owned(),
        false => shown,
    }
}
