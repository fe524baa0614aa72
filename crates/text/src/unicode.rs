//! Character classes as the reference tokenizer sees them: Unicode 15.1 categories, whitespace, simple lowercase and
//! the first code point of the canonical decomposition.
//!
//! The version matters: a character assigned later than 15.1 counts as unassigned, or ids would differ from
//! llama.cpp's. `unicode-properties` is pinned to the release with those tables, and a test holds it there.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// A set of character classes. A character has exactly one category, and whitespace besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class(u16);

impl Class {
    /// Past the end of the text: no class at all.
    pub(crate) const NONE: Class = Class(0);
    const UNASSIGNED: u16 = 1;
    const NUMBER: u16 = 2;
    const LETTER: u16 = 4;
    const SEPARATOR: u16 = 8;
    const MARK: u16 = 16;
    const PUNCTUATION: u16 = 32;
    const SYMBOL: u16 = 64;
    const CONTROL: u16 = 128;
    const WHITESPACE: u16 = 256;

    pub(crate) const fn of(c: char) -> Class {
        if (c as u32) < 128 { ASCII[c as usize] } else { Class::NONE }
    }

    pub(crate) const fn is_letter(self) -> bool {
        self.0 & Class::LETTER != 0
    }

    pub(crate) const fn is_number(self) -> bool {
        self.0 & Class::NUMBER != 0
    }

    pub(crate) const fn is_mark(self) -> bool {
        self.0 & Class::MARK != 0
    }

    pub(crate) const fn is_punctuation(self) -> bool {
        self.0 & Class::PUNCTUATION != 0
    }

    pub(crate) const fn is_symbol(self) -> bool {
        self.0 & Class::SYMBOL != 0
    }

    pub(crate) const fn is_control(self) -> bool {
        self.0 & Class::CONTROL != 0
    }

    pub(crate) const fn is_whitespace(self) -> bool {
        self.0 & Class::WHITESPACE != 0
    }

    const fn is_assigned(self) -> bool {
        self.0 & Class::UNASSIGNED == 0
    }
}

const ASCII: [Class; 128] = {
    let mut table = [Class::NONE; 128];
    let mut i = 0;
    while i < 128 {
        let byte = i as u8;
        table[i] = Class(match byte {
            9..=13 => Class::CONTROL | Class::WHITESPACE,
            b' ' => Class::SEPARATOR | Class::WHITESPACE,
            b'0'..=b'9' => Class::NUMBER,
            b'A'..=b'Z' | b'a'..=b'z' => Class::LETTER,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => Class::SYMBOL,
            b'!'..=b'~' => Class::PUNCTUATION,
            _ => Class::CONTROL,
        });
        i += 1;
    }
    table
};

/// The classes of a character.
pub(crate) fn class_of(c: char) -> Class {
    if c.is_ascii() {
        return Class::of(c);
    }
    let category = match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::LETTER,
        GeneralCategoryGroup::Mark => Class::MARK,
        GeneralCategoryGroup::Number => Class::NUMBER,
        GeneralCategoryGroup::Punctuation => Class::PUNCTUATION,
        GeneralCategoryGroup::Symbol => Class::SYMBOL,
        GeneralCategoryGroup::Separator => Class::SEPARATOR,
        GeneralCategoryGroup::Other => match c.general_category() {
            GeneralCategory::Unassigned => Class::UNASSIGNED,
            _ => Class::CONTROL,
        },
    };
    // The property White_Space, which is stable since Unicode 6.3.
    let whitespace = match c {
        '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' => Class::WHITESPACE,
        '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => Class::WHITESPACE,
        _ => 0,
    };
    Class(category | whitespace)
}

/// Simple lowercase: one character for one. The full mapping of the only exception, U+0130, starts with the simple one.
pub(crate) fn to_lower(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    match class_of(c).is_assigned() {
        true => c.to_lowercase().next().unwrap_or(c),
        false => c,
    }
}

/// The first code point of the canonical decomposition: `é` gives `e`, a Hangul syllable its leading consonant.
pub(crate) fn base_of(c: char) -> char {
    if c.is_ascii() || !class_of(c).is_assigned() {
        return c;
    }
    let mut first = None;
    unicode_normalization::char::decompose_canonical(c, |d| {
        first.get_or_insert(d);
    });
    first.unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_of_unicode_15_1() {
        assert_eq!(unicode_properties::UNICODE_VERSION, (15, 1, 0));
        // Assigned in 16.0: a letter there, nothing here, and so without case or decomposition.
        let garay_capital = '\u{10d50}';
        assert!(!class_of(garay_capital).is_letter());
        assert_eq!(to_lower(garay_capital), garay_capital);
        assert_eq!(base_of('\u{16121}'), '\u{16121}');
    }

    #[test]
    fn ascii_table_agrees_with_the_unicode_one() {
        for byte in 0..128u8 {
            let c = char::from(byte);
            let group = c.general_category_group();
            let class = Class::of(c);
            assert_eq!(class.is_letter(), group == GeneralCategoryGroup::Letter, "{c:?}");
            assert_eq!(class.is_number(), group == GeneralCategoryGroup::Number, "{c:?}");
            assert_eq!(class.is_punctuation(), group == GeneralCategoryGroup::Punctuation, "{c:?}");
            assert_eq!(class.is_symbol(), group == GeneralCategoryGroup::Symbol, "{c:?}");
            assert_eq!(class.is_control(), group == GeneralCategoryGroup::Other, "{c:?}");
            assert_eq!(class.is_whitespace(), c.is_whitespace(), "{c:?}");
        }
    }

    #[test]
    fn whitespace_agrees_with_the_standard_library() {
        for c in '\0'..=char::MAX {
            assert_eq!(class_of(c).is_whitespace(), c.is_whitespace(), "{c:?}");
        }
    }

    #[test]
    fn case_and_decomposition() {
        assert_eq!(to_lower('É'), 'é');
        assert_eq!(to_lower('\u{130}'), 'i');
        assert_eq!(to_lower('\u{17f}'), '\u{17f}');
        assert_eq!(base_of('é'), 'e');
        assert_eq!(base_of('가'), '\u{1100}');
        assert_eq!(base_of('x'), 'x');
    }
}
