//! `options` and `format`: what a request sets of sampling and of the text's form.

use crate::constrain::Grammar;
use crate::error::{ApiError, ApiResult};
use rawrz_engine::{GenerateOptions, SamplerOptions};
use serde_json::{Map, Value as Json};

/// Most stop strings of a request.
pub(crate) const MAX_STOPS: usize = 64;

/// What `options` says, on top of what the model's parameters say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) generate: GenerateOptions,
    /// Positions that the request may take; `None` for all that the model has.
    pub(crate) num_ctx: Option<usize>,
    pub(crate) regex: Option<String>,
    /// Whether to tell how much of the prompt is read.
    pub(crate) progress: bool,
}

/// Reads options; names that are not known are left alone, as Ollama does.
pub(crate) fn options(parameters: &Map<String, Json>, given: &Map<String, Json>) -> ApiResult<Options> {
    let mut all = parameters.clone();
    all.extend(
        given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())),
    );
    let number = |key: &str| -> ApiResult<Option<f64>> {
        let Some(value) = all.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let number =
            value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| ApiError::bad(format!("option {key} is not a number")))
    };
    let within = |key: &str, default: f32, least: f64, most: f64| -> ApiResult<f32> {
        match number(key)? {
            None => Ok(default),
            Some(number) if (least..=most).contains(&number) => Ok(number as f32),
            Some(number) => {
                Err(ApiError::bad(format!("option {key} is {number}; from {least} to {most} may be")))
            }
        }
    };
    let default = SamplerOptions::default();
    let any = f64::from(f32::MAX);
    let repeat_last_n = match number("repeat_last_n")? {
        None => default.repeat_last_n,
        // -1 is the whole context.
        Some(n) if n < 0.0 => usize::MAX,
        Some(n) => n as usize,
    };
    let sampler = SamplerOptions {
        temperature: within("temperature", default.temperature, 0.0, 100.0)?,
        top_k: number("top_k")?.map_or(default.top_k, |k| k.max(0.0) as usize),
        top_p: within("top_p", default.top_p, 0.0, 1.0)?,
        min_p: within("min_p", default.min_p, 0.0, 1.0)?,
        repeat_penalty: within("repeat_penalty", default.repeat_penalty, f64::from(f32::MIN_POSITIVE), any)?,
        repeat_last_n,
        frequency_penalty: within("frequency_penalty", default.frequency_penalty, -100.0, 100.0)?,
        presence_penalty: within("presence_penalty", default.presence_penalty, -100.0, 100.0)?,
        // -1 is Ollama's word for any.
        seed: number("seed")?.filter(|seed| *seed >= 0.0).map(|seed| seed as u64),
    };
    let max_tokens = match number("num_predict")? {
        Some(n) if n >= 0.0 => n as usize,
        _ => usize::MAX,
    };
    let text = |key: &str| all.get(key).and_then(Json::as_str).map(str::to_owned);
    Ok(Options {
        generate: GenerateOptions {
            max_tokens,
            sampler,
            stop: stops(all.get("stop"))?,
            ..GenerateOptions::default()
        },
        num_ctx: number("num_ctx")?.filter(|n| *n >= 1.0).map(|n| n as usize),
        regex: text("regex"),
        progress: all.get("rawrz_progress").is_some_and(|value| value.as_bool() == Some(true)),
    })
}

/// One stop string, or a list of them.
pub(crate) fn stops(value: Option<&Json>) -> ApiResult<Vec<String>> {
    let bad = || ApiError::bad(format!("stop is a text, or a list of at most {MAX_STOPS}"));
    match value {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::String(stop)) => Ok(vec![stop.clone()]),
        Some(Json::Array(stops)) if stops.len() <= MAX_STOPS => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(bad)).collect()
        }
        Some(_) => Err(bad()),
    }
}

/// `format`: nothing, `"json"`, or a schema; or else the expression of the options.
pub(crate) fn grammar(format: Option<&Json>, regex: Option<String>) -> ApiResult<Option<Grammar>> {
    let grammar = match format {
        None | Some(Json::Null) => None,
        Some(Json::String(name)) if name.is_empty() => None,
        Some(Json::String(name)) if name == "json" => Some(Grammar::JsonObject),
        Some(schema @ Json::Object(_)) => Some(Grammar::Schema(schema.clone())),
        Some(_) => return Err(ApiError::bad("format is \"json\" or a JSON schema")),
    };
    match (grammar, regex) {
        (Some(_), Some(_)) => Err(ApiError::bad("format and options.regex exclude each other")),
        (grammar, regex) => Ok(grammar.or(regex.map(Grammar::Regex))),
    }
}
