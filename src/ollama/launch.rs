//! Starting Ollama's server with settings that suit mapped models, inside a memory limit if asked.

use super::{how_to_install, program, store};
use crate::locate;
use crate::output::{Output, printable};
use anyhow::{Context, anyhow, bail};
use rawrz_engine::Size;
use rawrz_interop::ollama::OllamaName;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use ureq::Agent;

/// Where Ollama listens unless `$OLLAMA_HOST` says otherwise.
const DEFAULT_HOST: &str = "127.0.0.1:11434";
/// How long its server may take to answer at first.
const START: Duration = Duration::from_secs(60);
/// How long a model may take to load, and an answer to be made: a large model on a slow disk reads for minutes.
const ANSWER: Duration = Duration::from_secs(30 * 60);
/// What a model is asked unless told otherwise.
pub(crate) const PROMPT: &str = "What is the water cycle?";
/// Tokens of the answer that shows that the model works.
const ANSWER_TOKENS: u32 = 32;

/// Starts Ollama, or finds it running, waits until it shows `name`, has it answer `prompt`, and says what memory that took.
pub(crate) fn launch(
    name: Option<&OllamaName>,
    memory: Option<u64>,
    prompt: &str,
    out: &mut Output,
) -> anyhow::Result<()> {
    let client = Client::new()?;
    let started = match client.version() {
        Some(version) => {
            if memory.is_some() {
                bail!("Ollama {version} runs at {} already, without this limit; stop it first", client.host);
            }
            out.line(&format!("Ollama {version} runs at {}", client.host))?;
            None
        }
        None => {
            let mut started = start(&client, memory)?;
            let version = started.wait_until_ready(&client)?;
            out.line(&format!(
                "Ollama {version} started at {} (process {}, log {}{})",
                client.host,
                started.child.id(),
                started.log.display(),
                memory.map_or(String::new(), |limit| format!(", limited to {}", Size(limit)))
            ))?;
            Some(started)
        }
    };
    let Some(name) = name else { return Ok(()) };
    client.wait_until_shown(name)?;
    out.line(&format!("{name} is among its models"))?;
    let asked = Instant::now();
    let answer = client.generate(name, prompt)?;
    let text = answer["response"].as_str().unwrap_or_default();
    out.line(&printable(&format!("> {prompt}\n{}", text.trim())))?;
    let mut line = format!("answered in {:.1} s", asked.elapsed().as_secs_f64());
    if let (Some(n), Some(ns)) = (answer["eval_count"].as_f64(), answer["eval_duration"].as_f64())
        && ns > 0.0
    {
        line += &format!(", {:.1} tok/s", n / ns * 1e9);
    }
    if let Some(memory) = started.as_ref().and_then(Started::memory) {
        line += &format!("; {memory}");
    }
    out.line(&line)
}

/// A server that we started. It goes on when this program ends.
struct Started {
    child: Child,
    log: PathBuf,
    group: Option<PathBuf>,
}

fn start(client: &Client, memory: Option<u64>) -> anyhow::Result<Started> {
    let Some(program) = program() else {
        bail!(
            "Ollama is not installed (`{}` installs it); `rawrz serve` answers the same requests at {}",
            how_to_install(),
            client.host
        );
    };
    let logs = locate::own_folder("logs")?;
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let log = logs.join("ollama.log");
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let (mut command, group) = match memory {
        None => (Command::new(&program), None),
        Some(limit) => limited(&program, limit)?,
    };
    command
        .arg("serve")
        .env("OLLAMA_MODELS", store()?.root())
        // Repacked weights would be a second copy in memory.
        .env("LLAMA_ARG_REPACK", "false")
        .env("OLLAMA_LOAD_TIMEOUT", "30m")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    // Ctrl-C here is not meant for it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Started { child, log, group })
}

/// The command that runs `program` inside a limit of memory, and the control group where we made one.
fn limited(program: &Path, limit: u64) -> anyhow::Result<(Command, Option<PathBuf>)> {
    // systemd makes and removes the group by itself.
    for scope in [&["--user"][..], &[]] {
        let probe = Command::new("systemd-run")
            .args(scope)
            .args(["--scope", "--quiet", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if probe.is_ok_and(|status| status.success()) {
            let mut command = Command::new("systemd-run");
            command.args(scope).args(["--scope", "--quiet", "-p", &format!("MemoryMax={limit}"), "--"]);
            command.arg(program);
            return Ok((command, None));
        }
    }
    // Version 2 of control groups, then version 1.
    for (parent, file) in
        [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
    {
        let group = Path::new(parent).join(format!("rawrz-ollama-{}", std::process::id()));
        if !Path::new(parent).is_dir() || std::fs::create_dir(&group).is_err() {
            continue;
        }
        if std::fs::write(group.join(file), limit.to_string()).is_err() {
            let _ = std::fs::remove_dir(&group);
            continue;
        }
        // The shell enters the group and becomes the server, so that no byte of it is outside.
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&group).arg(program);
        return Ok((command, Some(group)));
    }
    bail!(
        "no limit of memory can be set for Ollama here: neither systemd-run nor control groups are at hand for this user; \
         go without --memory"
    )
}

impl Started {
    fn wait_until_ready(&mut self, client: &Client) -> anyhow::Result<String> {
        let began = Instant::now();
        while began.elapsed() < START {
            if let Some(version) = client.version() {
                return Ok(version);
            }
            if let Some(status) = self.child.try_wait()? {
                self.remove_group();
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last =
                    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned();
                bail!("Ollama ended at once ({status}); its last words: {last}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.remove_group();
        bail!(
            "Ollama did not answer at {} within {} s; see {}",
            client.host,
            START.as_secs(),
            self.log.display()
        )
    }

    fn remove_group(&self) {
        if let Some(group) = &self.group {
            let _ = std::fs::remove_dir(group);
        }
    }

    /// What the server and its children use, in words.
    fn memory(&self) -> Option<String> {
        if let Some(group) = &self.group {
            let read = |name| std::fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
            let peak: Option<u64> = read("memory.peak").or_else(|| read("memory.max_usage_in_bytes"));
            return Some(format!("peak memory {} with the page cache", Size(peak?)));
        }
        let resident = resident_of_tree(self.child.id())?;
        Some(format!("resident memory {}, mapped weights included", Size(resident)))
    }
}

/// Resident bytes of a process and all below it, where `/proc` tells.
fn resident_of_tree(root: u32) -> Option<u64> {
    let field = |pid: u32, name: &str| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let pids =
        std::fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u64)> = pids.filter_map(|pid| Some((pid, field(pid, "PPid:")?))).collect();
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(&parent) = tree.get(at) {
        tree.extend(parents.iter().filter(|(_, of)| *of == u64::from(parent)).map(|(pid, _)| *pid));
        at += 1;
    }
    let kib: u64 = tree.iter().filter_map(|pid| field(*pid, "VmRSS:")).sum();
    Some(kib << 10)
}

/// Talks to Ollama's server.
struct Client {
    agent: Agent,
    host: String,
}

impl Client {
    fn new() -> anyhow::Result<Client> {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER)).proxy(None);
        let host = std::env::var("OLLAMA_HOST").ok().filter(|host| !host.is_empty());
        let host = host.map_or_else(|| Ok(DEFAULT_HOST.to_owned()), |host| host_and_port(&host))?;
        Ok(Client { agent: config.build().into(), host })
    }

    fn get(&self, path: &str) -> anyhow::Result<Json> {
        let response = self.agent.get(format!("http://{}{path}", self.host)).call()?;
        body(response)
    }

    fn version(&self) -> Option<String> {
        let version = self.get("/api/version").ok()?["version"].as_str()?.to_owned();
        // Shown on a terminal, and whoever listens there may not be Ollama.
        Some(version.chars().filter(|c| c.is_ascii_graphic()).take(40).collect())
    }

    fn wait_until_shown(&self, name: &OllamaName) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < START {
            let tags = self.get("/api/tags")?;
            let models = tags["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            if models.iter().any(|model| model["name"].as_str().is_some_and(|n| n == name.to_string())) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(anyhow!(
            "Ollama at {} does not show {name}; it may use another store than {} (OLLAMA_MODELS)",
            self.host,
            store()?.root().display()
        ))
    }

    fn generate(&self, name: &OllamaName, prompt: &str) -> anyhow::Result<Json> {
        let request = json!({
            "model": name.to_string(),
            "prompt": prompt,
            "stream": false,
            "options": { "num_predict": ANSWER_TOKENS, "temperature": 0 },
        });
        let response = self
            .agent
            .post(format!("http://{}/api/generate", self.host))
            .header("content-type", "application/json")
            .send(request.to_string())
            .with_context(|| format!("asking {name}"))?;
        let status = response.status();
        let answer = body(response).with_context(|| format!("Ollama's answer for {name}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(anyhow!("Ollama cannot run {name}: {error}")),
            None if !status.is_success() => Err(anyhow!("Ollama answers {status} for {name}")),
            None => Ok(answer),
        }
    }
}

fn body(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Result<Json> {
    Ok(serde_json::from_reader(response.body_mut().as_reader())?)
}

/// `$OLLAMA_HOST` as Ollama reads it: a scheme and a path may stand around it, and the port may be absent. A server that
/// listens on all addresses is reached at this machine's own.
fn host_and_port(text: &str) -> anyhow::Result<String> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => bail!("OLLAMA_HOST with {scheme}:// is not supported here; use http"),
        None => text,
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let (host, port) = port.unwrap_or((authority, "11434"));
    let host = match host {
        "" | "0.0.0.0" | "[::]" => "127.0.0.1",
        host => host,
    };
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, host) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0", "127.0.0.1:11434"),
            (":1234", "127.0.0.1:1234"),
            ("http://example.org:80/x", "example.org:80"),
            ("[::1]:5", "[::1]:5"),
            ("localhost", "localhost:11434"),
        ] {
            assert_eq!(host_and_port(text).unwrap(), host, "{text}");
        }
        assert!(host_and_port("https://example.org").is_err());
    }
}
