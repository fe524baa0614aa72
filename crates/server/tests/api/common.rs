//! A server over tiny models with random weights, and a client of plain sockets.

use rawrz_engine::Cancel;
use rawrz_server::{Catalog, CatalogEntry, PullProgress, Server, ServerOptions};
use serde_json::Value as Json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The tiny models of the repository under short names. `slow` is one that a fetch never gets.
#[derive(Default)]
pub(crate) struct Tiny {
    /// Fetches of `slow` under way, and all there were.
    pub(crate) pulling: AtomicUsize,
    pub(crate) pulls: AtomicUsize,
}

const MODELS: [(&str, &str); 2] = [("tiny", "llama-linear.gguf"), ("other", "qwen2-tied.gguf")];

impl Catalog for Tiny {
    fn models(&self) -> Vec<CatalogEntry> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny");
        MODELS.map(|(name, file)| CatalogEntry { name: name.to_owned(), path: folder.join(file) }).into()
    }

    fn pull(&self, name: &str, cancel: &Cancel, on_progress: &dyn Fn(PullProgress)) -> Result<(), String> {
        let tell = |completed| {
            let (status, digest) = (format!("pulling {name}"), Some("sha256:00".to_owned()));
            on_progress(PullProgress { status, digest, total: Some(10), completed: Some(completed) });
        };
        if name == "slow" {
            self.pulls.fetch_add(1, Ordering::SeqCst);
            self.pulling.fetch_add(1, Ordering::SeqCst);
            for completed in 0.. {
                if cancel.is_cancelled() {
                    break;
                }
                tell(completed);
                std::thread::sleep(Duration::from_millis(5));
            }
            self.pulling.fetch_sub(1, Ordering::SeqCst);
        }
        tell(5);
        if name == "tiny" { Ok(()) } else { Err(format!("{name} is not known")) }
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) catalog: Arc<Tiny>,
    _folder: tempfile::TempDir,
}

pub(crate) fn options() -> ServerOptions {
    ServerOptions {
        threads: Some(2),
        memory_bytes: Some(1 << 30),
        shutdown_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    }
}

pub(crate) fn start(options: ServerOptions) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let options = ServerOptions { data_folder: Some(folder.path().to_path_buf()), ..options };
    let (end, ended) = oneshot::channel();
    let catalog = Arc::new(Tiny::default());
    let served = Arc::clone(&catalog);
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let end = async move { drop(ended.await) };
            Server::new(options, served).run(listener, end).await;
        });
    });
    Running { addr: told.recv().unwrap(), end: Some(end), thread: Some(thread), catalog, _folder: folder }
}

impl Running {
    /// Asks the server to end, without waiting for it.
    pub(crate) fn stop(&mut self) {
        drop(self.end.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// An answer, its body joined where it came in chunks.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The lines of an ndjson stream.
    pub(crate) fn lines(&self) -> Vec<Json> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The data of server-sent events, without the last mark.
    pub(crate) fn events(&self) -> Vec<Json> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Running {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends a request as it is written and reads the whole answer.
    pub(crate) fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { join_chunks(body) } else { body.to_owned() };
        Answer { status, head: head.to_lowercase(), body }
    }

    pub(crate) fn with_headers(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let len = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        ))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.with_headers(method, path, "Host: localhost\r\n", body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &Json) -> Answer {
        self.ask("POST", path, &body.to_string())
    }
}

fn join_chunks(mut rest: &str) -> String {
    let mut joined = String::new();
    while let Some((len, after)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).unwrap();
        joined.push_str(&after[..len]);
        rest = after[len..].trim_start_matches("\r\n");
    }
    joined
}
