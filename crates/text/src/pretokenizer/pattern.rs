//! The alternatives of pre-tokenizer patterns, matched by hand: each is linear in what it consumes and none can fail
//! for want of backtracking steps.
//!
//! A pattern is a list of [`Alt`]s that are tried in order at each position, as a leftmost-first regex does.
//! The regex of an alternative stands beside it; `L N M P S` are Unicode categories, `\s` is Unicode whitespace.

use crate::unicode::{Class, class_of};

/// Characters that may follow a run of symbols in the same piece.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tail {
    /// Nothing.
    Nothing,
    /// `[\r\n]*`
    Newlines,
    /// `[\r\n/]*`
    NewlinesOrSlashes,
    /// `[\r\n/]?`
    NewlineOrSlash,
}

/// What may stand once before a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lead {
    /// Nothing.
    Nothing,
    /// ` ?`
    Space,
    /// `\s?`
    Whitespace,
}

/// A set of characters.
pub(crate) type Set = fn(char, Class) -> bool;

/// One alternative of a pattern.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Alt {
    /// `'s|'t|'re|'ve|'m|'ll|'d`, in lowercase only.
    Contraction,
    /// The same in any ASCII case.
    ContractionAnyCase,
    /// `[^\r\nLN]?L+`
    Word,
    /// `[^\r\nLN]?[LM]+`
    WordWithMarks,
    /// `[^\r\nLN]?[LM]+` and a contraction in any case.
    WordWithMarksAndContraction,
    /// `[^\r\nLPS]?[LM]+`
    WordAfterPlain,
    /// `X?U*W+|X?U+W*`: uppercase before lowercase, where letters outside ASCII count as both.
    CasedWord {
        /// Marks count as letters.
        marks: bool,
        /// A contraction in any case may follow.
        contraction: bool,
    },
    /// `[^\r\nLN]?(?:LM*(?: LM*)*)+`: words joined by single spaces.
    SpacedWords,
    /// A run of letters that are not Han, with what may lead it and a contraction; see [`kimi_word`].
    KimiWord,
    /// `N{1,max}`
    Number(usize),
    /// ` ?[^\sLN]+` and a tail.
    Symbols(Tail),
    /// ` ?[^\sLMN]+` and `[\r\n]*`.
    SymbolsNotMarks,
    /// ` ?[PS]+` and a tail.
    Punctuation(Tail),
    /// An ASCII punctuation mark or symbol, then `[A-Za-z]+`.
    PunctuationThenAscii,
    /// `\s*[\r\n]+`
    SpaceToNewline,
    /// `\s+(?!\S)`
    SpaceBeforeLast,
    /// `\s+`
    Space,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|..|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`
    SpaceByPowers,
    /// One or more characters of a set after an optional lead.
    Run(Lead, Set),
    /// One character of a set.
    One(Set),
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `<sentinel:[0-9]+>`
    Sentinel,
    /// `IMGIMG[A-I]{1,4}Z`
    ImageToken,
    /// `[\t\n]|    |  `
    Indent,
}

/// The character at a byte position with its classes and the position after it. Past the end: no class.
#[derive(Clone, Copy)]
struct At {
    c: char,
    class: Class,
    next: usize,
}

fn at(text: &str, pos: usize) -> At {
    let bytes = text.as_bytes();
    match bytes.get(pos) {
        Some(&byte) if byte < 128 => {
            let c = char::from(byte);
            At { c, class: Class::of(c), next: pos + 1 }
        }
        Some(_) => match text.get(pos..).and_then(|rest| rest.chars().next()) {
            Some(c) => At { c, class: class_of(c), next: pos + c.len_utf8() },
            None => At { c: '\0', class: Class::NONE, next: pos },
        },
        None => At { c: '\0', class: Class::NONE, next: pos },
    }
}

fn is_end(at: At) -> bool {
    at.class == Class::NONE
}

/// The end of the run of characters of `set` that starts at `pos`.
fn run(text: &str, mut pos: usize, set: impl Fn(char, Class) -> bool) -> usize {
    loop {
        let here = at(text, pos);
        if is_end(here) || !set(here.c, here.class) {
            return pos;
        }
        pos = here.next;
    }
}

/// The end of a run of at least one character.
fn run1(text: &str, pos: usize, set: impl Fn(char, Class) -> bool) -> Option<usize> {
    let end = run(text, pos, set);
    (end > pos).then_some(end)
}

fn contraction(text: &str, pos: usize, any_case: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.get(pos) != Some(&b'\'') {
        return None;
    }
    let letter = |i: usize| {
        let byte = bytes.get(pos + i).copied().unwrap_or(0);
        if any_case { byte.to_ascii_lowercase() } else { byte }
    };
    match (letter(1), letter(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(pos + 2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(pos + 3),
        _ => None,
    }
}

fn tail(text: &str, pos: usize, tail: Tail) -> usize {
    let bytes = text.as_bytes();
    let set: &[u8] = match tail {
        Tail::Nothing => b"",
        Tail::Newlines => b"\r\n",
        Tail::NewlinesOrSlashes | Tail::NewlineOrSlash => b"\r\n/",
    };
    let limit = match tail {
        Tail::NewlineOrSlash => 1,
        _ => usize::MAX,
    };
    let rest = bytes.get(pos..).unwrap_or_default();
    pos + rest.iter().take(limit).take_while(|byte| set.contains(byte)).count()
}

fn is_newline(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// `[^\r\nLN]`
fn leads_word(here: At) -> bool {
    !(is_end(here) || is_newline(here.c) || here.class.is_letter() || here.class.is_number())
}

/// `lead?` then at least one of `set`, where `lead` is tried first.
fn led_run(
    text: &str,
    pos: usize,
    lead: impl Fn(At) -> bool,
    set: impl Fn(char, Class) -> bool,
) -> Option<usize> {
    let here = at(text, pos);
    if lead(here)
        && let Some(end) = run1(text, here.next, &set)
    {
        return Some(end);
    }
    run1(text, pos, set)
}

fn letter(_: char, class: Class) -> bool {
    class.is_letter()
}

fn letter_or_mark(_: char, class: Class) -> bool {
    class.is_letter() || class.is_mark()
}

fn symbol(_: char, class: Class) -> bool {
    !(class.is_whitespace() || class.is_letter() || class.is_number())
}

fn is_space(at: At) -> bool {
    at.c == ' '
}

/// `U*W+` or else `U+W*` from `pos`. Greedy, with the backtracking that a regex would do for the last `W`.
fn cased(text: &str, pos: usize, marks: bool) -> Option<usize> {
    let is_word = |class: Class| class.is_letter() || marks && class.is_mark();
    let mut end_of_last_lower = None;
    let mut p = pos;
    let after_upper = loop {
        let here = at(text, p);
        if is_end(here) || !is_word(here.class) || here.c.is_ascii_lowercase() {
            break here;
        }
        p = here.next;
        if !here.c.is_ascii_uppercase() {
            end_of_last_lower = Some(p);
        }
    };
    if !is_end(after_upper) && after_upper.c.is_ascii_lowercase() {
        return Some(run(text, p, |c, class| is_word(class) && !c.is_ascii_uppercase()));
    }
    end_of_last_lower.or((p > pos).then_some(p))
}

/// The first half of a cased word, `X?U*W+`, succeeds or not: decides whether the lead is part of the match.
fn cased_has_lower(text: &str, pos: usize, marks: bool) -> bool {
    let is_word = |class: Class| class.is_letter() || marks && class.is_mark();
    let end = run(text, pos, |c, class| is_word(class) && c.is_ascii_uppercase());
    let here = at(text, end);
    !is_end(here) && is_word(here.class)
}

fn cased_word(text: &str, pos: usize, marks: bool, with_contraction: bool) -> Option<usize> {
    let here = at(text, pos);
    let starts: &[usize] = match leads_word(here) {
        true => &[here.next, pos],
        false => &[pos],
    };
    let end = starts
        .iter()
        .find(|&&start| cased_has_lower(text, start, marks))
        .or_else(|| starts.iter().find(|&&start| cased(text, start, marks).is_some()))
        .and_then(|&start| cased(text, start, marks))?;
    Some(match with_contraction {
        true => contraction(text, end, true).unwrap_or(end),
        false => end,
    })
}

fn spaced_words(text: &str, pos: usize) -> Option<usize> {
    let here = at(text, pos);
    let mut end = match here.class.is_letter() {
        true => here.next,
        false if leads_word(here) => {
            let second = at(text, here.next);
            second.class.is_letter().then_some(second.next)?
        }
        false => return None,
    };
    loop {
        let here = at(text, end);
        if here.class.is_letter() || here.class.is_mark() {
            end = here.next;
            continue;
        }
        if here.c == ' ' && !is_end(here) {
            let second = at(text, here.next);
            if second.class.is_letter() {
                end = second.next;
                continue;
            }
        }
        return Some(end);
    }
}

/// The Han ranges that the reference splits by, unassigned code points included.
pub(super) fn is_han(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2ebef}' | '\u{2f800}'..='\u{2fa1f}')
}

/// Kimi K2: an optional character that is neither newline, letter nor number, letters that are not Han, and a
/// contraction. Marks do not join words here, though the published pattern says they do; the reference is followed.
fn kimi_word(text: &str, pos: usize) -> Option<usize> {
    let plain = |c: char, class: Class| class.is_letter() && !is_han(c);
    let end = led_run(text, pos, leads_word, plain)?;
    Some(contraction(text, end, true).unwrap_or(end))
}

fn space_by_powers(text: &str, pos: usize) -> Option<usize> {
    // ends[i] is the end of the first i + 1 whitespace characters.
    let mut ends = [0usize; 513];
    let mut n = 0;
    let mut p = pos;
    while n < ends.len() {
        let here = at(text, p);
        if !here.class.is_whitespace() {
            break;
        }
        p = here.next;
        ends[n] = p;
        n += 1;
    }
    let at_text_end = p == text.len();
    // `\s{k}(?!\S)`: k characters, and then whitespace or the end.
    let fits = |k: usize| k < n || k == n && at_text_end;
    [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
        .into_iter()
        .find(|&k| fits(k))
        .or((n > 0).then_some(1))
        .map(|k| ends[k - 1])
}

impl Alt {
    /// The end of the match that starts at `pos`, or `None`. A match is never empty.
    pub(crate) fn match_at(&self, text: &str, pos: usize) -> Option<usize> {
        match *self {
            Alt::Contraction => contraction(text, pos, false),
            Alt::ContractionAnyCase => contraction(text, pos, true),
            Alt::Word => led_run(text, pos, leads_word, letter),
            Alt::WordWithMarks => led_run(text, pos, leads_word, letter_or_mark),
            Alt::WordWithMarksAndContraction => {
                let end = led_run(text, pos, leads_word, letter_or_mark)?;
                Some(contraction(text, end, true).unwrap_or(end))
            }
            Alt::WordAfterPlain => {
                let plain = |here: At| {
                    let class = here.class;
                    !(is_end(here)
                        || is_newline(here.c)
                        || class.is_letter()
                        || class.is_punctuation()
                        || class.is_symbol())
                };
                led_run(text, pos, plain, letter_or_mark)
            }
            Alt::CasedWord { marks, contraction } => cased_word(text, pos, marks, contraction),
            Alt::SpacedWords => spaced_words(text, pos),
            Alt::KimiWord => kimi_word(text, pos),
            Alt::Number(max) => {
                let mut end = pos;
                for _ in 0..max {
                    let here = at(text, end);
                    if !here.class.is_number() {
                        break;
                    }
                    end = here.next;
                }
                (end > pos).then_some(end)
            }
            Alt::Symbols(after) => Some(tail(text, led_run(text, pos, is_space, symbol)?, after)),
            Alt::SymbolsNotMarks => {
                let set = |c: char, class: Class| symbol(c, class) && !class.is_mark();
                Some(tail(text, led_run(text, pos, is_space, set)?, Tail::Newlines))
            }
            Alt::Punctuation(after) => {
                let set = |_: char, class: Class| class.is_punctuation() || class.is_symbol();
                Some(tail(text, led_run(text, pos, is_space, set)?, after))
            }
            Alt::PunctuationThenAscii => {
                let here = at(text, pos);
                let punctuation = !is_end(here) && here.c.is_ascii_punctuation();
                let next = punctuation.then_some(here.next)?;
                run1(text, next, |c, _| c.is_ascii_alphabetic())
            }
            Alt::SpaceToNewline => {
                let end = run(text, pos, |_, class| class.is_whitespace());
                let newline =
                    text.as_bytes()[pos..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n'))?;
                Some(pos + newline + 1)
            }
            Alt::SpaceBeforeLast => {
                let end = run1(text, pos, |_, class| class.is_whitespace())?;
                if end == text.len() {
                    return Some(end);
                }
                let last = text[pos..end].chars().next_back().map_or(0, char::len_utf8);
                (end - last > pos).then_some(end - last)
            }
            Alt::Space => run1(text, pos, |_, class| class.is_whitespace()),
            Alt::SpaceByPowers => space_by_powers(text, pos),
            Alt::Run(Lead::Nothing, set) => run1(text, pos, set),
            Alt::Run(Lead::Space, set) => led_run(text, pos, is_space, set),
            Alt::Run(Lead::Whitespace, set) => led_run(text, pos, |here| here.class.is_whitespace(), set),
            Alt::One(set) => {
                let here = at(text, pos);
                (!is_end(here) && set(here.c, here.class)).then_some(here.next)
            }
            Alt::ThreeDigits => {
                let digits = text.as_bytes().get(pos..pos + 3)?;
                digits.iter().all(u8::is_ascii_digit).then_some(pos + 3)
            }
            Alt::Sentinel => {
                let digits = pos + text.get(pos..)?.strip_prefix("<sentinel:").map(|_| 10)?;
                let end = run1(text, digits, |c, _| c.is_ascii_digit())?;
                (text.as_bytes().get(end) == Some(&b'>')).then_some(end + 1)
            }
            Alt::ImageToken => {
                let letters = pos + text.get(pos..)?.strip_prefix("IMGIMG").map(|_| 6)?;
                let end = run1(text, letters, |c, _| c.is_ascii_uppercase() && c <= 'I')?;
                let ends_well = end - letters <= 4 && text.as_bytes().get(end) == Some(&b'Z');
                ends_well.then_some(end + 1)
            }
            Alt::Indent => match text.as_bytes().get(pos..)? {
                [b'\t' | b'\n', ..] => Some(pos + 1),
                [b' ', b' ', b' ', b' ', ..] => Some(pos + 4),
                [b' ', b' ', ..] => Some(pos + 2),
                _ => None,
            },
        }
    }
}
