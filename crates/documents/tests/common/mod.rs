//! Small documents, made here, so that each test says what is in its own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};
use rawrz_documents::{Document, DocumentError, Limits, extract};
use std::io::Write;

pub(crate) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<Document, DocumentError> {
    extract(name, bytes, &Limits::default())
}

/// The text, which has to be found.
pub(crate) fn text(name: &str, bytes: &[u8]) -> String {
    read(name, bytes).unwrap().text
}

/// A PDF in the making.
#[derive(Default)]
pub(crate) struct Pdf {
    bytes: Vec<u8>,
}

impl Pdf {
    pub(crate) fn new() -> Pdf {
        Pdf { bytes: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec() }
    }

    pub(crate) fn object(mut self, id: u32, body: &str) -> Pdf {
        self.bytes.extend_from_slice(format!("{id} 0 obj\n{body}\nendobj\n").as_bytes());
        self
    }

    /// A stream whose dictionary has `entries` beside its length.
    pub(crate) fn stream(mut self, id: u32, entries: &str, data: &[u8]) -> Pdf {
        let head = format!("{id} 0 obj\n<< {entries} /Length {} >>\nstream\n", data.len());
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.extend_from_slice(b"\nendstream\nendobj\n");
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Pdf {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Catalog 1, tree 2, page 3 with contents 4, and font 5 under the name F.
    pub(crate) fn page(self, font: &str) -> Pdf {
        self.object(1, "<< /Type /Catalog /Pages 2 0 R >>")
            .object(2, "<< /Type /Pages /Kids [3 0 R] /Count 1 >>")
            .object(
                3,
                "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> /XObject << /X 6 0 R >> >> >>",
            )
            .object(5, font)
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(b"trailer\n<< /Root 1 0 R /Size 10 >>\nstartxref\n0\n%%EOF\n").bytes
    }

    pub(crate) fn end_without_trailer(self) -> Vec<u8> {
        self.bytes
    }
}

pub(crate) const HELVETICA: &str =
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>";

/// A file of one page that shows `content` in Helvetica.
pub(crate) fn page(content: &str) -> Vec<u8> {
    Pdf::new().page(HELVETICA).stream(4, "", content.as_bytes()).end()
}

/// A zip file of `members`.
pub(crate) fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (name, data) in members {
        let file = archive.new_file(*name).compression_method(rawzip::CompressionMethod::DEFLATE);
        let (mut entry, config) = file.start().unwrap();
        let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::best()));
        writer.write_all(data).unwrap();
        let (encoder, descriptor) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    bytes
}

const WORD: &str = "http://schemas.openxmlformats.org/wordprocessingml/2006/main";

/// A DOCX whose body is `body`.
pub(crate) fn docx(body: &str) -> Vec<u8> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><w:document xmlns:w=\"{WORD}\"><w:body>{body}</w:body></w:document>"
    );
    zip(&[("[Content_Types].xml", b"<Types/>"), ("word/document.xml", document.as_bytes())])
}
