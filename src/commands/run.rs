//! `rawrz run MODEL`

use crate::cli::{self, Limits, RunArgs, SamplingArgs};
use crate::exit::{Interrupted, Usage};
use crate::output::Output;
use crate::progress::{Passes, Progress};
use crate::{interrupt, locate, prompt, report};
use anyhow::Context;
use rawrz_engine::{
    Cancel, Engine, Event, FinishReason, GenerateOptions, Generated, KvType, OpenError, OpenOptions,
    Precision, RunError, SamplerOptions, Session, generate, process_memory,
};
use rawrz_text::{ChatTemplate, TokenId};
use serde_json::{Value as Json, json};
use std::hash::{BuildHasher, RandomState};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn main(args: &RunArgs) -> anyhow::Result<()> {
    let path = locate::model(&args.model)?;
    let text = prompt::text(args)?;
    let engine = open(&path, &args.limits, args.ctx)?;
    report::kv_notes(&engine, &args.limits);
    let tokens = prompt_tokens(&engine, args, &text)?;
    let cancel = interrupt::cancel_on_signal()?;
    // Without a seed of the user's we draw one ourselves, so that it can be reported and used again.
    let seed = args.sampling.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampler: sampler(&args.sampling, seed),
        stop: args.stop.clone(),
        logprobs: (args.logprobs > 0).then_some(args.logprobs),
        ignore_eog: false,
    };
    if args.json {
        let generated = answer(&engine, &tokens, &options, &cancel, None)?;
        Output::new().json(&as_json(&engine, &generated, seed))?;
        return finished(&generated);
    }
    let mut out = Output::new();
    let generated = answer(&engine, &tokens, &options, &cancel, Some(&mut out))?;
    out.finish_line()?;
    eprintln!("{}", report::speed(&generated));
    finished(&generated)
}

/// How to open a model, as the flags say.
pub(crate) fn options(limits: &Limits, ctx: Option<usize>) -> OpenOptions {
    OpenOptions {
        memory_bytes: limits.memory,
        threads: limits.threads,
        ctx_len: ctx,
        precision: match limits.precision {
            cli::Precision::Quantized => Precision::Quantized,
            cli::Precision::Float => Precision::Float,
        },
        kv_type: limits.kv_type.map(|ty| match ty {
            cli::KvType::F16 => KvType::F16,
            cli::KvType::Q8_0 => KvType::Q8_0,
            cli::KvType::Q4_0 => KvType::Q4_0,
        }),
        kv_spill: limits.kv_spill.clone(),
        ..OpenOptions::default()
    }
}

/// Opens a model; a refusal says which flag helps.
pub(crate) fn open(path: &Path, limits: &Limits, ctx: Option<usize>) -> anyhow::Result<Arc<Engine>> {
    Engine::open(path, &options(limits, ctx)).map_err(|error| match error {
        OpenError::Budget(below) => {
            let floor = below.ledger.total_bytes();
            let spill = match (ctx, &limits.kv_spill) {
                (Some(_), None) => ", or --kv-spill and a folder for the KV cache",
                _ => "",
            };
            anyhow::anyhow!("{below}; give --memory {floor} or more, or a smaller --ctx or model{spill}")
        }
        error => error.into(),
    })
}

fn prompt_tokens(engine: &Engine, args: &RunArgs, text: &str) -> anyhow::Result<Vec<TokenId>> {
    if args.raw {
        return prompt::raw(engine, text);
    }
    let fallback = args.chat_fallback.then(ChatTemplate::fallback);
    let own = match engine.chat_template() {
        // What was asked for stands in for a template that does not work as well as for none.
        Err(_) if fallback.is_some() => None,
        other => {
            other.context("--raw runs this model without its chat template, --chat-fallback with ChatML")?
        }
    };
    match own.or(fallback.as_ref()) {
        Some(template) => prompt::chat(engine, template, args.system.as_deref(), text),
        None if args.system.is_some() => {
            let problem = "this model has no chat template for --system; add --chat-fallback for ChatML";
            Err(Usage(problem.into()).into())
        }
        None => {
            eprintln!(
                "note: this model has no chat template, so the prompt goes in as it is (as with --raw)"
            );
            prompt::raw(engine, text)
        }
    }
}

/// Generates on a new session, streaming the text to `out` when there is one.
pub(crate) fn answer(
    engine: &Arc<Engine>,
    prompt: &[TokenId],
    options: &GenerateOptions,
    cancel: &Cancel,
    mut out: Option<&mut Output>,
) -> anyhow::Result<Generated> {
    let mut session = Session::new(engine).context("a session cannot begin")?;
    let mut written = Ok(());
    let mut reading = None;
    let mut passes = Some(Passes::watch(engine));
    let mut on_event = |event: Event<'_>| match event {
        // One line of progress at a time: of a streamed model, that of its passes.
        Event::Prompt { done, total } if done < total && !engine.is_streamed() => {
            reading.get_or_insert_with(|| Progress::steps("prompt tokens", total as u64)).at(done as u64);
        }
        Event::Prompt { .. } => reading = None,
        Event::Text(text) => {
            if out.is_some() && std::io::stdout().is_terminal() {
                // Text and progress would write over each other.
                passes = None;
            }
            if let (Some(out), Ok(())) = (&mut out, &written) {
                written = out.text(text);
                if written.is_err() {
                    // Nobody reads on.
                    cancel.cancel();
                }
            }
        }
    };
    let generated = generate(&mut session, prompt, options, cancel, &mut on_event);
    drop((reading, passes));
    written?;
    match generated {
        Err(error @ RunError::Pass(_)) => {
            Err(anyhow::Error::new(error).context("the model could not be run"))
        }
        other => Ok(other?),
    }
}

/// Ctrl-C is told by the exit code.
pub(crate) fn finished(generated: &Generated) -> anyhow::Result<()> {
    match generated.finish {
        FinishReason::Cancelled => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

fn sampler(args: &SamplingArgs, seed: u64) -> SamplerOptions {
    SamplerOptions {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        seed: Some(seed),
        ..SamplerOptions::default()
    }
}

fn as_json(engine: &Engine, generated: &Generated, seed: u64) -> Json {
    let logprobs: Vec<Vec<Json>> = generated
        .logprobs
        .iter()
        .map(|step| step.top.iter().map(|token| json!({"id": token.id, "logprob": token.logprob})).collect())
        .collect();
    json!({
        "text": generated.text,
        "tokens": generated.tokens,
        "prompt_tokens": generated.prompt_tokens,
        "logprobs": logprobs,
        "finish": match generated.finish {
            FinishReason::EndOfGeneration => "end",
            FinishReason::Stop => "stop",
            FinishReason::MaxTokens => "length",
            FinishReason::ContextFull => "context",
            FinishReason::Cancelled => "interrupted",
        },
        "seed": seed,
        "load_ms": engine.load_time().as_secs_f64() * 1e3,
        "prefill_tok_s": generated.prefill_tokens_per_second(),
        "decode_tok_s": generated.decode_tokens_per_second(),
        "peak_memory_bytes": process_memory().peak_resident,
        "budget_bytes": engine.budget_bytes(),
        "kv_type": engine.kv_type().to_string(),
        "kv_resident_tokens": report::kv_resident_tokens(engine),
    })
}
