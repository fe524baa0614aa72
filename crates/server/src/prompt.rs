//! From a conversation to the tokens that a model continues.

use crate::answer::AnswerParser;
use crate::constrain::Grammar;
use crate::error::{ApiError, ApiResult};
use crate::registry::Loaded;
use crate::state::Named;
use crate::tools::{Thought, Tools};
use rawrz_text::{ChatInput, ChatTemplate, EncodeOptions, Json, LocalTime, Message, TokenId, ToolCall};
use serde_json::Value;
use std::borrow::Cow;

/// A conversation, in no dialect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Tools,
    /// Whether to think, where the model can do either.
    pub(crate) think: Option<bool>,
    /// Drop the oldest messages that do not fit, never those of the system; else a conversation that is too long is
    /// refused.
    pub(crate) truncate: bool,
}

/// What to continue.
#[derive(Clone)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) parser: AnswerParser,
    /// What has to follow.
    pub(crate) grammar: Option<Grammar>,
    /// Messages that were dropped.
    pub(crate) n_dropped: usize,
}

impl Prompt {
    /// Tokens whose answer is text and nothing else.
    pub(crate) fn of(tokens: Vec<TokenId>) -> Prompt {
        Prompt { tokens, parser: AnswerParser::plain(), grammar: None, n_dropped: 0 }
    }
}

/// The template of a model: its own, or what `create` put in its place.
fn template<'a>(model: &Named, loaded: &'a Loaded) -> ApiResult<Option<Cow<'a, str>>> {
    if let Some(source) = model.created.as_ref().and_then(|created| created.template.clone()) {
        return Ok(Some(source.into()));
    }
    Ok(loaded.engine().chat_template()?.map(|template| template.source().into()))
}

/// Whether a model's template knows thoughts.
pub(crate) fn may_think(model: &Named, loaded: &Loaded) -> bool {
    template(model, loaded).ok().flatten().is_some_and(|source| source.contains("<think>"))
}

/// Whether a model's template knows tools.
pub(crate) fn takes_tools(model: &Named, loaded: &Loaded) -> bool {
    template(model, loaded).ok().flatten().is_some_and(|source| source.contains("tools"))
}

/// The prompt of a conversation. `context_len` is what it may take, with at least one token to follow.
pub(crate) fn chat(
    model: &Named,
    loaded: &Loaded,
    conversation: Conversation,
    context_len: usize,
) -> ApiResult<Prompt> {
    let Conversation { mut messages, tools, think, truncate } = conversation;
    if let Some(created) = &model.created {
        let before = created.messages.iter().filter_map(|message| {
            Some(Message::text(message.get("role")?.as_str()?, message.get("content")?.as_str()?))
        });
        let mut before: Vec<Message> = before.collect();
        if let Some(system) = &created.system
            && messages.first().is_none_or(|message| message.role != "system")
        {
            before.insert(0, Message::text("system", system));
        }
        messages.splice(0..0, before);
    }
    let own;
    let template = match model.created.as_ref().and_then(|created| created.template.as_deref()) {
        Some(source) => {
            own = compile(source, loaded)?;
            &own
        }
        None => loaded.engine().chat_template()?.ok_or_else(|| {
            ApiError::bad("this model has no chat template; use a completion with a raw prompt")
        })?,
    };
    tools.check()?;
    if !tools.offered.is_empty() && !takes_tools(model, loaded) {
        return Err(ApiError::bad(format!("{} does not support tools", model.name)));
    }
    if think == Some(true) && !may_think(model, loaded) {
        return Err(ApiError::bad(format!("{} does not support thinking", model.name)));
    }
    let json_tools =
        (!tools.offered.is_empty()).then(|| tools.offered.iter().map(to_json).collect::<Vec<_>>());
    let render = |messages: &[Message]| -> ApiResult<(String, Vec<TokenId>)> {
        let input = ChatInput {
            messages: messages.to_vec(),
            tools: json_tools.clone(),
            add_generation_prompt: messages.last().is_none_or(|last| last.role != "assistant"),
            extra: think.map(|think| ("enable_thinking".to_owned(), Json::Bool(think))).into_iter().collect(),
            now: Some(local_time()),
        };
        let text = template.render(&input)?;
        let tokens = loaded.engine().tokenizer().encode_prompt(&text)?;
        Ok((text, tokens))
    };
    let (mut text, mut tokens) = render(&messages)?;
    let n_messages = messages.len();
    if tokens.len() >= context_len && truncate {
        let droppable = |message: &Message| message.role != "system";
        let before_last = &messages[..n_messages.saturating_sub(1)];
        // Dropping more leaves less, so the least that has to go is found by halving.
        let (mut low, mut high) = (1, before_last.iter().filter(|message| droppable(message)).count());
        let mut fitting = None;
        while low <= high {
            let n = (low + high) / 2;
            let mut left = n;
            let mut goes = |message: &Message| {
                let goes = left > 0 && droppable(message);
                left -= usize::from(goes);
                goes
            };
            let kept: Vec<Message> = messages.iter().filter(|message| !goes(message)).cloned().collect();
            // What a template refuses, an answer without its question say, does not fit either.
            match render(&kept) {
                Ok(rendered) if rendered.1.len() < context_len => {
                    fitting = Some((kept, rendered));
                    high = n - 1;
                }
                _ => low = n + 1,
            }
        }
        if let Some((kept, rendered)) = fitting {
            messages = kept;
            (text, tokens) = rendered;
        }
    }
    check_len(&tokens, context_len)?;
    let may_think = may_think(model, loaded) && think != Some(false);
    let names = Some(tools.names()).filter(|names| !names.is_empty());
    let parser = match may_think || names.is_some() {
        true => AnswerParser::new(may_think, &text, names),
        false => AnswerParser::plain(),
    };
    let thought = match (may_think, parser.is_thinking()) {
        (false, _) => Thought::Never,
        (true, false) => Thought::MayBegin,
        (true, true) => Thought::HasBegun,
    };
    let tokenizer = loaded.engine().tokenizer();
    let control = |text: &str| tokenizer.find(text).filter(|id| tokenizer.is_control(*id));
    let grammar = tools.grammar(template, control, thought)?;
    let parser = if tools.one_call { parser.with_one_call() } else { parser };
    Ok(Prompt { tokens, parser, grammar, n_dropped: n_messages - messages.len() })
}

/// # Errors
/// When no token could follow.
pub(crate) fn check_len(tokens: &[TokenId], context_len: usize) -> ApiResult<()> {
    match tokens.len() {
        0 => Err(ApiError::bad("the prompt is empty")),
        n if n >= context_len => Err(ApiError::bad(format!(
            "the prompt has {n} tokens, but the context holds {context_len}; shorten it, or serve with a longer --ctx"
        ))),
        _ => Ok(()),
    }
}

/// The tokens of `text` as it is, control tokens in it included.
pub(crate) fn raw(loaded: &Loaded, text: &str) -> ApiResult<Vec<TokenId>> {
    let options = EncodeOptions { add_special: true, parse_special: true };
    Ok(loaded.engine().tokenizer().encode(text, options)?)
}

/// The tokens that a model fills the hole between two texts after.
///
/// # Errors
/// For models that were not trained to.
pub(crate) fn infill(model: &Named, loaded: &Loaded, before: &str, after: &str) -> ApiResult<Vec<TokenId>> {
    let tokenizer = loaded.engine().tokenizer();
    let special = tokenizer.special_tokens();
    let (Some(prefix), Some(suffix), Some(middle)) =
        (special.fim_prefix, special.fim_suffix, special.fim_middle)
    else {
        return Err(ApiError::bad(format!("{} does not support insert", model.name)));
    };
    let options = EncodeOptions { add_special: false, parse_special: false };
    let mut tokens: Vec<TokenId> = tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    tokens.push(prefix);
    tokens.extend(tokenizer.encode(before, options)?);
    tokens.push(suffix);
    tokens.extend(tokenizer.encode(after, options)?);
    tokens.push(middle);
    Ok(tokens)
}

/// A template that a client gave, for the vocabulary of a model.
pub(crate) fn compile(source: &str, loaded: &Loaded) -> ApiResult<ChatTemplate> {
    let tokenizer = loaded.engine().tokenizer();
    let ids = tokenizer.special_tokens();
    let text = |id: Option<TokenId>| id.and_then(|id| tokenizer.token_text(id));
    let tokens = [("bos_token", text(ids.bos)), ("eos_token", text(ids.eos)), ("unk_token", text(ids.unk))];
    Ok(ChatTemplate::new(source, None, &tokens)?)
}

/// Some templates tell the model what day it is.
fn local_time() -> LocalTime {
    let now = chrono::Local::now();
    LocalTime { unix_s: now.timestamp(), utc_offset_s: now.offset().local_minus_utc() }
}

/// A call of a tool in a conversation; `arguments` may be an object or its text.
pub(crate) fn tool_call(id: Option<String>, name: String, arguments: &Value) -> ApiResult<ToolCall> {
    let arguments = match arguments {
        Value::String(text) if text.trim().is_empty() => Json::Object(Vec::new()),
        Value::String(text) => Json::parse(text)
            .map_err(|error| ApiError::bad(format!("the arguments of the call of {name}: {error}")))?,
        other => to_json(other),
    };
    Ok(ToolCall { id, name, arguments })
}

pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => match number.as_i128() {
            Some(int) => Json::Int(int),
            None => Json::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Json::Str(text.clone()),
        Value::Array(values) => Json::Array(values.iter().map(to_json).collect()),
        Value::Object(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
    }
}

pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Int(int) => match i64::try_from(*int) {
            Ok(int) => Value::from(int),
            Err(_) => Value::from(*int as f64),
        },
        Json::Float(float) => Value::from(*float),
        Json::Str(text) => Value::String(text.clone()),
        Json::Array(elements) => Value::Array(elements.iter().map(from_json).collect()),
        Json::Object(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key.clone(), from_json(value))).collect())
        }
    }
}
