//! The text of a PDF.
//!
//! We do not use a cross-reference table: it says where objects are, and a hostile one says that a million of them are one,
//! or that one is itself. [`file`] finds objects where they stand, which a damaged file has too; the last of a number is the
//! one that counts, as files are changed by appending. [`page`] draws the text of each page into [`layout`], which puts
//! glyphs back together as words and lines. Depth is bounded by the parser, time and memory by the budget.

mod cmap;
mod encoding;
mod file;
mod filter;
mod font;
mod layout;
mod object;
mod page;

use crate::budget::Budget;
use crate::{Document, DocumentError};
use file::File;
use layout::Layout;
use page::Painter;

/// Where in a file its `%PDF-` may be, as readers take it.
const MAX_HEADER_OFFSET: usize = 1024;

/// Share of the characters that may be unknown in a text that is of use.
const MAX_UNKNOWN_SHARE: f64 = 0.3;

pub(crate) fn is_pdf(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(MAX_HEADER_OFFSET)];
    start.windows(5).any(|window| window == b"%PDF-")
}

pub(crate) fn extract(bytes: &[u8], budget: &mut Budget) -> Result<Document, DocumentError> {
    let file = File::open(bytes, budget)?;
    let pages = page::pages(&file, budget)?;
    if pages.is_empty() {
        return Err(damaged("it has no pages"));
    }
    let mut layout = Layout::default();
    let mut painter = Painter::new(&file);
    for page in &pages {
        painter.paint(page, &mut layout, budget)?;
        layout.end_page(budget)?;
    }
    if layout.n_unknown() as f64 > MAX_UNKNOWN_SHARE * layout.n_glyphs() as f64 {
        return Err(DocumentError::UnknownCharacters);
    }
    let text = layout.into_text();
    match text.is_empty() {
        true => Err(DocumentError::NoText),
        false => Ok(Document { text, pages: Some(pages.len()) }),
    }
}

pub(crate) fn damaged(what: impl Into<String>) -> DocumentError {
    DocumentError::Damaged { format: "PDF", what: what.into() }
}
