//! The text of a DOCX: a zip file with the document in XML (ECMA-376).
//!
//! Paragraphs become lines, headings get the signs of Markdown, list items a dash, cells of a table a tab between them.
//! Text that was deleted in a tracked change, codes of fields and second renderings for old readers are left out.

use crate::budget::Budget;
use crate::inflate::inflate;
use crate::{Document, DocumentError};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use rawzip::{CompressionMethod, ZipArchive};

/// Members that a document may have; each picture is one.
const MAX_MEMBERS: usize = 10_000;
/// How deep elements may be in each other. Tables in tables in text boxes reach some fifty.
const MAX_DEPTH: usize = 512;
/// Parts with text, in the order in which it is given. Where the main part has another name, its relationships say so.
const NOTES: [&str; 2] = ["word/footnotes.xml", "word/endnotes.xml"];

pub(crate) fn extract(bytes: &[u8], budget: &mut Budget) -> Result<Document, DocumentError> {
    let package = Package::open(bytes, budget)?;
    let main = match package.part("_rels/.rels", budget)? {
        Some(relations) => main_part(&relations, budget)?,
        None => None,
    };
    let main = main.unwrap_or_else(|| "word/document.xml".to_owned());
    let Some(document) = package.part(&main, budget)? else {
        return Err(DocumentError::Unsupported { what: package.kind().to_owned() });
    };
    let mut text = Text::default();
    text.read(&document, budget)?;
    for notes in NOTES {
        if let Some(notes) = package.part(notes, budget)? {
            text.read(&notes, budget)?;
        }
    }
    let text = text.out.trim().to_owned();
    match text.is_empty() {
        true => Err(DocumentError::NoText),
        false => Ok(Document { text, pages: None }),
    }
}

fn damaged(what: impl ToString) -> DocumentError {
    DocumentError::Damaged { format: "DOCX", what: what.to_string() }
}

/// The members of a zip file.
struct Package<'a> {
    archive: rawzip::ZipSliceArchive<&'a [u8]>,
    names: Vec<String>,
}

impl<'a> Package<'a> {
    fn open(bytes: &'a [u8], budget: &mut Budget) -> Result<Package<'a>, DocumentError> {
        let archive = ZipArchive::from_slice(bytes).map_err(damaged)?;
        let mut names = Vec::new();
        let mut entries = archive.entries();
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            budget.work(64)?;
            if names.len() == MAX_MEMBERS {
                return Err(DocumentError::TooMany { what: "members in its zip file", limit: MAX_MEMBERS });
            }
            names.push(String::from_utf8_lossy(entry.file_path().as_ref()).into_owned());
        }
        Ok(Package { archive, names })
    }

    /// What the file is, when it is no document of ours.
    fn kind(&self) -> &'static str {
        let has = |start: &str| self.names.iter().any(|name| name.starts_with(start));
        match () {
            () if has("xl/") => "it is a spreadsheet; save it as CSV or PDF",
            () if has("ppt/") => "it is a presentation; save it as PDF",
            () if has("content.xml") => "it is an OpenDocument file; save it as DOCX or PDF",
            () => "it is a zip file without a document",
        }
    }

    /// A member as text, unpacked.
    fn part(&self, name: &str, budget: &mut Budget) -> Result<Option<String>, DocumentError> {
        let mut entries = self.archive.entries();
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            budget.work(64)?;
            if entry.file_path().as_ref() != name.as_bytes() {
                continue;
            }
            let method = entry.compression_method();
            let member = self.archive.get_entry(entry.wayfinder()).map_err(damaged)?;
            let bytes = match method {
                CompressionMethod::STORE => {
                    budget.unpacked(member.data().len(), member.data().len())?;
                    member.data().to_vec()
                }
                CompressionMethod::DEFLATE => match inflate(member.data(), false, budget)? {
                    (bytes, true) => bytes,
                    (_, false) => return Err(damaged(format!("{name} cannot be unpacked to its end"))),
                },
                _ => return Err(damaged(format!("{name} is packed in a way that documents do not use"))),
            };
            let text = String::from_utf8(bytes).map_err(|_| damaged(format!("{name} is not UTF-8")))?;
            return Ok(Some(text));
        }
        Ok(None)
    }
}

/// The next event, with how deep it is.
fn next<'a>(
    reader: &mut Reader<&'a [u8]>,
    depth: &mut usize,
    budget: &mut Budget,
) -> Result<Event<'a>, DocumentError> {
    let start = reader.buffer_position();
    let event = reader.read_event().map_err(damaged)?;
    budget.work((reader.buffer_position() - start) as usize + 16)?;
    match &event {
        Event::Start(_) => *depth += 1,
        Event::End(_) => *depth = depth.saturating_sub(1),
        _ => {}
    }
    if *depth > MAX_DEPTH {
        return Err(damaged(format!("elements are more than {MAX_DEPTH} deep in each other")));
    }
    Ok(event)
}

/// The value of an attribute by its name without a prefix.
fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, DocumentError> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(damaged)?;
        if attribute.key.local_name().as_ref() == name {
            return Ok(Some(attribute.value.into_owned()));
        }
    }
    Ok(None)
}

/// The part that the package's relationships call its document.
fn main_part(relations: &str, budget: &mut Budget) -> Result<Option<String>, DocumentError> {
    let mut reader = Reader::from_str(relations);
    let mut depth = 0;
    loop {
        match next(&mut reader, &mut depth, budget)? {
            Event::Eof => return Ok(None),
            Event::Start(element) | Event::Empty(element) => {
                let kind = attribute(&element, "Type")?.unwrap_or_default();
                if kind.ends_with("/officeDocument") {
                    return Ok(
                        attribute(&element, "Target")?.map(|name| name.trim_start_matches('/').to_owned())
                    );
                }
            }
            _ => {}
        }
    }
}

/// Text as it is read.
#[derive(Default)]
struct Text {
    out: String,
}

/// Where in a part the reader is.
#[derive(Default)]
struct Where {
    /// Within characters that show.
    in_text: bool,
    /// Within elements whose text does not show, how many.
    n_hidden: usize,
    /// Within cells, how many; paragraphs of a cell stay on its line.
    n_cells: usize,
    /// Whether the row has a cell before this one.
    row_has_cell: bool,
}

impl Text {
    fn read(&mut self, part: &str, budget: &mut Budget) -> Result<(), DocumentError> {
        let mut reader = Reader::from_str(part);
        let mut depth = 0;
        let mut at = Where::default();
        if !self.out.is_empty() {
            self.push("\n", budget)?;
        }
        loop {
            match next(&mut reader, &mut depth, budget)? {
                Event::Eof => return Ok(()),
                Event::Start(element) => self.start(&element, &mut at, budget)?,
                Event::Empty(element) => {
                    self.start(&element, &mut at, budget)?;
                    self.end(element.local_name().as_ref(), &mut at, budget)?;
                }
                Event::End(element) => self.end(element.local_name().as_ref(), &mut at, budget)?,
                Event::Text(text) if at.in_text && at.n_hidden == 0 => {
                    self.push(&text.xml10_content(), budget)?;
                }
                Event::CData(text) if at.in_text && at.n_hidden == 0 => {
                    self.push(&text.xml10_content(), budget)?;
                }
                Event::GeneralRef(reference) if at.in_text && at.n_hidden == 0 => {
                    let char = reference.resolve_char_ref().map_err(damaged)?;
                    let name = reference.into_inner();
                    let known = quick_xml::escape::resolve_xml_entity(&name);
                    match (char, known) {
                        (Some(char), _) => self.push(char.encode_utf8(&mut [0; 4]), budget)?,
                        (None, Some(known)) => self.push(known, budget)?,
                        // Documents declare no entities of their own.
                        (None, None) => return Err(damaged(format!("it has an unknown entity {name}"))),
                    }
                }
                _ => {}
            }
        }
    }

    fn start(
        &mut self,
        element: &BytesStart<'_>,
        at: &mut Where,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        match element.local_name().as_ref() {
            "t" => at.in_text = true,
            "Fallback" | "del" | "moveFrom" | "instrText" | "tabs" => at.n_hidden += 1,
            _ if at.n_hidden > 0 => {}
            "tab" if self.is_in_line() => self.push("\t", budget)?,
            "br" | "cr" => self.push("\n", budget)?,
            "noBreakHyphen" => self.push("-", budget)?,
            "pStyle" => {
                let style = attribute(element, "val")?.unwrap_or_default();
                self.heading(&style, budget)?;
            }
            "numPr" if !self.is_in_line() => self.push("- ", budget)?,
            "tr" => at.row_has_cell = false,
            "tc" => {
                if at.row_has_cell {
                    self.push("\t", budget)?;
                }
                at.n_cells += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str, at: &mut Where, budget: &mut Budget) -> Result<(), DocumentError> {
        match name {
            "t" => at.in_text = false,
            "Fallback" | "del" | "moveFrom" | "instrText" | "tabs" => {
                at.n_hidden = at.n_hidden.saturating_sub(1)
            }
            "p" if at.n_cells == 0 => self.push("\n", budget)?,
            "p" if self.is_in_line() && !self.out.ends_with([' ', '\t']) => self.push(" ", budget)?,
            "tc" => {
                at.n_cells = at.n_cells.saturating_sub(1);
                at.row_has_cell = true;
                let len = self.out.trim_end_matches(' ').len();
                self.out.truncate(len);
            }
            "tr" if at.n_cells == 0 => self.push("\n", budget)?,
            _ => {}
        }
        Ok(())
    }

    /// A heading's signs, by the names that Word gives to styles in all languages.
    fn heading(&mut self, style: &str, budget: &mut Budget) -> Result<(), DocumentError> {
        let level = match style.strip_prefix("Heading").or_else(|| style.strip_prefix("heading ")) {
            Some(level) => level.parse().ok(),
            None => (style == "Title").then_some(1),
        };
        match level {
            Some(level @ 1..=6) if !self.is_in_line() => {
                self.push(&format!("{} ", "#".repeat(level)), budget)
            }
            _ => Ok(()),
        }
    }

    fn is_in_line(&self) -> bool {
        !self.out.is_empty() && !self.out.ends_with('\n')
    }

    fn push(&mut self, text: &str, budget: &mut Budget) -> Result<(), DocumentError> {
        budget.text(text.len())?;
        self.out.push_str(text);
        Ok(())
    }
}
