//! Reading requests and writing answers, whatever the dialect.

use crate::error::{ApiError, ApiResult};
use crate::memory::BodyRoom;
use crate::state::Shared;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces of an answer that may wait for a slow reader before the answer waits for it.
const MAX_WAITING_PIECES: usize = 64;

/// The body of a request as JSON, whatever its content type says: clients forget to say it. The room is for what is read
/// and to be kept as long.
pub(crate) async fn json<T: DeserializeOwned>(state: &Shared, request: Request) -> ApiResult<(T, BodyRoom)> {
    let limit = state.memory.max_body_bytes(state.options.max_body_bytes);
    let room = state.memory.body_room(said_len(&request).unwrap_or(limit).min(limit)).await?;
    let bytes = bytes(state, request, limit).await?;
    let room = room.fit(&bytes)?;
    let read = serde_json::from_slice(&bytes).map_err(|error| ApiError::bad(format!("the body: {error}")));
    Ok((read?, room))
}

/// The part of a path that is a name, percent-decoded.
pub(crate) type NameInPath = Result<Path<String>, PathRejection>;

/// # Errors
/// When what is decoded is not UTF-8.
pub(crate) fn name_in_path(name: NameInPath) -> ApiResult<String> {
    name.map(|Path(name)| name).map_err(|_| ApiError::bad("the path is not UTF-8"))
}

/// The length of a body, where the request says it.
fn said_len(request: &Request) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body of a request.
pub(crate) async fn bytes(state: &Shared, request: Request, limit: usize) -> ApiResult<Bytes> {
    let too_large =
        || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes"));
    if said_len(&request).is_some_and(|said| said > limit) {
        return Err(too_large());
    }
    let reading = tokio::time::timeout(state.options.body_timeout, to_bytes(request.into_body(), limit));
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    reading.await.map_err(late)?.map_err(|_| too_large())
}

/// Who asks, for the queue: a key, or an address.
pub(crate) fn client(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    match key(request.headers()) {
        Some(key) => key.hash(&mut hasher),
        None => {
            let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
            from.map(|ConnectInfo(from)| from.ip()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The key that a request shows.
pub(crate) fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

/// Whether a request asks for progress by its header.
pub(crate) fn wants_progress(headers: &HeaderMap) -> bool {
    headers.get("x-rawrz-progress").is_some_and(|value| value != "0")
}

/// A JSON answer.
pub(crate) fn answer(status: StatusCode, value: &Json) -> Response {
    body(status, "application/json", Body::from(value.to_string()))
}

/// A JSON answer that is written from what it is made of, and holds its room until it is sent.
pub(crate) fn held(value: &impl Serialize, room: BodyRoom) -> ApiResult<Response> {
    let text = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    let held = Held { text: Some(text.into()), _room: room };
    Ok(body(StatusCode::OK, "application/json", Body::from_stream(held)))
}

/// A body in one piece, with the memory that it takes.
struct Held {
    text: Option<Bytes>,
    _room: BodyRoom,
}

impl Stream for Held {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.text.take().map(Ok))
    }
}

pub(crate) fn body(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error's answer, with its body in a dialect's words.
pub(crate) fn failure(error: &ApiError, value: &Json) -> Response {
    let mut response = answer(error.status, value);
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// How pieces of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A line of JSON each.
    Ndjson,
    /// Server-sent events.
    Sse,
}

/// The writing end of a stream.
pub(crate) struct Writer {
    sender: Sender<Bytes>,
    framing: Framing,
}

/// The reader went away.
pub(crate) struct Gone;

impl Writer {
    pub(crate) async fn json(&self, value: &Json) -> Result<(), Gone> {
        self.raw(match self.framing {
            Framing::Ndjson => format!("{value}\n"),
            Framing::Sse => format!("data: {value}\n\n"),
        })
        .await
    }

    /// An event that has a name.
    pub(crate) async fn event(&self, name: &str, value: &Json) -> Result<(), Gone> {
        self.raw(format!("event: {name}\ndata: {value}\n\n")).await
    }

    pub(crate) async fn raw(&self, text: String) -> Result<(), Gone> {
        self.sender.send(text.into()).await.map_err(|_| Gone)
    }
}

/// An answer that `write` makes piece by piece. It ends early when the reader goes away: whatever it holds is dropped
/// then, requests under way included.
pub(crate) fn stream<F, W>(framing: Framing, write: W) -> Response
where
    W: FnOnce(Writer) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = channel(MAX_WAITING_PIECES);
    let content_type = match framing {
        Framing::Ndjson => "application/x-ndjson",
        Framing::Sse => "text/event-stream",
    };
    let closed = sender.clone();
    let writing = write(Writer { sender, framing });
    tokio::spawn(async move {
        tokio::select! {
            () = writing => {}
            () = closed.closed() => {}
        }
    });
    let mut response = body(StatusCode::OK, content_type, Body::from_stream(Pieces(receiver)));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

struct Pieces(Receiver<Bytes>);

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(Ok))
    }
}
