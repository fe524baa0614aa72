//! Grammars that a text has to follow: JSON, JSON schemas and regular expressions, as masks over the vocabulary.

use crate::error::{ApiError, ApiResult};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use rawrz_engine::Constraint;
use rawrz_text::{TokenId, Tokenizer};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// What a grammar that a text follows takes at most. The limits below keep it there: of expressions with as many states, schemas of
/// 400 patterns and enumerations of 5000 texts, none took more than 3 MiB beside the vocabulary (`RssAnon` less KV caches).
const PARSER_BYTES: u64 = 8 << 20;

/// States of the lexer, of up to 2 KiB each; nodes of its expressions; symbols of the grammar.
const MAX_LEXER_STATES: usize = 4000;
const MAX_LEXER_FUEL: u64 = 200_000;
const MAX_GRAMMAR_SIZE: usize = 50_000;

/// Texts of a model that follow grammars at a time have no more than this part of the budget.
const PARSERS_PART: u64 = 32;
const MAX_PLACES: u64 = 64;

/// The vocabulary lies in one trie and in four filtered ones, each with 12 bytes for a token and 9 for a byte of text; while
/// they are made, there are lists of all tokens, too. Measured with the 49,152 tokens of smollm2: 20 MiB, where this says 24.
const N_TRIES: u64 = 5;
const TRIE_TOKEN_BYTES: u64 = 12;
const TRIE_TEXT_BYTES: u64 = 9;
const BUILDING_TOKEN_BYTES: u64 = 120;

/// The longest token, and the most bytes of all of them, that a trie can hold.
const MAX_TOKEN_BYTES: usize = 1000;
const MAX_TEXT_BYTES: usize = 4_000_000;

/// Longest schema or expression, in bytes: building its automaton takes time and memory in proportion.
const MAX_GRAMMAR_BYTES: usize = 1 << 18;

/// What may stand between two tokens of JSON: nothing, a blank, or a line end with the next line's indentation. Small models
/// that may write more write blanks and nothing else until they are stopped.
const BLANKS: &str = r"[\x20]|\x0A[\x20\x09]{0,20}";

/// Tokens of a vocabulary, and bytes of their texts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VocabularySize {
    pub(crate) n_tokens: u64,
    pub(crate) text_bytes: u64,
}

/// What grammars take of the budget beside a model, and how many texts may follow some at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GrammarPlan {
    pub(crate) bytes: u64,
    pub(crate) n_places: usize,
}

impl GrammarPlan {
    pub(crate) fn of(budget_bytes: Option<u64>, vocabulary: &VocabularySize) -> GrammarPlan {
        let VocabularySize { n_tokens, text_bytes } = *vocabulary;
        let n_places = budget_bytes
            .map_or(MAX_PLACES, |budget| (budget / PARSERS_PART / PARSER_BYTES).clamp(1, MAX_PLACES));
        let tries = N_TRIES * (n_tokens * TRIE_TOKEN_BYTES + text_bytes * TRIE_TEXT_BYTES);
        let bytes = tries + n_tokens * BUILDING_TOKEN_BYTES + n_places * PARSER_BYTES;
        GrammarPlan { bytes, n_places: n_places as usize }
    }
}

/// The same within a call, which models write in one line.
const BLANK: &str = r"\x20";

/// What the text of a request must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Grammar {
    /// A JSON object, whatever is in it.
    JsonObject,
    /// A JSON value that this schema describes.
    Schema(Json),
    /// The whole text matches this expression.
    Regex(String),
    /// Calls of tools, in llguidance's language (see [`tools`](crate::tools)).
    Calls(String),
}

/// Makes constraints for one vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// Tokens that end a generation, all of which may come where the grammar may end.
    eog: Arc<[TokenId]>,
    eos: TokenId,
}

/// The bytes of the vocabulary's tokens.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.0.greedy_tokenize(bytes)
    }
}

impl Grammars {
    pub(crate) fn new(tokenizer: &Tokenizer) -> ApiResult<Grammars> {
        let eos = tokenizer.eos().or_else(|| tokenizer.eog_ids().first().copied());
        let Some(eos) = eos else {
            return Err(ApiError::bad(
                "this model has no token that ends a text, so its text cannot be constrained",
            ));
        };
        let word = |id: TokenId| {
            let mut bytes = Vec::new();
            tokenizer.append_piece(id, false, &mut bytes);
            if tokenizer.is_control(id) || tokenizer.is_eog(id) {
                // Marked as what no text contains.
                bytes = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                bytes.extend(tokenizer.token_text(id).unwrap_or_default().as_bytes());
            }
            bytes
        };
        let n_tokens = tokenizer.vocab_len() as u32;
        let words: Vec<Vec<u8>> = (0..n_tokens).map(word).collect();
        let text_bytes: usize = words.iter().map(Vec::len).sum();
        if text_bytes > MAX_TEXT_BYTES || words.iter().any(|word| word.len() > MAX_TOKEN_BYTES) {
            return Err(ApiError::bad(
                "this model's vocabulary has tokens too long for its text to be constrained",
            ));
        }
        let trie = TokTrie::from(&TokRxInfo::new(n_tokens, eos), &words);
        let env: TokEnv = Arc::new(Vocabulary(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| ApiError::internal(e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.initial_lexer_fuel = MAX_LEXER_FUEL;
        limits.max_grammar_size = MAX_GRAMMAR_SIZE;
        Ok(Grammars { factory, eog: tokenizer.eog_ids().into(), eos })
    }

    /// What makes a text follow `grammar`; it holds `place` as long as it lives.
    ///
    /// # Errors
    /// 400 when the grammar is not valid, or asks for what cannot be followed.
    pub(crate) fn constraint(
        &self,
        grammar: &Grammar,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<Box<dyn Constraint>> {
        let (what, len_bytes, top) = match grammar {
            Grammar::JsonObject => ("JSON", 0, of_schema(json!({"type": "object"}))),
            Grammar::Schema(schema) => {
                let len_bytes = schema.to_string().len();
                ("the JSON schema", len_bytes, of_schema(schema.clone()))
            }
            Grammar::Regex(regex) => {
                ("the regular expression", regex.len(), TopLevelGrammar::from_regex(regex))
            }
            Grammar::Calls(calls) => {
                ("the parameters of the tools", calls.len(), TopLevelGrammar::from_lark(calls.clone()))
            }
        };
        if len_bytes > MAX_GRAMMAR_BYTES {
            let problem = format!("{what} has {len_bytes} bytes, at most {MAX_GRAMMAR_BYTES} are supported");
            return Err(ApiError::bad(problem));
        }
        let mut matcher = Matcher::new(self.factory.create_parser(top));
        // The first mask finds what only shows when it is used.
        if let Some(problem) = matcher.get_error().or_else(|| Some(matcher.compute_mask().err()?.to_string()))
        {
            let first = problem.lines().next().unwrap_or_default();
            return Err(ApiError::bad(format!("{what} cannot be followed: {first}")));
        }
        let mask = Vec::new();
        Ok(Box::new(Masked { matcher, mask, eog: Arc::clone(&self.eog), eos: self.eos, _place: place }))
    }
}

fn of_schema(schema: Json) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(as_followed(schema, BLANKS))
}

/// The schema of a call's arguments as a rule of llguidance's language.
pub(crate) fn json_rule(schema: Json) -> String {
    format!("%json {}", as_followed(schema, BLANK))
}

/// What a schema itself says of how it is followed does not count: it could ask for leniency.
fn as_followed(mut schema: Json, blanks: &str) -> Json {
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": blanks }));
    }
    schema
}

struct Masked {
    matcher: Matcher,
    mask: Vec<u32>,
    eog: Arc<[TokenId]>,
    eos: TokenId,
    _place: OwnedSemaphorePermit,
}

impl Constraint for Masked {
    fn mask(&mut self) -> Result<&[u32], String> {
        let mask: SimpleVob = self.matcher.compute_mask_or_eos().map_err(|e| e.to_string())?;
        self.mask.clear();
        self.mask.extend_from_slice(mask.as_slice());
        if mask.is_allowed(self.eos) {
            for id in &*self.eog {
                if let Some(word) = self.mask.get_mut(*id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
        }
        Ok(&self.mask)
    }

    fn accept(&mut self, id: TokenId) -> Result<bool, String> {
        self.matcher.consume_token(id).map_err(|e| e.to_string())?;
        Ok(self.matcher.is_stopped())
    }
}
