//! Pre-tokenizers of byte-pair vocabularies: how text is cut into the pieces that merges stay inside.
//!
//! `tokenizer.ggml.pre` names one of the entries of [`NAMES`], which are those of llama.cpp b11434; another name is
//! refused. A pre-tokenizer is a list of stages, each of which cuts the pieces of the stage before.

mod pattern;
pub(crate) mod regexes;
mod sets;

use pattern::{Alt, Lead, Tail};

/// One cut of every piece.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Matches of a pattern, and the text between them.
    Matches(&'static [Alt]),
    /// Groups of three digits counted from the right end of a run of digits. Text before the run stays with its first
    /// group, as in the reference.
    DigitsFromRight,
    /// `(?=(\d{3})+(?!\d))`: cuts before each group of three ASCII digits counted from the right end.
    BeforeThreeDigits,
    /// `\s+$`
    TrailingSpace,
}

/// How an unmarked piece becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// Each byte is written as one printable character, as GPT-2 does.
    Bytes,
    /// Text as it is; characters without a token fall back to `<0xXX>` tokens.
    Chars,
}

/// A pre-tokenizer with the defaults that its name implies.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    stages: &'static [Stage],
    pub(crate) alphabet: Alphabet,
    /// A piece that is a token is not merged from its parts.
    pub(crate) ignore_merges: bool,
    /// Default of `tokenizer.ggml.add_bos_token`.
    pub(crate) add_bos: bool,
    /// A beginning-of-sequence token is added whatever the file says.
    pub(crate) force_bos: bool,
    /// Token 11 is the beginning of sequence unless the file names one.
    pub(crate) has_default_bos: bool,
    /// Spaces become U+2581 before anything else.
    pub(crate) escape_spaces: bool,
    /// A piece of newlines that is a token is not merged from its parts.
    pub(crate) whole_newlines: bool,
    /// Each U+2581 starts a word, and so does each piece.
    pub(crate) split_at_escaped_spaces: bool,
}

const PLAIN: PreTokenizer = PreTokenizer {
    stages: &[],
    alphabet: Alphabet::Bytes,
    ignore_merges: false,
    add_bos: false,
    force_bos: false,
    has_default_bos: true,
    escape_spaces: false,
    whole_newlines: false,
    split_at_escaped_spaces: false,
};

const fn plain(stages: &'static [Stage]) -> PreTokenizer {
    PreTokenizer { stages, ..PLAIN }
}

const GPT2: Stage = Stage::Matches(&[
    Alt::Contraction,
    Alt::Run(Lead::Space, sets::letter),
    Alt::Run(Lead::Space, sets::number),
    Alt::Symbols(Tail::Nothing),
    Alt::SpaceBeforeLast,
]);

const LLAMA3: Stage = Stage::Matches(&[
    Alt::ContractionAnyCase,
    Alt::Word,
    Alt::Number(3),
    Alt::Symbols(Tail::Newlines),
    Alt::SpaceToNewline,
    Alt::SpaceBeforeLast,
    Alt::Space,
]);

const QWEN2: Stage = Stage::Matches(&[
    Alt::ContractionAnyCase,
    Alt::Word,
    Alt::Number(1),
    Alt::Symbols(Tail::Newlines),
    Alt::SpaceToNewline,
    Alt::SpaceBeforeLast,
    Alt::Space,
]);

const DEEPSEEK3: Stage = Stage::Matches(&[
    Alt::PunctuationThenAscii,
    Alt::WordAfterPlain,
    Alt::Punctuation(Tail::Newlines),
    Alt::SpaceToNewline,
    Alt::SpaceBeforeLast,
    Alt::Space,
]);

const EACH_NUMBER: Stage = Stage::Matches(&[Alt::One(sets::number)]);
const NUMBERS: Stage = Stage::Matches(&[Alt::Run(Lead::Nothing, sets::number)]);
const THREE_NUMBERS: Stage = Stage::Matches(&[Alt::Number(3)]);
const THREE_DIGITS: Stage = Stage::Matches(&[Alt::ThreeDigits]);
const CJK_AND_KANA: Stage = Stage::Matches(&[Alt::Run(Lead::Nothing, sets::cjk_and_kana)]);
const SENTENCES: Stage = Stage::Matches(&[Alt::Run(Lead::Space, sets::not_sentence_mark)]);
const LINES: Stage =
    Stage::Matches(&[Alt::Run(Lead::Nothing, sets::not_newline), Alt::Run(Lead::Nothing, sets::newline)]);
const EACH_NEWLINE: Stage = Stage::Matches(&[Alt::One(sets::carriage_return_or_newline)]);

const fn gpt4o(marks: bool) -> [Alt; 6] {
    [
        Alt::CasedWord { marks, contraction: true },
        Alt::Number(3),
        Alt::Symbols(Tail::NewlinesOrSlashes),
        Alt::SpaceToNewline,
        Alt::SpaceBeforeLast,
        Alt::Space,
    ]
}

/// What a file without `tokenizer.ggml.pre` gets.
pub(crate) const DEFAULT: PreTokenizer = plain(&[
    Stage::Matches(&[Alt::Run(Lead::Nothing, sets::punctuation_or_math)]),
    GPT2,
    NUMBERS,
    THREE_DIGITS,
]);

/// Gemma 4: the model `gemma4` implies it.
pub(crate) const GEMMA4: PreTokenizer = PreTokenizer {
    alphabet: Alphabet::Chars,
    force_bos: true,
    escape_spaces: true,
    whole_newlines: true,
    ..plain(&[LINES])
};

/// Names of the pattern of Llama 3 whose vocabularies look whole pieces up.
pub(crate) const LLAMA3_NAMES: &[&str] = &[
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
];
/// Names of the pattern of Qwen 2.
pub(crate) const QWEN2_NAMES: &[&str] = &[
    "qwen2",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "megrez",
    "stablelm2",
    "hunyuan",
    "solar-open",
    "grok-2",
];
/// Names of the pattern of GPT-2.
pub(crate) const GPT2_NAMES: &[&str] = &[
    "gpt-2",
    "phi-2",
    "jina-es",
    "jina-de",
    "gigachat",
    "jina-v2-es",
    "jina-v2-de",
    "a.x-4.0",
    "mellum",
    "modern-bert",
    "jina-v1-en",
    "jina-v2-code",
    "roberta-bpe",
    "exaone4",
    "mpt",
    "olmo",
    "jais",
    "trillion",
    "granite-docling",
];
/// Names of the pattern of GPT-2 after a cut around each number.
pub(crate) const SMOLLM_NAMES: &[&str] =
    &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"];

/// Every name of `tokenizer.ggml.pre` that is known.
const NAMES: &[(&[&str], PreTokenizer)] = &[
    (&["default"], DEFAULT),
    (LLAMA3_NAMES, PreTokenizer { ignore_merges: true, add_bos: true, ..plain(&[LLAMA3]) }),
    (&["dbrx", "smaug-bpe"], plain(&[LLAMA3])),
    (&["chatglm-bpe"], PreTokenizer { has_default_bos: false, ..plain(&[LLAMA3]) }),
    (&["glm4", "glm5"], PreTokenizer { has_default_bos: false, ignore_merges: true, ..plain(&[LLAMA3]) }),
    (
        &["minicpm5"],
        PreTokenizer {
            ignore_merges: true,
            ..plain(&[
                THREE_NUMBERS,
                Stage::Matches(&[
                    Alt::ContractionAnyCase,
                    Alt::Word,
                    Alt::Number(usize::MAX),
                    Alt::Symbols(Tail::Newlines),
                    Alt::SpaceToNewline,
                    Alt::SpaceBeforeLast,
                    Alt::Space,
                ]),
            ])
        },
    ),
    (
        &["jais-2"],
        plain(&[Stage::Matches(&[
            Alt::ContractionAnyCase,
            Alt::Word,
            Alt::Number(3),
            Alt::Symbols(Tail::Newlines),
            Alt::SpaceToNewline,
            Alt::SpaceByPowers,
        ])]),
    ),
    (QWEN2_NAMES, plain(&[QWEN2])),
    (&["laguna"], plain(&[LINES, QWEN2])),
    (
        &["qwen35"],
        plain(&[Stage::Matches(&[
            Alt::ContractionAnyCase,
            Alt::WordWithMarks,
            Alt::Number(1),
            Alt::SymbolsNotMarks,
            Alt::SpaceToNewline,
            Alt::SpaceBeforeLast,
            Alt::Space,
        ])]),
    ),
    (
        &["ufakzeka"],
        plain(&[Stage::Matches(&[
            Alt::Word,
            Alt::Number(1),
            Alt::Symbols(Tail::Newlines),
            Alt::SpaceToNewline,
            Alt::SpaceBeforeLast,
            Alt::Space,
        ])]),
    ),
    (
        &["seed-coder"],
        plain(&[Stage::Matches(&[
            Alt::ContractionAnyCase,
            Alt::Word,
            Alt::Number(1),
            Alt::Symbols(Tail::Nothing),
            Alt::SpaceToNewline,
            Alt::SpaceBeforeLast,
            Alt::Space,
        ])]),
    ),
    // The published pattern ends whitespace at one newline, `\s*[\r\n]`; its greedy start makes that the last one.
    (&["bailingmoe", "bailingmoe2", "llada-moe"], plain(&[QWEN2])),
    (
        &["exaone-moe"],
        plain(&[Stage::Matches(&[
            Alt::ContractionAnyCase,
            Alt::SpacedWords,
            Alt::Number(1),
            Alt::Symbols(Tail::NewlineOrSlash),
            Alt::SpaceToNewline,
            Alt::SpaceBeforeLast,
            Alt::Space,
        ])]),
    ),
    (
        &["deepseek-llm"],
        plain(&[
            EACH_NEWLINE,
            Stage::Matches(&[Alt::Run(Lead::Whitespace, sets::deepseek_cased)]),
            Stage::Matches(&[Alt::Run(Lead::Whitespace, sets::deepseek_marks)]),
            Stage::TrailingSpace,
            Stage::Matches(&[Alt::Run(Lead::Nothing, sets::deepseek_wide)]),
            NUMBERS,
        ]),
    ),
    (
        &["deepseek-coder"],
        plain(&[
            EACH_NEWLINE,
            Stage::Matches(&[Alt::Run(Lead::Whitespace, sets::letter)]),
            Stage::Matches(&[Alt::Run(Lead::Whitespace, sets::punctuation)]),
            Stage::Matches(&[Alt::Run(Lead::Nothing, sets::deepseek_wide)]),
            EACH_NUMBER,
        ]),
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        plain(&[THREE_NUMBERS, CJK_AND_KANA, DEEPSEEK3]),
    ),
    (
        &["spark2_5"],
        plain(&[
            THREE_NUMBERS,
            CJK_AND_KANA,
            Stage::Matches(&[
                Alt::PunctuationThenAscii,
                Alt::WordAfterPlain,
                Alt::Punctuation(Tail::Nothing),
                Alt::One(sets::carriage_return_or_newline),
                Alt::SpaceBeforeLast,
                Alt::Space,
            ]),
            EACH_NUMBER,
        ]),
    ),
    (
        &["youtu"],
        PreTokenizer {
            ignore_merges: true,
            ..plain(&[
                Stage::Matches(&[
                    Alt::Run(Lead::Nothing, sets::hangul),
                    Alt::Run(Lead::Nothing, sets::youtu_punctuation),
                    Alt::Run(Lead::Nothing, sets::bopomofo),
                    Alt::Run(Lead::Nothing, sets::cjk_and_kana),
                ]),
                Stage::Matches(&[
                    Alt::WordWithMarksAndContraction,
                    Alt::Number(1),
                    Alt::Symbols(Tail::NewlinesOrSlashes),
                    Alt::SpaceToNewline,
                    Alt::SpaceBeforeLast,
                    Alt::Space,
                ]),
            ])
        },
    ),
    (
        &["falcon"],
        plain(&[
            Stage::Matches(&[Alt::Run(Lead::Nothing, sets::punctuation_or_math_or_tick)]),
            GPT2,
            THREE_DIGITS,
        ]),
    ),
    (SMOLLM_NAMES, plain(&[EACH_NUMBER, GPT2])),
    (GPT2_NAMES, plain(&[GPT2])),
    (&["poro-chat", "bloom", "gpt3-finnish"], plain(&[SENTENCES])),
    (&["viking"], plain(&[SENTENCES, EACH_NUMBER])),
    (
        &["tekken"],
        PreTokenizer {
            ignore_merges: true,
            add_bos: true,
            ..plain(&[Stage::Matches(&[
                Alt::CasedWord { marks: false, contraction: false },
                Alt::Number(1),
                Alt::Symbols(Tail::NewlinesOrSlashes),
                Alt::SpaceToNewline,
                Alt::SpaceBeforeLast,
                Alt::Space,
            ])])
        },
    ),
    (
        &["chameleon"],
        PreTokenizer {
            add_bos: true,
            ..plain(&[
                Stage::Matches(&[Alt::Sentinel]),
                Stage::Matches(&[Alt::ImageToken]),
                Stage::Matches(&[Alt::Indent]),
                EACH_NUMBER,
                Stage::Matches(&[Alt::One(sets::ascii_punctuation_or_any)]),
                GPT2,
            ])
        },
    ),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], plain(&[Stage::Matches(&gpt4o(false))])),
    (
        &["granite-embed-multi-97m"],
        PreTokenizer { ignore_merges: true, ..plain(&[Stage::Matches(&gpt4o(true))]) },
    ),
    (
        &["tiny_aya", "cohere2moe"],
        plain(&[
            Stage::DigitsFromRight,
            Stage::Matches(&[
                Alt::WordWithMarksAndContraction,
                Alt::Number(3),
                Alt::Symbols(Tail::NewlinesOrSlashes),
                Alt::SpaceToNewline,
                Alt::SpaceBeforeLast,
                Alt::Space,
            ]),
        ]),
    ),
    (
        &["kimi-k2"],
        plain(&[Stage::Matches(&[
            Alt::Run(Lead::Nothing, sets::han),
            Alt::KimiWord,
            Alt::Number(3),
            Alt::Symbols(Tail::Newlines),
            Alt::SpaceToNewline,
            Alt::SpaceBeforeLast,
            Alt::Space,
        ])]),
    ),
    (&["superbpe"], plain(&[NUMBERS, Stage::BeforeThreeDigits])),
    (
        &["afmoe"],
        plain(&[
            Stage::DigitsFromRight,
            Stage::Matches(&[Alt::Run(Lead::Nothing, sets::afmoe_scripts)]),
            DEEPSEEK3,
        ]),
    ),
    (&["gemma4", "granite-embed-multi-311m"], GEMMA4),
    (&["sarvam-moe"], PreTokenizer { alphabet: Alphabet::Chars, escape_spaces: true, ..plain(&[LINES]) }),
    (
        &["mmbert"],
        PreTokenizer {
            alphabet: Alphabet::Chars,
            escape_spaces: true,
            whole_newlines: true,
            split_at_escaped_spaces: true,
            ..plain(&[LINES])
        },
    ),
    (
        &["whitespace"],
        PreTokenizer {
            alphabet: Alphabet::Chars,
            ..plain(&[Stage::Matches(&[Alt::Run(Lead::Nothing, sets::not_whitespace)])])
        },
    ),
];

/// The pre-tokenizer of a name, or `None` if it is unknown.
pub(crate) fn by_name(name: &str) -> Option<&'static PreTokenizer> {
    NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| pre)
}

impl PreTokenizer {
    /// Calls `each` for every piece of the text, in order. The pieces are not empty and join up to the text.
    pub(crate) fn split<'t>(&self, text: &'t str, each: &mut dyn FnMut(&'t str)) {
        split(self.stages, text, each);
    }
}

fn split<'t>(stages: &[Stage], text: &'t str, each: &mut dyn FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((stage, rest)) = stages.split_first() else {
        each(text);
        return;
    };
    let mut emit = |piece: &'t str| split(rest, piece, each);
    match stage {
        Stage::Matches(alts) => matches(alts, text, &mut emit),
        Stage::DigitsFromRight => digits_from_right(text, &mut emit),
        Stage::BeforeThreeDigits => before_three_digits(text, &mut emit),
        Stage::TrailingSpace => {
            let (head, space) = text.split_at(text.trim_end().len());
            emit(head);
            emit(space);
        }
    }
}

fn matches<'t>(alts: &[Alt], text: &'t str, emit: &mut dyn FnMut(&'t str)) {
    let mut unmatched_from = 0;
    let mut pos = 0;
    // Whitespace up to here is followed by no newline before its run ends. Without this, a long run that is cut into
    // many pieces would be searched for a newline at each of them.
    let mut no_newline_to = 0;
    while pos < text.len() {
        let end = alts.iter().find_map(|alt| match alt {
            Alt::SpaceToNewline if pos < no_newline_to => None,
            Alt::SpaceToNewline => alt.match_at(text, pos).or_else(|| {
                no_newline_to = Alt::Space.match_at(text, pos).unwrap_or(pos);
                None
            }),
            _ => alt.match_at(text, pos),
        });
        match end {
            Some(end) => {
                emit(&text[unmatched_from..pos]);
                emit(&text[pos..end]);
                pos = end;
                unmatched_from = end;
            }
            None => pos += text[pos..].chars().next().map_or(1, char::len_utf8),
        }
    }
    emit(&text[unmatched_from..]);
}

fn digits_from_right<'t>(text: &'t str, emit: &mut dyn FnMut(&'t str)) {
    let is_number = |c: char| crate::unicode::class_of(c).is_number();
    let mut piece_from = 0;
    let mut run: Vec<usize> = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if !is_number(c) {
            continue;
        }
        // The ends of the digits of this run.
        run.clear();
        run.push(start + c.len_utf8());
        while let Some(&(start, c)) = chars.peek().filter(|(_, c)| is_number(*c)) {
            run.push(start + c.len_utf8());
            chars.next();
        }
        let first = match run.len() % 3 {
            0 => 3,
            short => short,
        };
        for end in run.iter().skip(first - 1).step_by(3) {
            emit(&text[piece_from..*end]);
            piece_from = *end;
        }
    }
    emit(&text[piece_from..]);
}

fn before_three_digits<'t>(text: &'t str, emit: &mut dyn FnMut(&'t str)) {
    let bytes = text.as_bytes();
    let mut piece_from = 0;
    let mut pos = 0;
    while pos < bytes.len() {
        let n_digits = bytes[pos..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        for cut in (pos..pos + n_digits).filter(|cut| (pos + n_digits - cut) % 3 == 0) {
            emit(&text[piece_from..cut]);
            piece_from = cut;
        }
        pos += n_digits.max(1);
    }
    emit(&text[piece_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        by_name(name).expect(name).split(text, &mut |piece| out.push(piece));
        out
    }

    #[test]
    fn words_numbers_and_spaces_by_family() {
        let text = "I'LL pay  $1234!\n\n x";
        assert_eq!(pieces("gpt-2", text), ["I", "'", "LL", " pay", " ", " $", "1234", "!", "\n\n", " x"]);
        assert_eq!(pieces("llama-bpe", text), ["I", "'LL", " pay", " ", " $", "123", "4", "!\n\n", " x"]);
        assert_eq!(pieces("qwen2", text), ["I", "'LL", " pay", " ", " $", "1", "2", "3", "4", "!\n\n", " x"]);
        assert_eq!(
            pieces("smollm", text),
            ["I", "'", "LL", " pay", " ", " $", "1", "2", "3", "4", "!", "\n\n", " x"]
        );
    }

    #[test]
    fn a_long_s_is_no_contraction() {
        assert_eq!(pieces("qwen2", "it'ſ 'S"), ["it", "'ſ", " '", "S"]);
    }

    #[test]
    fn digits_group_from_the_right_and_keep_what_precedes() {
        assert_eq!(pieces("superbpe", "a1234567b"), ["a", "1", "234", "567", "b"]);
        let mut out = Vec::new();
        split(&[Stage::DigitsFromRight], "ab1234567c12", &mut |piece| out.push(piece));
        assert_eq!(out, ["ab1", "234", "567", "c12"]);
    }

    #[test]
    fn cased_words_give_back_what_lowercase_needs() {
        assert_eq!(pieces("tekken", "HelloWORLD"), ["Hello", "WORLD"]);
        assert_eq!(pieces("tekken", "éABC"), ["é", "ABC"]);
        assert_eq!(pieces("gpt-4o", "don'T stop"), ["don'T", " stop"]);
    }

    #[test]
    fn whitespace_is_cut_by_powers() {
        let lengths = |text: &str| pieces("jais-2", text).iter().map(|p| p.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&" ".repeat(700)), [512, 128, 32, 16, 8, 4]);
        assert_eq!(lengths("       x"), [4, 2, 1 + 1]);
    }

    #[test]
    fn names_are_unique_and_unknown_ones_refused() {
        let mut names: Vec<&str> = NAMES.iter().flat_map(|(names, _)| *names).copied().collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names);
        assert!(by_name("qwen9").is_none());
        assert!(by_name("").is_none());
    }

    proptest! {
        /// Whatever the text, pieces are not empty and join up to it.
        #[test]
        fn pieces_partition_the_text(
            text in "([ \\t\\r\\n\u{a0}\u{3000}]{0,6}|\\PC{0,6}|[a-zA-Z]{0,4}|[0-9]{0,8}|'(s|LL|re)|\u{301}|[中éǅ]){0,12}",
        ) {
            for (names, pre) in NAMES {
                let mut joined = String::new();
                pre.split(&text, &mut |piece| {
                    assert!(!piece.is_empty(), "{names:?}");
                    joined.push_str(piece);
                });
                prop_assert_eq!(&joined, &text, "{:?}", names);
            }
        }
    }
}
