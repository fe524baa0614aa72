//! `rawrz demo`

use crate::cli::Limits;
use crate::commands::{pull, run};
use crate::fetch::Watch;
use crate::output::Output;
use crate::{catalog, interrupt, locate, prompt, report};
use anyhow::Context;
use rawrz_engine::{GenerateOptions, SamplerOptions};

const PROMPT: &str = "What is the water cycle?";

/// Ample for the default model with its KV cache, far below what a machine has.
const BUDGET_BYTES: u64 = 256 << 20;

pub(crate) fn main() -> anyhow::Result<()> {
    let model = catalog::DEFAULT;
    let path = locate::built_in_path(model)?;
    let is_here = path.try_exists().with_context(|| format!("cannot look at {}", path.display()))?;
    // Whatever is there was checked when it was fetched.
    let path = if is_here { path } else { pull::built_in(model, &Watch::default())? };

    let engine = run::open(&path, &Limits { memory: Some(BUDGET_BYTES), ..Limits::default() }, None)?;
    let template = engine.chat_template()?.context("the default model has lost its chat template")?;
    let tokens = prompt::chat(&engine, template, None, PROMPT)?;
    let cancel = interrupt::cancel_on_signal()?;
    // The most probable token each time: everyone sees the same answer.
    let options =
        GenerateOptions { max_tokens: 160, sampler: SamplerOptions::greedy(), ..GenerateOptions::default() };

    let mut out = Output::new();
    out.line(&format!("{} in a budget of 256 MiB\n\n> {PROMPT}\n", model.title))?;
    let generated = run::answer(&engine, &tokens, &options, &cancel, Some(&mut out))?;
    out.finish_line()?;
    out.line(&format!(
        "\n{}\nopened in {:.0} ms; {}",
        report::memory(&engine),
        engine.load_time().as_secs_f64() * 1e3,
        report::speed(&generated)
    ))?;
    run::finished(&generated)
}
