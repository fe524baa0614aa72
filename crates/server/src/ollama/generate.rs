//! `/api/generate` and `/api/chat`.

use super::options::{Options, grammar, options};
use super::{error_json, keep_alive, now, ok, respond};
use crate::answer::Piece;
use crate::constrain::Grammar;
use crate::error::{ApiError, ApiResult};
use crate::http::{self, Framing, Gone, Writer};
use crate::openai::{constraints, n_logprobs};
use crate::prompt::{self, Conversation, Prompt, from_json};
use crate::registry::{InUse, KeepAlive};
use crate::running::{Ended, Job, News, Running, Whole, finish_reason};
use crate::state::{Named, Shared, blocking};
use crate::tools::Tools;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::Response;
use rawrz_engine::{Step, TokenLogprob, Work};
use rawrz_text::{Message, TokenId};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::time::{Duration, Instant};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GenerateRequest {
    model: String,
    prompt: String,
    suffix: Option<String>,
    system: Option<String>,
    template: Option<String>,
    context: Option<Vec<TokenId>>,
    raw: bool,
    images: Option<Vec<Json>>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatRequest {
    model: String,
    messages: Vec<ChatMessage>,
    tools: Option<Vec<Json>>,
    truncate: Option<bool>,
    #[serde(flatten)]
    common: Common,
}

/// What both take.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Common {
    stream: Option<bool>,
    format: Option<Json>,
    options: Option<Map<String, Json>>,
    keep_alive: Option<Json>,
    think: Option<Json>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatMessage {
    role: String,
    content: String,
    thinking: Option<String>,
    images: Option<Vec<Json>>,
    tool_calls: Option<Vec<ToolCallIn>>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToolCallIn {
    id: Option<String>,
    function: FunctionIn,
}

#[derive(Debug, Deserialize)]
struct FunctionIn {
    name: String,
    #[serde(default)]
    arguments: Json,
}

/// Most tokens of each place whose log-probabilities are told.
pub(crate) const MAX_TOP_LOGPROBS: usize = 20;

impl Common {
    fn think(&self) -> ApiResult<Option<bool>> {
        match &self.think {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Bool(think)) => Ok(Some(*think)),
            // Levels of effort: any of them is thinking.
            Some(Json::String(level)) if ["low", "medium", "high"].contains(&&**level) => Ok(Some(true)),
            Some(_) => Err(ApiError::bad("think is true, false, \"low\", \"medium\" or \"high\"")),
        }
    }

    fn logprobs(&self) -> ApiResult<Option<usize>> {
        match self.top_logprobs {
            Some(k) if k > MAX_TOP_LOGPROBS => {
                Err(ApiError::bad(format!("top_logprobs is at most {MAX_TOP_LOGPROBS}")))
            }
            k => Ok((self.logprobs == Some(true)).then_some(k.unwrap_or(0))),
        }
    }
}

fn refuse_images(model: &Named, images: Option<&Vec<Json>>) -> ApiResult<()> {
    match images.is_some_and(|images| !images.is_empty()) {
        true => Err(ApiError::bad(format!("{} does not support images", model.name))),
        false => Ok(()),
    }
}

/// A request that was read: what is common to both.
struct Asked {
    state: Shared,
    model: Named,
    loaded: InUse,
    options: Options,
    grammar: Option<Grammar>,
    client: u64,
    started: Instant,
    load: Duration,
    is_chat: bool,
}

async fn ask(
    state: &Shared,
    name: &str,
    common: &Common,
    client: u64,
    progress: bool,
    is_chat: bool,
) -> ApiResult<Asked> {
    let started = Instant::now();
    let model = state.named(name)?;
    let nothing = Map::new();
    let parameters = model.created.as_ref().map_or(&nothing, |created| &created.parameters);
    let mut options = options(parameters, common.options.as_ref().unwrap_or(&nothing))?;
    options.generate.logprobs = common.logprobs()?;
    options.progress |= progress;
    let grammar = grammar(common.format.as_ref(), options.regex.clone())?;
    let keep_alive = keep_alive(common.keep_alive.as_ref())?;
    let loaded = state.load(&model).await?;
    state.keep(&loaded, keep_alive);
    let load = started.elapsed();
    Ok(Asked { state: state.clone(), model, loaded, options, grammar, client, started, load, is_chat })
}

impl Asked {
    fn context_len(&self) -> usize {
        let all = self.loaded.engine().context_len();
        self.options.num_ctx.map_or(all, |n| n.min(all))
    }

    /// Puts the request into the queue, with no more tokens than its context holds.
    async fn run(&mut self, prompt: Prompt) -> ApiResult<Running> {
        let mut constraints = constraints(&self.loaded, self.grammar.take(), 1).await?;
        let constraint = constraints.pop().flatten();
        let mut options = self.options.generate.clone();
        options.max_tokens =
            options.max_tokens.min((self.context_len() + 1).saturating_sub(prompt.tokens.len()));
        let Prompt { tokens, parser, .. } = prompt;
        let (client, started, load) = (self.client, self.started, self.load);
        let work = Work::Generate { options, constraint };
        Running::start(
            &self.state,
            self.loaded.clone(),
            Job { prompt: tokens, work, client, parser, started, load },
        )
    }

    async fn answer(mut self, prompt: Prompt, is_stream: bool, with_context: bool) -> ApiResult<Response> {
        let n_dropped = prompt.n_dropped;
        let context = with_context.then(|| prompt.tokens.clone());
        let n_logprobs = if is_stream { 0 } else { n_logprobs(&self.options.generate, self.context_len()) };
        let _answer_room = self.state.memory.logprobs_room(n_logprobs).await?;
        let mut running = self.run(prompt).await?;
        let form = Form { name: self.model.name, is_chat: self.is_chat, progress: self.options.progress };
        let mut response = if is_stream {
            http::stream(Framing::Ndjson, move |writer| async move {
                let mut has_called = false;
                loop {
                    let written = match running.next().await {
                        Ok(Some(news)) => {
                            form.news(&writer, &running, news, context.as_deref(), &mut has_called).await
                        }
                        Ok(None) => break,
                        Err(error) => {
                            let _ = writer.json(&error_json(&error)).await;
                            break;
                        }
                    };
                    if written.is_err() {
                        break;
                    }
                }
            })
        } else {
            let loaded = running.model().clone();
            let (pieces, steps, ended) = running.collect().await?;
            let mut line = form.line(Whole::of(pieces));
            add_steps(&mut line, &loaded, &steps);
            form.end(&mut line, &ended, context.as_deref());
            ok(&line)?
        };
        if n_dropped > 0 {
            response.headers_mut().insert("x-rawrz-dropped-messages", HeaderValue::from(n_dropped));
        }
        Ok(response)
    }
}

/// How lines look.
struct Form {
    name: String,
    is_chat: bool,
    progress: bool,
}

impl Form {
    fn line(&self, whole: Whole) -> Json {
        let mut line = json!({"model": self.name, "created_at": now()});
        if self.is_chat {
            let mut message = json!({"role": "assistant", "content": whole.text});
            if !whole.thinking.is_empty() {
                message["thinking"] = whole.thinking.into();
            }
            if !whole.calls.is_empty() {
                let call = |(name, arguments): &(String, rawrz_text::Json)| json!({"function": {"name": name, "arguments": from_json(arguments)}});
                message["tool_calls"] = whole.calls.iter().map(call).collect();
            }
            line["message"] = message;
        } else {
            line["response"] = whole.text.into();
            if !whole.thinking.is_empty() {
                line["thinking"] = whole.thinking.into();
            }
        }
        line["done"] = false.into();
        line
    }

    async fn news(
        &self,
        writer: &Writer,
        running: &Running,
        news: News,
        context: Option<&[TokenId]>,
        has_called: &mut bool,
    ) -> Result<(), Gone> {
        match news {
            News::Prompt { done, total } if self.progress => {
                let mut line = self.line(Whole::default());
                line["rawrz_progress"] = json!({"prompt_done": done, "prompt_total": total});
                writer.json(&line).await
            }
            News::Prompt { .. } => Ok(()),
            News::Answer { pieces, steps } => {
                *has_called |= pieces.iter().any(|piece| matches!(piece, Piece::Call { .. }));
                let mut line = self.line(Whole::of(pieces));
                add_steps(&mut line, running.model(), &steps);
                writer.json(&line).await
            }
            News::End(ended) => {
                let mut line = self.line(Whole::default());
                self.end(&mut line, &ended, context);
                writer.json(&line).await
            }
        }
    }

    /// Makes `line` the last one.
    fn end(&self, line: &mut Json, ended: &Ended, context: Option<&[TokenId]>) {
        let Ended { generated, load, total } = ended;
        line["done"] = true.into();
        line["done_reason"] = finish_reason(generated.finish).into();
        if let Some(prompt) = context {
            line["context"] = prompt.iter().chain(&generated.tokens).copied().collect();
        }
        let nanos = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        line["total_duration"] = nanos(total).into();
        line["load_duration"] = nanos(load).into();
        line["prompt_eval_count"] = generated.prompt_tokens.into();
        line["prompt_eval_duration"] = nanos(&generated.prefill).into();
        line["eval_count"] = generated.tokens.len().into();
        line["eval_duration"] = nanos(&generated.decode).into();
    }
}

/// A token with its log-probability.
pub(crate) fn logprob_json(loaded: &InUse, token: &TokenLogprob) -> Json {
    let mut bytes = Vec::new();
    loaded.engine().tokenizer().append_piece(token.id, true, &mut bytes);
    json!({"token": String::from_utf8_lossy(&bytes), "logprob": token.logprob, "bytes": bytes})
}

fn add_steps(line: &mut Json, loaded: &InUse, steps: &[Step]) {
    if steps.is_empty() {
        return;
    }
    let step = |step: &Step| {
        let mut json = logprob_json(loaded, &step.chosen);
        json["top_logprobs"] = step.top.iter().map(|token| logprob_json(loaded, token)).collect();
        json
    };
    line["logprobs"] = steps.iter().map(step).collect();
}

pub(super) async fn generate(State(state): State<Shared>, request: Request) -> Response {
    respond(try_generate(&state, request).await)
}

async fn try_generate(state: &Shared, request: Request) -> ApiResult<Response> {
    let (client, progress) = (http::client(&request), http::wants_progress(request.headers()));
    let (body, _room): (GenerateRequest, _) = http::json(state, request).await?;
    let is_stream = body.common.stream != Some(false);
    if body.prompt.is_empty() && body.suffix.is_none() {
        return load_or_unload(state, &body.model, &body.common, false).await;
    }
    refuse_images(&state.named(&body.model)?, body.images.as_ref())?;
    let think = body.common.think()?;
    let asked = ask(state, &body.model, &body.common, client, progress, false).await?;
    let (asked, prompt, with_context) = blocking(move || {
        let (prompt, with_context) = generate_prompt(&asked, body, think)?;
        Ok((asked, prompt, with_context))
    })
    .await?;
    asked.answer(prompt, is_stream, with_context).await
}

/// The prompt, and whether `context` is told.
fn generate_prompt(asked: &Asked, body: GenerateRequest, think: Option<bool>) -> ApiResult<(Prompt, bool)> {
    let (model, loaded) = (&asked.model, &asked.loaded);
    let context_len = asked.context_len();
    let as_it_is = |tokens: Vec<TokenId>| -> ApiResult<Prompt> {
        prompt::check_len(&tokens, context_len)?;
        Ok(Prompt::of(tokens))
    };
    if let Some(suffix) = body.suffix.as_deref().filter(|suffix| !suffix.is_empty()) {
        return Ok((as_it_is(prompt::infill(model, loaded, &body.prompt, suffix)?)?, false));
    }
    let has_template = model.created.as_ref().is_some_and(|created| created.template.is_some())
        || matches!(loaded.engine().chat_template(), Ok(Some(_)));
    let mut prompt = if body.raw || (!has_template && body.template.is_none()) {
        as_it_is(prompt::raw(loaded, &body.prompt)?)?
    } else {
        let mut messages: Vec<Message> = Vec::new();
        // The system's text is in the context already.
        if body.context.is_none() {
            messages.extend(body.system.as_deref().map(|system| Message::text("system", system)));
        }
        messages.push(Message::text("user", &body.prompt));
        let conversation = Conversation { messages, think, ..Conversation::default() };
        let mut model = model.clone();
        if let Some(template) = body.template {
            let created = model.created.get_or_insert_default();
            created.template = Some(template);
        }
        prompt::chat(&model, loaded, conversation, context_len)?
    };
    if let Some(mut context) = body.context.filter(|_| !body.raw) {
        let tokenizer = loaded.engine().tokenizer();
        if context.iter().any(|id| *id as usize >= tokenizer.vocab_len()) {
            return Err(ApiError::bad("context has a token that the model does not"));
        }
        let new = prompt.tokens.iter().skip(usize::from(prompt.tokens.first().copied() == tokenizer.bos()));
        context.extend(new);
        prompt::check_len(&context, context_len)?;
        prompt.tokens = context;
    }
    Ok((prompt, !body.raw))
}

pub(super) async fn chat(State(state): State<Shared>, request: Request) -> Response {
    respond(try_chat(&state, request).await)
}

async fn try_chat(state: &Shared, request: Request) -> ApiResult<Response> {
    let (client, progress) = (http::client(&request), http::wants_progress(request.headers()));
    let (body, _room): (ChatRequest, _) = http::json(state, request).await?;
    if body.messages.is_empty() {
        return load_or_unload(state, &body.model, &body.common, true).await;
    }
    let is_stream = body.common.stream != Some(false);
    let model = state.named(&body.model)?;
    let mut messages = Vec::with_capacity(body.messages.len());
    for message in body.messages {
        refuse_images(&model, message.images.as_ref())?;
        messages.push(into_message(message)?);
    }
    let think = body.common.think()?;
    let truncate = body.truncate != Some(false);
    let conversation = Conversation { messages, tools: Tools::auto(body.tools), think, truncate };
    let asked = ask(state, &body.model, &body.common, client, progress, true).await?;
    let (asked, prompt) = blocking(move || {
        let prompt = prompt::chat(&asked.model, &asked.loaded, conversation, asked.context_len())?;
        Ok((asked, prompt))
    })
    .await?;
    asked.answer(prompt, is_stream, false).await
}

fn into_message(message: ChatMessage) -> ApiResult<Message> {
    let calls = message.tool_calls.unwrap_or_default().into_iter();
    let calls = calls.map(|call| prompt::tool_call(call.id, call.function.name, &call.function.arguments));
    let tool_calls: Vec<_> = calls.collect::<ApiResult<_>>()?;
    if message.role.is_empty() {
        return Err(ApiError::bad("a message has no role"));
    }
    Ok(Message {
        role: message.role,
        content: (!message.content.is_empty() || tool_calls.is_empty()).then_some(message.content),
        reasoning: message.thinking,
        tool_calls,
        tool_call_id: message.tool_call_id,
        name: message.tool_name,
    })
}

/// A request without anything to say loads a model, or with `keep_alive` 0 unloads it.
async fn load_or_unload(state: &Shared, name: &str, common: &Common, is_chat: bool) -> ApiResult<Response> {
    let keep_alive = keep_alive(common.keep_alive.as_ref())?;
    let model = state.named(name)?;
    let unloads = keep_alive == Some(KeepAlive::For(Duration::ZERO));
    if unloads {
        let found = state.registry.loaded().into_iter().find(|loaded| loaded.path == model.base.path);
        if let Some(loaded) = found {
            state.registry.expire(&loaded);
        }
        let state = state.clone();
        blocking(move || {
            state.registry.unload_expired();
            Ok(())
        })
        .await?;
    } else {
        let loaded = state.load(&model).await?;
        state.keep(&loaded, keep_alive);
    }
    let form = Form { name: model.name, is_chat, progress: false };
    let mut line = form.line(Whole::default());
    line["done"] = true.into();
    line["done_reason"] = if unloads { "unload" } else { "load" }.into();
    ok(&line)
}
