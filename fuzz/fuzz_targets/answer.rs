//! An answer is taken apart alike however its text comes in pieces, and nothing of it is made up.
//!
//! Input: a byte of settings, bytes of piece lengths up to the first 0xFF, and the text.
#![no_main]

#[path = "../../crates/server/src/answer.rs"]
mod answer;

use answer::{AnswerParser, Piece};
use libfuzzer_sys::fuzz_target;

/// All pieces of an answer whose text comes in parts, neighbours of a kind joined.
fn parse<'a>(mut parser: AnswerParser, parts: impl Iterator<Item = &'a str>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = parts.flat_map(|part| parser.push(part)).collect();
    pieces.extend(parser.finish());
    pieces.into_iter().fold(Vec::new(), |mut joined, piece| {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(text)), Piece::Text(more)) => text.push_str(&more),
            (Some(Piece::Thinking(text)), Piece::Thinking(more)) => text.push_str(&more),
            (_, piece) => joined.push(piece),
        }
        joined
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((settings, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0xff);
    let lengths = parts.next().unwrap_or_default();
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let is_set = |bit: u8| settings & 1 << bit != 0;
    let tools = is_set(0).then(|| vec!["add".to_owned(), "now".to_owned()]);
    let parser = match (is_set(1), is_set(2)) {
        (true, true) => AnswerParser::plain(),
        (may_think, has_begun) => AnswerParser::new(may_think, if has_begun { "<think>" } else { "" }, tools),
    };
    let parser = if is_set(3) { parser.with_one_call() } else { parser };
    assert!(!parser.is_thinking() || is_set(1));

    let whole = parse(parser.clone(), std::iter::once(text.as_str()));
    let mut left = text.as_str();
    let mut lengths = lengths.iter().cycle();
    let in_parts = std::iter::from_fn(|| {
        let n_chars = lengths.next().map_or(1, |length| usize::from(length % 16) + 1);
        let end = left.char_indices().nth(n_chars).map_or(left.len(), |(at, _)| at);
        let (part, rest) = left.split_at(end);
        left = rest;
        (!part.is_empty()).then_some(part)
    });
    assert_eq!(parse(parser.clone(), in_parts), whole, "{text:?}");
    let by_char = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(parse(parser, by_char), whole, "{text:?}");

    let n_calls = whole.iter().filter(|piece| matches!(piece, Piece::Call { .. })).count();
    assert!(n_calls <= 1 || !is_set(3));
    for piece in &whole {
        if let Piece::Text(said) | Piece::Thinking(said) = piece {
            assert!(!said.is_empty());
        }
    }
});
