//! PDF: what is read, and what is refused.

mod common;

use common::{HELVETICA, Pdf, page, read, text, zlib};
use rawrz_documents::{DocumentError, Limits, extract};
use std::time::{Duration, Instant};

#[test]
fn lines_words_and_paragraphs_are_put_together() {
    let content =
        "BT /F 12 Tf 72 700 Td (Hello) Tj 40 0 Td (world) Tj 0 -14 Td (next line) Tj 0 -60 Td (apart) Tj ET";
    assert_eq!(text("a.pdf", &page(content)), "Hello world\nnext line\n\napart");
}

#[test]
fn kerning_is_no_space_and_a_wide_gap_is() {
    assert_eq!(
        text("a.pdf", &page("BT /F 10 Tf [(Ke) 30 (rn) -20 (ing) -300 (here)] TJ ET")),
        "Kerning here"
    );
    assert_eq!(text("a.pdf", &page("BT /F 10 Tf [(left) -4000 (right)] TJ ET")), "left\tright");
}

#[test]
fn every_operator_that_shows_text_does() {
    let content = "BT /F 10 Tf 12 TL 1 0 0 1 50 500 Tm (one) Tj (two) ' 0 0 (three) \" T* <666f7572> Tj 0 -13 TD (five) Tj ET";
    assert_eq!(text("a.pdf", &page(content)), "one\ntwo\nthree\nfour\nfive");
}

#[test]
fn a_turned_and_scaled_page_reads_the_same() {
    let content = "q 0 2 -2 0 300 300 cm BT /F 10 Tf (turned) Tj 40 0 Td (text) Tj 0 -12 Td (below) Tj ET Q";
    assert_eq!(text("a.pdf", &page(content)), "turned text\nbelow");
}

#[test]
fn blanks_at_the_start_of_a_line_are_kept_and_others_are_one() {
    let content = "BT /F 10 Tf 12 TL (if  a:) Tj T* (    b  ) Tj T* (   ) Tj T* (c) Tj ET";
    assert_eq!(text("a.pdf", &page(content)), "if a:\n    b\nc");
}

#[test]
fn escapes_and_octal_codes_in_strings() {
    let content = r"BT /F 10 Tf (a\(b\)c \\ \344\50\51 (nested) x\
y) Tj ET";
    assert_eq!(text("a.pdf", &page(content)), r"a(b)c \ ä() (nested) xy");
}

#[test]
fn streams_unpack_through_their_filters() {
    let content = b"BT /F 10 Tf (packed text) Tj ET";
    let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    let packed_hex: String =
        zlib(content).iter().map(|byte| format!("{byte:02X} ")).collect::<String>() + ">";
    let mut run = vec![content.len() as u8 - 1];
    run.extend_from_slice(content);
    run.push(128);
    let lzw = weezl::encode::Encoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8).encode(content).unwrap();
    let cases: [(&str, Vec<u8>); 6] = [
        ("/Filter /FlateDecode", zlib(content)),
        ("/Filter /ASCIIHexDecode", format!("{hex}>").into_bytes()),
        ("/Filter [/ASCIIHexDecode /FlateDecode]", packed_hex.into_bytes()),
        ("/Filter /RunLengthDecode", run),
        ("/Filter /LZWDecode", lzw),
        // A sum that is missing at the end is not missed.
        ("/Filter /FlateDecode", zlib(content)[..zlib(content).len() - 4].to_vec()),
    ];
    for (filter, data) in cases {
        let pdf = Pdf::new().page(HELVETICA).stream(4, filter, &data).end();
        assert_eq!(text("a.pdf", &pdf), "packed text", "{filter}");
    }
}

#[test]
fn ascii_85_is_decoded() {
    // The last group is cut short.
    let content = encode_85(b"BT /F 10 Tf (eighty-five) Tj ET");
    let pdf = Pdf::new().page(HELVETICA).stream(4, "/Filter /A85", content.as_bytes()).end();
    assert_eq!(text("a.pdf", &pdf), "eighty-five");
}

/// ASCII85, by its definition (ISO 32000-1, 7.4.3).
fn encode_85(data: &[u8]) -> String {
    let mut out = String::new();
    for group in data.chunks(4) {
        let mut padded = [0; 4];
        padded[..group.len()].copy_from_slice(group);
        let value = u32::from_be_bytes(padded);
        let digits: Vec<char> =
            (0..5).rev().map(|place| char::from(b'!' + (value / 85u32.pow(place) % 85) as u8)).collect();
        out.extend(&digits[..group.len() + 1]);
    }
    out + "~>"
}

#[test]
fn objects_in_object_streams_with_a_predictor() {
    let objects = "1 0 2 36 3 80 << /Type /Catalog /Pages 2 0 R >>   << /Type /Pages /Kids [3 0 R] /Count 1 >>   \
                   << /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>";
    let first = objects.find("<<").unwrap();
    let offsets: Vec<usize> = objects.match_indices("<< /Type /").map(|(at, _)| at - first).collect();
    let header = format!("1 {} 2 {} 3 {} ", offsets[0], offsets[1], offsets[2]);
    let data = format!("{header}{}", &objects[first..]);
    // Rows of 16 bytes, each the difference to the one above (PNG's "up").
    let mut padded = data.clone().into_bytes();
    padded.resize(padded.len().next_multiple_of(16), b' ');
    let mut rows = Vec::new();
    for (index, row) in padded.chunks(16).enumerate() {
        rows.push(2);
        let above = |column| if index == 0 { 0 } else { padded[(index - 1) * 16 + column] };
        rows.extend(row.iter().enumerate().map(|(column, byte)| byte.wrapping_sub(above(column))));
    }
    let entries = format!(
        "/Type /ObjStm /N 3 /First {} /Filter /FlateDecode /DecodeParms << /Predictor 12 /Columns 16 >>",
        header.len()
    );
    let pdf = Pdf::new()
        .stream(9, &entries, &zlib(&rows))
        .stream(4, "", b"BT /F 10 Tf (from an object stream) Tj ET")
        .object(5, HELVETICA)
        .stream(8, "/Type /XRef /Root 1 0 R /W [1 2 1] /Size 10", &[0; 4])
        .raw(b"startxref\n0\n%%EOF");
    let pdf = pdf.end_without_trailer();
    assert_eq!(text("a.pdf", &pdf), "from an object stream");
}

#[test]
fn the_last_of_an_object_counts() {
    let pdf = Pdf::new()
        .page(HELVETICA)
        .stream(4, "", b"BT /F 10 Tf (first) Tj ET")
        .stream(4, "", b"BT /F 10 Tf (changed) Tj ET")
        .end();
    assert_eq!(text("a.pdf", &pdf), "changed");
}

#[test]
fn characters_by_encodings_and_names() {
    let differences = "<< /Type /Font /Subtype /Type1 /BaseFont /X /Encoding << /Differences [65 /alpha /f_i 67 /uni20AC /summation] >> >>";
    let pdf = Pdf::new().page(differences).stream(4, "", b"BT /F 10 Tf (ABCD z) Tj ET").end();
    assert_eq!(text("a.pdf", &pdf), "αfi€∑ z");
    let roman = "<< /Type /Font /Subtype /TrueType /BaseFont /X /Encoding /MacRomanEncoding >>";
    let pdf = Pdf::new().page(roman).stream(4, "", b"BT /F 10 Tf (\x8e\xde) Tj ET").end();
    assert_eq!(text("a.pdf", &pdf), "éfi");
}

fn composite(map: &str, widths: &str) -> Vec<u8> {
    composite_showing(map, widths, "<000100020003> Tj")
}

fn composite_showing(map: &str, widths: &str, shown: &str) -> Vec<u8> {
    let font = "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [7 0 R] /ToUnicode 8 0 R >>";
    let descendant = format!("<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /DW 1000 /W {widths} >>");
    Pdf::new()
        .page(font)
        .object(7, &descendant)
        .stream(8, "/Filter /FlateDecode", &zlib(map.as_bytes()))
        .stream(4, "", format!("BT /F 10 Tf {shown} ET").as_bytes())
        .end()
}

#[test]
fn composite_fonts_go_by_their_map() {
    let map = "1 begincodespacerange <0000> <ffff> endcodespacerange\n2 beginbfchar <0001> <004f> <0002> <d83dde00> endbfchar\n\
               1 beginbfrange <0003> <0004> [<006b> <006c>] endbfrange";
    assert_eq!(text("a.pdf", &composite(map, "[1 [500 500 500]]")), "O😀k");
    let range = "1 beginbfrange <0001> <0003> <0061> endbfrange";
    assert_eq!(text("a.pdf", &composite(range, "[1 3 500]")), "abc");
}

#[test]
fn forms_are_drawn_and_do_not_turn_in_circles() {
    let pdf = Pdf::new()
        .page(HELVETICA)
        .stream(4, "", b"BT /F 10 Tf (page) Tj ET /X Do")
        .stream(6, "/Type /XObject /Subtype /Form /Matrix [1 0 0 1 0 -50]", b"BT /F 10 Tf (form) Tj ET /X Do")
        .end();
    let found = text("a.pdf", &pdf);
    assert!(found.starts_with("page\n\nform"), "{found}");
    // One for each depth, and then no more.
    assert_eq!(found.matches("form").count(), 8);
}

#[test]
fn pages_come_in_order_and_inherit_what_they_show_with() {
    let pdf = Pdf::new()
        .object(1, "<< /Type /Catalog /Pages 2 0 R >>")
        .object(2, "<< /Type /Pages /Kids [7 0 R 3 0 R] /Resources << /Font << /F 5 0 R >> >> >>")
        .object(3, "<< /Type /Page /Contents [4 0 R 9 0 R] >>")
        .object(7, "<< /Type /Pages /Kids [8 0 R] >>")
        .object(8, "<< /Type /Page /Contents 6 0 R >>")
        .object(5, HELVETICA)
        .stream(6, "", b"BT /F 10 Tf (first page) Tj ET")
        .stream(4, "", b"BT /F 10 Tf (second) Tj")
        .stream(9, "", b"40 0 Td (page) Tj ET")
        .end();
    let document = read("a.pdf", &pdf).unwrap();
    assert_eq!((document.text.as_str(), document.pages), ("first page\n\nsecond page", Some(2)));
}

#[test]
fn damaged_files_give_what_they_have() {
    // No trailer, no catalog.
    let pdf = Pdf::new()
        .object(3, "<< /Type /Page /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>")
        .object(5, HELVETICA)
        .stream(4, "", b"BT /F 10 Tf (lost and found) Tj ET")
        .end_without_trailer();
    assert_eq!(text("a.pdf", &pdf), "lost and found");
    // A length that is wrong, and dictionaries that never end.
    let pdf = Pdf::new()
        .page(HELVETICA)
        .raw(b"4 0 obj << /Length 999999 >> stream\nBT /F 10 Tf (wrong length) Tj ET\nendstream endobj\n")
        .raw(b"11 0 obj << /Never [ (ends) \nendobj\n")
        .end();
    assert_eq!(text("a.pdf", &pdf), "wrong length");
}

#[test]
fn pictures_in_the_content_are_passed_over() {
    let content =
        "BT /F 10 Tf (before) Tj ET BI /W 1 /H 1 ID \u{1}(Tj EIx \n EI BT /F 10 Tf 0 -20 Td (after) Tj ET";
    assert_eq!(text("a.pdf", &page(content)), "before\n\nafter");
}

#[test]
fn writing_without_spaces_gets_none() {
    let map = "3 beginbfchar <0001> <4e16> <0002> <754c> <0003> <0041> endbfchar";
    let spaced = composite_showing(map, "[1 [700 700 700]]", "[<0001> -400 <0002> -400 <0003>] TJ");
    assert_eq!(text("a.pdf", &spaced), "世界 A");
}

// What is refused.

fn error(bytes: &[u8]) -> DocumentError {
    read("a.pdf", bytes).unwrap_err()
}

#[test]
fn encrypted_files() {
    let pdf = Pdf::new()
        .page(HELVETICA)
        .stream(4, "", b"BT /F 10 Tf (secret) Tj ET")
        .raw(b"trailer << /Root 1 0 R /Encrypt 9 0 R >>")
        .end();
    assert_eq!(error(&pdf), DocumentError::Encrypted);
}

#[test]
fn pages_without_text() {
    assert_eq!(error(&page("q 1 0 0 1 0 0 cm /X Do Q")), DocumentError::NoText);
    assert!(matches!(error(b"%PDF-1.4\nnothing"), DocumentError::Damaged { .. }));
}

#[test]
fn fonts_that_do_not_say_their_characters() {
    let pdf = composite("1 begincodespacerange <0000> <ffff> endcodespacerange", "[]");
    assert_eq!(error(&pdf), DocumentError::UnknownCharacters);
}

#[test]
fn objects_that_are_too_deep() {
    let deep = "[".repeat(100_000);
    assert!(matches!(
        error(&Pdf::new().page(HELVETICA).object(9, &deep).end()),
        DocumentError::Damaged { .. }
    ));
    let deep = "<</A".repeat(100_000);
    assert!(matches!(
        error(&Pdf::new().page(HELVETICA).object(9, &deep).end()),
        DocumentError::Damaged { .. }
    ));
}

#[test]
fn objects_with_too_many_parts() {
    let wide = format!("[{}]", "0 ".repeat(600_000));
    assert!(matches!(
        error(&Pdf::new().page(HELVETICA).object(9, &wide).end()),
        DocumentError::TooMany { .. }
    ));
}

#[test]
fn too_many_objects() {
    let mut bytes = b"%PDF-1.4\n".to_vec();
    for id in 0..1_100_000 {
        bytes.extend_from_slice(format!("{id} 0 obj 0\n").as_bytes());
    }
    assert!(matches!(error(&bytes), DocumentError::TooMany { what: "objects", .. }));
}

#[test]
fn streams_that_unpack_too_far() {
    let zeros = vec![b' '; 40 << 20];
    let pdf = Pdf::new().page(HELVETICA).stream(4, "/Filter /FlateDecode", &zlib(&zeros)).end();
    assert_eq!(error(&pdf), DocumentError::UnpacksTooFar { limit: 32 << 20 });
    // Packed twice, and a thousand of them.
    let twice = zlib(&zlib(&zeros));
    let pdf = Pdf::new().page(HELVETICA).stream(4, "/Filter [/FlateDecode /FlateDecode]", &twice).end();
    assert_eq!(error(&pdf), DocumentError::UnpacksTooFar { limit: 32 << 20 });
    let part = zlib(&vec![b' '; 30 << 20]);
    let mut pdf = Pdf::new().page(HELVETICA);
    for id in 20..30 {
        pdf = pdf.stream(id, "/Type /ObjStm /N 0 /First 0 /Filter /FlateDecode", &part);
    }
    assert_eq!(error(&pdf.end()), DocumentError::UnpacksTooFar { limit: 64 << 20 });
}

#[test]
fn a_page_of_many_parts_unpacks_no_further_than_one() {
    let part = zlib(&vec![b' '; 20 << 20]);
    let pdf = Pdf::new()
        .page(HELVETICA)
        .object(3, "<< /Type /Page /Contents [4 0 R 4 0 R 4 0 R] >>")
        .stream(4, "/Filter /FlateDecode", &part)
        .end();
    assert!(matches!(error(&pdf), DocumentError::UnpacksTooFar { .. }));
}

#[test]
fn too_many_filters() {
    let filters = format!("/Filter [{}]", "/AHx ".repeat(9));
    let pdf = Pdf::new().page(HELVETICA).stream(4, &filters, b"00").end();
    assert!(matches!(error(&pdf), DocumentError::TooMany { what: "filters on one stream", .. }));
}

#[test]
fn maps_with_too_many_ranges() {
    let map = format!("beginbfchar {} endbfchar", "<0001> <0041> ".repeat(200_000));
    assert!(matches!(error(&composite(&map, "[]")), DocumentError::TooMany { .. }));
    let map = format!("begincodespacerange {} endcodespacerange", "<0001> <0041> ".repeat(100));
    assert!(matches!(error(&composite(&map, "[]")), DocumentError::TooMany { .. }));
}

#[test]
fn ranges_of_all_codes_cost_no_more_than_others() {
    let started = Instant::now();
    let map = "beginbfrange <00000000> <ffffffff> <0041> <0001> <ffff> <0041> endbfrange";
    assert_eq!(text("a.pdf", &composite(map, "[0 4294967295 500]")), "ABC");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn references_and_trees_in_circles_end() {
    let pdf = Pdf::new()
        .object(1, "<< /Type /Catalog /Pages 2 0 R >>")
        .object(2, "<< /Type /Pages /Kids [2 0 R 3 0 R 3 0 R 7 0 R] /Parent 2 0 R >>")
        .object(7, "8 0 R")
        .object(8, "7 0 R")
        .object(3, "<< /Type /Page /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>")
        .object(5, HELVETICA)
        .raw(b"4 0 obj << /Length 4 0 R >> stream\nBT /F 10 Tf (once) Tj ET\nendstream endobj\n")
        .end();
    assert_eq!(text("a.pdf", &pdf), "once");
}

#[test]
fn too_much_text() {
    let limits = Limits { max_text_bytes: 10, ..Limits::default() };
    let pdf = page("BT /F 10 Tf (more than ten bytes) Tj ET");
    assert_eq!(extract("a.pdf", &pdf, &limits), Err(DocumentError::TooMuchText { limit: 10 }));
}

#[test]
fn work_that_takes_too_long() {
    // Forms that each draw the next ten times: ten million drawings if nobody stops.
    let mut pdf = Pdf::new().page(HELVETICA).stream(4, "", b"/X Do");
    for id in 6..14 {
        let entries =
            format!("/Subtype /Form /Resources << /XObject << /X {} 0 R >> /Font << /F 5 0 R >> >>", id + 1);
        pdf = pdf.stream(id, &entries, "/X Do ".repeat(50).as_bytes());
    }
    let limits = Limits { max_time: Duration::from_millis(300), ..Limits::default() };
    let started = Instant::now();
    assert_eq!(extract("a.pdf", &pdf.end(), &limits), Err(DocumentError::TooSlow { limit: limits.max_time }));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn files_that_are_too_large() {
    let limits = Limits { max_file_bytes: 100, ..Limits::default() };
    let pdf = page("BT /F 10 Tf (text) Tj ET");
    assert!(matches!(extract("a.pdf", &pdf, &limits), Err(DocumentError::FileTooLarge { limit: 100, .. })));
}

#[test]
fn any_prefix_and_any_changed_byte_ends_without_a_panic() {
    let map = "1 beginbfrange <0001> <0003> <0061> endbfrange";
    let whole = composite(map, "[1 3 500]");
    for end in 0..whole.len() {
        let _ = read("a.pdf", &whole[..end]);
    }
    for at in 0..whole.len() {
        for byte in [0, b'(', b'<', b'[', b'9', 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            let _ = read("a.pdf", &changed);
        }
    }
}
