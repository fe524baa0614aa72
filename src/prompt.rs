//! What the user typed, as the tokens that a model answers.

use crate::cli::RunArgs;
use crate::exit::Usage;
use anyhow::Context;
use rawrz_engine::Engine;
use rawrz_text::{ChatInput, ChatTemplate, EncodeOptions, LocalTime, Message, TokenId};
use std::io::{IsTerminal, Read};

/// The prompt of `-p`, else standard input less one line end at its end (`echo` puts one there).
pub(crate) fn text(args: &RunArgs) -> anyhow::Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    if std::io::stdin().is_terminal() {
        return Err(Usage("no prompt: give one with -p TEXT, or on standard input".into()).into());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read the prompt from standard input")?;
    let mut text =
        String::from_utf8(bytes).context("the prompt on standard input is not UTF-8; convert it first")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// The tokens of `text` as it is, control tokens in it included.
pub(crate) fn raw(engine: &Engine, text: &str) -> anyhow::Result<Vec<TokenId>> {
    let options = EncodeOptions { add_special: true, parse_special: true };
    Ok(engine.tokenizer().encode(text, options)?)
}

/// The tokens of a conversation that `template` lays out, up to where the answer begins.
pub(crate) fn chat(
    engine: &Engine,
    template: &ChatTemplate,
    system: Option<&str>,
    user: &str,
) -> anyhow::Result<Vec<TokenId>> {
    let mut messages = Vec::new();
    messages.extend(system.map(|text| Message::text("system", text)));
    messages.push(Message::text("user", user));
    let input =
        ChatInput { messages, add_generation_prompt: true, now: Some(local_time()), ..ChatInput::default() };
    let text = template
        .render(&input)
        .context("the model's chat template does not take this conversation; --raw goes without it")?;
    Ok(engine.tokenizer().encode_prompt(&text)?)
}

/// Some templates tell the model what day it is.
pub(crate) fn local_time() -> LocalTime {
    let now = chrono::Local::now();
    LocalTime { unix_s: now.timestamp(), utc_offset_s: now.offset().local_minus_utc() }
}
