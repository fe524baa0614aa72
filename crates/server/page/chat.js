// The conversation that is shown: its messages, the answer under way, and what can be done with them.

import * as api from "./api.js";
import { announce, button, byId, bytes, count, el, figure, plural } from "./dom.js";
import { withFiles } from "./files.js";
import { copyText, render } from "./markdown.js";
import * as models from "./models.js";
import * as parameters from "./parameters.js";
import { newId, save } from "./store.js";

const list = byId("messages");
const scroller = byId("scroll");

/** Characters that a token has, before a model has counted any: about what English text has. */
const CHARS_PER_TOKEN = 4;
/** How often an answer under way is drawn and kept. */
const DRAW_MS = 60;
const KEEP_MS = 2000;

/** The conversation that is shown. */
export let conversation = null;
/** The answer under way, of whatever conversation: {conversation, message, abort, phase, ...}. */
export let answering = null;

let onChange = () => {};

/** `then` is called when the conversation, or what is under way, has changed. */
export function listen(then) {
  onChange = then;
}

export function open(shown) {
  conversation = shown;
  draw();
  scroller.scrollTop = scroller.scrollHeight;
}

/** Characters that a token of this conversation has, by what the model has counted. */
function charsPerToken() {
  const counted = conversation?.messages.findLast((message) => message.promptTokens && message.promptChars);
  return counted ? Math.max(1, counted.promptChars / counted.promptTokens) : CHARS_PER_TOKEN;
}

export function estimate(text) {
  return Math.ceil(text.length / charsPerToken());
}

/** Tokens of the conversation: as counted up to the last answer, the rest guessed. */
export function tokens() {
  const { messages } = conversation;
  const last = messages.findLastIndex((message) => message.promptTokens && message.tokens !== undefined);
  const counted = last < 0 ? 0 : messages[last].promptTokens + messages[last].tokens;
  const rest = messages.slice(last + 1).map((message) => estimate(withFiles(message.content, message.files)));
  const start = last < 0 ? estimate(parameters.system()) : 0;
  return { total: start + counted + rest.reduce((sum, tokens) => sum + tokens, 0), isCounted: rest.length === 0 && last >= 0 };
}

/** Draws all messages. */
function draw() {
  list.replaceChildren();
  byId("empty").hidden = conversation.messages.length > 0;
  conversation.messages.forEach((message) => list.append(item(message)));
  markDropped();
}

/** A line above the oldest message that the model was still shown the last time. */
function markDropped() {
  list.querySelector(".dropped")?.remove();
  const dropped = conversation.messages.findLast((message) => message.role === "assistant")?.dropped ?? 0;
  const first = conversation.messages[dropped];
  if (!dropped || !first) return;
  const text = `The conversation is longer than the context. The model no longer sees the ${plural(dropped, "message")} above; the system prompt always stays.`;
  list.querySelector(`[data-id="${first.id}"]`)?.before(el("li", { class: "dropped" }, text));
}

function item(message) {
  const isUser = message.role === "user";
  const body = el("div", { class: "body" });
  const view = el(
    "li",
    { class: `message ${message.role}`, "data-id": message.id },
    el(
      "article",
      { "aria-label": isUser ? "You" : `Answer of ${models.shortName(message.model || "the model")}` },
      el("div", { class: "who", "aria-hidden": "true" }, isUser ? "You" : models.shortName(message.model || "Model")),
      body,
    ),
  );
  fill(body, message);
  return view;
}

/** Shows a message in `body`, changing only what has changed since the last time. */
function fill(body, message) {
  if (message.role === "user") {
    const chips = (message.files ?? []).map(fileChip);
    body.replaceChildren(
      el("div", { class: "text" }, message.content),
      chips.length ? el("ul", { class: "chips", "aria-label": "Attached files" }, chips) : "",
      userActions(message, body),
    );
    return;
  }
  let parts = body.parts;
  if (!parts) {
    const thinkingText = el("div", { class: "text" });
    const thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Thinking"), thinkingText);
    parts = body.parts = { thinking, thinkingText, text: el("div", { class: "markdown" }), foot: el("div") };
    body.replaceChildren(thinking, parts.text, parts.foot);
  }
  parts.thinking.hidden = !message.thinking;
  if (parts.thinkingText.textContent !== (message.thinking ?? "")) parts.thinkingText.textContent = message.thinking;
  const isAnswering = answering?.message === message;
  // Thoughts are open while there is nothing else to see.
  if (isAnswering) parts.thinking.open = !message.content;
  render(parts.text, message.content);
  parts.text.classList.toggle("writing", isAnswering && Boolean(message.content));
  parts.foot.replaceChildren(...(isAnswering ? [] : answerFoot(message)));
}

function fileChip(file) {
  const about = [file.pages ? plural(file.pages, "page") : bytes(file.bytes), `≈ ${count(estimate(file.text))} tokens`];
  return el("li", { class: "chip" }, el("span", { class: "name" }, file.name), el("span", { class: "facts" }, about.join(" · ")));
}

function userActions(message, body) {
  return el(
    "div",
    { class: "row actions" },
    button("Edit", () => edit(message, body), { "aria-label": "Edit this message" }),
    button("Copy", (event) => copied(event, message.content), { "aria-label": "Copy this message" }),
  );
}

async function copied(event, text) {
  const pressed = event.currentTarget;
  pressed.textContent = (await copyText(text)) ? "Copied" : "Not copied";
  setTimeout(() => (pressed.textContent = "Copy"), 2000);
}

function answerFoot(message) {
  const facts = [];
  if (message.tokens) facts.push(plural(message.tokens, "token"));
  if (message.speed) facts.push(`${figure(message.speed)} tok/s`);
  if (message.note) facts.push(message.note);
  const isLast = conversation.messages.at(-1) === message;
  return [
    message.error
      ? el("p", { class: "error", role: "alert" }, message.error)
      : null,
    el(
      "div",
      { class: "row actions" },
      isLast || message.error ? button("Retry", () => retry(message), { "aria-label": "Retry this answer" }) : null,
      message.content
        ? button("Copy", (event) => copied(event, message.content), { "aria-label": "Copy this answer" })
        : null,
      el("span", { class: "facts" }, facts.join(" · ")),
    ),
  ].filter(Boolean);
}

/** Lets the user change a message; what came after it is asked anew. */
function edit(message, body) {
  if (answering) return;
  const area = el("textarea", { class: "edit", "aria-label": "Edit the message" });
  area.value = message.content;
  const close = () => {
    fill(body, message);
    body.querySelector("button")?.focus();
  };
  const sendEdited = () => {
    const content = area.value.trim();
    if (!content && !message.files?.length) return;
    const { messages } = conversation;
    message.content = content;
    messages.splice(messages.indexOf(message) + 1);
    draw();
    answer();
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      sendEdited();
    }
  });
  body.replaceChildren(
    area,
    el("div", { class: "row end" }, button("Cancel", close), button("Send", sendEdited, { class: "primary" })),
  );
  area.style.height = `${Math.min(area.scrollHeight + 2, 320)}px`;
  area.focus();
}

function retry(message) {
  if (answering) return;
  conversation.messages.splice(conversation.messages.indexOf(message));
  draw();
  answer();
}

/** Sends a message of the user's. */
export function send(content, files) {
  conversation.messages.push({ id: newId(), role: "user", content, files });
  draw();
  answer();
}

export function stop() {
  answering?.abort.abort();
}

/** Asks the model for the next message. */
async function answer() {
  const of = conversation;
  const model = models.chosen();
  const system = parameters.system();
  const shown = of.messages.map(({ role, content, files }) => ({ role, content: withFiles(content, files) }));
  if (system) shown.unshift({ role: "system", content: system });
  const message = { id: newId(), role: "assistant", content: "", thinking: "", model };
  of.messages.push(message);
  of.model = model;
  const now = performance.now();
  const current = { conversation: of, message, abort: new AbortController(), phase: "waiting", since: now, lastToken: now };
  answering = current;
  byId("empty").hidden = true;
  list.append(item(message));
  scroller.scrollTop = scroller.scrollHeight;
  announce(`${models.shortName(model)} is answering`);
  keep(of);
  onChange();

  let drawn = 0;
  let kept = performance.now();
  let timer = null;
  const redraw = () => {
    timer = null;
    drawn = performance.now();
    show(current);
    if (drawn - kept > KEEP_MS) {
      kept = drawn;
      keep(of);
    }
  };
  const onLine = (told) => {
    if (told.dropped !== undefined) {
      message.dropped = told.dropped;
      if (conversation === of) markDropped();
      return;
    }
    if (told.rawrz_progress) {
      const { prompt_done: done, prompt_total: total } = told.rawrz_progress;
      Object.assign(current, { phase: "prompt", done, total });
    }
    const { content = "", thinking = "" } = told.message ?? {};
    if (content || thinking) {
      current.phase = "answer";
      current.lastToken = performance.now();
    }
    message.content += content;
    message.thinking += thinking;
    if (told.done) {
      message.promptTokens = told.prompt_eval_count;
      message.promptChars = shown.reduce((sum, { content }) => sum + content.length, 0);
      message.tokens = told.eval_count;
      message.speed = told.eval_duration > 0 ? told.eval_count / (told.eval_duration / 1e9) : null;
      if (told.done_reason === "length") message.note = "ended at the limit of tokens";
    }
    timer ??= setTimeout(redraw, Math.max(0, DRAW_MS - (performance.now() - drawn)));
    onChange();
  };
  try {
    const body = { model, messages: shown, options: parameters.options(), stream: true };
    await api.chat(body, current.abort.signal, onLine);
  } catch (error) {
    if (error.name === "AbortError") message.note = "stopped";
    else message.error = error.message;
  }
  clearTimeout(timer);
  answering = null;
  of.updated = Date.now();
  show(current);
  announce(message.error ? message.error : message.note === "stopped" ? "Stopped" : `Answer: ${message.content.slice(0, 2000)}`);
  await keep(of);
  onChange();
}

/** Draws the answer under way, if it is shown, and stays at the end if the user was there. */
function show({ conversation: of, message }) {
  if (conversation !== of) return;
  const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  const body = list.querySelector(`[data-id="${message.id}"] .body`);
  if (body) fill(body, message);
  if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}

async function keep(of) {
  try {
    await save(of);
  } catch {
    announce("The browser could not keep the conversation; export it before you close the page.");
  }
}
