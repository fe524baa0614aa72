//! DOCX: what is read, and what is refused.

mod common;

use common::{docx, read, text, zip};
use rawrz_documents::{DocumentError, Limits, extract};

#[test]
fn paragraphs_headings_lists_and_breaks() {
    let body = "<w:p><w:pPr><w:pStyle w:val=\"Title\"/></w:pPr><w:r><w:t>Report</w:t></w:r></w:p>\
                <w:p><w:pPr><w:pStyle w:val=\"Heading2\"/><w:tabs><w:tab w:val=\"left\"/></w:tabs></w:pPr><w:r><w:t>Part</w:t></w:r></w:p>\
                <w:p><w:r><w:t xml:space=\"preserve\">One &amp; </w:t></w:r><w:r><w:t>two &#233;</w:t><w:tab/><w:t>three</w:t><w:br/><w:t>four</w:t></w:r></w:p>\
                <w:p><w:pPr><w:numPr><w:ilvl w:val=\"0\"/></w:numPr></w:pPr><w:r><w:t>item</w:t></w:r></w:p>";
    assert_eq!(text("a.docx", &docx(body)), "# Report\n## Part\nOne & two é\tthree\nfour\n- item");
}

#[test]
fn tables_have_a_line_for_each_row() {
    let cell = |text: &str| format!("<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>");
    let row = |a, b| format!("<w:tr>{}{}</w:tr>", cell(a), cell(b));
    let body =
        format!("<w:tbl>{}{}</w:tbl><w:p><w:r><w:t>end</w:t></w:r></w:p>", row("a", "b"), row("c", ""));
    assert_eq!(text("a.docx", &docx(&body)), "a\tb\nc\t\nend");
}

#[test]
fn what_does_not_show_is_left_out() {
    let body = "<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>gone</w:delText><w:t>gone</w:t></w:r></w:del>\
                <w:r><w:instrText>PAGE</w:instrText></w:r>\
                <mc:AlternateContent xmlns:mc=\"x\"><mc:Choice><w:r><w:t> once</w:t></w:r></mc:Choice>\
                <mc:Fallback><w:r><w:t> twice</w:t></w:r></mc:Fallback></mc:AlternateContent></w:p>";
    assert_eq!(text("a.docx", &docx(body)), "kept once");
}

#[test]
fn the_main_part_is_where_the_relations_say_and_notes_follow() {
    let relations = b"<Relationships><Relationship Type=\"http://x/officeDocument\" Target=\"/word/main.xml\"/></Relationships>";
    let part =
        |text: &str| format!("<w:document><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:document>").into_bytes();
    let bytes = zip(&[
        ("_rels/.rels", relations),
        ("word/main.xml", &part("main")),
        ("word/footnotes.xml", &part("note")),
        ("word/document.xml", &part("other")),
    ]);
    assert_eq!(text("a.docx", &bytes), "main\n\nnote");
}

fn error(bytes: &[u8]) -> DocumentError {
    read("a.docx", bytes).unwrap_err()
}

#[test]
fn other_files_in_zips_are_named() {
    for (member, word) in [
        ("xl/workbook.xml", "spreadsheet"),
        ("ppt/a.xml", "presentation"),
        ("content.xml", "OpenDocument"),
        ("x", "zip file"),
    ] {
        match error(&zip(&[(member, b"x")])) {
            DocumentError::Unsupported { what } => assert!(what.contains(word), "{what}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_document_without_text() {
    assert_eq!(error(&docx("<w:p/>")), DocumentError::NoText);
}

#[test]
fn xml_that_is_broken_or_not_utf_8() {
    for body in ["<w:p></w:r>", "<w:p><w:r><w:t>&undeclared;</w:t></w:r></w:p>", "<w:p"] {
        assert!(matches!(error(&docx(body)), DocumentError::Damaged { .. }), "{body}");
    }
    assert!(matches!(error(&zip(&[("word/document.xml", b"<a>\xff</a>")])), DocumentError::Damaged { .. }));
}

#[test]
fn elements_that_are_too_deep() {
    let body = "<w:p>".repeat(100_000);
    assert!(matches!(error(&docx(&body)), DocumentError::Damaged { .. }));
}

#[test]
fn entities_do_not_multiply() {
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><w:p><w:r><w:t>&b;</w:t></w:r></w:p>";
    assert!(matches!(error(&zip(&[("word/document.xml", bomb.as_bytes())])), DocumentError::Damaged { .. }));
}

#[test]
fn members_that_unpack_too_far() {
    let bytes = docx(&" ".repeat(40 << 20));
    assert_eq!(error(&bytes), DocumentError::UnpacksTooFar { limit: 32 << 20 });
}

#[test]
fn too_many_members() {
    let names: Vec<String> = (0..10_001).map(|n| n.to_string()).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert!(matches!(error(&zip(&members)), DocumentError::TooMany { .. }));
}

#[test]
fn too_much_text() {
    let limits = Limits { max_text_bytes: 100, ..Limits::default() };
    let bytes = docx(&format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", "long ".repeat(100)));
    assert_eq!(extract("a.docx", &bytes, &limits), Err(DocumentError::TooMuchText { limit: 100 }));
}

#[test]
fn any_prefix_and_any_changed_byte_ends_without_a_panic() {
    let whole = docx("<w:p><w:r><w:t>text</w:t></w:r></w:p>");
    for end in 4..whole.len() {
        assert!(read("a.docx", &whole[..end]).is_err());
    }
    for at in 4..whole.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            let _ = read("a.docx", &changed);
        }
    }
}
