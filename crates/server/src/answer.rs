//! What a model's text means: thinking, calls of tools, and the rest. Works while the text comes.

use rawrz_text::Json;

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// How calls are written: what begins one and what ends it. Without an end, the end of the text does.
pub(crate) const CALLS: [(&str, &str); 3] =
    [("<tool_call>", "</tool_call>"), ("[TOOL_CALLS]", ""), ("<|python_tag|>", "")];

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Thinking(String),
    Call { name: String, arguments: Json },
}

/// Takes an answer apart.
#[derive(Clone, Debug)]
pub(crate) struct AnswerParser {
    state: State,
    has_tools: bool,
    /// Names of the tools there are, for answers that are a call without saying so.
    tools: Vec<String>,
    /// At most one call is given; others are left out.
    one_call: bool,
    has_called: bool,
    held: String,
    /// Whether anything but space was given as a thought, and as text.
    has_thought: bool,
    has_text: bool,
    /// Space before the text: it is dropped when a call or nothing follows.
    space: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but space yet; a thought may begin.
    Start {
        may_think: bool,
    },
    Thinking,
    Text,
    /// Within a call, with what ends it.
    Call(&'static str),
    /// The whole text may be a call, which shows at its end.
    Bare,
}

impl AnswerParser {
    /// `may_think`: the model's template knows thoughts; `prompt` is what it continues, which may have begun one.
    pub(crate) fn new(may_think: bool, prompt: &str, tools: Option<Vec<String>>) -> AnswerParser {
        let has_begun = may_think && prompt.trim_end().ends_with(THINK);
        AnswerParser {
            state: if has_begun { State::Thinking } else { State::Start { may_think } },
            has_tools: tools.is_some(),
            tools: tools.unwrap_or_default(),
            one_call: false,
            has_called: false,
            held: String::new(),
            has_thought: false,
            has_text: false,
            space: String::new(),
        }
    }

    /// A parser that gives the text as it is.
    pub(crate) fn plain() -> AnswerParser {
        AnswerParser { state: State::Text, has_text: true, ..AnswerParser::new(false, "", None) }
    }

    /// Whether what comes next belongs to a thought.
    pub(crate) fn is_thinking(&self) -> bool {
        self.state == State::Thinking
    }

    /// A parser that gives the first call only.
    pub(crate) fn with_one_call(self) -> AnswerParser {
        AnswerParser { one_call: true, ..self }
    }

    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// What was held back, at the end of the text.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Start { .. } | State::Text => self.text(held, &mut pieces),
            State::Thinking if held.trim().is_empty() => {}
            State::Thinking => pieces.push(Piece::Thinking(held)),
            State::Call(_) => self.calls(&held, &[], &mut pieces),
            State::Bare => {
                let tools = std::mem::take(&mut self.tools);
                self.calls(&held, &tools, &mut pieces);
            }
        }
        pieces
    }

    /// Goes on as far as is known; `false` when more text is needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Start { may_think } => {
                let trimmed = self.held.trim_start();
                if trimmed.is_empty() || (may_think && THINK.starts_with(trimmed) && trimmed != THINK) {
                    return false;
                }
                if let Some(rest) = trimmed.strip_prefix(THINK).filter(|_| may_think) {
                    self.held = rest.to_owned();
                    self.state = State::Thinking;
                } else if self.has_tools
                    && trimmed.starts_with(['{', '['])
                    && !CALLS[1].0.starts_with(trimmed)
                {
                    self.state = match trimmed.starts_with(CALLS[1].0) {
                        true => State::Text,
                        false => State::Bare,
                    };
                } else if self.has_tools && CALLS.iter().any(|(begin, _)| begin.starts_with(trimmed)) {
                    if CALLS.iter().all(|(begin, _)| *begin != trimmed) {
                        return false;
                    }
                    self.state = State::Text;
                } else {
                    self.state = State::Text;
                }
                true
            }
            State::Thinking => {
                if !self.has_thought {
                    self.held = self.held.trim_start().to_owned();
                }
                let end = self.held.find(THINK_END);
                // Space before the end of a thought is not part of it.
                let most = end.unwrap_or(self.held.len() - overlap(&self.held, THINK_END));
                let known = self.held[..most].trim_end().len();
                if known > 0 {
                    self.has_thought = true;
                    pieces.push(Piece::Thinking(self.held.drain(..known).collect()));
                }
                if let Some(end) = end {
                    self.held.drain(..end - known + THINK_END.len());
                    self.state = State::Start { may_think: false };
                }
                end.is_some()
            }
            State::Text => {
                let begins = if self.has_tools { &CALLS[..] } else { &[] };
                let found = begins.iter().filter_map(|call| Some((self.held.find(call.0)?, call))).min();
                if let Some((at, (begin, end))) = found {
                    let text = self.held[..at].trim_end().to_owned();
                    self.held = self.held[at + begin.len()..].to_owned();
                    self.text(text, pieces);
                    self.space.clear();
                    self.state = State::Call(end);
                    return true;
                }
                let keep = begins.iter().map(|(begin, _)| overlap(&self.held, begin)).max().unwrap_or(0);
                let text: String = self.held.drain(..self.held.len() - keep).collect();
                self.text(text, pieces);
                false
            }
            State::Call(end) => match self.held.find(end).filter(|_| !end.is_empty()) {
                Some(at) => {
                    let call = self.held[..at].to_owned();
                    self.held = self.held[at + end.len()..].to_owned();
                    self.calls(&call, &[], pieces);
                    self.state = State::Text;
                    true
                }
                None => false,
            },
            State::Bare => false,
        }
    }

    /// Gives text on. Space is held back until it is known to be within the text.
    fn text(&mut self, text: String, pieces: &mut Vec<Piece>) {
        if !self.has_tools && self.has_text {
            if !text.is_empty() {
                pieces.push(Piece::Text(text));
            }
            return;
        }
        let whole = std::mem::take(&mut self.space) + &text;
        let whole = if self.has_text { &whole[..] } else { whole.trim_start() };
        let known = if self.has_tools { whole.trim_end() } else { whole };
        self.space = whole[known.len()..].to_owned();
        if !known.is_empty() {
            self.has_text = true;
            pieces.push(Piece::Text(known.to_owned()));
        }
    }

    /// The calls in `text`, of tools in `known` or any if it is empty, or the text as it is where it has none.
    fn calls(&mut self, text: &str, known: &[String], pieces: &mut Vec<Piece>) {
        match parse_calls(text, known) {
            Some(calls) => {
                let most = if self.one_call { usize::from(!self.has_called) } else { calls.len() };
                pieces.extend(calls.into_iter().take(most));
                self.has_called = true;
            }
            None => self.text(text.to_owned(), pieces),
        }
    }
}

/// Calls in `text`, which is one or a list of them; of tools in `known`, or any if it is empty.
pub(crate) fn parse_calls(text: &str, known: &[String]) -> Option<Vec<Piece>> {
    let json = Json::parse(text.trim()).ok()?;
    let calls = match &json {
        Json::Array(calls) => &calls[..],
        call => std::slice::from_ref(call),
    };
    let call = |call: &Json| {
        let call = call.get("function").filter(|function| function.get("name").is_some()).unwrap_or(call);
        let name = call.get("name")?.as_str()?.to_owned();
        let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
            Some(Json::Str(text)) => Json::parse(text).ok()?,
            Some(arguments) => arguments.clone(),
            None => Json::Object(Vec::new()),
        };
        (known.is_empty() || known.contains(&name)).then_some(Piece::Call { name, arguments })
    };
    let calls: Option<Vec<Piece>> = calls.iter().map(call).collect();
    calls.filter(|calls| !calls.is_empty())
}

/// Length of the longest proper prefix of `marker` that ends `text`.
fn overlap(text: &str, marker: &str) -> usize {
    let longest = marker.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|n| text.as_bytes().ends_with(&marker.as_bytes()[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of every size and checks that all give the same, neighbours of a kind joined.
    fn parse(may_think: bool, prompt: &str, tools: Option<&[&str]>, text: &str) -> Vec<Piece> {
        let chars: Vec<char> = text.chars().collect();
        let mut results: Vec<Vec<Piece>> = (1..=chars.len().max(1))
            .map(|size| {
                let tools = tools.map(|tools| tools.iter().map(|tool| (*tool).to_owned()).collect());
                let mut parser = AnswerParser::new(may_think, prompt, tools);
                let mut pieces: Vec<Piece> = Vec::new();
                for piece in chars.chunks(size) {
                    pieces.extend(parser.push(&piece.iter().collect::<String>()));
                }
                pieces.extend(parser.finish());
                pieces.into_iter().fold(Vec::new(), |mut joined: Vec<Piece>, piece| {
                    match (joined.last_mut(), piece) {
                        (Some(Piece::Text(text)), Piece::Text(more)) => text.push_str(&more),
                        (Some(Piece::Thinking(text)), Piece::Thinking(more)) => text.push_str(&more),
                        (_, piece) => joined.push(piece),
                    }
                    joined
                })
            })
            .collect();
        results.dedup();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn call(name: &str, arguments: &str) -> Piece {
        Piece::Call { name: name.to_owned(), arguments: Json::parse(arguments).unwrap() }
    }

    #[test]
    fn thoughts_are_told_apart() {
        let thought = Piece::Thinking("why\n\nnot".to_owned());
        let answer = "<think>\nwhy\n\nnot\n</think>\n\nBecause <b>.\n";
        assert_eq!(parse(true, "", None, answer), [thought.clone(), text("Because <b>.\n")]);
        assert_eq!(parse(true, "..<think>\n", None, "why\n\nnot</think>x"), [thought, text("x")]);
        assert_eq!(parse(true, "", None, "<think>\n\n</think>\n\nx"), [text("x")]);
        assert_eq!(parse(true, "", None, "<thinly> x"), [text("<thinly> x")]);
        assert_eq!(parse(false, "", None, "<think>a</think>"), [text("<think>a</think>")]);
        assert_eq!(parse(true, "", None, "<think>a</th"), [Piece::Thinking("a</th".to_owned())]);
    }

    #[test]
    fn calls_become_objects_in_every_spelling() {
        let tools: Option<&[&str]> = Some(&["add", "now"]);
        let hermes = "I will.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
            <tool_call>{\"name\": \"now\"}</tool_call>";
        let expected = [text("I will."), call("add", "{\"a\": 1}"), call("now", "{}")];
        assert_eq!(parse(false, "", tools, hermes), expected);
        assert_eq!(parse(false, "", tools, &hermes[8..]), expected[1..]);
        let mistral = "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}]";
        assert_eq!(parse(false, "", tools, mistral), expected[1..2]);
        let llama = "{\"name\": \"add\", \"parameters\": {\"a\": 1}}";
        assert_eq!(parse(false, "", tools, llama), expected[1..2]);
    }

    #[test]
    fn one_call_may_be_all_that_is_wanted() {
        let hermes =
            "<tool_call>{\"name\": \"a\"}</tool_call>\n<tool_call>{\"name\": \"b\"}</tool_call> End.";
        let list = "[{\"name\": \"a\"}, {\"name\": \"b\"}]";
        let parse = |text: &str| {
            let tools = Some(vec!["a".to_owned(), "b".to_owned()]);
            let mut parser = AnswerParser::new(false, "", tools).with_one_call();
            let mut pieces = parser.push(text);
            pieces.extend(parser.finish());
            pieces
        };
        assert_eq!(parse(hermes), [call("a", "{}"), text("End.")]);
        assert_eq!(parse(list), [call("a", "{}")]);
    }

    #[test]
    fn what_only_looks_like_a_call_stays_text() {
        let tools: Option<&[&str]> = Some(&["add"]);
        for other in
            ["{\"name\": \"rm\", \"arguments\": {}}", "{not json", "[1, 2]", "a <tool_cal", "[TOOL", "{"]
        {
            assert_eq!(parse(false, "", tools, other), [text(other)]);
        }
        assert_eq!(parse(false, "", tools, "<tool_call>oops</tool_call>"), [text("oops")]);
        let call = "<tool_call>{\"name\": \"add\"}</tool_call>";
        assert_eq!(parse(false, "", None, call), [text(call)], "nobody offered tools");
        assert_eq!(parse(false, "", tools, ""), []);
    }
}
