//! Tokenizers on small vocabularies: what they give, what they refuse, and that hostile text costs time in proportion.

mod common;

use std::time::{Duration, Instant};

use common::*;
use proptest::prelude::*;
use rawrz_gguf::WriteValue;
use rawrz_text::{EncodeOptions, StreamDecoder, TokenId, Tokenizer, TokenizerError};

#[test]
fn byte_pairs_merge_by_rank() {
    let tokenizer = byte_pair().tokenizer();
    assert_eq!(tokens(&tokenizer, "hello world"), ["hello", "Ġworld"]);
    assert_eq!(tokens(&tokenizer, "help"), ["he", "l", "p"]);
    assert_eq!(tokens(&tokenizer, "aaaaa"), ["aaaa", "a"]);
    assert_eq!(tokens(&tokenizer, "é中"), ["Ã©", "ä", "¸", "Ń"]);
    assert!(plain(&tokenizer, "").is_empty());
}

#[test]
fn merges_through_texts_that_are_no_tokens() {
    let mut vocab = Vocabulary::new("gpt2");
    vocab.pre = Some("gpt-2".to_owned());
    for text in ["a", "b", "c", "abc"] {
        vocab.token(text, NORMAL, 0.0);
    }
    // "ab" is no token, yet "abc" is reached through it. A "d" has no token at all and is dropped.
    vocab.merges = Some(["a b", "ab c", "d e"].map(str::to_owned).to_vec());
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokens(&tokenizer, "abc"), ["abc"]);
    assert_eq!(tokens(&tokenizer, "abdca"), ["a", "b", "c", "a"]);
}

#[test]
fn of_equal_merges_the_first_counts_and_of_equal_ranks_the_leftmost() {
    let mut vocab = Vocabulary::new("gpt2");
    vocab.pre = Some("gpt-2".to_owned());
    for text in ["a", "b", "ab", "ba", "aa"] {
        vocab.token(text, NORMAL, 0.0);
    }
    vocab.merges = Some(["a a", "b a", "a b", "a a"].map(str::to_owned).to_vec());
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokens(&tokenizer, "aaa"), ["aa", "a"]);
    assert_eq!(tokens(&tokenizer, "aba"), ["a", "ba"]);
}

#[test]
fn scores_decide_merges_and_ties_go_left() {
    let vocab = sentence_piece().flag("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokens(&tokenizer, "abc"), ["ab", "c"]);
    assert_eq!(tokens(&tokenizer, "hello"), ["he", "ll", "o"]);
    assert_eq!(tokens(&tokenizer, " hello"), ["▁hello"]);
    assert_eq!(tokens(&tokenizer, "é"), ["<0xC3>", "<0xA9>"]);
}

#[test]
fn a_space_goes_before_a_text_and_after_special_tokens() {
    let tokenizer = sentence_piece().tokenizer();
    assert_eq!(tokens(&tokenizer, "hello"), ["▁hello"]);
    assert_eq!(texts(&tokenizer, &parsed(&tokenizer, "hello</s>hello")), ["<s>", "▁hello", "</s>", "▁hello"]);
    assert_eq!(tokenizer.decode(&parsed(&tokenizer, "hello"), false), "hello");
    assert_eq!(tokenizer.decode(&plain(&tokenizer, " hello"), false), " hello");
    // A generation goes on where the text stopped, so its space is kept.
    let mut decoder = StreamDecoder::new(&tokenizer, false);
    assert_eq!(decoder.push(tokenizer.find("▁hello").unwrap()), " hello");
}

#[test]
fn words_are_covered_by_the_longest_pieces() {
    let tokenizer = word_piece().tokenizer();
    assert_eq!(tokens(&tokenizer, "Héllo, WORLD!"), ["▁hello", "▁,", "▁wor", "ld", "▁!"]);
    assert_eq!(tokens(&tokenizer, "e中1"), ["▁e", "▁中", "▁1"]);
    // What cannot be covered to its end is unknown as a whole.
    assert_eq!(tokens(&tokenizer, "hellx world"), ["[UNK]", "▁wor", "ld"]);
    assert_eq!(texts(&tokenizer, &parsed(&tokenizer, "he")), ["[CLS]", "▁he", "[SEP]"]);
    let cased = word_piece().flag("tokenizer.ggml.normalizer.lowercase", false).tokenizer();
    assert_eq!(tokens(&cased, "HE he"), ["[UNK]", "▁he"]);
}

#[test]
fn the_best_sum_of_scores_wins() {
    let tokenizer = unigram().tokenizer();
    assert_eq!(tokens(&tokenizer, "ab"), ["▁a", "b"]);
    assert_eq!(tokens(&tokenizer, "  a  b "), ["▁a", "▁", "b"]);
    // Unknown characters in a row are one unknown token.
    assert_eq!(tokens(&tokenizer, "azzc"), ["▁a", "<unk>", "c"]);
    assert_eq!(texts(&tokenizer, &parsed(&tokenizer, "a<x>")), ["▁a", "<x>", "</s>"]);
}

#[test]
fn characters_are_replaced_by_the_map() {
    let mut vocab = unigram();
    vocab.charsmap = Some(map_of_one(b'A', b"a"));
    assert_eq!(tokens(&vocab.tokenizer(), "Ab"), ["▁a", "b"]);
}

/// A double array that replaces one byte.
fn map_of_one(byte: u8, replacement: &[u8]) -> Vec<u8> {
    // The root's offset is 256; its child for the byte is at 256 ^ byte, is complete, and its offset leads to unit 1,
    // which holds the place of the replacement.
    let child = 256 ^ u32::from(byte);
    let mut units = vec![0u32; 512];
    units[0] = 256 << 10;
    units[child as usize] = (child ^ 1) << 10 | 1 << 8 | u32::from(byte);
    units[1] = 1 << 31;
    let mut map = (units.len() as u32 * 4).to_le_bytes().to_vec();
    map.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    map.extend_from_slice(replacement);
    map.push(0);
    map
}

#[test]
fn special_tokens_are_cut_out_longest_first() {
    let mut vocab = byte_pair();
    vocab.token("<|im", CONTROL, 0.0);
    vocab.token("<|im_end|>x", CONTROL, 0.0);
    let tokenizer = vocab.tokenizer();
    let ids = |text: &str, parse_special| {
        let options = EncodeOptions { add_special: false, parse_special };
        texts(&tokenizer, &tokenizer.encode(text, options).unwrap())
    };
    assert_eq!(ids("a<|im_end|>xb", true), ["a", "<|im_end|>x", "b"]);
    assert_eq!(ids("<|im_end|><|im", true), ["<|im_end|>", "<|im"]);
    assert_eq!(ids("<|im_start|>", false).concat(), "<|im_start|>");
    assert_eq!(ids("<|im_start|>", false).len(), 12);
    // User-defined tokens count either way.
    assert_eq!(ids("a[user]b", false), ["a", "[user]", "b"]);
}

#[test]
fn a_longer_token_wins_even_where_a_shorter_one_starts_earlier() {
    let mut vocab = byte_pair();
    vocab.token("xyz", USER_DEFINED, 0.0);
    vocab.token("wx", USER_DEFINED, 0.0);
    vocab.token("zq", USER_DEFINED, 0.0);
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokens(&tokenizer, "wxyzq"), ["w", "xyz", "q"]);
    assert_eq!(tokens(&tokenizer, "wxzq"), ["wx", "zq"]);
}

#[test]
fn tokens_of_some_models_swallow_whitespace() {
    let mut phi = sentence_piece();
    phi.token("<|end|>", CONTROL, 0.0);
    phi.texts.push(("general.name", "Phi-3-mini".to_owned()));
    let tokenizer = phi.tokenizer();
    assert_eq!(
        texts(&tokenizer, &parsed(&tokenizer, "h<|end|> \n\the")),
        ["<s>", "▁", "h", "<|end|>", "▁he"]
    );
    let mut jina = byte_pair();
    jina.pre = Some("jina-v2-code".to_owned());
    jina.token("<mask>", CONTROL, 0.0);
    let tokenizer = jina.tokenizer();
    assert_eq!(texts(&tokenizer, &parsed(&tokenizer, "a \t<mask> b")), ["a", "<mask>", "Ġ", "b"]);
}

#[test]
fn flags_of_the_file_say_what_is_added() {
    let ends = |vocab: Vocabulary| {
        let tokenizer = vocab.tokenizer();
        (tokenizer.adds_bos(), tokenizer.adds_eos(), texts(&tokenizer, &parsed(&tokenizer, "h")).len())
    };
    assert_eq!(ends(byte_pair()), (false, false, 1));
    let both =
        byte_pair().flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true);
    assert_eq!(ends(both), (true, true, 3));
    let mut llama3 = byte_pair();
    llama3.pre = Some("llama-bpe".to_owned());
    assert_eq!(ends(llama3), (true, false, 2));
    let without = sentence_piece().flag("tokenizer.ggml.add_bos_token", false);
    assert_eq!(ends(without), (false, false, 2));
}

#[test]
fn a_prompt_never_starts_twice() {
    let tokenizer = sentence_piece().tokenizer();
    let once = texts(&tokenizer, &tokenizer.encode_prompt("<s>he").unwrap());
    assert_eq!(once, ["<s>", "▁he"]);
    assert_eq!(texts(&tokenizer, &tokenizer.encode_prompt("he").unwrap()), ["<s>", "▁he"]);
    assert_eq!(texts(&tokenizer, &parsed(&tokenizer, "<s>he")), ["<s>", "<s>", "▁he"]);
}

#[test]
fn special_ids_come_from_keys_and_from_texts() {
    let mut vocab = byte_pair();
    let eot = vocab.token("<end_of_turn>", NORMAL, 0.0);
    let fim = vocab.token("<|fim_prefix|>", NORMAL, 0.0);
    let tokenizer = vocab.clone().id("tokenizer.ggml.eot_token_id", 5).tokenizer();
    let ids = tokenizer.special_tokens();
    assert_eq!((ids.bos, ids.eos, ids.eot, ids.fim_prefix), (Some(0), Some(0), Some(5), Some(fim)));
    assert_eq!(tokenizer.eog_ids(), [0, 2, 5, eot]);
    // Looking like a control token makes it one.
    assert!(tokenizer.is_control(eot) && tokenizer.is_control(fim));
    let mut shown = Vec::new();
    tokenizer.append_piece(eot, false, &mut shown);
    assert!(shown.is_empty());
    tokenizer.append_piece(eot, true, &mut shown);
    assert_eq!(shown, b"<end_of_turn>");
}

#[test]
fn ids_outside_the_vocabulary_count_as_not_given() {
    let mut vocab = byte_pair();
    vocab.ids =
        vec![("tokenizer.ggml.eos_token_id", 4_000_000_000), ("tokenizer.ggml.padding_token_id", u32::MAX)];
    let tokenizer = vocab.tokenizer();
    // 11 is the default of byte-pair vocabularies.
    assert_eq!(tokenizer.eos(), Some(11));
    assert_eq!(tokenizer.special_tokens().pad, None);
    let minus_one = vocab.gguf_with(&[("tokenizer.ggml.mask_token_id", WriteValue::from(-1i32))]);
    assert_eq!(Tokenizer::from_gguf(&minus_one).unwrap().special_tokens().mask, None);
}

#[test]
fn an_answer_that_ends_in_a_call_does_not_end_at_an_inner_end() {
    let mut vocab = byte_pair();
    let end = vocab.token("<|end|>", CONTROL, 0.0);
    assert!(vocab.tokenizer().is_eog(end));
    let returned = vocab.token("<|return|>", CONTROL, 0.0);
    let called = vocab.token("<|call|>", CONTROL, 0.0);
    let channel = vocab.token("<|channel|>", CONTROL, 0.0);
    let tokenizer = vocab.tokenizer();
    assert!(tokenizer.is_eog(returned) && tokenizer.is_eog(called) && !tokenizer.is_eog(end));
    assert!(!tokenizer.is_control(end) && !tokenizer.is_control(channel));
}

#[test]
fn a_token_without_text_has_the_name_of_its_id() {
    let mut vocab = byte_pair();
    let empty = vocab.token("", NORMAL, 0.0);
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokenizer.token_text(empty), Some(format!("[EMPTY_{empty}]").as_str()));
    assert_eq!(tokenizer.token_text(empty + 1), None);
}

#[test]
fn damaged_vocabularies_are_refused() {
    let refuse = |vocab: &Vocabulary, instead: &[(&'static str, WriteValue<'_>)]| {
        let error = Tokenizer::from_gguf(&vocab.gguf_with(instead)).expect_err("it is refused");
        assert!(!error.to_string().is_empty());
        error
    };
    use TokenizerError as E;
    let bpe = byte_pair();
    let spm = sentence_piece();
    let n_tokens = bpe.tokens.len();

    let mut header = rawrz_gguf::Header::new();
    header.set("general.name", "x").unwrap();
    let bytes = rawrz_gguf::Writer::start(Vec::new(), &header).unwrap().finish().unwrap();
    let bare = rawrz_gguf::Gguf::from_vec(bytes).unwrap();
    assert_eq!(Tokenizer::from_gguf(&bare).unwrap_err(), E::Missing { key: "tokenizer.ggml.model" });

    for name in ["rwkv", "plamo2", "hybriddna", "whitespace", "no_vocab", "none", "test", "", "GPT2"] {
        let error = refuse(&bpe, &[("tokenizer.ggml.model", name.into())]);
        assert_eq!(error, E::UnsupportedModel { name: name.to_owned() });
    }
    let error = refuse(&bpe, &[("tokenizer.ggml.pre", "qwen9".into())]);
    assert_eq!(error, E::UnknownPreTokenizer { name: "qwen9".to_owned() });
    assert!(error.to_string().contains("qwen9"));
    assert!(matches!(refuse(&bpe, &[("tokenizer.ggml.model", 1u32.into())]), E::Metadata(_)));
    assert!(matches!(refuse(&bpe, &[("tokenizer.ggml.tokens", "x".into())]), E::Metadata(_)));
    assert!(matches!(refuse(&bpe, &[("tokenizer.ggml.add_bos_token", 1u32.into())]), E::Metadata(_)));
    assert!(matches!(refuse(&bpe, &[("tokenizer.ggml.bos_token_id", "x".into())]), E::Metadata(_)));

    let numbers: &[i32] = &[1, 2, 3];
    let floats: &[f32] = &[1.0; 4];
    let none: &[&str] = &[];
    let error = refuse(&bpe, &[("tokenizer.ggml.tokens", numbers.into())]);
    assert_eq!(error, E::ElementType { key: "tokenizer.ggml.tokens", expected: "string", found: "i32" });
    assert_eq!(refuse(&bpe, &[("tokenizer.ggml.tokens", none.into())]), E::Empty);
    let error = refuse(&bpe, &[("tokenizer.ggml.token_type", floats.into())]);
    assert_eq!(error, E::ElementType { key: "tokenizer.ggml.token_type", expected: "i32", found: "f32" });
    let error = refuse(&bpe, &[("tokenizer.ggml.token_type", numbers.into())]);
    assert_eq!(error, E::TooShort { key: "tokenizer.ggml.token_type", found: 3, n_tokens });
    let error = refuse(&bpe, &[("tokenizer.ggml.scores", none.into())]);
    assert_eq!(error, E::TooShort { key: "tokenizer.ggml.scores", found: 0, n_tokens });
    let names: Vec<String> = bpe.tokens.clone();
    let error = refuse(&bpe, &[("tokenizer.ggml.scores", WriteValue::from(&names[..]))]);
    assert_eq!(
        error,
        E::ElementType { key: "tokenizer.ggml.scores", expected: "f32 or i32", found: "string" }
    );
    let error = refuse(&bpe, &[("tokenizer.ggml.merges", numbers.into())]);
    assert_eq!(error, E::ElementType { key: "tokenizer.ggml.merges", expected: "string", found: "i32" });
    let mut unmerged = bpe.clone();
    unmerged.merges = None;
    assert_eq!(refuse(&unmerged, &[]), E::Missing { key: "tokenizer.ggml.merges" });

    let mut twice = bpe.clone();
    let second = twice.token("hello", NORMAL, 0.0);
    let first = bpe.tokenizer().find("hello").unwrap();
    assert_eq!(refuse(&twice, &[]), E::DuplicateToken { text: "hello".to_owned(), first, second });
    let mut bad_byte = spm.clone();
    let id = bad_byte.token("<0xZZ>", BYTE, 0.0);
    assert_eq!(refuse(&bad_byte, &[]), E::ByteToken { id, text: "<0xZZ>".to_owned() });
    let mut bad_score = spm.clone();
    let id = bad_score.token("zz", NORMAL, f32::NAN);
    assert_eq!(refuse(&bad_score, &[]), E::Score { id });

    let mut no_start = Vocabulary::new("llama");
    no_start.token("a", NORMAL, 0.0);
    assert_eq!(refuse(&no_start, &[]), E::MissingSpecialToken { which: "beginning-of-sequence" });
    let mut no_end = Vocabulary::new("t5");
    no_end.token("a", NORMAL, 0.0);
    no_end.ids = vec![("tokenizer.ggml.unknown_token_id", 0)];
    assert_eq!(refuse(&no_end, &[]), E::MissingSpecialToken { which: "end-of-sequence" });
    no_end.ids.clear();
    assert_eq!(refuse(&no_end, &[]), E::MissingSpecialToken { which: "unknown" });
    let mut no_separator = word_piece();
    no_separator.ids.retain(|(key, _)| !key.contains("seperator"));
    assert_eq!(refuse(&no_separator, &[]), E::MissingSpecialToken { which: "separator" });
    no_separator.ids.retain(|(key, _)| !key.contains("unknown"));
    assert_eq!(refuse(&no_separator, &[]), E::MissingSpecialToken { which: "unknown" });
}

#[test]
fn damaged_character_maps_are_refused() {
    let mut vocab = unigram();
    for (map, what) in [
        (vec![1u8, 2, 3], "it is shorter than its header"),
        (vec![4, 0, 0, 0, 1, 2, 3, 4], "its array runs past its end"),
        (u32::MAX.to_le_bytes().repeat(2), "its array runs past its end"),
    ] {
        vocab.charsmap = Some(map);
        assert_eq!(vocab.try_tokenizer().unwrap_err(), TokenizerError::CharacterMap { what });
    }
    // Indices are followed only when a text leads to them.
    for (damage, what) in [(0usize, "an index points past its end"), (1, "an index points past its end")] {
        let mut map = map_of_one(b'A', b"a");
        let unit = if damage == 0 { 0 } else { 1 };
        map[4 + 4 * unit..8 + 4 * unit].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        vocab.charsmap = Some(map);
        let error = vocab.tokenizer().encode("A", EncodeOptions::default()).unwrap_err();
        assert_eq!(error, TokenizerError::CharacterMap { what });
    }
    let mut endless = map_of_one(b'A', b"a");
    endless.pop();
    vocab.charsmap = Some(endless);
    let error = vocab.tokenizer().encode("A", EncodeOptions::default()).unwrap_err();
    assert_eq!(error, TokenizerError::CharacterMap { what: "a replacement has no end" });
    let texts = ["x"; 3];
    let gguf = vocab.gguf_with(&[("tokenizer.ggml.precompiled_charsmap", WriteValue::from(&texts[..]))]);
    assert!(matches!(Tokenizer::from_gguf(&gguf), Err(TokenizerError::ElementType { .. })));
}

#[test]
fn a_byte_without_a_token_is_an_error_of_the_text() {
    let mut vocab = Vocabulary::new("llama");
    for text in ["<unk>", "<s>", "</s>", "▁", "a"] {
        vocab.token(text, if text.starts_with('<') { CONTROL } else { NORMAL }, 0.0);
    }
    let tokenizer = vocab.tokenizer();
    assert_eq!(tokens(&tokenizer, "a"), ["▁", "a"]);
    let error = tokenizer.encode("ab", EncodeOptions::default()).unwrap_err();
    assert_eq!(error, TokenizerError::NoByteToken { byte: b'b' });
}

fn all_models() -> Vec<(&'static str, Tokenizer)> {
    let with_pre = |pre: &str| {
        let mut vocab = byte_pair();
        vocab.pre = Some(pre.to_owned());
        vocab.tokenizer()
    };
    let mut gemma4 = sentence_piece();
    gemma4.model = "gemma4".to_owned();
    gemma4.merges = Some(vec!["h e".to_owned(), "▁ he".to_owned(), "a a".to_owned()]);
    gemma4.ids = vec![("tokenizer.ggml.bos_token_id", 1)];
    vec![
        ("gpt-2", with_pre("gpt-2")),
        ("llama-bpe", with_pre("llama-bpe")),
        ("tekken", with_pre("tekken")),
        ("deepseek-llm", with_pre("deepseek-llm")),
        ("jais-2", with_pre("jais-2")),
        ("mmbert", with_pre("mmbert")),
        ("gemma4", gemma4.tokenizer()),
        ("llama", sentence_piece().tokenizer()),
        ("bert", word_piece().tokenizer()),
        ("t5", unigram().tokenizer()),
    ]
}

/// Sixteen times the text may take a few times sixteen as long, on a machine that does other things too; a quadratic step
/// would take 256 times.
#[test]
fn hostile_text_costs_time_in_proportion() {
    let units =
        ["a", " ", "1", "\n", "é", "A", "'", "<", "中", "<|im_end|>", "[user", "aA", " \n", "▁", "\u{301}"];
    for (name, tokenizer) in all_models() {
        for unit in units {
            let time = |n_bytes: usize| -> Duration {
                let text = unit.repeat(n_bytes / unit.len());
                let start = Instant::now();
                let options = EncodeOptions { add_special: true, parse_special: true };
                let ids = tokenizer.encode(&text, options).expect("it encodes");
                let took = start.elapsed();
                assert!(ids.len() <= text.len() + 8, "{name} {unit:?}");
                took
            };
            let mut tries = Vec::new();
            let in_proportion = (0..5).any(|_| {
                let short = time(1 << 15).max(Duration::from_millis(2));
                let long = time(1 << 19);
                tries.push((short, long));
                long < short * 64
            });
            assert!(in_proportion, "{name} {unit:?}: 32 KiB and 512 KiB took {tries:?}");
        }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ \\t\\r\\n]{1,9}",
        "(hello|world|help|aaaa|<\\|im_end\\|>|<s>|</s>|\\[user\\]|<x>|中|é|\u{301}|▁){1,4}",
        "[a-c0-9'A-Z]{1,12}",
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    /// No text makes a tokenizer fail, and all ids are in the vocabulary.
    #[test]
    fn any_text_encodes(text in any_text(), add_special: bool, parse_special: bool) {
        for (name, tokenizer) in all_models() {
            let ids = tokenizer.encode(&text, EncodeOptions { add_special, parse_special });
            let ids = ids.unwrap_or_else(|error| panic!("{name}: {error}"));
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_len()), "{}", name);
        }
    }

    /// Vocabularies that cover every byte give a text back.
    #[test]
    fn bytes_come_back(text in any_text()) {
        for vocab in [byte_pair(), sentence_piece()] {
            let tokenizer = vocab.tokenizer();
            let back = tokenizer.decode(&plain(&tokenizer, &text), true);
            // A literal U+2581 is a space to SentencePiece.
            let expected = if vocab.model == "llama" { text.replace('▁', " ") } else { text.clone() };
            prop_assert_eq!(back, expected);
        }
    }

    /// A stream gives whole characters, and in all what the bytes of its tokens say.
    #[test]
    fn streams_join_to_the_whole(ids in proptest::collection::vec(0u32..300, 0..60), special: bool) {
        for vocab in [byte_pair(), sentence_piece()] {
            let tokenizer = vocab.tokenizer();
            let mut bytes = Vec::new();
            let mut streamed = String::new();
            let mut decoder = StreamDecoder::new(&tokenizer, special);
            for &id in &ids {
                tokenizer.append_piece(id, special, &mut bytes);
                streamed.push_str(decoder.push(id));
                let undecided = bytes.len() - bytes.iter().rposition(|b| b.is_ascii()).map_or(0, |at| at + 1);
                prop_assert!(!streamed.is_empty() || undecided == bytes.len());
            }
            streamed.push_str(decoder.finish());
            prop_assert_eq!(&streamed, &String::from_utf8_lossy(&bytes));
        }
    }

    /// Any list of merges makes a tokenizer that works. It may lose bytes: what merges to a text that is no token falls
    /// back to the characters of that text, as in the reference, and those of the alphabet outside ASCII do not count.
    #[test]
    fn any_merges_do(merges in proptest::collection::vec("[abĠ ]{0,5}", 0..12), text in "[ab ]{0,20}") {
        let mut vocab = byte_pair();
        vocab.merges = Some(merges);
        let tokenizer = vocab.tokenizer();
        let ids: Vec<TokenId> = plain(&tokenizer, &text);
        prop_assert_eq!(tokenizer.decode(&ids, true).replace(' ', ""), text.replace(' ', ""));
    }

    /// In a text long enough that repeated words are remembered, each is what it is alone.
    #[test]
    fn repeated_words_are_what_they_are_alone(words in proptest::collection::vec("[abhelo]{1,3}", 200..400)) {
        let tokenizer = byte_pair().tokenizer();
        let text: String = words.iter().map(|word| format!(" {word}")).collect();
        let alone: Vec<TokenId> = words.iter().flat_map(|word| plain(&tokenizer, &format!(" {word}"))).collect();
        prop_assert_eq!(plain(&tokenizer, &text), alone);
    }

    /// Merges apply in order of rank, and from left to right within one, until none does.
    #[test]
    fn merges_apply_in_order(
        merges in proptest::collection::vec("[ab]{1,4} [ab]{1,4}", 0..20),
        text in "[ab]{1,24}",
    ) {
        let mut vocab = byte_pair();
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        let pairs: Vec<(&str, &str)> = merges.iter().filter_map(|merge| merge.split_once(' ')).collect();
        let of = |parts: &[String]| pairs.iter().position(|(left, right)| parts[0] == *left && parts[1] == *right);
        while let Some((_, at)) = parts.windows(2).enumerate().filter_map(|(at, two)| Some((of(two)?, at))).min() {
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        for (left, right) in &pairs {
            let joined = format!("{left}{right}");
            if !vocab.tokens.contains(&joined) {
                vocab.token(&joined, NORMAL, 0.0);
            }
        }
        vocab.merges = Some(merges.clone());
        prop_assert_eq!(tokens(&vocab.tokenizer(), &text), parts);
    }
}
