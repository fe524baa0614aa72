//! `/api/tags`, `/api/ps` and `/api/show`.

use super::{ok, respond};
use crate::details::{Details, tensors};
use crate::error::ApiResult;
use crate::http;
use crate::registry::Loaded;
use crate::state::{Named, Shared, blocking, tagged};
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::time::Instant;

pub(super) async fn tags(State(state): State<Shared>) -> Response {
    let listed = blocking(move || Ok(state.models().iter().filter_map(tag).collect::<Vec<Json>>())).await;
    respond(listed.and_then(|models| ok(&json!({"models": models}))))
}

/// A model as it is listed; `None` when its file cannot be read as a model.
fn tag(model: &Named) -> Option<Json> {
    let details = Details::read(&model.base.path).ok()?;
    let created = model.created.as_ref().map(|created| created.modified_unix_s);
    Some(json!({
        "name": model.name,
        "model": model.name,
        "modified_at": details.modified_at(created),
        "size": details.file_bytes,
        "digest": details.digest(model),
        "details": details_json(model, &details),
    }))
}

fn details_json(model: &Named, details: &Details) -> Json {
    json!({
        "parent_model": model.created.as_ref().map_or("", |created| &created.from),
        "format": "gguf",
        "family": details.about.architecture,
        "families": [details.about.architecture],
        "parameter_size": details.about.parameters(),
        "quantization_level": details.about.file_type,
    })
}

pub(super) async fn ps(State(state): State<Shared>) -> Response {
    let listed = blocking(move || {
        Ok(state.registry.loaded().iter().filter_map(|loaded| running(loaded)).collect::<Vec<Json>>())
    });
    respond(listed.await.and_then(|models| ok(&json!({"models": models}))))
}

fn running(loaded: &Loaded) -> Option<Json> {
    let details = Details::read(&loaded.path).ok()?;
    let base = crate::catalog::CatalogEntry { name: loaded.name.clone(), path: loaded.path.clone() };
    let model = Named { name: tagged(&loaded.name), base, created: None };
    Some(json!({
        "name": model.name,
        "model": model.name,
        "size": loaded.engine().ledger().total_bytes(),
        "size_vram": 0,
        "digest": details.digest(&model),
        "details": details_json(&model, &details),
        "expires_at": expires_at(loaded).unwrap_or_else(|| "2318-01-01T00:00:00Z".to_owned()),
        "context_length": loaded.engine().context_len(),
    }))
}

/// When a model goes, as a time of day; `None` for never.
pub(crate) fn expires_at(loaded: &Loaded) -> Option<String> {
    let left = loaded.expires_at()?.saturating_duration_since(Instant::now());
    let at = chrono::Utc::now().checked_add_signed(chrono::Duration::from_std(left).ok()?)?;
    Some(at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShowRequest {
    model: String,
    /// Older clients' word for it.
    name: String,
    verbose: bool,
}

pub(super) async fn show(State(state): State<Shared>, request: Request) -> Response {
    let show = async {
        let (body, _room): (ShowRequest, _) = http::json(&state, request).await?;
        let name = if body.model.is_empty() { &body.name } else { &body.model };
        let model = state.named(name)?;
        let shown = blocking(move || show_json(&model, body.verbose)).await?;
        ok(&shown)
    };
    respond(show.await)
}

fn show_json(model: &Named, verbose: bool) -> ApiResult<Json> {
    let details = Details::read(&model.base.path)?;
    let nothing = Map::new();
    let created = model.created.as_ref();
    let template =
        created.and_then(|created| created.template.clone()).or(details.template.clone()).unwrap_or_default();
    let parameters = created.map_or(&nothing, |created| &created.parameters);
    let mut lines = Vec::new();
    for (key, value) in parameters {
        let values = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
        lines.extend(values.iter().map(|value| format!("{key:<30} {value}")));
    }
    let mut capabilities = vec!["completion"];
    if template.contains("tools") {
        capabilities.push("tools");
    }
    if details.has_infill {
        capabilities.push("insert");
    }
    if template.contains("<think>") {
        capabilities.push("thinking");
    }
    let mut shown = json!({
        "modelfile": format!("FROM {}\n", model.base.name),
        "parameters": lines.join("\n"),
        "template": template,
        "details": details_json(model, &details),
        "model_info": details.metadata(),
        "capabilities": capabilities,
        "modified_at": details.modified_at(created.map(|created| created.modified_unix_s)),
    });
    if let Some(created) = created {
        if let Some(system) = &created.system {
            shown["system"] = system.clone().into();
        }
        if !created.messages.is_empty() {
            shown["messages"] = created.messages.clone().into();
        }
        if let Some(license) = &created.license {
            shown["license"] = license.clone();
        }
    }
    if verbose {
        shown["tensors"] = tensors(&model.base.path)?;
    }
    Ok(shown)
}
