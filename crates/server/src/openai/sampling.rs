//! What requests set of sampling, and what is common to their dialects: the model, its load, the queue.

use crate::choices::Choices;
use crate::constrain::Grammar;
use crate::error::{ApiError, ApiResult};
use crate::memory::BodyRoom;
use crate::ollama::{MAX_TOP_LOGPROBS, stops};
use crate::prompt::Prompt;
use crate::registry::InUse;
use crate::running::{Job, Running};
use crate::state::{Named, Shared, blocking};
use rawrz_engine::{Constraint, GenerateOptions, SamplerOptions, Work};
use serde::Deserialize;
use serde_json::Value as Json;
use std::time::{Duration, Instant};

/// Parameters of a request, under the names that OpenAI has for them and those that local servers add.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) min_p: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Json>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) max_completion_tokens: Option<usize>,
    pub(crate) max_output_tokens: Option<usize>,
    pub(crate) ignore_eos: Option<bool>,
}

impl Sampling {
    pub(crate) fn options(&self) -> ApiResult<GenerateOptions> {
        let default = SamplerOptions::default();
        let within = |name: &str, value: Option<f32>, default: f32, least: f32, most: f32| match value {
            None => Ok(default),
            Some(value) if (least..=most).contains(&value) => Ok(value),
            Some(value) => Err(ApiError::bad(format!("{name} is {value}; from {least} to {most} may be"))),
        };
        let sampler = SamplerOptions {
            temperature: within("temperature", self.temperature, 1.0, 0.0, 100.0)?,
            top_p: within("top_p", self.top_p, 1.0, 0.0, 1.0)?,
            top_k: self.top_k.unwrap_or(default.top_k),
            min_p: within("min_p", self.min_p, default.min_p, 0.0, 1.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, 0.0, -2.0, 2.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, 0.0, -2.0, 2.0)?,
            repeat_penalty: within("repeat_penalty", self.repeat_penalty, 1.0, 0.01, 100.0)?,
            seed: self.seed.map(i64::cast_unsigned),
            ..default
        };
        let most = self.max_completion_tokens.or(self.max_tokens).or(self.max_output_tokens);
        Ok(GenerateOptions {
            max_tokens: most.unwrap_or(usize::MAX),
            sampler,
            stop: stops(self.stop.as_ref())?,
            ignore_eog: self.ignore_eos == Some(true),
            ..GenerateOptions::default()
        })
    }
}

/// `top_logprobs` for requests that want log-probabilities.
pub(super) fn logprobs(wanted: bool, top: Option<usize>) -> ApiResult<Option<usize>> {
    match top {
        Some(k) if k > MAX_TOP_LOGPROBS => {
            Err(ApiError::bad(format!("top_logprobs is at most {MAX_TOP_LOGPROBS}")))
        }
        k => Ok(wanted.then_some(k.unwrap_or(0))),
    }
}

/// `response_format`, and where the Responses API has the same.
pub(super) fn grammar(format: Option<&Json>) -> ApiResult<Option<Grammar>> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let bad = || ApiError::bad("response_format has a type: text, json_object, json_schema or regex");
    match format.get("type").and_then(Json::as_str).ok_or_else(bad)? {
        "text" => Ok(None),
        "json_object" => Ok(Some(Grammar::JsonObject)),
        "json_schema" => {
            let schema =
                format.get("json_schema").and_then(|named| named.get("schema")).or(format.get("schema"));
            let none = || ApiError::bad("response_format json_schema has no schema");
            Ok(Some(Grammar::Schema(schema.cloned().ok_or_else(none)?)))
        }
        "regex" => {
            let regex = format.get("regex").or(format.get("pattern")).and_then(Json::as_str);
            let none = || ApiError::bad("response_format regex has no pattern");
            Ok(Some(Grammar::Regex(regex.ok_or_else(none)?.to_owned())))
        }
        _ => Err(bad()),
    }
}

/// A model that is loaded for a request.
pub(crate) struct Ready {
    pub(crate) state: Shared,
    pub(crate) model: Named,
    pub(crate) loaded: InUse,
    pub(crate) client: u64,
    pub(crate) started: Instant,
    pub(crate) load: Duration,
}

impl Ready {
    pub(crate) async fn new(state: &Shared, name: &str, client: u64) -> ApiResult<Ready> {
        let started = Instant::now();
        let model = state.named(name)?;
        let loaded = state.load(&model).await?;
        state.keep(&loaded, None);
        Ok(Ready { state: state.clone(), model, loaded, client, started, load: started.elapsed() })
    }

    pub(crate) fn context_len(&self) -> usize {
        self.loaded.engine().context_len()
    }

    /// Room for the log-probabilities of `n` answers that are told whole.
    pub(crate) async fn logprobs_room(&self, options: &GenerateOptions, n: usize) -> ApiResult<BodyRoom> {
        let most = n_logprobs(options, self.context_len());
        self.state.memory.logprobs_room(most.saturating_mul(n)).await
    }

    /// Makes a prompt and puts the request into the queue.
    pub(crate) async fn run(
        self,
        options: GenerateOptions,
        grammar: Option<Grammar>,
        prompt: impl FnOnce(&Ready) -> ApiResult<Prompt> + Send + 'static,
    ) -> ApiResult<Running> {
        let mut jobs = self.jobs(options, grammar, 1, prompt).await?;
        let none = || ApiError::internal("nothing was to be done");
        Running::start(&jobs.state, jobs.loaded, jobs.all.pop().ok_or_else(none)?)
    }

    /// The same for `n` answers; with a seed, each has the seed after the one before.
    pub(crate) async fn run_choices(
        self,
        options: GenerateOptions,
        grammar: Option<Grammar>,
        n: usize,
        prompt: impl FnOnce(&Ready) -> ApiResult<Prompt> + Send + 'static,
    ) -> ApiResult<Choices> {
        let Jobs { state, loaded, all } = self.jobs(options, grammar, n, prompt).await?;
        Choices::start(&state, loaded, all)
    }

    async fn jobs(
        self,
        options: GenerateOptions,
        grammar: Option<Grammar>,
        n: usize,
        prompt: impl FnOnce(&Ready) -> ApiResult<Prompt> + Send + 'static,
    ) -> ApiResult<Jobs> {
        let (ready, mut prompt) = blocking(move || {
            let prompt = prompt(&self)?;
            Ok((self, prompt))
        })
        .await?;
        // What a prompt has to be followed by goes before `grammar`, which is about a text.
        let grammar = prompt.grammar.take().or(grammar);
        let constraints = constraints(&ready.loaded, grammar, n).await?;
        let room = (ready.context_len() + 1).saturating_sub(prompt.tokens.len());
        let job = |(i, constraint): (usize, Option<Box<dyn Constraint>>)| {
            let mut options = options.clone();
            options.max_tokens = options.max_tokens.min(room);
            options.sampler.seed = options.sampler.seed.map(|seed| seed.wrapping_add(i as u64));
            let work = Work::Generate { options, constraint };
            let Prompt { tokens, parser, .. } = prompt.clone();
            let (client, started, load) = (ready.client, ready.started, ready.load);
            Job { prompt: tokens, work, client, parser, started, load }
        };
        let all = constraints.into_iter().enumerate().map(job).collect();
        Ok(Jobs { state: ready.state, loaded: ready.loaded, all })
    }
}

/// Most log-probabilities of an answer: of each token, and of those beside it.
pub(crate) fn n_logprobs(options: &GenerateOptions, context_len: usize) -> usize {
    options.logprobs.map_or(0, |top| (top + 1) * options.max_tokens.min(context_len))
}

/// What is to be done for the choices of a request.
struct Jobs {
    state: Shared,
    loaded: InUse,
    all: Vec<Job>,
}

/// What makes each of `n` texts follow `grammar`, once there is memory for it.
pub(crate) async fn constraints(
    loaded: &InUse,
    grammar: Option<Grammar>,
    n: usize,
) -> ApiResult<Vec<Option<Box<dyn Constraint>>>> {
    let Some(grammar) = grammar else { return Ok((0..n).map(|_| None).collect()) };
    let mut places = loaded.grammar_places(n).await?;
    let loaded = loaded.clone();
    blocking(move || {
        let grammars = loaded.grammars()?;
        let constraint = |_| {
            let place =
                places.split(1).ok_or_else(|| ApiError::internal("there are more texts than places"))?;
            grammars.constraint(&grammar, place).map(Some)
        };
        (0..n).map(constraint).collect()
    })
    .await
}
