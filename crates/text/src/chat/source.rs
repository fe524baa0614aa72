//! What is changed in a template's text before the template engine reads it.
//!
//! - `{% generation %}` and `{% endgeneration %}`, which mark what a model is trained on and do nothing else, become an
//!   `if` that always holds: the engine does not know them.
//! - Operands of `~` pass through the filter `string`, and keys of `{..}` through `mapkey`. As Python does it, and
//!   with fuel: the engine itself would show, or hash, values whose parts are shared for as long as they are in full.
//!
//! Lines stay where they are, so errors name the right ones. Text that cannot be made sense of stays as it is; the engine
//! then says what is wrong with it.

use super::TemplateError;

/// Longest tag in bytes, text in quotes not counted. The template engine recurses over chains of operators, and takes time
/// that grows with the square of their length. The longest tags in use have about 1 KB.
const MAX_TAG_BYTES: usize = 1 << 13;

/// A piece of an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name, a number, text in quotes or a bracketed part.
    Operand,
    /// Text in quotes.
    Text,
    /// A dot or `|`: a name after it is no keyword.
    Access,
    /// `*` and the like, which bind tighter than `~`.
    Tight,
    /// A minus sign.
    Minus,
    /// `~`
    Tilde,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// What ends an operand of `~`.
    Boundary,
}

#[derive(Clone, Copy)]
struct Item {
    kind: Kind,
    start: usize,
    end: usize,
}

/// The parts of one pair of brackets, or of the whole tag.
struct Group {
    open: u8,
    start: usize,
    items: Vec<Item>,
}

/// The template as the engine is to read it.
///
/// # Errors
/// [`TemplateError::TagTooLong`]
pub(super) fn adapt(source: &str) -> Result<String, TemplateError> {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut copied = 0;
    let mut pos = 0;
    while let Some(found) = bytes[pos..].windows(2).position(|two| matches!(two, b"{{" | b"{%" | b"{#")) {
        let open = pos + found;
        pos = open + 2;
        if bytes[open + 1] == b'#' {
            pos = find(bytes, pos, b"#}").map_or(bytes.len(), |at| at + 2);
            continue;
        }
        let Some(tag) =
            Tag::read(source, pos, bytes[open + 1] == b'{').map_err(|TooLong| too_long(source, open))?
        else {
            break;
        };
        out.push_str(&source[copied..pos]);
        match tag.name(source) {
            Some("generation") => tag.replace(source, "if true", &mut out),
            Some("endgeneration") => tag.replace(source, "endif", &mut out),
            _ => tag.write(source, &mut out),
        }
        copied = tag.end;
        pos = tag.end;
        if tag.name(source) == Some("raw") {
            pos = end_of_raw(source, pos);
        }
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

fn too_long(source: &str, at: usize) -> TemplateError {
    let line = 1 + source[..at].bytes().filter(|byte| *byte == b'\n').count();
    TemplateError::TagTooLong { line, limit_bytes: MAX_TAG_BYTES }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
}

/// Where the tag that ends a raw block starts.
fn end_of_raw(source: &str, from: usize) -> usize {
    let mut pos = from;
    while let Some(open) = find(source.as_bytes(), pos, b"{%") {
        let inner = source[open + 2..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            return open;
        }
        pos = open + 2;
    }
    source.len()
}

/// A tag is longer than is supported.
struct TooLong;

/// One tag: `start..end` is what lies between its delimiters.
struct Tag {
    is_statement: bool,
    start: usize,
    end: usize,
    /// What to insert where, in order.
    insertions: Vec<(usize, &'static str)>,
}

impl Tag {
    /// Reads the tag whose inside starts at `start`; `None` if it has no end.
    fn read(source: &str, start: usize, is_output: bool) -> Result<Option<Tag>, TooLong> {
        let bytes = source.as_bytes();
        let close: &[u8] = if is_output { b"}}" } else { b"%}" };
        let mut tag = Tag { is_statement: !is_output, start, end: start, insertions: Vec::new() };
        let mut groups = vec![Group { open: 0, start, items: Vec::new() }];
        let mut n_text_bytes = 0;
        // A sign here says what happens to the whitespace before the tag.
        let mut pos = start + usize::from(matches!(bytes.get(start), Some(b'-' | b'+')));
        while pos < bytes.len() {
            if pos - start - n_text_bytes > MAX_TAG_BYTES {
                return Err(TooLong);
            }
            let in_brace = groups.last().is_some_and(|group| group.open == b'{');
            if bytes[pos..].starts_with(close) && !(is_output && in_brace) {
                while let Some(group) = groups.pop() {
                    tag.finish_group(&group);
                }
                tag.end = pos;
                // Inner brackets are finished first, so equal places are in the right order already.
                tag.insertions.sort_by_key(|(at, _)| *at);
                return Ok(Some(tag));
            }
            let byte = bytes[pos];
            let item_start = pos;
            let kind = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    pos += 1;
                    continue;
                }
                b'"' | b'\'' => {
                    pos += 1;
                    while pos < bytes.len() && bytes[pos] != byte {
                        pos += 1 + usize::from(bytes[pos] == b'\\');
                    }
                    pos += 1;
                    n_text_bytes += pos.min(bytes.len()) - item_start;
                    Kind::Text
                }
                b'(' | b'[' | b'{' => {
                    groups.push(Group { open: byte, start: pos, items: Vec::new() });
                    pos += 1;
                    continue;
                }
                b')' | b']' | b'}' => {
                    pos += 1;
                    if groups.len() > 1
                        && let Some(group) = groups.pop()
                    {
                        tag.finish_group(&group);
                        push(&mut groups, Kind::Operand, group.start, pos);
                    }
                    continue;
                }
                b'.' | b'|' => {
                    pos += 1;
                    Kind::Access
                }
                b'*' | b'/' | b'%' => {
                    pos += 1;
                    Kind::Tight
                }
                b'-' => {
                    pos += 1;
                    Kind::Minus
                }
                b'~' => {
                    pos += 1;
                    Kind::Tilde
                }
                b':' => {
                    pos += 1;
                    Kind::Colon
                }
                b',' => {
                    pos += 1;
                    Kind::Comma
                }
                _ if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 128 => {
                    while pos < bytes.len()
                        && (bytes[pos].is_ascii_alphanumeric() || bytes[pos] == b'_' || bytes[pos] >= 128)
                    {
                        pos += 1;
                    }
                    let after_access = matches!(
                        groups.last().and_then(|group| group.items.last()),
                        Some(Item { kind: Kind::Access, .. })
                    );
                    // The first word of a statement says what it is.
                    let names_statement = !is_output && groups.len() == 1 && groups[0].items.is_empty();
                    match !after_access && (names_statement || is_keyword(&source[item_start..pos])) {
                        true => Kind::Boundary,
                        false => Kind::Operand,
                    }
                }
                _ => {
                    pos += 1;
                    Kind::Boundary
                }
            };
            push(&mut groups, kind, item_start, pos);
        }
        Ok(None)
    }

    /// Finds what is to be changed among the parts of a group.
    fn finish_group(&mut self, group: &Group) {
        let items = &group.items;
        let mut operands: Vec<(usize, usize)> = Vec::new();
        let mut operand: Option<(usize, usize)> = None;
        let mut has_tilde = false;
        for (i, item) in items.iter().enumerate() {
            let after_operand =
                i > 0 && matches!(items[i - 1].kind, Kind::Operand | Kind::Text) && operand.is_some();
            let boundary = match item.kind {
                Kind::Boundary | Kind::Comma | Kind::Colon => true,
                // Between operands it is an operator, which binds looser; before one it is part of it.
                Kind::Minus => after_operand,
                _ => false,
            };
            if boundary || item.kind == Kind::Tilde {
                operands.extend(operand.take());
                has_tilde |= item.kind == Kind::Tilde;
                if boundary {
                    self.wrap_operands(&operands, has_tilde);
                    operands.clear();
                    has_tilde = false;
                }
            } else {
                operand = Some((operand.map_or(item.start, |(start, _)| start), item.end));
            }
        }
        operands.extend(operand);
        self.wrap_operands(&operands, has_tilde);
        if group.open == b'{' {
            self.wrap_keys(items);
        }
    }

    fn wrap_operands(&mut self, operands: &[(usize, usize)], has_tilde: bool) {
        if has_tilde {
            for &(start, end) in operands {
                self.insertions.push((start, "("));
                self.insertions.push((end, ")|string"));
            }
        }
    }

    fn wrap_keys(&mut self, items: &[Item]) {
        for entry in items.split(|item| item.kind == Kind::Comma) {
            let colon = entry.iter().position(|item| item.kind == Kind::Colon);
            match entry.get(..colon.unwrap_or(0)) {
                Some([Item { kind: Kind::Text, .. }]) | Some([]) | None => {}
                Some([first, .., last]) => {
                    self.insertions.push((first.start, "("));
                    self.insertions.push((last.end, ")|mapkey"));
                }
                Some([only]) => {
                    self.insertions.push((only.start, "("));
                    self.insertions.push((only.end, ")|mapkey"));
                }
            }
        }
    }

    /// The first word of a statement.
    fn name<'t>(&self, source: &'t str) -> Option<&'t str> {
        let inner = source[self.start..self.end].trim_start_matches(['-', '+']).trim_start();
        let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
        self.is_statement.then_some(&inner[..end])
    }

    fn write(&self, source: &str, out: &mut String) {
        let mut from = self.start;
        for &(at, text) in &self.insertions {
            out.push_str(&source[from..at]);
            out.push_str(text);
            from = at;
        }
        out.push_str(&source[from..self.end]);
    }

    /// Writes another statement in the place of this one, with the same signs at its ends.
    fn replace(&self, source: &str, statement: &str, out: &mut String) {
        let inner = &source[self.start..self.end];
        let after_sign = inner.trim_start_matches(['-', '+']);
        let before_sign = after_sign.trim_end_matches(['-', '+']);
        out.push_str(&inner[..inner.len() - after_sign.len()]);
        out.push(' ');
        out.push_str(statement);
        out.push(' ');
        out.push_str(&after_sign[before_sign.len()..]);
    }
}

fn push(groups: &mut [Group], kind: Kind, start: usize, end: usize) {
    if let Some(group) = groups.last_mut() {
        group.items.push(Item { kind, start, end });
    }
}

/// Words that end an operand.
fn is_keyword(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "recursive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn operands_and_keys_are_wrapped() {
        for (source, expected) in [
            ("a ~ b", "a ~ b"),
            ("{{ a ~ b }}", "{{ (a)|string ~ (b)|string }}"),
            (
                "{{- 'x' ~ a.b[c ~ 1]|f(d) -}}",
                "{{- ('x')|string ~ (a.b[(c)|string ~ (1)|string]|f(d))|string -}}",
            ),
            ("{{ a + b * 2 ~ c - d }}", "{{ a + (b * 2)|string ~ (c)|string - d }}"),
            (
                "{{ a ~ -1 if b ~ c == d else e }}",
                "{{ (a)|string ~ (-1)|string if (b)|string ~ (c)|string == d else e }}",
            ),
            ("{% set x = a ~ b %}~{# a ~ b #}", "{% set x = (a)|string ~ (b)|string %}~{# a ~ b #}"),
            (
                "{{ {'k': a, b: c, d.e ~ f: g} }}",
                "{{ {'k': a, (b)|mapkey: c, ((d.e)|string ~ (f)|string)|mapkey: g} }}",
            ),
            ("{{ {'a': {'b': {}}} }}", "{{ {'a': {'b': {}}} }}"),
            ("{{ a[1:b ~ c] }}", "{{ a[1:(b)|string ~ (c)|string] }}"),
            (
                "{% raw %}{{ a ~ b }}{% endraw %}{{ a ~ b }}",
                "{% raw %}{{ a ~ b }}{% endraw %}{{ (a)|string ~ (b)|string }}",
            ),
            ("{{ '}} ~ %}' ~ \"\\\"~\" }}", "{{ ('}} ~ %}')|string ~ (\"\\\"~\")|string }}"),
            ("{{ a ~ b", "{{ a ~ b"),
            ("{% if call.x ~ set == print %}", "{% if (call.x)|string ~ (set)|string == print %}"),
            ("{{ x.if ~ 1 }}", "{{ (x.if)|string ~ (1)|string }}"),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
        ] {
            assert_eq!(adapt(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn long_tags_are_refused_and_long_text_is_not() {
        let long = "x".repeat(MAX_TAG_BYTES + 2);
        assert!(adapt(&format!("{{{{ '{long}' }}}}{long}{{# {long} #}}")).is_ok());
        let error = adapt(&format!("a\n{{{{ {long} }}}}")).unwrap_err();
        assert_eq!(error, TemplateError::TagTooLong { line: 2, limit_bytes: MAX_TAG_BYTES });
    }

    proptest! {
        #[test]
        fn any_source_is_adapted(source in "([a-z~'\"{}%#()|.,: \\n-]|\\{\\{|\\{%|raw|é){0,40}") {
            prop_assert!(adapt(&source).is_ok());
        }

        #[test]
        fn source_without_tags_stays(source in "[^{]{0,40}") {
            prop_assert_eq!(adapt(&source).unwrap(), source);
        }
    }
}
