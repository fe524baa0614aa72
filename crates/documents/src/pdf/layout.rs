//! From glyphs at places to words, lines and paragraphs.
//!
//! A page says where each glyph stands, and spaces are often left out. So a gap to the glyph before it along the line is a
//! space, and a step away from the line is a new one. The order is that of the page's own drawing, which is how programs
//! write text in columns too.

use crate::DocumentError;
use crate::budget::Budget;

/// Gaps in shares of the size of the text. A space is a quarter in most fonts; letters that are set apart stay below 0.15.
const SPACE_GAP: f64 = 0.17;
/// More than a justified line has between words: another column of a table.
const CELL_GAP: f64 = 2.0;
/// Farther from the line than raised and lowered text.
const LINE_STEP: f64 = 0.7;
/// Farther than the distance of lines in one paragraph.
const PARAGRAPH_STEP: f64 = 1.9;

/// Blanks at the start of a line that are kept.
const MAX_INDENT: usize = 64;

/// Text that grows as a page is drawn.
#[derive(Default)]
pub(super) struct Layout {
    text: String,
    last: Option<Place>,
    n_glyphs: usize,
    n_unknown: usize,
}

/// Where a glyph stands, in the page's own coordinates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) from: (f64, f64),
    pub(super) to: (f64, f64),
    /// Where the line goes, of length 1.
    pub(super) along: (f64, f64),
    /// Height of the text.
    pub(super) size: f64,
}

impl Layout {
    pub(super) fn n_glyphs(&self) -> usize {
        self.n_glyphs
    }

    /// Glyphs whose characters the font does not say.
    pub(super) fn n_unknown(&self) -> usize {
        self.n_unknown
    }

    pub(super) fn put(
        &mut self,
        text: Option<&str>,
        place: Place,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        self.n_glyphs += 1;
        self.n_unknown += usize::from(text.is_none());
        let text = text.unwrap_or("\u{fffd}");
        let mut between = self.last.map_or("", |last| between(&last, &place));
        // Writing without spaces is set wider to fill its lines.
        if between == " " && self.text.ends_with(has_no_spaces) && text.starts_with(has_no_spaces) {
            between = "";
        }
        self.last = Some(place);
        self.space(between, budget)?;
        for char in text.chars() {
            let expanded = ligature(char);
            match expanded {
                Some(letters) => self.push(letters, budget)?,
                None if char.is_whitespace() => self.blank(budget)?,
                None if char.is_control() => {}
                None => self.push(char.encode_utf8(&mut [0; 4]), budget)?,
            }
        }
        Ok(())
    }

    pub(super) fn end_page(&mut self, budget: &mut Budget) -> Result<(), DocumentError> {
        self.last = None;
        self.space("\n\n", budget)
    }

    pub(super) fn into_text(self) -> String {
        let mut text = self.text;
        text.truncate(text.trim_end().len());
        text
    }

    /// A space that the page itself has. At the start of a line it is kept, as code goes by it.
    fn blank(&mut self, budget: &mut Budget) -> Result<(), DocumentError> {
        let before = self.text.trim_end_matches(' ').len();
        let n_blanks = self.text.len() - before;
        match self.text[..before].ends_with('\n') {
            true if n_blanks < MAX_INDENT => self.push(" ", budget),
            true => Ok(()),
            false => self.space(" ", budget),
        }
    }

    /// White space, of which the strongest in a row counts.
    fn space(&mut self, space: &str, budget: &mut Budget) -> Result<(), DocumentError> {
        let before = self.text.trim_end().len();
        let found = rank(&self.text[before..]);
        let strongest = found.max(rank(space));
        // A line end takes blanks away that were on a line of their own.
        if before == 0 || (found == strongest && rank(space) < LINE_END) {
            return Ok(());
        }
        self.text.truncate(before);
        self.push(SPACES[strongest], budget)
    }

    fn push(&mut self, text: &str, budget: &mut Budget) -> Result<(), DocumentError> {
        budget.text(text.len())?;
        self.text.push_str(text);
        Ok(())
    }
}

/// White space from the weakest to the strongest.
const SPACES: [&str; 5] = ["", " ", "\t", "\n", "\n\n"];
/// The weakest of `SPACES` that ends a line.
const LINE_END: usize = 3;

/// How strong white space is, as an index of `SPACES`.
fn rank(space: &str) -> usize {
    match space.matches('\n').count() {
        0 if space.contains('\t') => 2,
        0 => usize::from(!space.is_empty()),
        1 => LINE_END,
        _ => LINE_END + 1,
    }
}

/// What stands between two glyphs.
fn between(last: &Place, next: &Place) -> &'static str {
    let step = (next.from.0 - last.to.0, next.from.1 - last.to.1);
    let gap = step.0 * last.along.0 + step.1 * last.along.1;
    let away = (step.0 * last.along.1 - step.1 * last.along.0).abs();
    let size = last.size.max(next.size);
    let is_turned = last.along.0 * next.along.0 + last.along.1 * next.along.1 < 0.9;
    // A line that is begun again from its start is another one at the same height: a column.
    let is_back = gap < -size.max(last.size);
    match () {
        () if away > PARAGRAPH_STEP * size || is_turned => "\n\n",
        () if away > LINE_STEP * size || is_back => "\n",
        () if gap > CELL_GAP * size => "\t",
        () if gap > SPACE_GAP * size => " ",
        () => "",
    }
}

/// Whether a character is of a writing that has no spaces between words: Chinese and Japanese, with their punctuation.
fn has_no_spaces(char: char) -> bool {
    matches!(char, '\u{2e80}'..='\u{31ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ff60}')
}

/// Letters that are one glyph in print.
fn ligature(char: char) -> Option<&'static str> {
    match char {
        'ﬀ' => Some("ff"),
        'ﬁ' => Some("fi"),
        'ﬂ' => Some("fl"),
        'ﬃ' => Some("ffi"),
        'ﬄ' => Some("ffl"),
        'ﬅ' | 'ﬆ' => Some("st"),
        _ => None,
    }
}
