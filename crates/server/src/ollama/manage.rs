//! Making, copying, deleting and fetching models.

use super::{error_json, ok, options, respond};
use crate::catalog::PullProgress;
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, NameInPath};
use crate::library::{Created, cannot, hex};
use crate::pulls::PullState;
use crate::state::{Shared, blocking, tagged};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use rawrz_text::ChatTemplate;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The time between two lines of a fetch's progress.
const PULL_PERIOD: Duration = Duration::from_millis(60);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CreateRequest {
    model: String,
    /// Older clients' word for it.
    name: String,
    from: String,
    /// File names to digests of blobs.
    files: Map<String, Json>,
    adapters: Option<Map<String, Json>>,
    template: Option<String>,
    system: Option<String>,
    license: Option<Json>,
    parameters: Option<Map<String, Json>>,
    messages: Option<Vec<Json>>,
    quantize: Option<String>,
    stream: Option<bool>,
}

pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    respond(try_create(&state, request).await)
}

async fn try_create(state: &Shared, request: Request) -> ApiResult<Response> {
    let (body, _room): (CreateRequest, _) = http::json(state, request).await?;
    let is_stream = body.stream != Some(false);
    let made = {
        let state = state.clone();
        blocking(move || make(&state, body))
    };
    made.await?;
    statuses(is_stream, &["using existing layer", "writing manifest", "success"])
}

/// Lines of work that is done already, or the last of them.
fn statuses(is_stream: bool, all: &[&str]) -> ApiResult<Response> {
    let all: Vec<Json> = all.iter().map(|status| json!({"status": status})).collect();
    match all.last().filter(|_| !is_stream) {
        Some(last) => ok(last),
        None => Ok(http::stream(Framing::Ndjson, move |writer| async move {
            for line in &all {
                if writer.json(line).await.is_err() {
                    break;
                }
            }
        })),
    }
}

fn make(state: &Shared, body: CreateRequest) -> ApiResult<()> {
    let name = tagged(if body.model.is_empty() { &body.name } else { &body.model });
    if body.quantize.is_some() {
        return Err(ApiError::bad("quantize: weights are used as they are and never written anew"));
    }
    if body.adapters.is_some_and(|adapters| !adapters.is_empty()) {
        return Err(ApiError::bad("adapters are not supported"));
    }
    if state.models().iter().any(|model| model.created.is_none() && model.name == name) {
        return Err(ApiError::bad(format!(
            "{name} is the name of a model with a file of its own; choose another"
        )));
    }
    let mut created = if body.from.is_empty() {
        let mut digests = body.files.values().filter_map(Json::as_str);
        let (Some(digest), None) = (digests.next(), digests.next()) else {
            return Err(ApiError::bad("from, or files with one GGUF file, says what the model is made of"));
        };
        let path = state.library.blob(digest)?;
        if !path.is_file() {
            return Err(ApiError::bad(format!("there is no blob {digest}; send it first")));
        }
        crate::details::Details::read(&path)?;
        Created { from: digest.replace('-', ":"), ..Created::default() }
    } else {
        let from = state.named(&body.from)?;
        from.created.unwrap_or_else(|| Created { from: from.base.name, ..Created::default() })
    };
    created.name = name;
    created.modified_unix_s = chrono::Utc::now().timestamp();
    if let Some(template) = body.template {
        if let Err(error) = ChatTemplate::new(&template, None, &[]) {
            return Err(ApiError::bad(format!(
                "{error} (templates are Jinja here, as GGUF files carry them)"
            )));
        }
        created.template = Some(template);
    }
    created.system = body.system.or(created.system);
    created.license = body.license.or(created.license);
    created.messages = body.messages.unwrap_or(created.messages);
    if let Some(parameters) = body.parameters {
        options::options(&Map::new(), &parameters)?;
        created.parameters.extend(parameters);
    }
    state.library.put(&created)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CopyRequest {
    source: String,
    destination: String,
}

pub(super) async fn copy(State(state): State<Shared>, request: Request) -> Response {
    let copy = async {
        let (body, _room): (CopyRequest, _) = http::json(&state, request).await?;
        let state = state.clone();
        blocking(move || {
            let from =
                CreateRequest { model: body.destination, from: body.source, ..CreateRequest::default() };
            make(&state, from)
        })
        .await?;
        Ok(Response::new(Body::empty()))
    };
    respond(copy.await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NameRequest {
    model: String,
    /// Older clients' word for it.
    name: String,
    stream: Option<bool>,
}

impl NameRequest {
    fn name(&self) -> &str {
        if self.model.is_empty() { &self.name } else { &self.model }
    }
}

pub(super) async fn delete(State(state): State<Shared>, request: Request) -> Response {
    let delete = async {
        let (body, _room): (NameRequest, _) = http::json(&state, request).await?;
        let state = state.clone();
        blocking(move || {
            let name = tagged(body.name());
            let known = state.named(&name);
            match state.library.delete(&name)? {
                true => Ok(()),
                false if known.is_ok() => Err(ApiError::bad(format!(
                    "{name} was not made here: its file is the user's, and is not deleted"
                ))),
                false => Err(ApiError::not_found(format!("model '{}' not found", body.name()))),
            }
        })
        .await?;
        Ok(Response::new(Body::empty()))
    };
    respond(delete.await)
}

pub(super) async fn pull(State(state): State<Shared>, request: Request) -> Response {
    respond(try_pull(&state, request).await)
}

async fn try_pull(state: &Shared, request: Request) -> ApiResult<Response> {
    let (body, _room): (NameRequest, _) = http::json(state, request).await?;
    if body.name().is_empty() {
        return Err(ApiError::bad("model is required"));
    }
    let name = body.name().strip_suffix(":latest").unwrap_or(body.name()).to_owned();
    let pull = state.pulls.join(name, &state.catalog);
    let mut states = pull.follow();
    if body.stream == Some(false) {
        let ended = states.wait_for(|state| matches!(state, PullState::Ended(_))).await;
        let ended = ended.map_err(|_| ApiError::internal("the fetch has no end"))?.clone();
        if let PullState::Ended(Err(problem)) = ended {
            return Err(ApiError::bad(problem));
        }
        return ok(&json!({"status": "success"}));
    }
    Ok(http::stream(Framing::Ndjson, move |writer| async move {
        // The fetch goes on as long as somebody holds it.
        let _pull = pull;
        let first = json!({"status": "pulling manifest"});
        if writer.json(&first).await.is_err() {
            return;
        }
        while states.changed().await.is_ok() {
            let (line, has_ended) = match states.borrow_and_update().clone() {
                PullState::Begun => continue,
                PullState::Told(told) => (progress_json(told), false),
                PullState::Ended(Ok(())) => (json!({"status": "success"}), true),
                PullState::Ended(Err(problem)) => (error_json(&ApiError::bad(problem)), true),
            };
            if writer.json(&line).await.is_err() || has_ended {
                break;
            }
            tokio::time::sleep(PULL_PERIOD).await;
        }
    }))
}

fn progress_json(told: PullProgress) -> Json {
    let mut line = json!({"status": told.status});
    if let Some(digest) = told.digest {
        line["digest"] = digest.into();
    }
    for (key, value) in [("total", told.total), ("completed", told.completed)] {
        if let Some(value) = value {
            line[key] = value.into();
        }
    }
    line
}

pub(super) async fn push() -> Response {
    respond(Err(ApiError::bad("there is no registry to push to: models stay on this machine")))
}

pub(super) async fn has_blob(State(state): State<Shared>, digest: NameInPath) -> Response {
    let mut response = Response::new(Body::empty());
    let path = http::name_in_path(digest).and_then(|digest| state.library.blob(&digest));
    *response.status_mut() = match path {
        Ok(path) if path.is_file() => StatusCode::OK,
        Ok(_) => StatusCode::NOT_FOUND,
        Err(error) => error.status,
    };
    response
}

pub(super) async fn put_blob(State(state): State<Shared>, digest: NameInPath, request: Request) -> Response {
    let put = async { try_put_blob(&state, &http::name_in_path(digest)?, request.into_body()).await };
    respond(put.await)
}

/// Writes a body beside its place, and puts it there when its digest is right.
async fn try_put_blob(state: &Shared, digest: &str, body: Body) -> ApiResult<Response> {
    let path = state.library.blob(digest)?;
    let folder = path.parent().unwrap_or(&path).to_path_buf();
    let failed = |error: std::io::Error| cannot("keep the blob", &error);
    let (file, temporary) = blocking(move || {
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let file = tempfile::NamedTempFile::new_in(&folder).map_err(failed)?;
        Ok(file.into_parts())
    })
    .await?;
    let mut file = tokio::fs::File::from_std(file);
    let mut sha = Sha256::new();
    let mut pieces = body.into_data_stream();
    loop {
        let next =
            std::future::poll_fn(|context| futures_core::Stream::poll_next(Pin::new(&mut pieces), context));
        let next = tokio::time::timeout(state.options.body_timeout, next).await;
        let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the blob did not arrive in time");
        let Some(piece) = next.map_err(late)? else { break };
        let piece = piece.map_err(|error| ApiError::bad(format!("the blob broke off: {error}")))?;
        sha.update(&piece);
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)?;
    if !path.ends_with(format!("sha256-{}.gguf", hex(&sha.finalize()))) {
        return Err(ApiError::bad("the blob has another digest"));
    }
    blocking(move || temporary.persist(&path).map_err(|error| failed(error.error))).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
