//! Character sets of pre-tokenizer patterns, as code point ranges.
//!
//! The reference matches these against text in which whitespace outside ASCII has been replaced, so no set contains
//! it, whatever its ranges say.

use super::pattern::is_han;
use crate::unicode::Class;

fn within(ranges: &[(u32, u32)], c: char, class: Class) -> bool {
    let code = u32::from(c);
    if class.is_whitespace() && !c.is_ascii() {
        return false;
    }
    let after = ranges.partition_point(|&(first, _)| first <= code);
    after > 0 && code <= ranges[after - 1].1
}

/// Letters with case, of DeepSeek LLM.
pub(super) fn deepseek_cased(c: char, class: Class) -> bool {
    within(DEEPSEEK_CASED, c, class)
}

/// Punctuation and symbols of DeepSeek LLM, half and full width.
pub(super) fn deepseek_marks(c: char, class: Class) -> bool {
    const RANGES: &[(u32, u32)] =
        &[(0x21, 0x2f), (0x3a, 0x7e), (0x2018, 0x201f), (0x3000, 0x3002), (0xff01, 0xff0f), (0xff1a, 0xff5e)];
    within(RANGES, c, class)
}

/// U+0800 to U+9FA5 and Hangul syllables, of DeepSeek LLM and Coder.
pub(super) fn deepseek_wide(c: char, class: Class) -> bool {
    within(&[(0x800, 0x9fa5), (0xac00, 0xd7ff)], c, class)
}

/// CJK ideographs, Hiragana and Katakana.
pub(super) fn cjk_and_kana(c: char, class: Class) -> bool {
    within(&[(0x3040, 0x30ff), (0x4e00, 0x9fa5)], c, class)
}

/// Hangul syllables and compatibility jamo.
pub(super) fn hangul(c: char, class: Class) -> bool {
    within(&[(0x3131, 0x318e), (0xac00, 0xd7a3)], c, class)
}

/// Full-width and CJK punctuation of Youtu.
pub(super) fn youtu_punctuation(c: char, class: Class) -> bool {
    const RANGES: &[(u32, u32)] = &[
        (0x2014, 0x2014),
        (0x2018, 0x2019),
        (0x201c, 0x201d),
        (0x2026, 0x2026),
        (0x3001, 0x303f),
        (0xfe30, 0xfe4f),
        (0xff01, 0xff01),
        (0xff0c, 0xff0c),
        (0xff1a, 0xff1b),
    ];
    within(RANGES, c, class)
}

/// Bopomofo.
pub(super) fn bopomofo(c: char, class: Class) -> bool {
    within(&[(0x3105, 0x312f)], c, class)
}

/// Scripts written without spaces, of AFMoE. The range from U+8C48 is as the reference has it: the published pattern
/// means U+F900, whose normalised form is U+8C48.
pub(super) fn afmoe_scripts(c: char, class: Class) -> bool {
    const RANGES: &[(u32, u32)] = &[
        (0xe40, 0xeff),
        (0x1000, 0x109f),
        (0x1100, 0x11ff),
        (0x1780, 0x17ff),
        (0x2f00, 0x2fdf),
        (0x3040, 0x30ff),
        (0x3400, 0x4dbf),
        (0x4e00, 0xfaff),
        (0xff65, 0xff9f),
    ];
    within(RANGES, c, class)
}

pub(super) fn han(c: char, _: Class) -> bool {
    is_han(c)
}

/// Anything but whitespace and the sentence marks that Poro, Bloom and Viking cut at.
pub(super) fn not_sentence_mark(c: char, class: Class) -> bool {
    let mark = matches!(c, '(' | ')' | '|' | '.' | ',' | '!' | '?' | '\u{2026}' | '\u{3002}' | '\u{ff0c}')
        || matches!(c, '\u{3001}' | '\u{964}' | '\u{6d4}' | '\u{60c}');
    !(mark || class.is_whitespace())
}

pub(super) fn letter(_: char, class: Class) -> bool {
    class.is_letter()
}

pub(super) fn number(_: char, class: Class) -> bool {
    class.is_number()
}

pub(super) fn punctuation(_: char, class: Class) -> bool {
    class.is_punctuation()
}

pub(super) fn ascii_punctuation_or_any(c: char, class: Class) -> bool {
    class.is_punctuation() || c.is_ascii_punctuation()
}

/// `[P$+<=>^~|]`
pub(super) fn punctuation_or_math(c: char, class: Class) -> bool {
    class.is_punctuation() || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

/// The same with the backtick, of Falcon.
pub(super) fn punctuation_or_math_or_tick(c: char, class: Class) -> bool {
    punctuation_or_math(c, class) || c == '`'
}

pub(super) fn newline(c: char, _: Class) -> bool {
    c == '\n'
}

pub(super) fn not_newline(c: char, _: Class) -> bool {
    c != '\n'
}

pub(super) fn carriage_return_or_newline(c: char, _: Class) -> bool {
    c == '\r' || c == '\n'
}

pub(super) fn not_whitespace(_: char, class: Class) -> bool {
    !class.is_whitespace()
}

#[rustfmt::skip]
const DEEPSEEK_CASED: &[(u32, u32)] = &[
    (0x41, 0x5a), (0x61, 0x7a), (0xb5, 0xb5), (0xc0, 0xd6), (0xd8, 0xf6), (0xf8, 0x1ba), (0x1bc, 0x1bf),
    (0x1c4, 0x293), (0x295, 0x2af), (0x370, 0x373), (0x376, 0x377), (0x37b, 0x37d), (0x37f, 0x37f), (0x386, 0x386),
    (0x388, 0x38a), (0x38c, 0x38c), (0x38e, 0x3a1), (0x3a3, 0x3f5), (0x3f7, 0x481), (0x48a, 0x52f), (0x531, 0x556),
    (0x10a0, 0x10c5), (0x13a0, 0x13f5), (0x13f8, 0x13fd), (0x1c90, 0x1cba), (0x1cbd, 0x1cbf), (0x1d00, 0x1d2b),
    (0x1d6b, 0x1d77), (0x1d79, 0x1d9a), (0x1e00, 0x1f15), (0x1f18, 0x1f1d), (0x1f20, 0x1f45), (0x1f48, 0x1f4d),
    (0x1f50, 0x1f57), (0x1f59, 0x1f59), (0x1f5b, 0x1f5b), (0x1f5d, 0x1f5d), (0x1f5f, 0x1f7d), (0x1f80, 0x1fb4),
    (0x1fb6, 0x1fbc), (0x1fbe, 0x1fbe), (0x1fc2, 0x1fc4), (0x1fc6, 0x1fcc), (0x1fd0, 0x1fd3), (0x1fd6, 0x1fdb),
    (0x1fe0, 0x1fec), (0x1ff2, 0x1ff4), (0x1ff6, 0x1ffc), (0x2102, 0x2102), (0x2107, 0x2107), (0x210a, 0x2113),
    (0x2115, 0x2115), (0x2119, 0x211d), (0x2124, 0x2124), (0x2126, 0x2126), (0x2128, 0x2128), (0x212a, 0x212d),
    (0x212f, 0x2134), (0x2139, 0x2139), (0x213c, 0x213f), (0x2145, 0x2149), (0x214e, 0x214e), (0x2183, 0x2184),
    (0x2c00, 0x2c7b), (0x2c7e, 0x2ce4), (0x2ceb, 0x2cee), (0x2cf2, 0x2cf3), (0xa640, 0xa66d), (0xa680, 0xa69b),
    (0xa722, 0xa76f), (0xa771, 0xa787), (0xa78b, 0xa78e), (0xab70, 0xabbf), (0xfb00, 0xfb06), (0xfb13, 0xfb17),
    (0xff21, 0xff3a), (0xff41, 0xff5a), (0x10400, 0x1044f), (0x104b0, 0x104d3), (0x104d8, 0x104fb),
    (0x10c80, 0x10cb2), (0x10cc0, 0x10cf2), (0x118a0, 0x118df), (0x1e900, 0x1e943),
];
