//! Plain text: encodings, and what is no text.

mod common;

use common::{read, text};
use rawrz_documents::DocumentError;

#[test]
fn utf_8_with_and_without_a_mark() {
    assert_eq!(text("a.txt", "größe 😀\n".as_bytes()), "größe 😀\n");
    assert_eq!(text("a.txt", b"\xef\xbb\xbfmarked"), "marked");
}

#[test]
fn utf_16_goes_by_its_mark() {
    let units: Vec<u16> = "hi 😀".encode_utf16().collect();
    let little: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(units.iter().flat_map(|unit| unit.to_le_bytes())).collect();
    let big: Vec<u8> =
        [0xfe, 0xff].into_iter().chain(units.iter().flat_map(|unit| unit.to_be_bytes())).collect();
    assert_eq!(text("a.txt", &little), "hi 😀");
    assert_eq!(text("a.txt", &big), "hi 😀");
    // Half a unit, and half a pair.
    for bytes in [&little[..little.len() - 1], &little[..little.len() - 2]] {
        assert!(matches!(read("a.txt", bytes), Err(DocumentError::Unsupported { .. })));
    }
}

#[test]
fn what_is_no_text_is_named() {
    let cases: [(&[u8], &str); 7] = [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office"),
        (b"{\\rtf1", "Rich Text"),
        (b"\x89PNG\r\n", "picture"),
        (b"\xff\xd8\xff\xe0", "picture"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"caf\xe9", "not text in UTF-8"),
        (b"a\0b", "null"),
    ];
    for (bytes, word) in cases {
        match read("file.bin", bytes).unwrap_err() {
            DocumentError::Unsupported { what } => {
                assert!(what.contains(word) && what.contains("file.bin"), "{what}")
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(read("a.txt", b" \n"), Err(DocumentError::NoText));
    assert_eq!(read("a.txt", b""), Err(DocumentError::NoText));
}

#[test]
fn names_in_messages_are_short_and_without_control_characters() {
    let name = format!("{}\n\x1b[31m", "x".repeat(1000));
    let message = read(&name, b"\xff").unwrap_err().to_string();
    assert!(message.len() < 250 && !message.contains(char::is_control), "{message}");
}
