//! `rawrz plan MODEL --memory B`

use crate::cli::PlanArgs;
use crate::commands::run;
use crate::disks::Disks;
use crate::output::Output;
use crate::{locate, report};
use rawrz_engine::{Engine, Ledger, Placement, Size, StagePlacement};
use serde_json::json;
use std::time::Duration;

/// How long the disk is read to know what it delivers.
const DISK_PROBE_TIME: Duration = Duration::from_secs(1);

pub(crate) fn main(args: &PlanArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let engine = run::open(&path, &args.limits, args.ctx)?;
    report::kv_notes(&engine, &args.limits);
    let floor = engine.smallest_ledger();
    let memory = engine.probe_memory(report::PROBED_MEMORY_BYTES);
    let disk = disk(&engine, args.probe)?;
    let traffic = engine.traffic();
    let hit_rate = traffic.expected_hit_rate;
    let disk_rate = disk.as_ref().map_or(f64::INFINITY, |disk| disk.bytes_per_s);
    let bound = traffic.bound(hit_rate, disk_rate, memory);
    let mut out = Output::new();
    if args.json {
        return out.json(&json!({
            "budget_bytes": engine.budget_bytes(),
            "floor_bytes": floor.total_bytes(),
            "route": if engine.is_streamed() { "streamed" } else { "mapped" },
            "context_len": engine.context_len(),
            "batch_len": engine.batch_len(),
            "kv_type": engine.kv_type().to_string(),
            "kv_resident_tokens": report::kv_resident_tokens(&engine),
            "ledger": as_json(engine.ledger()),
            "floor": as_json(floor),
            "pinned_bytes": engine.placement().map_or(0, |placement| placement.pinned_bytes),
            "weight_bytes_per_token": traffic.touched_bytes,
            "streamed_bytes_per_token": traffic.read_bytes(hit_rate) as u64,
            "expected_expert_hit_rate": (traffic.picked_bytes > 0).then_some(hit_rate),
            "disk_bytes_per_s": disk.as_ref().map(|disk| disk.bytes_per_s),
            "direct_reads": engine.reads_directly(),
            "memory_bytes_per_s": memory,
            "bound_decode_tok_s": bound,
            "stages": engine.placement().map(|placement| placement.stages.iter().map(|stage| json!({
                "pinned": stage.pinned, "streamed": stage.streamed, "experts": stage.alternatives,
            })).collect::<Vec<_>>()),
        }));
    }
    out.line(&table("floor", floor))?;
    out.line(&table("plan", engine.ledger()))?;
    out.line(&format!("  {:<34} {:>12}", "budget", Size(engine.budget_bytes()).to_string()))?;
    out.line(&format!(
        "context of {} tokens; prompts are read up to {} tokens at a time",
        engine.context_len(),
        engine.batch_len()
    ))?;
    match engine.placement() {
        None => out.line("weights are mapped: all of them fit")?,
        Some(placement) => out.line(&layers(&placement, engine.config().n_layers))?,
    }
    if let Some(disk) = disk {
        out.line(&format!(
            "disk {:.2} GB/s, {}{}",
            disk.bytes_per_s / 1e9,
            match engine.reads_directly() {
                Some(false) => "through the page cache (the file system refuses direct reads)",
                _ => "past the page cache",
            },
            if disk.is_remembered { ", as measured before (--probe measures again)" } else { "" },
        ))?;
    }
    let experts = match traffic.picked_bytes {
        0 => String::new(),
        _ => format!(" ({:.0} % of the experts in memory, if all are taken alike)", hit_rate * 100.0),
    };
    out.line(&format!(
        "a token touches {}, {} of it from the disk{experts}\nbound {bound:.2} tok/s",
        Size(traffic.touched_bytes),
        Size(traffic.read_bytes(hit_rate) as u64)
    ))
}

/// What a disk delivers.
struct Rate {
    bytes_per_s: f64,
    /// Measured at another time.
    is_remembered: bool,
}

/// Looked up, or measured and remembered; `None` when nothing is streamed.
fn disk(engine: &Engine, measure: bool) -> anyhow::Result<Option<Rate>> {
    if !engine.is_streamed() {
        return Ok(None);
    }
    let disks = Disks::of_user();
    let known = engine.device().filter(|_| !measure).and_then(|device| disks.get(device));
    if let Some(bytes_per_s) = known {
        return Ok(Some(Rate { bytes_per_s, is_remembered: true }));
    }
    let measured = engine.probe_disk(DISK_PROBE_TIME)?.filter(|rate| rate.is_finite());
    if let (Some(device), Some(rate)) = (engine.device(), measured) {
        disks.set(device, rate);
    }
    Ok(measured.map(|bytes_per_s| Rate { bytes_per_s, is_remembered: false }))
}

fn as_json(ledger: &Ledger) -> serde_json::Value {
    let value = |bytes: u64| serde_json::Value::from(bytes);
    ledger.entries().iter().map(|entry| (entry.what.to_owned(), value(entry.bytes))).collect()
}

fn table(title: &str, ledger: &Ledger) -> String {
    let row = |what: &str, bytes: u64| format!("  {what:<34} {:>12}", Size(bytes).to_string());
    let mut lines = vec![title.to_owned()];
    lines.extend(ledger.entries().iter().map(|entry| row(entry.what, entry.bytes)));
    lines.push(row("together", ledger.total_bytes()));
    lines.join("\n")
}

/// A line for each run of layers that are placed alike.
fn layers(placement: &Placement, n_layers: usize) -> String {
    let percent = |stage: &StagePlacement| {
        let all = (stage.pinned + stage.streamed).max(1);
        (stage.pinned as f64 / all as f64 * 100.0).round() as u64
    };
    let line = |first: usize, last: usize, stage: &StagePlacement| {
        let name = match (first == n_layers, first == last) {
            (true, _) => "head".to_owned(),
            (_, true) => format!("layer {first}"),
            _ => format!("layers {first} to {last}"),
        };
        let experts = match stage.alternatives {
            0 => String::new(),
            bytes => format!(", {} of experts through their cache", Size(bytes)),
        };
        format!(
            "  {name:<18} {:>3} % pinned, {} streamed for each token{experts}",
            percent(stage),
            Size(stage.streamed)
        )
    };
    let mut lines = vec!["weights are streamed".to_owned()];
    let stages = &placement.stages;
    let mut first = 0;
    for i in 1..=stages.len() {
        let alike =
            |stage: &StagePlacement| i != n_layers && percent(stage).abs_diff(percent(&stages[first])) <= 5;
        if !stages.get(i).is_some_and(alike) {
            lines.push(line(first, i - 1, &stages[first]));
            first = i;
        }
    }
    lines.join("\n")
}
