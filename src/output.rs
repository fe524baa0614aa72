//! Standard output: errors are reported once, a reader that goes away is not an error of ours, and text
//! that came out of a file or a model cannot drive the terminal.

use crate::exit::ReaderGone;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// Standard output for text and JSON.
pub(crate) struct Output {
    stdout: io::Stdout,
    is_terminal: bool,
    at_line_start: bool,
}

impl Output {
    pub(crate) fn new() -> Output {
        let stdout = io::stdout();
        Output { is_terminal: stdout.is_terminal(), stdout, at_line_start: true }
    }

    /// Writes `text` now, without waiting for a full line.
    pub(crate) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        let text = if self.is_terminal { printable(text) } else { Cow::Borrowed(text) };
        if let Some(last) = text.bytes().last() {
            self.at_line_start = last == b'\n';
        }
        let mut out = self.stdout.lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(explain)
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.text(line)?;
        self.text("\n")
    }

    /// Ends the current line if something stands on it.
    pub(crate) fn finish_line(&mut self) -> anyhow::Result<()> {
        if self.at_line_start { Ok(()) } else { self.text("\n") }
    }

    /// Writes one JSON value and a line end.
    pub(crate) fn json(&mut self, value: &serde_json::Value) -> anyhow::Result<()> {
        // Written through a buffer: standard output flushes at every line, not at every few bytes.
        let mut out = io::BufWriter::with_capacity(1 << 16, self.stdout.lock());
        serde_json::to_writer(&mut out, value).map_err(io::Error::from).map_err(explain)?;
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(explain)
    }
}

fn explain(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ReaderGone.into();
    }
    anyhow::Error::new(error).context("cannot write to standard output")
}

/// `text` without control characters other than line ends and tabs: they are shown as escapes, so that
/// text of a model or a file cannot move the cursor, set the window title or hide what it says. The marks
/// that reverse the direction of text are among them.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_codes_become_visible() {
        assert_eq!(printable("a\tb\nc é 漢 👍"), "a\tb\nc é 漢 👍");
        assert_eq!(printable("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(printable("\u{9b}2J\r\u{202e}"), "\\u{9b}2J\\u{d}\\u{202e}");
    }
}
