//! Pages and what they show: ISO 32000-1, 7.7.3, 8.4 and 9.4. Only what moves or shows text is followed.

use super::file::File;
use super::font::Font;
use super::layout::{Layout, Place};
use super::object::{Dict, Lexer, Object, is_space};
use crate::DocumentError;
use crate::budget::Budget;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// How deep drawings may use others.
const MAX_FORM_DEPTH: usize = 8;
/// How many states may be saved at a time. The standard promises 28.
const MAX_SAVED: usize = 256;
/// More operands than any operator has.
const MAX_OPERANDS: usize = 64;

/// A page.
pub(super) struct Page {
    id: u32,
    /// The nearest node of the tree above it that has resources for it.
    heir_of: Option<u32>,
}

/// The pages in their order; those of a file without a tree of pages in the order of their numbers.
pub(super) fn pages(file: &File<'_>, budget: &mut Budget) -> Result<Vec<Page>, DocumentError> {
    let mut pages = Vec::new();
    let mut todo = Vec::new();
    // A node that is met twice would be a circle.
    let mut met = HashSet::new();
    if let Some(root) = &file.root
        && let Some(catalog) = file.resolve(root, budget)?.into_dict()
        && let Some(Object::Ref(tree)) = catalog.get("Pages")
    {
        todo.push(Page { id: *tree, heir_of: None });
        met.insert(*tree);
    }
    // The next is at the end.
    while let Some(node) = todo.pop() {
        let Some(dict) = file.get(node.id, budget)?.into_dict() else {
            continue;
        };
        let Object::Array(kids) = file.value(&dict, "Kids", budget)? else {
            pages.push(node);
            continue;
        };
        let heir_of = dict.get("Resources").map(|_| node.id).or(node.heir_of);
        let first = todo.len();
        for kid in kids {
            if let Object::Ref(id) = kid
                && file.has(id)
                && met.insert(id)
            {
                todo.push(Page { id, heir_of });
            }
        }
        todo[first..].reverse();
    }
    if pages.is_empty() {
        for id in file.ids() {
            if file.get(id, budget)?.into_dict().is_some_and(|dict| dict.is_type("Page")) {
                pages.push(Page { id, heir_of: None });
            }
        }
    }
    Ok(pages)
}

/// A change of coordinates, `[a b c d e f]` as files write it.
type Matrix = [f64; 6];

const IDENTITY: Matrix = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

/// First `a`, then `b`.
fn then(a: &Matrix, b: &Matrix) -> Matrix {
    [
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
        a[4] * b[0] + a[5] * b[2] + b[4],
        a[4] * b[1] + a[5] * b[3] + b[5],
    ]
}

fn apply(matrix: &Matrix, x: f64, y: f64) -> (f64, f64) {
    (x * matrix[0] + y * matrix[2] + matrix[4], x * matrix[1] + y * matrix[3] + matrix[5])
}

#[derive(Clone)]
struct State {
    to_page: Matrix,
    font: Option<Rc<Font>>,
    size: f64,
    char_space: f64,
    word_space: f64,
    /// Of widths; 1 is as the font has them.
    scale: f64,
    leading: f64,
    rise: f64,
}

/// Draws pages into a layout. Fonts are loaded once.
pub(super) struct Painter<'a> {
    file: &'a File<'a>,
    fonts: HashMap<u32, Rc<Font>>,
}

impl<'a> Painter<'a> {
    pub(super) fn new(file: &'a File<'a>) -> Painter<'a> {
        Painter { file, fonts: HashMap::new() }
    }

    pub(super) fn paint(
        &mut self,
        page: &Page,
        layout: &mut Layout,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let Some(dict) = self.file.get(page.id, budget)?.into_dict() else {
            return Ok(());
        };
        let resources = match (self.file.dict(&dict, "Resources", budget)?, page.heir_of) {
            (Some(own), _) => own,
            (None, Some(node)) => {
                let node = self.file.get(node, budget)?.into_dict().unwrap_or_default();
                self.file.dict(&node, "Resources", budget)?.unwrap_or_default()
            }
            (None, None) => Dict::default(),
        };
        // One stream, or an array of them.
        let parts = match self.file.value(&dict, "Contents", budget)? {
            Object::Array(parts) => parts,
            _ => dict.get("Contents").cloned().into_iter().collect(),
        };
        // A word may not go over the end of a part, but states do.
        let mut content = Vec::new();
        for part in &parts {
            if let Some(stream) = self.file.stream(part, budget)?
                && let Some(data) = self.file.content(&stream, budget)?
            {
                budget.unpacked(data.len(), content.len() + data.len())?;
                content.extend_from_slice(&data);
                content.push(b'\n');
            }
        }
        let state = State {
            to_page: IDENTITY,
            font: None,
            size: 0.0,
            char_space: 0.0,
            word_space: 0.0,
            scale: 1.0,
            leading: 0.0,
            rise: 0.0,
        };
        self.run(&content, &resources, state, 0, layout, budget)
    }

    fn run(
        &mut self,
        content: &[u8],
        resources: &Dict,
        state: State,
        depth: usize,
        layout: &mut Layout,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let mut text = Text { state, line: IDENTITY, pen: IDENTITY };
        let mut saved: Vec<State> = Vec::new();
        let mut operands: Vec<Object> = Vec::new();
        let mut lexer = Lexer::of_content(content);
        while let Some(object) = lexer.object(budget)? {
            let Object::Keyword(word) = object else {
                if operands.len() < MAX_OPERANDS {
                    operands.push(object);
                }
                continue;
            };
            let number = |index: usize| operands.get(index).and_then(Object::number).unwrap_or(0.0);
            match &word[..] {
                b"q" if saved.len() < MAX_SAVED => saved.push(text.state.clone()),
                b"Q" => {
                    if let Some(state) = saved.pop() {
                        text.state = state;
                    }
                }
                b"cm" => text.state.to_page = then(&matrix(&operands), &text.state.to_page),
                b"BT" => (text.line, text.pen) = (IDENTITY, IDENTITY),
                b"Tc" => text.state.char_space = number(0),
                b"Tw" => text.state.word_space = number(0),
                b"Tz" => text.state.scale = number(0) / 100.0,
                b"TL" => text.state.leading = number(0),
                b"Ts" => text.state.rise = number(0),
                b"Tf" => {
                    text.state.size = number(1);
                    text.state.font = match operands.first().and_then(Object::name) {
                        Some(name) => self.font(resources, name, budget)?,
                        None => None,
                    };
                }
                b"Td" => text.next_line(number(0), number(1)),
                b"TD" => {
                    text.state.leading = -number(1);
                    text.next_line(number(0), number(1));
                }
                b"Tm" => {
                    text.line = matrix(&operands);
                    text.pen = text.line;
                }
                b"T*" => text.next_line(0.0, -text.state.leading),
                b"Tj" => text.show(operands.first(), layout, budget)?,
                b"'" => {
                    text.next_line(0.0, -text.state.leading);
                    text.show(operands.first(), layout, budget)?;
                }
                b"\"" => {
                    (text.state.word_space, text.state.char_space) = (number(0), number(1));
                    text.next_line(0.0, -text.state.leading);
                    text.show(operands.get(2), layout, budget)?;
                }
                b"TJ" => {
                    for part in operands.first().and_then(Object::array).unwrap_or_default() {
                        match part {
                            Object::Number(by) => text.shift(-by / 1000.0 * text.state.size),
                            part => text.show(Some(part), layout, budget)?,
                        }
                    }
                }
                b"Do" if depth < MAX_FORM_DEPTH => {
                    if let Some(name) = operands.first().and_then(Object::name) {
                        self.form(resources, name, &text.state, depth, layout, budget)?;
                    }
                }
                b"ID" => skip_picture(content, &mut lexer, budget)?,
                _ => {}
            }
            operands.clear();
        }
        Ok(())
    }

    /// Draws a form that the page uses.
    fn form(
        &mut self,
        resources: &Dict,
        name: &[u8],
        state: &State,
        depth: usize,
        layout: &mut Layout,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let Some(object) = self.resource(resources, "XObject", name, budget)? else {
            return Ok(());
        };
        let Some(stream) = self.file.stream(&object, budget)? else {
            return Ok(());
        };
        if self.file.value(&stream.dict, "Subtype", budget)?.name() != Some(b"Form") {
            return Ok(());
        }
        let Some(content) = self.file.content(&stream, budget)? else {
            return Ok(());
        };
        let own = self.file.dict(&stream.dict, "Resources", budget)?;
        let mut state = state.clone();
        if let Object::Array(elements) = self.file.value(&stream.dict, "Matrix", budget)? {
            state.to_page = then(&matrix(&elements), &state.to_page);
        }
        self.run(&content, own.as_ref().unwrap_or(resources), state, depth + 1, layout, budget)
    }

    fn resource(
        &self,
        resources: &Dict,
        kind: &str,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<Option<Object>, DocumentError> {
        let of_kind = self.file.dict(resources, kind, budget)?;
        Ok(of_kind.and_then(|dict| dict.get(std::str::from_utf8(name).ok()?).cloned()))
    }

    fn font(
        &mut self,
        resources: &Dict,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<Option<Rc<Font>>, DocumentError> {
        let Some(object) = self.resource(resources, "Font", name, budget)? else {
            return Ok(None);
        };
        if let Object::Ref(id) = object
            && let Some(font) = self.fonts.get(&id)
        {
            return Ok(Some(Rc::clone(font)));
        }
        let Some(dict) = self.file.resolve(&object, budget)?.into_dict() else {
            return Ok(None);
        };
        let font = Rc::new(Font::load(self.file, &dict, budget)?);
        budget.keep(font.bytes())?;
        if let Object::Ref(id) = object {
            self.fonts.insert(id, Rc::clone(&font));
        }
        Ok(Some(font))
    }
}

/// What text operators change.
struct Text {
    state: State,
    /// The start of the line.
    line: Matrix,
    /// Where the next glyph goes.
    pen: Matrix,
}

impl Text {
    fn next_line(&mut self, x: f64, y: f64) {
        self.line = then(&[1.0, 0.0, 0.0, 1.0, x, y], &self.line);
        self.pen = self.line;
    }

    /// Moves the pen along the line.
    fn shift(&mut self, by: f64) {
        let is_vertical = self.state.font.as_ref().is_some_and(|font| font.is_vertical());
        let (x, y) = if is_vertical { (0.0, by) } else { (by * self.state.scale, 0.0) };
        self.pen = then(&[1.0, 0.0, 0.0, 1.0, x, y], &self.pen);
    }

    fn show(
        &mut self,
        string: Option<&Object>,
        layout: &mut Layout,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let (Some(bytes), Some(font)) = (string.and_then(Object::string), self.state.font.clone()) else {
            return Ok(());
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            budget.work(64)?;
            let (glyph, n_bytes) = font.glyph(rest);
            rest = rest.get(n_bytes..).unwrap_or_default();
            let spacing = self.state.char_space + if glyph.is_space { self.state.word_space } else { 0.0 };
            let width = glyph.width / 1000.0 * self.state.size;
            let from_matrix = then(&self.pen, &self.state.to_page);
            let from = apply(&from_matrix, 0.0, self.state.rise);
            // Vertical text goes down by its height, whatever the width of a character.
            let is_vertical = font.is_vertical();
            let advance = if is_vertical { -self.state.size } else { width };
            self.shift(advance);
            let to = apply(&then(&self.pen, &self.state.to_page), 0.0, self.state.rise);
            self.shift(spacing);
            let up = apply(&from_matrix, 0.0, self.state.rise + self.state.size);
            let along = apply(
                &from_matrix,
                if is_vertical { 0.0 } else { 1.0 },
                self.state.rise - f64::from(is_vertical),
            );
            let size = length(from, up);
            let run = length(from, along);
            if !(size > 0.0 && run > 0.0 && size.is_finite() && run.is_finite()) {
                continue;
            }
            let along = ((along.0 - from.0) / run, (along.1 - from.1) / run);
            layout.put(glyph.text.as_deref(), Place { from, to, along, size }, budget)?;
        }
        Ok(())
    }
}

fn length(from: (f64, f64), to: (f64, f64)) -> f64 {
    (to.0 - from.0).hypot(to.1 - from.1)
}

fn matrix(operands: &[Object]) -> Matrix {
    let mut matrix = IDENTITY;
    if operands.len() >= 6 {
        for (to, from) in matrix.iter_mut().zip(operands) {
            *to = from.number().unwrap_or(0.0);
        }
    }
    matrix
}

/// Passes over the bytes of a picture in the content, up to its `EI`.
fn skip_picture(content: &[u8], lexer: &mut Lexer<'_>, budget: &mut Budget) -> Result<(), DocumentError> {
    let rest = &content[lexer.at..];
    let is_end = |window: &[u8]| {
        is_space(window[0]) && window[1..3] == *b"EI" && window.get(3).is_none_or(|byte| is_space(*byte))
    };
    let end = rest.windows(4).position(is_end);
    let end = end.map_or(rest.len(), |at| at + 3);
    budget.work(end)?;
    lexer.at += end;
    Ok(())
}
