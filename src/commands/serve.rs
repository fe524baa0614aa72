//! `rawrz serve [MODEL..]`

use crate::catalog::{self, BUILT_IN};
use crate::cli::ServeArgs;
use crate::commands::pull;
use crate::exit::Usage;
use crate::fetch::{Doing, Watch};
use crate::{interrupt, locate};
use anyhow::{Context, anyhow};
use rawrz_engine::Cancel;
use rawrz_interop::maps::MapName;
use rawrz_server::{Catalog, CatalogEntry, KeepAlive, PullProgress, Server, ServerOptions};
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Ollama's port, so that its clients find the server.
const DEFAULT_ADDR: &str = "127.0.0.1:11434";

/// Ports after a taken one that are tried, where the user named none.
const MORE_PORTS: u16 = 100;

/// A key in the environment is not seen by other users of the machine; one on the command line is.
const API_KEY_VARIABLE: &str = "RAWRZ_API_KEY";

/// How often the signal is looked for.
const SIGNAL_PERIOD: Duration = Duration::from_millis(100);

pub(crate) fn main(args: &ServeArgs) -> anyhow::Result<()> {
    let named = args.models.iter().map(|model| entry(model)).collect::<anyhow::Result<Vec<_>>>()?;
    let addr = address(args.addr.as_deref().unwrap_or(DEFAULT_ADDR))?;
    let is_loopback = addr.ip().is_loopback();
    let api_key = api_key(args.api_key.clone(), std::env::var(API_KEY_VARIABLE).ok())?;
    if !is_loopback && api_key.is_none() {
        let problem = format!(
            "{addr} can be reached from other machines: set {API_KEY_VARIABLE} (or give an --api-key), or take an \
            address of this machine"
        );
        return Err(Usage(problem).into());
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(if args.verbose { tracing::Level::INFO } else { tracing::Level::WARN })
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let options = ServerOptions {
        memory_bytes: args.memory,
        threads: args.threads,
        ctx_len: args.ctx,
        max_running: args.parallel,
        keep_alive: args.keep_alive,
        api_key,
        origins: args.origins.clone(),
        is_loopback,
        data_folder: Some(locate::own_folder("server")?),
        saved_caches: match args.save_caches {
            Some(max_bytes) => Some((locate::own_folder("caches")?, max_bytes)),
            None => None,
        },
        ..ServerOptions::default()
    };
    let cancel = interrupt::cancel_on_signal()?;
    let server = Server::new(options, catalog(named.clone()));
    // What the user named is there when the first request comes, and a model that does not fit shows now.
    if let Some(first) = named.first() {
        server.load(&first.name).map_err(|problem| anyhow!("{}: {problem}", first.name))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start the server's threads")?;
    let result = runtime.block_on(async {
        let listener = listen(addr, args.addr.is_some()).await?;
        eprintln!("serving on http://{}", listener.local_addr()?);
        server.run(listener, ended(cancel)).await;
        anyhow::Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// The key of the command line, else that of the environment. An empty one would let everybody in who shows none.
fn api_key(given: Option<String>, in_environment: Option<String>) -> anyhow::Result<Option<String>> {
    if given.as_deref() == Some("") {
        return Err(Usage("--api-key is empty".to_owned()).into());
    }
    Ok(given.or(in_environment.filter(|key| !key.is_empty())))
}

async fn ended(cancel: Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(SIGNAL_PERIOD).await;
    }
    eprintln!("ending; requests under way have 10 s (Ctrl-C again ends at once)");
}

/// Listens on `addr`, or where that is taken and `is_asked` is not set on the next port that is free.
async fn listen(addr: SocketAddr, is_asked: bool) -> anyhow::Result<TcpListener> {
    let cannot = || format!("cannot listen on {addr}");
    match TcpListener::bind(addr).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse && !is_asked => {}
        other => return other.with_context(cannot),
    }
    for port in (1..=MORE_PORTS).map(|n| addr.port() + n) {
        if let Ok(listener) = TcpListener::bind((addr.ip(), port)).await {
            eprintln!("port {} is taken (by Ollama?), so this is port {port}", addr.port());
            return Ok(listener);
        }
    }
    Err(anyhow!("port {} and the {MORE_PORTS} after it are taken; choose one with --addr", addr.port()))
}

/// `HOST:PORT`, `HOST` or `:PORT`.
fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let (_, default_port) = DEFAULT_ADDR.rsplit_once(':').unwrap_or_default();
    let whole = match text {
        text if text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            format!("[{text}]:{default_port}")
        }
        text if text.starts_with(':') => format!("127.0.0.1{text}"),
        text if text.contains(':') => text.to_owned(),
        text => format!("{text}:{default_port}"),
    };
    let found = whole.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| Usage(format!("{text} is no address; such as 127.0.0.1:11434 is")).into())
}

/// A model that the user named: by the name of a map, its built-in name, or its file's.
pub(crate) fn entry(model: &str) -> anyhow::Result<CatalogEntry> {
    let path = locate::model(model)?;
    let map = MapName::parse(model).ok();
    let map =
        map.filter(|name| locate::maps().and_then(|maps| Ok(maps.get(name)?)).is_ok_and(|map| map.is_some()));
    let name = match (map, catalog::find(model)) {
        (Some(map), _) => map.to_string(),
        (None, Some(built_in)) => built_in.alias.to_owned(),
        (None, None) => name_of(&path),
    };
    Ok(CatalogEntry { name, path })
}

/// The models of this machine, those of `named` first.
pub(crate) fn catalog(named: Vec<CatalogEntry>) -> Arc<dyn Catalog> {
    Arc::new(Models { named })
}

fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().to_lowercase())
}

/// The models that the user named, those of the maps, and the built-in ones that are there.
struct Models {
    named: Vec<CatalogEntry>,
}

impl Catalog for Models {
    fn models(&self) -> Vec<CatalogEntry> {
        let built_in = BUILT_IN.iter().filter_map(|model| {
            let path = locate::built_in_path(model).ok().filter(|path| path.is_file())?;
            Some(CatalogEntry { name: model.alias.to_owned(), path })
        });
        let maps = locate::maps().and_then(|maps| Ok(maps.list()?)).unwrap_or_default();
        let mapped = maps.into_iter().filter_map(|map| {
            let path = map.record.ok()?.model.path()?.to_path_buf();
            path.is_file().then(|| CatalogEntry { name: map.name.to_string(), path })
        });
        let mut all = self.named.clone();
        for entry in mapped.chain(built_in) {
            if all.iter().all(|other| other.name != entry.name) {
                all.push(entry);
            }
        }
        all
    }

    fn pull(&self, name: &str, cancel: &Cancel, on_progress: &dyn Fn(PullProgress)) -> Result<(), String> {
        if self.named.iter().any(|entry| entry.name == name) {
            return Ok(());
        }
        let model = catalog::find(name)
            .ok_or_else(|| format!("'{name}' is no built-in model; those are {}", catalog::names()))?;
        let tell = |doing, completed| {
            on_progress(PullProgress {
                status: match doing {
                    // Clients show it in front of a bar; Ollama writes the beginning of the digest.
                    Doing::Fetching => format!("pulling {}", &model.sha256[..12]),
                    Doing::Checking => "verifying sha256 digest".to_owned(),
                    Doing::Waiting => "waiting for another process that fetches the same".to_owned(),
                },
                digest: Some(format!("sha256:{}", model.sha256)),
                total: Some(model.size_bytes),
                completed: Some(completed),
            });
        };
        on_progress(PullProgress::of_status(format!("{}, licence: {}", model.title, model.licence)));
        let watch = Watch { cancel: cancel.clone(), tell: Some(&tell) };
        pull::built_in(model, &watch).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}

/// `--keep-alive`: seconds, or a number with s, m or h; below 0 for ever.
pub(crate) fn keep_alive(text: &str) -> Result<KeepAlive, String> {
    let units = [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("", 1.0)];
    let seconds = units.into_iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        number.is_finite().then_some(number * factor)
    });
    let seconds = seconds.ok_or("a time such as 5m, 30s or 0; -1 for ever")?;
    Ok(Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_spelling() {
        for (text, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            (":99", "127.0.0.1:99"),
            ("127.0.0.1", "127.0.0.1:11434"),
            ("::1", "[::1]:11434"),
            ("[::1]:5", "[::1]:5"),
            ("0.0.0.0", "0.0.0.0:11434"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected);
        }
        assert!(address("127.0.0.1:port").is_err());
    }

    #[test]
    fn the_key_comes_from_either_place() {
        let key = |given: &str| Some(given.to_owned());
        assert_eq!(api_key(key("a"), key("b")).unwrap(), key("a"));
        assert_eq!(api_key(None, key("b")).unwrap(), key("b"));
        assert_eq!(api_key(None, key("")).unwrap(), None);
        assert_eq!(api_key(None, None).unwrap(), None);
        assert!(api_key(key(""), key("b")).is_err());
    }

    #[test]
    fn times_of_keep_alive() {
        assert_eq!(keep_alive("5m"), Ok(KeepAlive::For(Duration::from_secs(300))));
        assert_eq!(keep_alive("0"), Ok(KeepAlive::For(Duration::ZERO)));
        assert_eq!(keep_alive("-1"), Ok(KeepAlive::Forever));
        assert!(keep_alive("soon").is_err() && keep_alive("").is_err());
    }
}
