//! `/v1/models` and `/v1/embeddings`.

use super::{ok, respond, usage};
use crate::details::Details;
use crate::embedding::{Input, Inputs, embed};
use crate::error::{ApiError, ApiResult};
use crate::http::{self, NameInPath};
use crate::state::{Named, Shared, blocking};
use axum::extract::{Request, State};
use axum::response::Response;
use rawrz_text::TokenId;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

fn model_json(model: &Named) -> Json {
    let details = Details::read(&model.base.path).ok();
    let of_file = details.as_ref().map_or(0, |details| details.modified_unix_s());
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created.as_ref().map_or(of_file, |created| created.modified_unix_s),
        "owned_by": "library",
        "context_length": details.and_then(|details| details.about.context_len),
    })
}

pub(super) async fn models(State(state): State<Shared>) -> Response {
    let listed = blocking(move || Ok(state.models().iter().map(model_json).collect::<Vec<_>>())).await;
    respond(listed.and_then(|models| ok(&json!({"object": "list", "data": models}))))
}

pub(super) async fn model(State(state): State<Shared>, id: NameInPath) -> Response {
    let find = async {
        let id = http::name_in_path(id)?;
        ok(&blocking(move || Ok(model_json(&state.named(&id)?))).await?)
    };
    respond(find.await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EmbeddingRequest {
    model: String,
    input: Json,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

pub(super) async fn embeddings(State(state): State<Shared>, request: Request) -> Response {
    respond(try_embeddings(&state, request).await)
}

async fn try_embeddings(state: &Shared, request: Request) -> ApiResult<Response> {
    let client = http::client(&request);
    let (body, _room): (EmbeddingRequest, _) = http::json(state, request).await?;
    let as_base64 = match body.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => return Err(ApiError::bad(format!("encoding_format is float or base64, not {other}"))),
    };
    let texts = inputs(body.input)?;
    if texts.is_empty() {
        return Err(ApiError::bad("input is empty"));
    }
    let inputs = Inputs { texts, truncate: false, dimensions: body.dimensions, num_ctx: None };
    let model = state.named(&body.model)?;
    let embedded = embed(state, &model, inputs, None, client).await?;
    let datum = |(index, vector): (usize, Vec<f32>)| Datum {
        object: "embedding",
        index,
        embedding: if as_base64 { Vector::Base64(base64(&vector)) } else { Vector::Floats(vector) },
    };
    let data = embedded.vectors.into_iter().enumerate().map(datum).collect();
    let mut usage = usage(embedded.n_tokens, 0, 0);
    if let Some(usage) = usage.as_object_mut() {
        usage.retain(|key, _| key == "prompt_tokens" || key == "total_tokens");
    }
    http::held(&Embeddings { object: "list", data, model: body.model, usage }, embedded.room)
}

#[derive(Serialize)]
struct Embeddings {
    object: &'static str,
    data: Vec<Datum>,
    model: String,
    usage: Json,
}

#[derive(Serialize)]
struct Datum {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

/// A text, a list of texts, a list of tokens, or a list of such lists.
fn inputs(input: Json) -> ApiResult<Vec<Input>> {
    let bad = || ApiError::bad("input is a text or tokens, or a list of either");
    let tokens = |list: Vec<Json>| -> ApiResult<Input> {
        let token = |value: Json| value.as_u64().and_then(|id| TokenId::try_from(id).ok()).ok_or_else(bad);
        Ok(Input::Tokens(list.into_iter().map(token).collect::<ApiResult<_>>()?))
    };
    match input {
        Json::String(text) => Ok(vec![Input::Text(text)]),
        Json::Array(list) if list.first().is_some_and(Json::is_number) => Ok(vec![tokens(list)?]),
        Json::Array(list) => list
            .into_iter()
            .map(|input| match input {
                Json::String(text) => Ok(Input::Text(text)),
                Json::Array(list) => tokens(list),
                _ => Err(bad()),
            })
            .collect(),
        _ => Err(bad()),
    }
}

/// Little-endian floats in base64 (RFC 4648), as OpenAI's clients ask for them.
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_in_base64() {
        assert_eq!(base64(&[]), "");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[0.0, 0.5, 3.0]), "AAAAAAAAAD8AAEBA");
    }
}
