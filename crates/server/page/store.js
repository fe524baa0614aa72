// Conversations, in this browser only (IndexedDB), and settings.
//
// A conversation: {id, title, created, updated, model, system, messages}. A message: {id, role, content, files, ...}; see
// `check` for all that is kept.

const DATABASE = "rawrz";
const STORE = "conversations";

/** The most that an imported file may have. */
const MAX_IMPORT_BYTES = 64 << 20;
const MAX_CONVERSATIONS = 10_000;
const MAX_MESSAGES = 10_000;

let database = null;
/** Conversations where the browser gives no database, as in some private windows. */
const memory = new Map();

/** Opens the database. Resolves to whether conversations outlast the tab. */
export async function open() {
  try {
    database = await new Promise((resolve, reject) => {
      const opening = indexedDB.open(DATABASE, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
    // Another tab with a newer page may change it.
    database.onversionchange = () => database.close();
    return true;
  } catch {
    return false;
  }
}

function run(mode, work) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const asked = work(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the last changed first. */
export async function all() {
  const found = database ? await run("readonly", (store) => store.getAll()) : [...memory.values()];
  return found.sort((a, b) => b.updated - a.updated);
}

export async function save(conversation) {
  const kept = structuredClone(conversation);
  if (database) await run("readwrite", (store) => store.put(kept));
  else memory.set(kept.id, kept);
}

export async function remove(id) {
  if (database) await run("readwrite", (store) => store.delete(id));
  else memory.delete(id);
}

export function newId() {
  // `crypto.randomUUID` is there on https and this machine only.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(model) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model, messages: [] };
}

/** A setting, or what it is where it was never set. */
export function setting(name, otherwise) {
  try {
    const value = JSON.parse(localStorage.getItem(`rawrz-${name}`));
    return value === null ? otherwise : value;
  } catch {
    return otherwise;
  }
}

export function set(name, value) {
  try {
    localStorage.setItem(`rawrz-${name}`, JSON.stringify(value));
  } catch {
    // Without storage a setting lasts as long as the tab.
  }
}

export function toJson(conversations) {
  return JSON.stringify({ format: "rawrz-conversations", version: 1, conversations }, null, 2);
}

export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  for (const message of conversation.messages) {
    parts.push(`## ${message.role === "user" ? "You" : message.model || conversation.model || "Assistant"}`);
    for (const file of message.files ?? []) parts.push(`*Attached: ${file.name}*`);
    parts.push(message.content);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Conversations of an exported file, each with an id of its own. Throws what to tell the user. */
export async function fromFile(file) {
  if (file.size > MAX_IMPORT_BYTES) throw new Error(`${file.name} is larger than what can be imported`);
  let read;
  try {
    read = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON`);
  }
  const listed = read?.format === "rawrz-conversations" && read.version === 1 ? read.conversations : null;
  if (!Array.isArray(listed) || listed.length > MAX_CONVERSATIONS) {
    throw new Error(`${file.name} has no conversations that were exported here`);
  }
  return listed.map(check);
}

/** A conversation of which every field is what it should be, whatever the file had. */
function check(read) {
  const text = (value, most) => (typeof value === "string" ? value.slice(0, most) : "");
  const time = (value) => (Number.isFinite(value) ? value : Date.now());
  const number = (value) => (Number.isFinite(value) ? value : null);
  const messages = Array.isArray(read?.messages) ? read.messages.slice(0, MAX_MESSAGES) : [];
  return {
    id: newId(),
    title: text(read?.title, 200),
    created: time(read?.created),
    updated: time(read?.updated),
    model: text(read?.model, 200),
    messages: messages
      .filter((message) => message?.role === "user" || message?.role === "assistant")
      .map((message) => ({
        id: newId(),
        role: message.role,
        content: text(message.content, MAX_IMPORT_BYTES),
        thinking: text(message.thinking, MAX_IMPORT_BYTES),
        model: text(message.model, 200),
        note: text(message.note, 500),
        promptTokens: number(message.promptTokens),
        tokens: number(message.tokens),
        speed: number(message.speed),
        files: (Array.isArray(message.files) ? message.files : []).map((file) => ({
          name: text(file?.name, 200),
          bytes: number(file?.bytes) ?? 0,
          pages: number(file?.pages),
          text: text(file?.text, MAX_IMPORT_BYTES),
        })),
      })),
  };
}
