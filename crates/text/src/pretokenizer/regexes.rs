//! The cuts of pre-tokenizers as regular expressions, for libraries that have to be told: each cuts the pieces of the one
//! before into its matches and what lies between. A test holds them against the stages in `NAMES`.

use super::{GPT2_NAMES, LLAMA3_NAMES, QWEN2_NAMES, SMOLLM_NAMES};

/// Those of a pre-tokenizer, or `None` where a regular expression cannot say what it does or nobody asks for it.
pub(crate) fn of(name: &str) -> Option<&'static [&'static str]> {
    FAMILIES.iter().find(|(names, _)| names.contains(&name)).map(|(_, regexes)| *regexes)
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of Llama 3. Contractions are in any ASCII case; `(?i)` would take a long s for an s.
macro_rules! like_llama3 {
    ($number:literal, $tail:literal) => {
        concat!(
            r"'[sStTmMdD]|'[rRvV][eE]|'[lL][lL]|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+",
            $tail,
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const LLAMA3: &str = like_llama3!(r"\p{N}{1,3}", r"[\r\n]*");
const QWEN2: &str = like_llama3!(r"\p{N}", r"[\r\n]*");

/// Uppercase before lowercase; letters outside ASCII count as both.
macro_rules! cased {
    ($contraction:literal, $number:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])*((?=\p{L})[^A-Z])+",
            $contraction,
            r"|[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])+((?=\p{L})[^A-Z])*",
            $contraction,
            "|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

type Family = (&'static [&'static str], &'static [&'static str]);

const FAMILIES: &[Family] = &[
    (&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    (LLAMA3_NAMES, &[LLAMA3]),
    (&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5"], &[LLAMA3]),
    (&["minicpm5"], &[r"\p{N}{1,3}", like_llama3!(r"\p{N}+", r"[\r\n]*")]),
    (QWEN2_NAMES, &[QWEN2]),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], &[QWEN2]),
    (&["seed-coder"], &[like_llama3!(r"\p{N}", "")]),
    (SMOLLM_NAMES, &[r"\p{N}", GPT2]),
    (GPT2_NAMES, &[GPT2]),
    (&["tekken"], &[cased!("", r"\p{N}")]),
    (
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[cased!(r"('[sStTmMdD]|'[rRvV][eE]|'[lL][lL])?", r"\p{N}{1,3}")],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;
    use fancy_regex::Regex;

    /// The pieces that `regexes` cut a text into.
    fn cut<'t>(regexes: &[Regex], text: &'t str, out: &mut Vec<&'t str>) {
        let Some((regex, rest)) = regexes.split_first() else {
            out.push(text);
            return;
        };
        let mut from = 0;
        for found in regex.find_iter(text) {
            let found = found.expect("the regex matches");
            for piece in [&text[from..found.start()], found.as_str()] {
                if !piece.is_empty() {
                    cut(rest, piece, out);
                }
            }
            from = found.end();
        }
        if from < text.len() {
            cut(rest, &text[from..], out);
        }
    }

    /// The classes of characters as the regex library has them, of a later Unicode.
    struct Tables([Regex; 5]);

    impl Tables {
        /// Whether ours say the same of a character.
        fn agree(&self, c: char) -> bool {
            let class = crate::unicode::class_of(c);
            let ours = [
                class.is_letter(),
                class.is_number(),
                class.is_punctuation(),
                class.is_mark(),
                class.is_whitespace(),
            ];
            let text = c.to_string();
            self.0.iter().zip(ours).all(|(regex, ours)| regex.is_match(&text).expect("it matches") == ours)
        }
    }

    #[test]
    fn regexes_cut_as_the_stages_do() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/lines.jsonl");
        let corpus = std::fs::read_to_string(corpus).expect("the corpus reads");
        let lines: Vec<String> = corpus
            .lines()
            .map(|line| Json::parse(line).expect("a line is JSON").as_str().expect("it is text").to_owned())
            .collect();
        let tables = Tables(
            [r"\p{L}", r"\p{N}", r"\p{P}", r"\p{M}", r"\s"].map(|set| Regex::new(set).expect("it compiles")),
        );
        let n_lines = lines.len();
        let lines: Vec<_> = lines.into_iter().filter(|line| line.chars().all(|c| tables.agree(c))).collect();
        assert!(lines.len() * 100 > n_lines * 95, "{} of {n_lines} lines are left", lines.len());
        for (names, patterns) in FAMILIES {
            let regexes: Vec<_> = patterns.iter().map(|p| Regex::new(p).expect("it compiles")).collect();
            let stages: Vec<_> =
                names.iter().map(|name| super::super::by_name(name).expect("the name is known")).collect();
            for line in &lines {
                let mut expected = Vec::new();
                cut(&regexes, line, &mut expected);
                for (name, pre) in names.iter().zip(&stages) {
                    let mut pieces = Vec::new();
                    pre.split(line, &mut |piece| pieces.push(piece));
                    assert_eq!(pieces, expected, "{name}: {line:?}");
                }
            }
        }
    }
}
