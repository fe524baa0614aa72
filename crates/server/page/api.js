// The server: requests, streams of lines, and its errors in plain words.

import { ask } from "./dom.js";

const KEY = "rawrz-key";

/** A request that failed. `message` is for the user. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

let asking = null;

/** Asks for the server's key once, however many requests miss it. */
function askForKey() {
  asking ??= ask({
    title: "API key",
    text: "This server wants the key that it was started with (--api-key). It is kept until this tab is closed.",
    field: "",
    action: "Continue",
  }).finally(() => (asking = null));
  return asking;
}

async function request(path, options = {}, isAgain = false) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is rawrz serve still running?");
  }
  if (response.status === 401 && !isAgain) {
    const key = await askForKey();
    if (key) {
      sessionStorage.setItem(KEY, key);
      return request(path, options, true);
    }
  }
  if (!response.ok) throw new ServerError(await explain(response), response.status);
  return response;
}

/** What an error means, and what the server says of it. */
async function explain(response) {
  let said = "";
  try {
    const text = await response.text();
    said = text;
    said = JSON.parse(text).error ?? said;
  } catch {
    // Not JSON: said as it is.
  }
  said = String(said).slice(0, 500) || response.statusText;
  const wait = response.headers.get("Retry-After");
  switch (response.status) {
    case 401:
      return "The server wants its API key, and this is not it. Reload the page to enter it again.";
    case 403:
      return `The server refuses this page: ${said}`;
    case 413:
      return `That is too large for the server: ${said}`;
    case 503:
      return `The server is busy: ${said}.${wait ? ` Try again in ${wait} s.` : ""}`;
    default:
      return said.charAt(0).toUpperCase() + said.slice(1);
  }
}

export async function getJson(path, signal) {
  return (await request(path, { signal })).json();
}

/** The text of a PDF or DOCX: `{text, pages}`. */
export async function extract(file, signal) {
  const path = `/api/rawrz/extract?name=${encodeURIComponent(file.name)}`;
  const type = { "Content-Type": "application/octet-stream" };
  return (await request(path, { method: "POST", body: file, headers: type, signal })).json();
}

/**
 * Sends a conversation and hands each line of the answer to `onLine`. Resolves to the number of messages that the server
 * left out because they did not fit.
 */
export async function chat(body, signal, onLine) {
  const response = await request("/api/chat", {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-Rawrz-Progress": "1" },
    signal,
  });
  const dropped = Number(response.headers.get("X-Rawrz-Dropped-Messages") ?? 0);
  onLine({ dropped });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The connection to the server broke before the answer was complete.");
    }
    if (piece.done) break;
    const lines = (rest + piece.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line) continue;
      const told = JSON.parse(line);
      if (told.error) throw new ServerError(String(told.error));
      isDone ||= told.done === true;
      onLine(told);
    }
  }
  if (!isDone) throw new ServerError("The server ended the answer before it was complete.");
}
