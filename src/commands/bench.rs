//! `rawrz bench MODEL`
//!
//! The pages of the file are in memory: a run before the first repetition brings them in. Each repetition maps it
//! anew, so that the time to the first token has the page faults of a fresh start, and prefill and decode have none.

use crate::cli::BenchArgs;
use crate::commands::run;
use crate::exit::Interrupted;
use crate::output::Output;
use crate::progress::Passes;
use crate::{interrupt, locate, report};
use anyhow::Context;
use rawrz_engine::{
    Cancel, ChoiceStats, Engine, Isa, KvType, RunError, Session, Size, Traffic, process_memory,
};
use rawrz_text::TokenId;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Into how many spells a decode is cut, between which weights are read without computing to know what disk or memory deliver.
const SPELLS: usize = 8;

/// How long a disk is read for that each time, at least and at most.
const DISK_PROBE_TIME: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Tokens of the run that warms up.
const WARM_UP_TOKENS: usize = 8;

pub(crate) fn main(args: &BenchArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let cancel = interrupt::cancel_on_signal()?;
    let measured = match measure(&path, args, &cancel) {
        Err(error) if matches!(error.downcast_ref(), Some(RunError::Cancelled)) => {
            return Err(Interrupted.into());
        }
        other => other?,
    };
    let mut out = Output::new();
    let peak = process_memory().peak_resident;
    if args.json {
        // Rates of what was left out are null.
        return out.json(&json!({
            "load_ms": measured.load_ms,
            "first_token_ms": measured.first_token_ms,
            "prefill_tok_s": measured.prefill_tok_s,
            "decode_tok_s": measured.decode_tok_s,
            "bound_decode_tok_s": measured.bound_decode_tok_s(),
            "share_of_bound": measured.share_of_bound(),
            "read_bytes_per_s": measured.memory_bytes_per_s,
            "weight_bytes_per_token": measured.traffic.touched_bytes,
            "streamed_bytes_per_token": measured.streamed_bytes_per_token(),
            "disk_bytes_per_s": measured.disk.as_ref().map(|disk| disk.bytes_per_s),
            "direct_reads": measured.disk.as_ref().map(|disk| disk.is_direct),
            "stalled_share": measured.disk.as_ref().map(|disk| disk.stalled_share),
            "expert_hit_rate": measured.hit_rate,
            "pinned_bytes": measured.pinned_bytes,
            "peak_memory_bytes": peak,
            "prompt_tokens": args.prompt,
            "tokens": args.tokens,
            "reps": args.reps,
            "threads": measured.threads,
            "kernels": measured.isa.name(),
            "kv_type": measured.kv_type.to_string(),
            "kv_resident_tokens": measured.kv_resident_tokens,
        }));
    }
    let Measured { load_ms, first_token_ms, threads, isa, .. } = measured;
    out.line(&format!("medians of {}, {threads} threads, {isa} kernels", args.reps))?;
    out.line(&format!("  load         {load_ms:10.1} ms"))?;
    out.line(&format!(
        "  first token  {first_token_ms:10.1} ms from the start of loading, prompt of 1 token"
    ))?;
    if let Some(rate) = measured.prefill_tok_s {
        out.line(&format!("  prefill      {rate:10.1} tok/s, {} tokens", args.prompt))?;
    }
    if let Some(rate) = measured.decode_tok_s {
        out.line(&format!("  decode       {rate:10.2} tok/s, {} tokens", args.tokens))?;
    }
    out.line(&format!(
        "  bound        {:10.2} tok/s: {}",
        measured.bound_decode_tok_s(),
        measured.what_bounds()
    ))?;
    if let Some(share) = measured.share_of_bound() {
        out.line(&format!("  share        {:10.1} % of the bound", share * 100.0))?;
    }
    if let Some(peak) = peak {
        out.line(&format!("  peak memory  {:>10}", Size(peak).to_string()))?;
    }
    Ok(())
}

/// Medians over the repetitions.
struct Measured {
    load_ms: f64,
    first_token_ms: f64,
    prefill_tok_s: Option<f64>,
    decode_tok_s: Option<f64>,
    traffic: Traffic,
    /// The best that was seen: a bound is what can be had.
    memory_bytes_per_s: f64,
    /// Where weights are streamed.
    disk: Option<Disk>,
    spells: Vec<Spell>,
    /// Part of the experts' bytes that decoding found in memory; `None` without experts.
    hit_rate: Option<f64>,
    pinned_bytes: u64,
    threads: usize,
    isa: Isa,
    kv_type: KvType,
    kv_resident_tokens: Option<usize>,
}

/// The disk that weights are streamed from.
struct Disk {
    /// Read as passes read it, without computing, in turns with decoding: the mean.
    bytes_per_s: f64,
    is_direct: bool,
    /// Part of the time of decoding in which it waited for bytes.
    stalled_share: f64,
}

/// Some tokens, and bytes in a second that the disk, or where weights are mapped the memory, delivered before and after them.
struct Spell {
    tok_s: f64,
    before: f64,
    after: f64,
}

impl Spell {
    fn bytes_per_s(&self) -> f64 {
        (self.before + self.after) / 2.0
    }
}

impl Measured {
    fn bound_decode_tok_s(&self) -> f64 {
        let disk_bytes_per_s = self.disk.as_ref().map_or(f64::INFINITY, |disk| disk.bytes_per_s);
        self.bound(disk_bytes_per_s, self.memory_bytes_per_s)
    }

    fn bound(&self, disk_bytes_per_s: f64, memory_bytes_per_s: f64) -> f64 {
        self.traffic.bound(self.hit_rate.unwrap_or(1.0), disk_bytes_per_s, memory_bytes_per_s)
    }

    fn streamed_bytes_per_token(&self) -> u64 {
        self.traffic.read_bytes(self.hit_rate.unwrap_or(1.0)) as u64
    }

    /// The median of shares for some tokens, each of what was delivered then: the speed of a disk or of memory that others use,
    /// too, changes by more than what is to be seen.
    fn share_of_bound(&self) -> Option<f64> {
        let bound = |delivered| match &self.disk {
            Some(_) => self.bound(delivered, self.memory_bytes_per_s),
            None => self.bound(f64::INFINITY, delivered),
        };
        median(self.spells.iter().map(|spell| spell.tok_s / bound(spell.bytes_per_s())).collect())
    }

    fn what_bounds(&self) -> String {
        let memory = format!(
            "{} of weights for each token, read at {:.1} GB/s",
            Size(self.traffic.touched_bytes),
            self.memory_bytes_per_s / 1e9
        );
        let Some(disk) = &self.disk else { return memory };
        let hits = self.hit_rate.map(|rate| format!(", {:.0} % of the experts in memory", rate * 100.0));
        format!(
            "{} from the disk for each token, at {:.2} GB/s{}{}; {memory}",
            Size(self.streamed_bytes_per_token()),
            disk.bytes_per_s / 1e9,
            if disk.is_direct { "" } else { " through the page cache" },
            hits.unwrap_or_default()
        )
    }
}

fn measure(path: &Path, args: &BenchArgs, cancel: &Cancel) -> anyhow::Result<Measured> {
    let ctx = args.prompt.max(args.tokens + SPELLS).max(WARM_UP_TOKENS);
    let open = || run::open(path, &args.limits, Some(ctx));
    let warm = open()?;
    report::kv_notes(&warm, &args.limits);
    let (kv_type, kv_resident_tokens) = (warm.kv_type(), report::kv_resident_tokens(&warm));
    let (threads, isa, traffic) = (warm.n_threads(), warm.isa(), warm.traffic());
    let is_streamed = warm.is_streamed();
    let pinned_bytes = warm.placement().map_or(0, |placement| placement.pinned_bytes);
    let mut memory_bytes_per_s =
        if is_streamed { warm.probe_memory(report::PROBED_MEMORY_BYTES) } else { 0.0 };
    if !is_streamed {
        // Past the page cache there is nothing to warm.
        prefill(&warm, WARM_UP_TOKENS, cancel)?;
    }
    drop(warm);

    let (mut loads, mut first_tokens) = (Vec::new(), Vec::new());
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    let (mut stalled_shares, mut spells, mut is_direct) = (Vec::new(), Vec::new(), true);
    let mut choices = ChoiceStats::default();
    for _ in 0..args.reps {
        let started = Instant::now();
        let engine = open()?;
        let _passes = Passes::watch(&engine);
        prefill(&engine, 1, cancel)?;
        first_tokens.push(started.elapsed().as_secs_f64() * 1e3);
        loads.push(engine.load_time().as_secs_f64() * 1e3);
        if args.prompt > 0 {
            prefills.push(args.prompt as f64 / prefill(&engine, args.prompt, cancel)?.as_secs_f64());
        }
        if args.tokens > 0 {
            let decoded = decode(&engine, args.tokens, cancel)?;
            decodes.push(args.tokens as f64 / decoded.time.as_secs_f64());
            choices.hits += decoded.choices.hits;
            choices.misses += decoded.choices.misses;
            spells.extend(decoded.spells);
            if is_streamed {
                stalled_shares.push(decoded.stalled.as_secs_f64() / decoded.time.as_secs_f64());
                is_direct &= engine.reads_directly().unwrap_or(true);
            }
        } else if !is_streamed {
            memory_bytes_per_s = memory_bytes_per_s.max(delivered(&engine, Duration::ZERO)?);
        }
    }
    if !is_streamed {
        let seen = spells.iter().flat_map(|spell| [spell.before, spell.after]);
        memory_bytes_per_s = seen.fold(memory_bytes_per_s, f64::max);
    }
    let at_least_one = "there is at least one repetition";
    let taken = choices.hits + choices.misses;
    Ok(Measured {
        load_ms: median(loads).context(at_least_one)?,
        first_token_ms: median(first_tokens).context(at_least_one)?,
        prefill_tok_s: median(prefills),
        decode_tok_s: median(decodes),
        traffic,
        memory_bytes_per_s,
        disk: median(stalled_shares).map(|stalled_share| Disk {
            bytes_per_s: spells.iter().map(Spell::bytes_per_s).sum::<f64>() / spells.len() as f64,
            is_direct,
            stalled_share,
        }),
        spells,
        hit_rate: (taken > 0).then(|| choices.hits as f64 / taken as f64),
        pinned_bytes,
        threads,
        isa,
        kv_type,
        kv_resident_tokens,
    })
}

/// Time to read a prompt of `n_tokens` into an empty context, with the logits after it.
fn prefill(engine: &Arc<Engine>, n_tokens: usize, cancel: &Cancel) -> anyhow::Result<Duration> {
    let mut session = Session::new(engine)?;
    let tokens = tokens(engine, n_tokens);
    let started = Instant::now();
    session.sync(&tokens, cancel)?;
    Ok(started.elapsed())
}

/// What running tokens one by one took.
#[derive(Default)]
struct Decoded {
    time: Duration,
    /// Of the time, how long it waited for weights.
    stalled: Duration,
    choices: ChoiceStats,
    spells: Vec<Spell>,
}

/// Runs `n_tokens` tokens one by one from an empty context. Sampling is left out, as in llama-bench.
///
/// A disk or a memory that others use, too, is seldom the same, so it is measured between tokens; the token after each
/// measurement, for which nothing was read ahead or mapped, is left out.
fn decode(engine: &Arc<Engine>, n_tokens: usize, cancel: &Cancel) -> anyhow::Result<Decoded> {
    let mut session = Session::new(engine)?;
    let n_spells = SPELLS.min(n_tokens);
    let tokens = tokens(engine, n_tokens + n_spells);
    let stats = || engine.stream_stats().unwrap_or_default();
    let (mut done, mut decoded) = (0, Decoded::default());
    let mut before = delivered(engine, DISK_PROBE_TIME.0)?;
    for spell in 0..n_spells {
        let n = (spell + 1) * n_tokens / n_spells - spell * n_tokens / n_spells;
        session.sync(&tokens[..done + 1], cancel)?;
        let (stats_before, started) = (stats(), Instant::now());
        for i in 2..=n + 1 {
            session.sync(&tokens[..done + i], cancel)?;
        }
        let (time, passed) = (started.elapsed(), stats().since(&stats_before));
        decoded.time += time;
        decoded.stalled += passed.stalled;
        decoded.choices.hits += passed.choices.hits;
        decoded.choices.misses += passed.choices.misses;
        done += n + 1;
        // Disks of virtual machines may be faster for a moment than they are for long.
        let after = delivered(engine, (time / 4).clamp(DISK_PROBE_TIME.0, DISK_PROBE_TIME.1))?;
        decoded.spells.push(Spell { tok_s: n as f64 / time.as_secs_f64(), before, after });
        before = after;
    }
    Ok(decoded)
}

/// Bytes in a second that come to one who does not compute: from the disk, read for `time`, where weights are streamed, else
/// from memory, read once.
fn delivered(engine: &Engine, time: Duration) -> anyhow::Result<f64> {
    if let Some(bytes_per_s) = engine.probe_disk(time)? {
        return Ok(bytes_per_s);
    }
    let (bytes, time) = engine.sweep_weights()?;
    Ok(bytes as f64 / time.as_secs_f64())
}

/// Tokens all over the vocabulary: which ones has no influence on the time.
fn tokens(engine: &Engine, n: usize) -> Vec<TokenId> {
    let vocab_len = engine.config().vocab_len as u64;
    (0..n as u64).map(|i| ((i * 7919 + 13) % vocab_len) as TokenId).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0, 5.0, 4.0]), Some(4.5));
    }
}
