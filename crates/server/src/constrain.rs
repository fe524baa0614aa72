//! Grammars that a text has to follow: JSON, JSON schemas and regular expressions, as masks over the vocabulary.

use crate::error::{ApiError, ApiResult};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use rawrz_engine::Constraint;
use rawrz_text::{TokenId, Tokenizer};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// Longest schema or expression, in bytes: building its automaton takes time and memory in proportion.
const MAX_GRAMMAR_BYTES: usize = 1 << 18;

/// What may stand between two tokens of JSON: nothing, a blank, or a line end with the next line's indentation. Small models
/// that may write more write blanks and nothing else until they are stopped.
const BLANKS: &str = r"[\x20]|\x0A[\x20\x09]{0,20}";

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
        let trie = TokTrie::from(&TokRxInfo::new(n_tokens, eos), &words);
        let env: TokEnv = Arc::new(Vocabulary(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| ApiError::internal(e.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars { factory, eog: tokenizer.eog_ids().into(), eos })
    }

    /// # Errors
    /// 400 when the grammar is not valid, or asks for what cannot be followed.
    pub(crate) fn constraint(&self, grammar: &Grammar) -> ApiResult<Box<dyn Constraint>> {
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
        Ok(Box::new(Masked { matcher, mask, eog: Arc::clone(&self.eog), eos: self.eos }))
    }
}

fn of_schema(schema: Json) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(as_followed(schema))
}

/// A schema as a rule of llguidance's language.
pub(crate) fn json_rule(schema: Json) -> String {
    format!("%json {}", as_followed(schema))
}

/// What a schema itself says of how it is followed does not count: it could ask for leniency.
fn as_followed(mut schema: Json) -> Json {
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": BLANKS }));
    }
    schema
}

struct Masked {
    matcher: Matcher,
    mask: Vec<u32>,
    eog: Arc<[TokenId]>,
    eos: TokenId,
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
