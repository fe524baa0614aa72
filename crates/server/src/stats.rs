//! What the server tells of itself: figures for the page, metrics for Prometheus, health, and the list of endpoints.

use crate::details::Details;
use crate::http;
use crate::ollama::{VERSION, expires_at};
use crate::registry::Loaded;
use crate::state::{Shared, blocking};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use rawrz_engine::{ProcessMemory, process_memory};
use serde_json::{Value as Json, json};
use std::fmt::Write;
use std::sync::atomic::Ordering;

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/rawrz/stats", get(stats))
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { http::answer(StatusCode::OK, &json!({"status": "ok"})) }))
        .route("/ready", get(ready))
        .route("/openapi.json", get(|| async { http::answer(StatusCode::OK, &crate::openapi::document()) }))
}

async fn ready(State(state): State<Shared>) -> Response {
    match state.is_ending() {
        true => http::answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "shutting down"})),
        false => http::answer(StatusCode::OK, &json!({"status": "ok"})),
    }
}

async fn stats(State(state): State<Shared>) -> Response {
    let told = blocking(move || {
        let models: Vec<Json> = state.registry.loaded().iter().map(|loaded| model(loaded)).collect();
        let memory = process_memory();
        let of_server =
            state.memory.lines().into_iter().map(|(what, bytes)| json!({"what": what, "bytes": bytes}));
        Ok(json!({
            "version": VERSION,
            "uptime_s": state.started.elapsed().as_secs_f64(),
            "budget_bytes": state.registry.budget_bytes(),
            "memory": of_server.collect::<Vec<_>>(),
            "process": {"resident_bytes": resident(&memory), "peak_resident_bytes": memory.peak_resident},
            "loading": state.registry.loading(),
            "models": models,
        }))
    });
    match told.await {
        Ok(told) => http::answer(StatusCode::OK, &told),
        Err(error) => http::failure(&error, &json!({"error": error.message})),
    }
}

fn model(loaded: &Loaded) -> Json {
    let (engine, stats) = (loaded.engine(), loaded.scheduler.stats());
    let details = Details::read(&loaded.path).ok();
    let traffic = engine.traffic();
    let (disk, memory) = loaded.bandwidth;
    let streamed = engine.stream_stats();
    let n_tokens = stats.prompt_tokens + stats.made_tokens;
    let read_bytes = streamed.as_ref().map_or(0, |stats| stats.bytes_read);
    let hit_rate = traffic.expected_hit_rate;
    let bound = traffic.bound(hit_rate, disk.unwrap_or(f64::INFINITY), memory);
    let line = |what: &str, bytes: u64| json!({"what": what, "bytes": bytes});
    let entries = engine.ledger().entries().iter();
    let mut by_kind: Vec<Json> = entries.map(|entry| line(entry.what, entry.bytes)).collect();
    by_kind.push(line("grammars", loaded.grammar_plan.bytes));
    let placement: Vec<Json> = engine.placement().map_or_else(Vec::new, |placement| {
        let stage = |stage: &rawrz_engine::StagePlacement| {
            json!({"pinned": stage.pinned, "streamed": stage.streamed, "experts": stage.alternatives})
        };
        placement.stages.iter().map(stage).collect()
    });
    json!({
        "name": loaded.name,
        "architecture": engine.config().architecture,
        "file_bytes": details.as_ref().map(|details| details.file_bytes),
        "quantization": details.as_ref().map(|details| details.about.file_type),
        "context_length": engine.context_len(),
        "expires_at": expires_at(loaded),
        "streamed": engine.is_streamed(),
        "memory": by_kind,
        "budget_bytes": engine.budget_bytes().saturating_add(loaded.grammar_plan.bytes),
        "kv_bytes_in_use": engine.kv_bytes_in_use(),
        "placement": placement,
        "threads": engine.n_threads(),
        "running": stats.n_running,
        "queued": stats.n_queued,
        "idle_caches": stats.n_idle,
        "saved_caches": stats.n_saved,
        "save_problem": stats.save_problem,
        "prompt_tok_s": stats.rates.prompt_tok_s,
        "tok_s": stats.rates.made_tok_s,
        "passes_s": stats.rates.passes_s,
        "bytes_touched_per_pass": traffic.touched_bytes,
        "bytes_read_per_token": if n_tokens == 0 { 0.0 } else { read_bytes as f64 / n_tokens as f64 },
        "bound_tok_s": bound,
        "share_of_bound": stats.rates.passes_s / bound,
        "totals": {
            "requests": stats.n_ended,
            "passes": stats.n_passes,
            "prompt_tokens": stats.prompt_tokens,
            "reused_tokens": stats.reused_tokens,
            "tokens": stats.made_tokens,
            "preempted": stats.n_preempted,
        },
    })
}

async fn metrics(State(state): State<Shared>) -> Response {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        let _ = writeln!(text, "# HELP rawrz_{name} {help}\n# TYPE rawrz_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "rawrz_{name}{labels} {value}");
        }
    };
    let plain = |value: f64| vec![(String::new(), value)];
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) as f64;
    metric("http_requests_total", "counter", "Requests that came in.", &plain(count(&state.n_requests)));
    metric(
        "http_refused_total",
        "counter",
        "Requests refused for Host, Origin or key.",
        &plain(count(&state.n_refused)),
    );
    metric("uptime_seconds", "gauge", "Time since the start.", &plain(state.started.elapsed().as_secs_f64()));
    if let Some(resident) = resident(&process_memory()) {
        metric("resident_bytes", "gauge", "Memory of the process.", &plain(resident as f64));
    }
    if let Some(budget) = state.registry.budget_bytes() {
        metric("budget_bytes", "gauge", "The ceiling for everything.", &plain(budget as f64));
    }
    let loaded = state.registry.loaded();
    let all: Vec<_> =
        loaded.iter().map(|loaded| (label(&loaded.name), loaded.scheduler.stats(), loaded)).collect();
    let mut of_each = |name: &str,
                       kind: &str,
                       help: &str,
                       value: &dyn Fn(&rawrz_engine::SchedulerStats, &Loaded) -> f64| {
        let values: Vec<_> =
            all.iter().map(|(label, stats, loaded)| (label.clone(), value(stats, loaded))).collect();
        metric(name, kind, help, &values);
    };
    of_each("requests_running", "gauge", "Requests under way.", &|stats, _| stats.n_running as f64);
    of_each("requests_queued", "gauge", "Requests that wait.", &|stats, _| stats.n_queued as f64);
    of_each("requests_total", "counter", "Requests that ended.", &|stats, _| stats.n_ended as f64);
    of_each("passes_total", "counter", "Passes over the weights.", &|stats, _| stats.n_passes as f64);
    of_each("prompt_tokens_total", "counter", "Prompt tokens computed.", &|stats, _| {
        stats.prompt_tokens as f64
    });
    of_each("reused_tokens_total", "counter", "Prompt tokens found in a cache.", &|stats, _| {
        stats.reused_tokens as f64
    });
    of_each("tokens_total", "counter", "Tokens made.", &|stats, _| stats.made_tokens as f64);
    of_each("preempted_total", "counter", "Caches dropped to make room.", &|stats, _| {
        stats.n_preempted as f64
    });
    of_each("kv_bytes", "gauge", "Memory of KV caches.", &|_, loaded| {
        loaded.engine().kv_bytes_in_use() as f64
    });
    of_each("read_bytes_total", "counter", "Weights read from the disk.", &|_, loaded| {
        loaded.engine().stream_stats().map_or(0.0, |stats| stats.bytes_read as f64)
    });
    http::body(StatusCode::OK, "text/plain; version=0.0.4", Body::from(text))
}

/// Bytes in memory now, where the system tells.
fn resident(memory: &ProcessMemory) -> Option<u64> {
    Some(memory.anonymous? + memory.file_backed?)
}

/// `{model="NAME"}`
fn label(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{model=\"{name}\"}}")
}
