//! What a run used: memory as the operating system counted it, and speed.

use crate::cli::Limits;
use rawrz_engine::{Engine, Generated, KvType, Size, process_memory};

/// Memory that is read to learn its speed: more than the caches of large processors hold.
pub(crate) const PROBED_MEMORY_BYTES: u64 = 1 << 30;

/// Says on standard error what was made of the KV cache so that the context fits, where the user did not say it.
pub(crate) fn kv_notes(engine: &Engine, limits: &Limits) {
    let context_len = engine.context_len();
    if limits.kv_type.is_none() && engine.kv_type() != KvType::F16 {
        eprintln!(
            "note: the KV cache is held as {} so that a context of {context_len} tokens fits (--kv-type chooses)",
            engine.kv_type()
        );
    }
    if let (Some(kept), Some(folder)) = (kv_resident_tokens(engine), &limits.kv_spill) {
        eprintln!(
            "note: the first {kept} of {context_len} tokens of the KV cache stay in memory, the rest goes to a file in {}",
            folder.display()
        );
    }
}

/// Tokens whose keys and values stay in memory; `None` where all do.
pub(crate) fn kv_resident_tokens(engine: &Engine) -> Option<usize> {
    engine.kv_spill().map(|plan| plan.resident_len())
}

/// The figures of a generation on one line.
pub(crate) fn speed(generated: &Generated) -> String {
    let mut line = format!(
        "{} prompt tokens at {:.1} tok/s, {} tokens made at {:.1} tok/s",
        generated.prompt_tokens,
        generated.prefill_tokens_per_second(),
        generated.tokens.len(),
        generated.decode_tokens_per_second()
    );
    if let Some(peak) = process_memory().peak_resident {
        line.push_str(&format!(", peak memory {}", Size(peak)));
    }
    line
}

/// What was planned for the budget, and what the operating system says was used.
pub(crate) fn memory(engine: &Engine) -> String {
    let mut rows: Vec<(String, u64)> = Vec::new();
    let ledger = engine.ledger();
    let mut lines = vec!["memory, as planned before the run".to_owned()];
    rows.push(("budget".into(), engine.budget_bytes()));
    rows.extend(ledger.entries().iter().map(|entry| (format!("  {}", entry.what), entry.bytes)));
    rows.push(("  together".into(), ledger.total_bytes()));
    lines.extend(rows.drain(..).map(row));

    let seen = process_memory();
    let kinds = [
        ("peak, resident", seen.peak_resident),
        ("  now: anonymous (KV cache, scratch, tokenizer)", seen.anonymous),
        ("  now: pages of files (weights, the program)", seen.file_backed),
    ];
    rows.extend(kinds.iter().filter_map(|(what, bytes)| Some(((*what).to_owned(), (*bytes)?))));
    lines.push(if rows.is_empty() {
        "this operating system does not tell what was used".to_owned()
    } else {
        "memory, as the operating system counted".to_owned()
    });
    lines.extend(rows.drain(..).map(row));
    lines.join("\n")
}

fn row((what, bytes): (String, u64)) -> String {
    format!("  {what:<50} {:>12}", Size(bytes).to_string())
}
