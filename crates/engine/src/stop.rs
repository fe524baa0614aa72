//! Stop strings in streamed text: what may become one is held back until it is known.

/// Passes text on until one of the stop strings appears.
pub(crate) struct StopFilter {
    stops: Vec<String>,
    /// Text not passed on yet: a proper prefix of a stop string may end it.
    held: String,
}

impl StopFilter {
    /// Empty stop strings are left out: they would stop everything.
    pub(crate) fn new(stops: &[String]) -> StopFilter {
        StopFilter { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text and returns what can be passed on, and whether a stop string appeared (it and what
    /// follows are dropped).
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let pass = self.held.len() - keep;
        (self.held.drain(..pass).collect(), false)
    }

    /// What was held back when the text ended without a stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest proper prefix of `stop` that ends `text`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = (stop.len() - 1).min(text.len());
    (1..=longest).rev().find(|n| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..*n]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of every size and checks that all give the same result.
    fn run(text: &str, stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let chars: Vec<char> = text.chars().collect();
        let mut results: Vec<(String, bool)> = (1..=chars.len().max(1))
            .map(|size| {
                let mut filter = StopFilter::new(&stops);
                let mut out = String::new();
                for piece in chars.chunks(size) {
                    let (passed, stopped) = filter.push(&piece.iter().collect::<String>());
                    out.push_str(&passed);
                    if stopped {
                        return (out, true);
                    }
                }
                out.push_str(&filter.finish());
                (out, false)
            })
            .collect();
        results.dedup();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    #[test]
    fn text_ends_before_the_first_stop_string() {
        assert_eq!(run("hello END world", &["END"]), ("hello ".to_owned(), true));
        assert_eq!(run("aaab", &["aab"]), ("a".to_owned(), true));
        assert_eq!(run("né\nÜser: x", &["\nÜser:"]), ("né".to_owned(), true));
    }

    #[test]
    fn what_only_looks_like_a_stop_string_comes_through() {
        assert_eq!(run("hello EN world EN", &["END", ""]), ("hello EN world EN".to_owned(), false));
        assert_eq!(run("", &["x"]), (String::new(), false));
        assert_eq!(run("ÜÜ", &["Üx"]), ("ÜÜ".to_owned(), false));
    }
}
