//! Chat templates: conversations to prompts, by the Jinja template that the model file carries.
//!
//! The environment is that of the `transformers` library: blocks swallow their line, undefined values show as nothing,
//! `tojson`, `raise_exception`, `strftime_now` and loop controls exist. A template is as hostile as the file it is from:
//! it has no access to files, and fuel bounds its steps and its memory.

mod input;
mod python;
mod source;

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::json::Json;
use crate::tokenizer::Tokenizer;
pub use input::{ChatInput, LocalTime, Message, ToolCall};

/// Longest template in bytes; the longest in use have about 20 KB.
const MAX_TEMPLATE_BYTES: usize = 1 << 17;
/// Steps that a template may take besides what its input pays for: about one per instruction and per 64 bytes made.
const BASE_FUEL: u64 = 1 << 20;
/// Further steps per value of the input.
const FUEL_PER_VALUE: u64 = 1 << 10;
/// Most steps, whatever the input. It bounds how deep a template can nest values, at about six steps a level.
const MAX_FUEL: u64 = 1 << 21;
/// Stack that reading and rendering a template have. The template engine recurses over long chains of operators, and to
/// show, compare and free nested values; tests show that the deepest of these that the limits above allow fit. It is only
/// reserved: an honest template touches a few pages of it.
const STACK_BYTES: usize = 256 << 20;
/// Longest prompt besides what its input pays for, in bytes.
const BASE_OUTPUT_BYTES: usize = 4 << 20;
/// Deepest recursion of macros and loops; each level costs several steps of the interpreter's stack.
const MAX_RECURSION: usize = 100;

/// ChatML, which a conversation falls back to only when asked.
const FALLBACK: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + (message.content or '') \
    + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Why a template was refused, or a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A metadata value is of the wrong type.
    #[error(transparent)]
    Metadata(#[from] rawrz_gguf::Error),
    /// The template is too long.
    #[error("the chat template has {len_bytes} bytes, at most {limit_bytes} are supported")]
    TooLong {
        /// Its length in bytes.
        len_bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// A tag of the template is too long.
    #[error(
        "line {line} of the chat template has a tag of more than {limit_bytes} bytes, which is not supported"
    )]
    TagTooLong {
        /// Where the tag starts, counted from 1.
        line: usize,
        /// The limit in bytes, text in quotes not counted.
        limit_bytes: usize,
    },
    /// The template is not valid.
    #[error("the chat template is not valid: line {line}: {what}")]
    Syntax {
        /// Counted from 1; 0 if not known.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The template refuses this conversation, with the message that it gives.
    #[error("the chat template refuses this conversation: {message}")]
    Raised {
        /// The template's words, cut to a bounded length.
        message: String,
    },
    /// The template does too much.
    #[error("the chat template takes too many steps or too much memory; it was stopped")]
    OutOfFuel,
    /// The prompt is too long.
    #[error("the chat template makes a prompt of more than {limit_bytes} bytes; it was stopped")]
    OutputTooLong {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The template fails on this conversation.
    #[error("the chat template failed: line {line}: {what}")]
    Failed {
        /// Counted from 1; 0 if not known.
        line: usize,
        /// What happened.
        what: String,
    },
}

/// The chat template of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// A second template for conversations with tools.
    has_tool_template: bool,
    source: String,
    /// Texts of special tokens that templates name, such as `bos_token`.
    token_texts: Vec<(&'static str, String)>,
}

const MAIN: &str = "chat_template";
const TOOLS: &str = "chat_template.tool_use";

impl ChatTemplate {
    /// The template that the file names, or `None` if it names none. The tokenizer is that of the same file.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
        let Some(source) = gguf.get_str("tokenizer.chat_template")? else {
            return Ok(None);
        };
        let with_tools = gguf.get_str("tokenizer.chat_template.tool_use")?;
        let ids = tokenizer.special_tokens();
        let text = |id: Option<TokenId>| id.and_then(|id| tokenizer.token_text(id));
        let tokens = [
            ("bos_token", text(ids.bos)),
            ("eos_token", text(ids.eos)),
            ("unk_token", text(ids.unk)),
            ("pad_token", text(ids.pad)),
            ("sep_token", text(ids.sep)),
            ("mask_token", text(ids.mask)),
        ];
        ChatTemplate::new(source, with_tools, &tokens).map(Some)
    }

    /// A template on its own. `tokens` are the texts that it may name, such as `("bos_token", Some("<s>"))`; a token
    /// that the vocabulary does not have shows as nothing.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn new(
        source: &str,
        source_with_tools: Option<&str>,
        tokens: &[(&'static str, Option<&str>)],
    ) -> Result<ChatTemplate, TemplateError> {
        let mut adapted = Vec::new();
        for (name, source) in [(MAIN, Some(source)), (TOOLS, source_with_tools)] {
            let Some(source) = source else { continue };
            if source.len() > MAX_TEMPLATE_BYTES {
                let (len_bytes, limit_bytes) = (source.len(), MAX_TEMPLATE_BYTES);
                return Err(TemplateError::TooLong { len_bytes, limit_bytes });
            }
            adapted.push((name, source::adapt(source)?));
        }
        let environment = on_large_stack(|| {
            let mut environment = environment();
            for (name, source) in adapted {
                environment.add_template_owned(name, source).map_err(|error| TemplateError::Syntax {
                    line: error.line().unwrap_or(0),
                    what: describe(&error),
                })?;
            }
            Ok(environment)
        })?;
        Ok(ChatTemplate {
            environment,
            has_tool_template: source_with_tools.is_some(),
            source: source.to_owned(),
            token_texts: tokens
                .iter()
                .filter_map(|(name, text)| Some((*name, (*text)?.to_owned())))
                .collect(),
        })
    }

    /// ChatML, for models that name no template. Never used unless it is asked for: a model that was not trained on it
    /// answers badly.
    pub fn fallback() -> ChatTemplate {
        match ChatTemplate::new(FALLBACK, None, &[]) {
            Ok(template) => template,
            Err(error) => unreachable!("the built-in template is valid: {error}"),
        }
    }

    /// The template as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] when the template refuses it, [`TemplateError::OutOfFuel`] and
    /// [`TemplateError::OutputTooLong`] when the template does too much, and [`TemplateError::Failed`] for any other
    /// failure.
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        let has_calls = input.messages.iter().any(|message| !message.tool_calls.is_empty());
        // Templates differ in whether arguments are objects or their JSON text. Most take objects; one that joins them to
        // text fails on those.
        match self.render_with(input, false) {
            Err(TemplateError::Failed { .. }) if has_calls => {
                let as_text = self.render_with(input, true);
                as_text.or_else(|_| self.render_with(input, false))
            }
            other => other,
        }
    }

    fn render_with(&self, input: &ChatInput, arguments_as_text: bool) -> Result<String, TemplateError> {
        on_large_stack(|| self.render_here(input, arguments_as_text))
    }

    fn render_here(&self, input: &ChatInput, arguments_as_text: bool) -> Result<String, TemplateError> {
        let mut size = Size::default();
        let messages: Vec<Value> =
            input.messages.iter().map(|m| message_value(m, arguments_as_text, &mut size)).collect();
        let mut variables: Vec<(Value, Value)> = Vec::new();
        let mut set = |name: &str, value: Value| variables.push((Value::from(name), value));
        for (name, text) in &self.token_texts {
            set(name, Value::from(text.as_str()));
        }
        for (name, value) in &input.extra {
            set(name, to_value(value, &mut size));
        }
        set("messages", Value::from(messages));
        set("add_generation_prompt", Value::from(input.add_generation_prompt));
        let tools = input
            .tools
            .as_ref()
            .map(|tools| tools.iter().map(|tool| to_value(tool, &mut size)).collect::<Vec<Value>>());
        set("tools", tools.clone().map_or(Value::from(()), Value::from));
        set("documents", Value::from(()));
        let now = input.now.unwrap_or(LocalTime { unix_s: 0, utc_offset_s: 0 });
        let strftime_now = move |format: &str| python::strftime(format, now);
        set("strftime_now", Value::from_function(strftime_now));

        let mut environment = self.environment.clone();
        let for_values = FUEL_PER_VALUE.saturating_mul(size.n_values);
        let fuel = BASE_FUEL.saturating_add(for_values).saturating_add(size.n_bytes);
        environment.set_fuel(Some(fuel.min(MAX_FUEL)));
        let limit_bytes = BASE_OUTPUT_BYTES.saturating_add((size.n_bytes as usize).saturating_mul(8));
        let name = match self.has_tool_template && tools.is_some_and(|tools| !tools.is_empty()) {
            true => TOOLS,
            false => MAIN,
        };
        let mut out = Limited { text: Vec::new(), limit_bytes, exceeded: false };
        let rendered = environment
            .get_template(name)
            .and_then(|template| template.render_captured_to(Value::from_pairs(variables), &mut out));
        match rendered {
            Ok(_) => Ok(String::from_utf8_lossy(&out.text).into_owned()),
            Err(_) if out.exceeded => Err(TemplateError::OutputTooLong { limit_bytes }),
            Err(error) => Err(failure(&error)),
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("has_tool_template", &self.has_tool_template)
            .finish_non_exhaustive()
    }
}

/// Runs on a thread of its own, whose stack no template can exhaust.
fn on_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    let failed = |what: &str| TemplateError::Failed { line: 0, what: what.to_owned() };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| failed(&format!("no thread for it: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(failed("the template engine panicked")))
    })
}

/// Starts the detail of an error that the template itself raised.
const RAISED: &str = "raise_exception: ";

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    match syntax {
        Ok(syntax) => environment.set_syntax(syntax),
        Err(error) => unreachable!("the default delimiters are valid: {error}"),
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(python::call_method);
    environment.set_formatter(|out, state, value| {
        let text = python::to_str(state, value)?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::to_str);
    environment.add_filter("mapkey", python::map_key);
    environment.add_test("iterable", python::is_iterable);
    python::add_text_filters(&mut environment);
    // These show values without regard to fuel, and no template in use needs them.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    environment.add_function("raise_exception", |state: &State, message: &Value| -> Result<Value, Error> {
        let message = python::to_str(state, message)?;
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment
}

/// What an error says, cut to a bounded length.
fn describe(error: &Error) -> String {
    let text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    shorten(&text)
}

fn shorten(text: &str) -> String {
    text.chars().take(500).collect()
}

fn failure(error: &Error) -> TemplateError {
    // An error within a macro is wrapped in others.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause.and_then(|cause| cause.downcast_ref::<Error>()) {
        if error.kind() == ErrorKind::OutOfFuel {
            return TemplateError::OutOfFuel;
        }
        if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
            return TemplateError::Raised { message: shorten(message) };
        }
        cause = std::error::Error::source(error);
    }
    TemplateError::Failed { line: error.line().unwrap_or(0), what: describe(error) }
}

/// How much a conversation is, to allow a template work in proportion.
#[derive(Default)]
struct Size {
    n_values: u64,
    n_bytes: u64,
}

impl Size {
    fn text(&mut self, text: &str) -> Value {
        self.n_values += 1;
        self.n_bytes += text.len() as u64;
        Value::from(text)
    }
}

fn to_value(json: &Json, size: &mut Size) -> Value {
    size.n_values += 1;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Int(value) => match i64::try_from(*value) {
            Ok(value) => Value::from(value),
            Err(_) => Value::from(*value),
        },
        Json::Float(value) => Value::from(*value),
        Json::Str(text) => size.text(text),
        Json::Array(elements) => {
            Value::from(elements.iter().map(|e| to_value(e, size)).collect::<Vec<Value>>())
        }
        Json::Object(entries) => Value::from_pairs(
            entries.iter().map(|(key, value)| (size.text(key), to_value(value, size))).collect::<Vec<_>>(),
        ),
    }
}

fn message_value(message: &Message, arguments_as_text: bool, size: &mut Size) -> Value {
    let mut entries: Vec<(Value, Value)> = Vec::new();
    let mut set = |name: &str, value: Value| entries.push((Value::from(name), value));
    set("role", size.text(&message.role));
    set("content", message.content.as_ref().map_or(Value::from(()), |text| size.text(text)));
    if let Some(reasoning) = &message.reasoning {
        set("reasoning_content", size.text(reasoning));
    }
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message
            .tool_calls
            .iter()
            .map(|call| {
                let arguments = match arguments_as_text {
                    true => size.text(&call.arguments.to_string()),
                    false => to_value(&call.arguments, size),
                };
                let function = [("name", size.text(&call.name)), ("arguments", arguments)];
                let mut entries = vec![
                    (Value::from("type"), Value::from("function")),
                    (
                        Value::from("function"),
                        Value::from_pairs(function.map(|(key, value)| (Value::from(key), value))),
                    ),
                ];
                if let Some(id) = &call.id {
                    entries.push((Value::from("id"), size.text(id)));
                }
                Value::from_pairs(entries)
            })
            .collect();
        set("tool_calls", Value::from(calls));
    }
    if let Some(id) = &message.tool_call_id {
        set("tool_call_id", size.text(id));
    }
    if let Some(name) = &message.name {
        set("name", size.text(name));
    }
    Value::from_pairs(entries)
}

/// Output up to a limit.
struct Limited {
    text: Vec<u8>,
    limit_bytes: usize,
    exceeded: bool,
}

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > self.limit_bytes {
            self.exceeded = true;
            return Err(std::io::Error::other("the output limit is reached"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
