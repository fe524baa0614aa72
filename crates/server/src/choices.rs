//! Several answers to one prompt.
//!
//! The first reads the prompt; the others begin when it has, and take what it read from its cache.

use crate::answer::Piece;
use crate::error::{ApiError, ApiResult};
use crate::registry::InUse;
use crate::running::{Ended, Job, News, Running};
use crate::state::Shared;
use rawrz_engine::Step;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Most answers to one prompt.
pub(crate) const MAX_CHOICES: usize = 16;

/// `n` of a request: how many answers it wants.
pub(crate) fn n_choices(n: Option<usize>) -> ApiResult<usize> {
    match n.unwrap_or(1) {
        n if (1..=MAX_CHOICES).contains(&n) => Ok(n),
        n => Err(ApiError::bad(format!("n is {n}; from 1 to {MAX_CHOICES} may be"))),
    }
}

/// The next of an answer, and who gives it.
type Awaited = Pin<Box<dyn Future<Output = (Running, ApiResult<Option<News>>)> + Send>>;

/// Answers under way. Dropping them cancels them.
pub(crate) struct Choices {
    state: Shared,
    model: InUse,
    /// In order of their index; `None` once an answer has ended.
    awaited: Vec<Option<Awaited>>,
    /// Those that have not begun.
    later: VecDeque<Job>,
    /// Who is looked at first, so that none is kept waiting by those before it.
    first: usize,
}

/// One answer, whole.
pub(crate) struct Choice {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) steps: Vec<Step>,
    pub(crate) ended: Ended,
}

impl Choices {
    /// Puts the first of `jobs` into the model's queue.
    pub(crate) fn start(state: &Shared, model: InUse, jobs: Vec<Job>) -> ApiResult<Choices> {
        let (state, later) = (state.clone(), VecDeque::from(jobs));
        let mut choices = Choices { state, model, awaited: Vec::new(), later, first: 0 };
        choices.begin_next()?;
        Ok(choices)
    }

    pub(crate) fn model(&self) -> &InUse {
        &self.model
    }

    fn begin_next(&mut self) -> ApiResult<()> {
        if let Some(job) = self.later.pop_front() {
            let running = Running::start(&self.state, self.model.clone(), job)?;
            self.awaited.push(Some(awaited(running)));
        }
        Ok(())
    }

    /// What happens next, and to which answer; `None` after the end of all. The first error ends all of them.
    pub(crate) async fn next(&mut self) -> ApiResult<Option<(usize, News)>> {
        loop {
            if self.awaited.iter().all(Option::is_none) {
                return Ok(None);
            }
            let (index, running, news) = poll_fn(|context| {
                let n = self.awaited.len();
                for index in (0..n).map(|i| (self.first + i) % n) {
                    let Some(awaited) = &mut self.awaited[index] else { continue };
                    if let Poll::Ready((running, news)) = awaited.as_mut().poll(context) {
                        return Poll::Ready((index, running, news));
                    }
                }
                Poll::Pending
            })
            .await;
            self.first = index + 1;
            self.awaited[index] = None;
            let Some(news) = news? else { continue };
            self.awaited[index] = Some(awaited(running));
            let has_read = !matches!(news, News::Prompt { done, total } if done < total);
            while has_read && !self.later.is_empty() {
                self.begin_next()?;
            }
            return Ok(Some((index, news)));
        }
    }

    /// All answers, in order.
    pub(crate) async fn collect(mut self) -> ApiResult<Vec<Choice>> {
        let n = self.awaited.len() + self.later.len();
        let mut partial: Vec<(Vec<Piece>, Vec<Step>, Option<Ended>)> = Vec::new();
        partial.resize_with(n, Default::default);
        while let Some((index, news)) = self.next().await? {
            let (all, all_steps, end) = &mut partial[index];
            match news {
                News::Prompt { .. } => {}
                News::Answer { pieces, steps } => {
                    all.extend(pieces);
                    all_steps.extend(steps);
                }
                News::End(ended) => *end = Some(ended),
            }
        }
        let whole = |(pieces, steps, ended): (_, _, Option<Ended>)| {
            let ended = ended.ok_or_else(|| ApiError::internal("the answer has no end"))?;
            Ok(Choice { pieces, steps, ended })
        };
        partial.into_iter().map(whole).collect()
    }
}

fn awaited(mut running: Running) -> Awaited {
    Box::pin(async move {
        let news = running.next().await;
        (running, news)
    })
}
