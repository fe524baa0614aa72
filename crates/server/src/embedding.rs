//! Embeddings of texts: the state after the last token and the last norm, made to have length 1. Generative models were
//! not trained for a better one, and this is what Ollama gives of them.

use crate::answer::AnswerParser;
use crate::error::{ApiError, ApiResult};
use crate::memory::BodyRoom;
use crate::registry::KeepAlive;
use crate::running::{Job, Running};
use crate::state::{Named, Shared, blocking};
use rawrz_engine::Work;
use rawrz_text::TokenId;
use std::time::{Duration, Instant};

/// Most texts of a request.
pub(crate) const MAX_TEXTS: usize = 2048;

/// A text, or the tokens of one.
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<TokenId>),
}

impl From<String> for Input {
    fn from(text: String) -> Input {
        Input::Text(text)
    }
}

pub(crate) struct Inputs {
    pub(crate) texts: Vec<Input>,
    /// Leave out the end of texts that are too long; else they are refused.
    pub(crate) truncate: bool,
    /// Only the first so many elements, made to have length 1.
    pub(crate) dimensions: Option<usize>,
    /// Tokens that a text may have; `None` for as many as the context holds.
    pub(crate) num_ctx: Option<usize>,
}

pub(crate) struct Embedded {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) n_tokens: usize,
    pub(crate) load: Duration,
    /// Room for the vectors and their text, to be kept until the answer is written.
    pub(crate) room: BodyRoom,
}

pub(crate) async fn embed(
    state: &Shared,
    model: &Named,
    inputs: Inputs,
    keep_alive: Option<KeepAlive>,
    client: u64,
) -> ApiResult<Embedded> {
    let started = Instant::now();
    let Inputs { texts, truncate, dimensions, num_ctx } = inputs;
    if texts.len() > MAX_TEXTS {
        return Err(ApiError::bad(format!(
            "{} texts are too many, at most {MAX_TEXTS} are taken",
            texts.len()
        )));
    }
    let loaded = state.load(model).await?;
    state.keep(&loaded, keep_alive);
    let load = started.elapsed();
    let dim = loaded.engine().config().dim;
    if dimensions.is_some_and(|n| n == 0 || n > dim) {
        return Err(ApiError::bad(format!("{} has embeddings of {dim} dimensions", model.name)));
    }
    let room = state.memory.vectors_room(texts.len() * dimensions.unwrap_or(dim)).await?;
    let engine = std::sync::Arc::clone(loaded.engine());
    let prompts = blocking(move || {
        let most = num_ctx.map_or(engine.context_len(), |n| n.min(engine.context_len()));
        let tokens = |input: Input| -> ApiResult<Vec<TokenId>> {
            let mut tokens = match input {
                Input::Text(text) => engine.tokenizer().encode_prompt(&text)?,
                Input::Tokens(tokens) => tokens,
            };
            let vocab_len = engine.config().vocab_len;
            if tokens.iter().any(|id| *id as usize >= vocab_len) {
                return Err(ApiError::bad(format!("a token is outside the vocabulary of {vocab_len}")));
            }
            match tokens.len() {
                0 => Err(ApiError::bad("an input is empty")),
                n if n > most && !truncate => {
                    Err(ApiError::bad(format!("an input has {n} tokens, but the context holds {most}")))
                }
                _ => {
                    tokens.truncate(most);
                    Ok(tokens)
                }
            }
        };
        texts.into_iter().map(tokens).collect::<ApiResult<Vec<_>>>()
    })
    .await?;
    // So many at a time that others find room in the queue.
    let at_a_time = state.options.max_running.max(1);
    let mut embedded = Embedded { vectors: Vec::with_capacity(prompts.len()), n_tokens: 0, load, room };
    let mut prompts = prompts.into_iter().peekable();
    while prompts.peek().is_some() {
        let start = |prompt: Vec<TokenId>| {
            let parser = AnswerParser::plain();
            let job = Job { prompt, work: Work::Embed, client, parser, started, load };
            Running::start(state, loaded.clone(), job)
        };
        let running: Vec<Running> = prompts.by_ref().take(at_a_time).map(start).collect::<ApiResult<_>>()?;
        for running in running {
            let (mut vector, n_tokens) = running.state().await?;
            vector.truncate(dimensions.unwrap_or(dim));
            vector.shrink_to_fit();
            normalize(&mut vector);
            embedded.vectors.push(vector);
            embedded.n_tokens += n_tokens;
        }
    }
    Ok(embedded)
}

/// Makes the length 1; nothing has no direction.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
