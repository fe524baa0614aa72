//! Finds a server to talk to, or starts one inside this process.

use super::client::Client;
use super::is_named;
use crate::cli::ChatArgs;
use crate::commands::serve;
use crate::locate;
use anyhow::{Context, anyhow, bail};
use rawrz_server::{Server, ServerOptions};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Where a server is looked for: where `rawrz serve` listens by itself, and Ollama.
const USUAL: &str = "http://127.0.0.1:11434";

/// A server and a model of it. One of our own ends with this.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) model: String,
    _own: Option<Runtime>,
}

/// Connects to the server that was named, else to a RawrZ server that runs and has the model, else to one of our own.
pub(crate) fn connect(args: &ChatArgs) -> anyhow::Result<Connection> {
    if let Some(url) = &args.server {
        let client = Client::new(url);
        client.is_there().with_context(|| format!("no server answers at {url}"))?;
        let model = choose(&client, args.model.as_deref())?
            .with_context(|| format!("the server at {url} does not have this model"))?;
        return Ok(Connection { client, model, _own: None });
    }
    let usual = Client::new(USUAL);
    // Limits hold for a server of our own only, so a running one is none for those who set them.
    let is_free = args.memory.is_none() && args.ctx.is_none() && args.threads.is_none();
    if is_free
        && usual.is_there() == Some(true)
        && let Some(model) = choose(&usual, args.model.as_deref())?
    {
        return Ok(Connection { client: usual, model, _own: None });
    }
    start(args)
}

/// The model of `client` that was asked for; without a wish one that is in memory, else the first.
fn choose(client: &Client, wanted: Option<&str>) -> anyhow::Result<Option<String>> {
    let names = client.models()?;
    Ok(match wanted {
        Some(wanted) => names.iter().any(|name| is_named(name, wanted)).then(|| wanted.to_owned()),
        None => client.loaded().into_iter().next().or_else(|| names.into_iter().next()),
    })
}

fn start(args: &ChatArgs) -> anyhow::Result<Connection> {
    let named = args.model.as_deref().map(serve::entry).transpose()?;
    let options = ServerOptions {
        memory_bytes: args.memory,
        threads: args.threads,
        ctx_len: args.ctx,
        max_running: 1,
        data_folder: Some(locate::own_folder("server")?),
        ..ServerOptions::default()
    };
    let catalog = serve::catalog(named.clone().into_iter().collect());
    let model = match named {
        Some(entry) => entry.name,
        None => match catalog.models().into_iter().next() {
            Some(entry) => entry.name,
            None => bail!("there is no model yet; `rawrz pull smollm2` fetches one, or give a file"),
        },
    };
    eprintln!("loading {model}");
    let server = Server::new(options, catalog);
    server.load(&model).map_err(|problem| anyhow!("{model}: {problem}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start the server's threads")?;
    let listener =
        runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).context("cannot listen on this machine")?;
    let client = Client::new(&format!("http://{}", listener.local_addr()?));
    // Ends when the runtime does.
    runtime.spawn(server.run(listener, std::future::pending()));
    Ok(Connection { client, model, _own: Some(runtime) })
}
