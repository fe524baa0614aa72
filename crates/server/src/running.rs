//! A request under way, as a handler sees it.

use crate::answer::{AnswerParser, Piece};
use crate::error::{ApiError, ApiResult};
use crate::registry::InUse;
use crate::state::Shared;
use rawrz_engine::{Cancel, FinishReason, Generated, Request, Step, Update, Work};
use rawrz_text::TokenId;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// What happens, for a handler.
#[derive(Debug)]
pub(crate) enum News {
    /// So much of the prompt is read.
    Prompt { done: usize, total: usize },
    /// More of the answer, and log-probabilities where asked for.
    Answer { pieces: Vec<Piece>, steps: Vec<Step> },
    /// The end.
    End(Ended),
}

/// How a text ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) generated: Generated,
    pub(crate) load: Duration,
    pub(crate) total: Duration,
}

/// A request under way. Dropping it cancels it.
pub(crate) struct Running {
    updates: UnboundedReceiver<Update>,
    cancel: Cancel,
    model: InUse,
    parser: AnswerParser,
    started: Instant,
    load: Duration,
    time_limit: tokio::time::Instant,
    deadline: watch::Receiver<bool>,
    /// The end, after the last of the answer.
    ended: Option<Ended>,
    /// The end was told.
    is_over: bool,
}

/// What to run, and for whom.
pub(crate) struct Job {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) work: Work,
    pub(crate) client: u64,
    pub(crate) parser: AnswerParser,
    pub(crate) started: Instant,
    pub(crate) load: Duration,
}

impl Running {
    /// Puts a request into the model's queue.
    pub(crate) fn start(state: &Shared, model: InUse, job: Job) -> ApiResult<Running> {
        let (sender, updates) = unbounded_channel();
        let cancel = Cancel::default();
        let on_update = Box::new(move |update| sender.send(update).is_ok());
        let Job { prompt, work, client, parser, started, load } = job;
        model.scheduler.submit(Request { prompt, work, client, cancel: cancel.clone(), on_update })?;
        let time_limit = tokio::time::Instant::now() + state.options.request_timeout;
        let deadline = state.deadline.subscribe();
        Ok(Running {
            updates,
            cancel,
            model,
            parser,
            started,
            load,
            time_limit,
            deadline,
            ended: None,
            is_over: false,
        })
    }

    pub(crate) fn model(&self) -> &InUse {
        &self.model
    }

    async fn update(&mut self) -> ApiResult<Update> {
        tokio::select! {
            update = self.updates.recv() => match update {
                Some(Update::Failed(error)) => Err(error.into()),
                Some(update) => Ok(update),
                None => Err(ApiError::internal("the model was unloaded")),
            },
            () = tokio::time::sleep_until(self.time_limit) => {
                Err(ApiError::new(axum::http::StatusCode::GATEWAY_TIMEOUT, "the request took too long"))
            }
            _ = self.deadline.wait_for(|is_over| *is_over) => Err(ApiError::busy("the server is shutting down")),
        }
    }

    /// What happens next; `None` after the end.
    pub(crate) async fn next(&mut self) -> ApiResult<Option<News>> {
        if let Some(ended) = self.ended.take() {
            self.is_over = true;
            return Ok(Some(News::End(ended)));
        }
        if self.is_over {
            return Ok(None);
        }
        loop {
            match self.update().await? {
                Update::Prompt { done, total } => return Ok(Some(News::Prompt { done, total })),
                Update::Text { text, steps } => {
                    let pieces = self.parser.push(&text);
                    if !pieces.is_empty() || !steps.is_empty() {
                        return Ok(Some(News::Answer { pieces, steps }));
                    }
                }
                Update::Generated(generated) => {
                    let ended = Ended { generated, load: self.load, total: self.started.elapsed() };
                    let pieces = self.parser.finish();
                    if pieces.is_empty() {
                        self.is_over = true;
                        return Ok(Some(News::End(ended)));
                    }
                    self.ended = Some(ended);
                    return Ok(Some(News::Answer { pieces, steps: Vec::new() }));
                }
                Update::Embedded { .. } | Update::Failed(_) => {
                    return Err(ApiError::internal("the model answered what was not asked"));
                }
            }
        }
    }

    /// The whole answer.
    pub(crate) async fn collect(mut self) -> ApiResult<(Vec<Piece>, Vec<Step>, Ended)> {
        let (mut all, mut all_steps) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Some(News::Prompt { .. }) => {}
                Some(News::Answer { pieces, steps }) => {
                    all.extend(pieces);
                    all_steps.extend(steps);
                }
                Some(News::End(ended)) => return Ok((all, all_steps, ended)),
                None => return Err(ApiError::internal("the answer has no end")),
            }
        }
    }

    /// The state that was asked for, and the tokens of the prompt.
    pub(crate) async fn state(mut self) -> ApiResult<(Vec<f32>, usize)> {
        loop {
            match self.update().await? {
                Update::Embedded { state, prompt_tokens } => return Ok((state, prompt_tokens)),
                Update::Prompt { .. } => {}
                _ => return Err(ApiError::internal("the model answered what was not asked")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Text, thoughts and calls of an answer.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) thinking: String,
    pub(crate) calls: Vec<(String, rawrz_text::Json)>,
}

impl Whole {
    pub(crate) fn of(pieces: Vec<Piece>) -> Whole {
        let mut whole = Whole::default();
        for piece in pieces {
            match piece {
                Piece::Text(text) => whole.text.push_str(&text),
                Piece::Thinking(text) => whole.thinking.push_str(&text),
                Piece::Call { name, arguments } => whole.calls.push((name, arguments)),
            }
        }
        whole
    }
}

/// `stop` or `length`, as all dialects but Anthropic's spell it.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration | FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::MaxTokens | FinishReason::ContextFull => "length",
    }
}
