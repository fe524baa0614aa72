//! Any document has text or an error, within its limits of time and text.
//!
//! Input: a byte that says what to do with the rest. 0: it is the document. 1: it is put into a PDF as its first page's
//! content, 2: as the map of its font, 3: as objects of an object stream. Else: it is the XML of a DOCX.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_documents::{Limits, extract};
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let bytes = match kind {
        0 => rest.to_vec(),
        1 => pdf(rest, b"", b""),
        2 => pdf(b"BT /F 9 Tf (text) Tj <00010203> Tj ET", rest, b""),
        3 => pdf(b"BT /F 9 Tf (text) Tj ET", b"", rest),
        _ => docx(rest),
    };
    let limits = Limits {
        max_file_bytes: 1 << 20,
        max_unpacked_bytes: 8 << 20,
        max_part_bytes: 4 << 20,
        max_kept_bytes: 4 << 20,
        max_text_bytes: 1 << 20,
        max_time: Duration::from_secs(2),
    };
    if let Ok(document) = extract("name", &bytes, &limits) {
        assert!(!document.text.trim().is_empty() && document.text.len() <= limits.max_text_bytes);
    }
});

fn pdf(content: &[u8], map: &[u8], objects: &[u8]) -> Vec<u8> {
    let mut bytes = b"%PDF-1.7\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj 2 0 obj <</Kids[3 0 R]>> endobj \
        3 0 obj <</Type/Page/Contents 4 0 R/Resources<</Font<</F 5 0 R>>/XObject<</X 4 0 R>>>>>> endobj \
        5 0 obj <</Type/Font/Subtype/Type0/Encoding 6 0 R/ToUnicode 6 0 R/DescendantFonts[<</W[1 9 500]>>]>> endobj "
        .to_vec();
    for (id, entries, data) in [(4, "/Subtype/Form", content), (6, "", map), (7, "/Type/ObjStm/N 9/First 40", objects)] {
        bytes.extend_from_slice(format!("{id} 0 obj <<{entries}/Length {}>> stream\n", data.len()).as_bytes());
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\nendstream endobj ");
    }
    bytes.extend_from_slice(b"trailer <</Root 1 0 R>>");
    bytes
}

/// A zip file of one member that is not packed.
fn docx(xml: &[u8]) -> Vec<u8> {
    let name = b"word/document.xml";
    let len = u32::try_from(xml.len()).unwrap_or(0).to_le_bytes();
    let name_len = (name.len() as u16).to_le_bytes();
    let zeros = |n: usize| vec![0; n];
    let local: Vec<u8> = [&b"PK\x03\x04\x14\0"[..], &zeros(12), &len, &len, &name_len, &zeros(2), name, xml].concat();
    let central: Vec<u8> =
        [&b"PK\x01\x02\x14\0\x14\0"[..], &zeros(12), &len, &len, &name_len, &zeros(16), name].concat();
    let end: Vec<u8> = [
        &b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..],
        &(central.len() as u32).to_le_bytes(),
        &(local.len() as u32).to_le_bytes(),
        &zeros(2),
    ]
    .concat();
    [local, central, end].concat()
}
