//! Connections of clients: how many there are, and how long the head of a request may take to arrive.

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What a connection holds at most of what it reads, heads included, and of what waits to be written.
pub(crate) const BUFFER_BYTES: usize = 32 << 10;

/// How long no connection is taken after the system had no file handle for one.
const PAUSE: Duration = Duration::from_millis(200);

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time. Further ones wait in the system's queue.
    pub(crate) max_connections: usize,
    /// The time for the head of a request, from the moment it may begin: a connection without requests ends after it, too.
    pub(crate) head_timeout: Duration,
}

/// Serves `router` until `has_ended` is set, and then until the last connection has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut has_ended: watch::Receiver<bool>,
) {
    let max_connections = u32::try_from(limits.max_connections).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            next = next => next,
            () = is_set(&mut has_ended) => break,
        };
        let Ok(place) = place else { break };
        tokio::spawn(connection(stream, peer, router.clone(), limits, has_ended.clone(), place));
    }
    drop(listener);
    // All places are free when the last connection has ended; nobody closes the semaphore.
    let _ = places.acquire_many(max_connections).await;
}

/// Is done when the flag is set, or nobody is left to set it.
async fn is_set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|is_set| *is_set).await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // It was given up before we came to it.
            Err(error)
                if error.kind() == ErrorKind::ConnectionAborted
                    || error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection; `_place` is free again when it ends.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    mut has_ended: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    // Tokens go out as they come. Where that cannot be set, they come a little later.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        routes.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_buf_size(BUFFER_BYTES);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = serving.as_mut() => Some(done),
        () = is_set(&mut has_ended) => None,
    };
    let result = match done {
        Some(result) => result,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}
