//! Talks to a server by Ollama's API, and by what RawrZ adds to it.

use anyhow::{Context, anyhow};
use rawrz_engine::Size;
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use ureq::Agent;

/// How long a server that is there may take to say so.
const SHORT: Duration = Duration::from_secs(5);
/// How long the first word of an answer may take: a large model is read for minutes.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// Longest line of an answer; what is longer comes from no such server.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Ends an answer that is being made.
#[derive(Clone, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A message of a conversation.
#[derive(Clone, Debug)]
pub(super) struct ChatMessage {
    pub(super) role: &'static str,
    pub(super) content: String,
}

pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<ChatMessage>,
}

/// What comes of a request; the last two end it.
#[derive(Debug, PartialEq)]
pub(super) enum ChatEvent {
    Prompt { done: u64, total: u64 },
    Text(String),
    Done { speed: Option<String> },
    Failed(String),
}

/// What a RawrZ server tells of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) tok_s: f64,
    pub(super) share_of_bound: Option<f64>,
    pub(super) context_len: u64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) budget_bytes: Option<u64>,
    is_streamed: bool,
    read_bytes_per_token: f64,
    memory: Vec<(String, u64)>,
    n_layers: usize,
    pinned_share: Option<f64>,
}

impl Figures {
    /// The figures of the model of that name in what `/api/rawrz/stats` gives.
    fn of(stats: &Json, name: &str) -> Option<Figures> {
        let of_name =
            |model: &&Json| model["name"].as_str().is_some_and(|known| super::is_named(known, name));
        let model = stats["models"].as_array()?.iter().find(of_name)?;
        let sum =
            |stage: &Json, keys: &[&str]| keys.iter().filter_map(|key| stage[*key].as_u64()).sum::<u64>();
        let stages = model["placement"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pinned: u64 = stages.iter().map(|stage| sum(stage, &["pinned"])).sum();
        let all: u64 = stages.iter().map(|stage| sum(stage, &["pinned", "streamed", "experts"])).sum();
        let entry = |entry: &Json| Some((entry["what"].as_str()?.to_owned(), entry["bytes"].as_u64()?));
        Some(Figures {
            tok_s: model["tok_s"].as_f64()?,
            share_of_bound: model["share_of_bound"].as_f64().filter(|share| *share > 0.0),
            context_len: model["context_length"].as_u64()?,
            resident_bytes: stats["process"]["resident_bytes"].as_u64(),
            budget_bytes: stats["budget_bytes"].as_u64(),
            is_streamed: model["streamed"].as_bool()?,
            read_bytes_per_token: model["bytes_read_per_token"].as_f64().unwrap_or(0.0),
            memory: model["memory"].as_array()?.iter().filter_map(entry).collect(),
            n_layers: stages.len().saturating_sub(1),
            pinned_share: (all > 0).then(|| pinned as f64 / all as f64),
        })
    }

    /// All of it, on several lines.
    pub(super) fn in_full(&self) -> String {
        let mut out = format!("{:.1} tok/s over the last passes", self.tok_s);
        if let Some(share) = self.share_of_bound {
            out += &format!(", {:.0} % of the bound", share * 100.0);
        }
        out += &format!("\ncontext {} tokens", self.context_len);
        match (self.is_streamed, self.pinned_share) {
            (true, Some(share)) => {
                out += &format!(
                    "\nstreamed: {:.0} % of the weights of {} layers stay in memory, {} read for a token",
                    share * 100.0,
                    self.n_layers,
                    Size(self.read_bytes_per_token as u64)
                );
            }
            _ => out += "\nall weights are mapped",
        }
        for (what, bytes) in &self.memory {
            out += &format!("\n  {what:<28} {}", Size(*bytes));
        }
        if let Some(resident) = self.resident_bytes {
            out += &format!("\n  in memory now, all models    {}", Size(resident));
        }
        if let Some(budget) = self.budget_bytes {
            out += &format!("\n  budget                       {}", Size(budget));
        }
        out
    }
}

/// A server.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    short: Agent,
    long: Agent,
}

impl Client {
    /// The server at `base`, such as `http://127.0.0.1:11434`.
    pub(crate) fn new(base: &str) -> Client {
        let agent = |timeout| {
            let config = Agent::config_builder().http_status_as_error(false).proxy(None);
            config.timeout_global(Some(timeout)).build().into()
        };
        Client { base: base.trim_end_matches('/').to_owned(), short: agent(SHORT), long: agent(LONG) }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    fn get(&self, path: &str) -> anyhow::Result<Json> {
        let mut response = self.short.get(format!("{}{path}", self.base)).call()?;
        if !response.status().is_success() {
            return Err(anyhow!("{path} is {}", response.status()));
        }
        Ok(serde_json::from_reader(response.body_mut().as_reader().take(MAX_LINE_BYTES))?)
    }

    /// Whether a server answers there; then whether it is RawrZ.
    pub(super) fn is_there(&self) -> Option<bool> {
        self.get("/api/version").ok()?;
        Some(self.get("/api/rawrz/stats").is_ok())
    }

    /// Names of all models.
    pub(super) fn models(&self) -> anyhow::Result<Vec<String>> {
        let tags = self.get("/api/tags")?;
        let models = tags["models"].as_array().context("the server lists no models")?;
        Ok(short_names(models))
    }

    /// Names of the models in memory.
    pub(super) fn loaded(&self) -> Vec<String> {
        let running = self.get("/api/ps").unwrap_or_default();
        running["models"].as_array().map_or_else(Vec::new, |models| short_names(models))
    }

    /// What the server tells of a model; `None` when it is not loaded.
    pub(super) fn figures(&self, model: &str) -> anyhow::Result<Option<Figures>> {
        Ok(Figures::of(&self.get("/api/rawrz/stats")?, model))
    }

    /// Begins an answer on a thread of its own.
    pub(super) fn chat(&self, request: ChatRequest) -> (Receiver<ChatEvent>, StopFlag) {
        let (sender, receiver) = channel();
        let stop = StopFlag::default();
        let (client, flag) = (self.clone(), stop.clone());
        std::thread::spawn(move || {
            if let Err(error) = client.answer(&request, &sender, &flag) {
                let _ = sender.send(ChatEvent::Failed(format!("{error:#}")));
            }
        });
        (receiver, stop)
    }

    fn answer(
        &self,
        request: &ChatRequest,
        sender: &Sender<ChatEvent>,
        stop: &StopFlag,
    ) -> anyhow::Result<()> {
        let messages = request.messages.iter().map(|m| json!({ "role": m.role, "content": m.content }));
        let body = json!({
            "model": request.model,
            "messages": messages.collect::<Vec<_>>(),
            "options": { "rawrz_progress": true },
        });
        let mut response = self
            .long
            .post(format!("{}/api/chat", self.base))
            .header("content-type", "application/json")
            .send(body.to_string())?;
        if !response.status().is_success() {
            let said: Json = serde_json::from_reader(response.body_mut().as_reader().take(MAX_LINE_BYTES))?;
            return Err(anyhow!("{}", said["error"].as_str().unwrap_or("the server refuses without a word")));
        }
        let mut reader = BufReader::new(response.body_mut().as_reader());
        loop {
            let mut line = Vec::new();
            if (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Err(anyhow!("the server ended the answer in the middle"));
            }
            // Hanging up is what tells the server.
            if stop.is_set() {
                let _ = sender.send(ChatEvent::Done { speed: None });
                return Ok(());
            }
            for event in events(&serde_json::from_slice(&line)?) {
                let is_last = matches!(event, ChatEvent::Done { .. } | ChatEvent::Failed(_));
                if sender.send(event).is_err() || is_last {
                    return Ok(());
                }
            }
        }
    }
}

/// Names of models, without the tag that a name alone means.
fn short_names(models: &[Json]) -> Vec<String> {
    let short = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
    models.iter().filter_map(|model| model["name"].as_str()).map(short).collect()
}

/// What a line of an answer says.
fn events(line: &Json) -> Vec<ChatEvent> {
    if let Some(problem) = line["error"].as_str() {
        return vec![ChatEvent::Failed(problem.to_owned())];
    }
    let mut events = Vec::new();
    let progress = &line["rawrz_progress"];
    if let (Some(done), Some(total)) = (progress["prompt_done"].as_u64(), progress["prompt_total"].as_u64()) {
        events.push(ChatEvent::Prompt { done, total });
    }
    let text = line["message"]["content"].as_str().unwrap_or_default();
    if !text.is_empty() {
        events.push(ChatEvent::Text(text.to_owned()));
    }
    if line["done"].as_bool() == Some(true) {
        let count = |key: &str| line[key].as_f64().filter(|value| *value > 0.0);
        let rate = |n: &str, time: &str| Some(count(n)? / count(time)? * 1e9);
        let speed = rate("eval_count", "eval_duration").map(|made| {
            match rate("prompt_eval_count", "prompt_eval_duration") {
                Some(read) => format!("{made:.1} tok/s, prompt {read:.0} tok/s"),
                None => format!("{made:.1} tok/s"),
            }
        });
        events.push(ChatEvent::Done { speed });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_answer() {
        let parse = |text: &str| events(&serde_json::from_str(text).unwrap());
        assert_eq!(parse(r#"{"message":{"content":"Hi"},"done":false}"#), [ChatEvent::Text("Hi".to_owned())]);
        assert_eq!(
            parse(
                r#"{"rawrz_progress":{"prompt_done":3,"prompt_total":9},"message":{"content":""},"done":false}"#
            ),
            [ChatEvent::Prompt { done: 3, total: 9 }]
        );
        assert_eq!(
            parse(r#"{"done":true,"eval_count":20,"eval_duration":1000000000}"#),
            [ChatEvent::Done { speed: Some("20.0 tok/s".to_owned()) }]
        );
        assert_eq!(parse(r#"{"error":"no"}"#), [ChatEvent::Failed("no".to_owned())]);
        assert!(parse("[1]").is_empty() && parse("{}").is_empty());
    }

    #[test]
    fn figures_of_a_model() {
        let stats = json!({
            "budget_bytes": 1000,
            "process": { "resident_bytes": 500 },
            "models": [{
                "name": "m", "tok_s": 12.5, "share_of_bound": 0.5, "context_length": 4096, "streamed": true,
                "bytes_read_per_token": 2048.0, "memory": [{ "what": "KV cache", "bytes": 7 }],
                "placement": [{ "pinned": 1, "streamed": 3, "experts": 0 }, { "pinned": 0, "streamed": 4, "experts": 0 }],
            }],
        });
        let figures = Figures::of(&stats, "m").unwrap();
        assert_eq!((figures.pinned_share, figures.n_layers), (Some(0.125), 1));
        let full = figures.in_full();
        assert!(
            full.contains("50 % of the bound") && full.contains("KV cache") && full.contains("2.0 KiB read"),
            "{full}"
        );
        assert_eq!(Figures::of(&stats, "other"), None);
        assert_eq!(Figures::of(&json!([]), "m"), None);
    }
}
