//! Fonts: from the bytes of a string to characters and their widths. ISO 32000-1, 9.6 to 9.10.

use super::cmap::{self, CMap};
use super::encoding::{self, Base};
use super::file::File;
use super::object::{Dict, Object};
use crate::DocumentError;
use crate::budget::Budget;
use std::collections::HashMap;

/// A font as far as text needs it.
pub(super) struct Font {
    kind: Kind,
    to_unicode: Option<CMap>,
    /// In thousandths of the size, by code (simple) or character id (composite).
    widths: HashMap<u32, f64>,
    /// Of what is not in `widths`; nothing means guess.
    default_width: Option<f64>,
}

enum Kind {
    /// A byte is a code.
    Simple { encoding: Vec<Option<String>> },
    /// Codes of one to four bytes.
    Composite { codes: Codes, is_vertical: bool },
}

/// How long codes of a composite font are, and what they say by themselves.
enum Codes {
    /// Two bytes each, which are the number of a character of the font.
    Identity,
    /// UTF-16.
    Unicode,
    /// As a map in the file says.
    Own(CMap),
}

/// A glyph that a string shows.
pub(super) struct Glyph {
    /// Nothing where the font does not say.
    pub(super) text: Option<String>,
    /// How far it moves the pen, in thousandths of the size.
    pub(super) width: f64,
    /// Whether it is a single byte 32, which word spacing goes by.
    pub(super) is_space: bool,
}

impl Font {
    pub(super) fn load(file: &File<'_>, dict: &Dict, budget: &mut Budget) -> Result<Font, DocumentError> {
        let to_unicode = match dict.get("ToUnicode") {
            Some(object) => map(file, object, budget)?,
            None => None,
        };
        match file.value(dict, "Subtype", budget)?.name() {
            Some(b"Type0") => Font::composite(file, dict, to_unicode, budget),
            _ => Font::simple(file, dict, to_unicode, budget),
        }
    }

    fn simple(
        file: &File<'_>,
        dict: &Dict,
        to_unicode: Option<CMap>,
        budget: &mut Budget,
    ) -> Result<Font, DocumentError> {
        let encoding = file.value(dict, "Encoding", budget)?;
        let is_true_type = file.value(dict, "Subtype", budget)?.name() == Some(b"TrueType");
        let default = if is_true_type { Base::WinAnsi } else { Base::Standard };
        let (base, differences) = match encoding {
            Object::Name(name) => (Base::from_name(&name), Object::Null),
            Object::Dict(dict) => {
                let base = file.value(&dict, "BaseEncoding", budget)?;
                (base.name().and_then(Base::from_name), file.value(&dict, "Differences", budget)?)
            }
            _ => (None, Object::Null),
        };
        let base = base.unwrap_or(default);
        let mut codes: Vec<Option<String>> =
            (0..=255).map(|code| base.char(code).map(String::from)).collect();
        let mut code = 0;
        for difference in differences.array().unwrap_or_default() {
            budget.work(64)?;
            match difference {
                Object::Number(_) => code = difference.count().unwrap_or(0),
                Object::Name(name) => {
                    if let Some(place) = codes.get_mut(code) {
                        *place = encoding::glyph(name);
                    }
                    code = code.saturating_add(1);
                }
                _ => {}
            }
        }
        let first = file.value(dict, "FirstChar", budget)?.count().unwrap_or(0) as u32;
        let mut widths = HashMap::new();
        let mut code = first;
        for width in file.value(dict, "Widths", budget)?.array().unwrap_or_default().iter().take(256) {
            if let Some(width) = file.resolve(width, budget)?.number() {
                widths.insert(code, width * type3_scale(file, dict, budget)?);
            }
            code = code.saturating_add(1);
        }
        let default_width = match (widths.is_empty(), file.dict(dict, "FontDescriptor", budget)?) {
            (false, Some(descriptor)) => file.value(&descriptor, "MissingWidth", budget)?.number(),
            (false, None) => Some(0.0),
            _ => None,
        };
        Ok(Font { kind: Kind::Simple { encoding: codes }, to_unicode, widths, default_width })
    }

    fn composite(
        file: &File<'_>,
        dict: &Dict,
        to_unicode: Option<CMap>,
        budget: &mut Budget,
    ) -> Result<Font, DocumentError> {
        let encoding = file.value(dict, "Encoding", budget)?;
        let name = encoding.name().unwrap_or_default();
        let is_vertical = name.ends_with(b"-V");
        let codes = match dict.get("Encoding") {
            _ if name.windows(5).any(|part| part == b"UTF16" || part == b"-UCS2") => Codes::Unicode,
            Some(object) if name.is_empty() => match map(file, object, budget)? {
                Some(map) => Codes::Own(map),
                None => Codes::Identity,
            },
            _ => Codes::Identity,
        };
        let (mut widths, mut default_width) = (HashMap::new(), 1000.0);
        let descendants = file.value(dict, "DescendantFonts", budget)?;
        if let Some(first) = descendants.array().and_then(|fonts| fonts.first())
            && let Some(descendant) = file.resolve(first, budget)?.into_dict()
        {
            default_width = file.value(&descendant, "DW", budget)?.number().unwrap_or(default_width);
            let list = file.value(&descendant, "W", budget)?;
            read_widths(file, list.array().unwrap_or_default(), &mut widths, budget)?;
        }
        let kind = Kind::Composite { codes, is_vertical };
        Ok(Font { kind, to_unicode, widths, default_width: Some(default_width) })
    }

    /// About the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let kind = match &self.kind {
            Kind::Simple { encoding } => encoding.len() * 40,
            Kind::Composite { codes: Codes::Own(map), .. } => map.bytes(),
            Kind::Composite { .. } => 0,
        };
        kind + self.to_unicode.as_ref().map_or(0, CMap::bytes) + self.widths.len() * 32
    }

    pub(super) fn is_vertical(&self) -> bool {
        matches!(self.kind, Kind::Composite { is_vertical: true, .. })
    }

    /// The first glyph that `bytes` show, and how many of them say so: at least one.
    pub(super) fn glyph(&self, bytes: &[u8]) -> (Glyph, usize) {
        match &self.kind {
            Kind::Simple { encoding } => {
                (self.simple_glyph(encoding, bytes.first().copied().unwrap_or(0)), 1)
            }
            Kind::Composite { codes, .. } => self.composite_glyph(codes, bytes),
        }
    }

    fn simple_glyph(&self, encoding: &[Option<String>], byte: u8) -> Glyph {
        let mapped = self.to_unicode.as_ref().and_then(|map| map.text(1, byte.into()));
        let text = mapped.or_else(|| encoding[usize::from(byte)].clone());
        let known = self.widths.get(&byte.into()).copied().or(self.default_width);
        let width = known.unwrap_or_else(|| usual_width(text.as_deref().unwrap_or("n")));
        Glyph { text, width, is_space: byte == b' ' }
    }

    fn composite_glyph(&self, codes: &Codes, bytes: &[u8]) -> (Glyph, usize) {
        let len = match codes {
            Codes::Own(map) => map.code_bytes(bytes).unwrap_or(1),
            Codes::Unicode if bytes.len() >= 4 && bytes[0] & 0xfc == 0xd8 => 4,
            _ => 2,
        };
        let code = &bytes[..len.min(bytes.len())];
        let value = cmap::number(code);
        let mapped = self.to_unicode.as_ref().and_then(|map| map.text(code.len(), value));
        let text = mapped.or_else(|| match codes {
            Codes::Identity => None,
            Codes::Unicode => {
                let units = code.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                char::decode_utf16(units).collect::<Result<String, _>>().ok()
            }
            Codes::Own(map) => map.text(code.len(), value),
        });
        let width = self.widths.get(&value).copied().or(self.default_width).unwrap_or(1000.0);
        (Glyph { text, width, is_space: code == b" " }, len)
    }
}

/// The character map in a stream.
fn map(file: &File<'_>, object: &Object, budget: &mut Budget) -> Result<Option<CMap>, DocumentError> {
    let Some(stream) = file.stream(object, budget)? else {
        return Ok(None);
    };
    match file.content(&stream, budget)? {
        Some(data) => Ok(Some(CMap::parse(&data, budget)?)),
        None => Ok(None),
    }
}

/// Widths of a font whose glyphs are drawings are in units of its own.
fn type3_scale(file: &File<'_>, dict: &Dict, budget: &mut Budget) -> Result<f64, DocumentError> {
    let matrix = file.value(dict, "FontMatrix", budget)?;
    Ok(matrix.array().and_then(|matrix| matrix.first()?.number()).map_or(1.0, |scale| scale * 1000.0))
}

/// Widths by character id: `first [w ..]`, or `first last w`.
fn read_widths(
    file: &File<'_>,
    list: &[Object],
    widths: &mut HashMap<u32, f64>,
    budget: &mut Budget,
) -> Result<(), DocumentError> {
    // Character ids are two bytes.
    const MAX_ID: u32 = 0xffff;
    let mut rest = list;
    while let [first, second, tail @ ..] = rest {
        budget.work(64)?;
        rest = tail;
        let Some(first) = first.count().map(|first| first as u32) else {
            return Ok(());
        };
        match (file.resolve(second, budget)?, tail) {
            (Object::Array(each), _) => {
                let ids = first..=MAX_ID;
                widths.extend(ids.zip(each).filter_map(|(id, width)| Some((id, width.number()?))));
            }
            (Object::Number(last), [width, tail @ ..]) => {
                rest = tail;
                if let Some(width) = width.number() {
                    let last = (last.max(0.0) as u32).min(MAX_ID);
                    budget.work(last.saturating_sub(first) as usize)?;
                    widths.extend((first..=last).map(|id| (id, width)));
                }
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// About the width of a character in the fonts that every reader has, whose widths files leave out.
fn usual_width(text: &str) -> f64 {
    match text.chars().next().unwrap_or('n') {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | 'f' | 't' | '/' | '('
        | ')' => 278.0,
        'm' | 'M' | 'W' | '—' | '@' => 860.0,
        'r' | '-' => 333.0,
        char if char.is_uppercase() || char == 'w' => 700.0,
        _ => 550.0,
    }
}
