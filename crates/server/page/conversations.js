// The list of conversations, and what can be done with one as a whole.

import * as chat from "./chat.js";
import { announce, ask, byId, download, el, plural, toast } from "./dom.js";
import * as models from "./models.js";
import { closeDrawers } from "./shell.js";
import * as store from "./store.js";

const list = byId("conversations");

let all = [];

export async function start() {
  all = await store.all();
  byId("new").addEventListener("click", create);
  byId("rename").addEventListener("click", rename);
  byId("delete").addEventListener("click", remove);
  byId("export-json").addEventListener("click", () => {
    download(fileName(chat.conversation, "json"), store.toJson([chat.conversation]), "application/json");
  });
  byId("export-md").addEventListener("click", () => {
    download(fileName(chat.conversation, "md"), store.toMarkdown(chat.conversation), "text/markdown");
  });
  byId("export-all").addEventListener("click", () => {
    download("rawrz-conversations.json", store.toJson(all), "application/json");
  });
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", load);
  const last = all.find((conversation) => conversation.id === store.setting("conversation", ""));
  show(last ?? all[0] ?? store.newConversation(models.chosen()));
}

function show(conversation) {
  store.set("conversation", conversation.id);
  if (conversation.model) models.choose(conversation.model);
  chat.open(conversation);
  draw();
}

/** Begins a conversation; it is kept once it has a message. */
export function create() {
  show(store.newConversation(models.chosen()));
  closeDrawers();
  byId("prompt").focus();
}

function title(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  const line = first?.content.trim().split("\n")[0] || first?.files?.[0]?.name || "";
  return conversation.title || (line.length > 60 ? `${line.slice(0, 59)}…` : line) || "New conversation";
}

/** Draws the list if it has changed. */
export function draw() {
  const current = chat.conversation;
  if (current.messages.length > 0 && !all.includes(current)) all.unshift(current);
  byId("title").textContent = title(current);
  document.title = `${title(current)} · RawrZ`;
  byId("actions").hidden = current.messages.length === 0;
  byId("export-all").disabled = all.length === 0;
  const shown = all.map((conversation) => [conversation, title(conversation), conversation === current]);
  const key = JSON.stringify(shown.map(([{ id }, name, isCurrent]) => [id, name, isCurrent]));
  if (list.key === key) return;
  list.key = key;
  const hadFocus = list.contains(document.activeElement);
  list.replaceChildren(
    ...shown.map(([conversation, name, isCurrent]) => {
      const open = () => {
        show(conversation);
        closeDrawers();
      };
      const attributes = { type: "button", "aria-current": isCurrent ? "true" : null, onclick: open, title: name };
      return el("li", {}, el("button", attributes, name));
    }),
  );
  if (hadFocus) list.querySelector("[aria-current]")?.focus();
}

async function rename() {
  const { conversation } = chat;
  const name = await ask({ title: "Name of the conversation", field: title(conversation), action: "Rename" });
  if (name === null) return;
  conversation.title = name.trim();
  await store.save(conversation);
  draw();
}

async function remove() {
  const { conversation } = chat;
  const text = `“${title(conversation)}” and its files are deleted from this browser.`;
  const answer = await ask({ title: "Delete the conversation?", text, action: "Delete", danger: true });
  if (answer === null) return;
  if (chat.answering?.conversation === conversation) chat.stop();
  all = all.filter((other) => other !== conversation);
  await store.remove(conversation.id);
  announce("Deleted");
  show(all[0] ?? store.newConversation(models.chosen()));
  byId("prompt").focus();
}

async function load(event) {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const read = await store.fromFile(file);
    for (const conversation of read) await store.save(conversation);
    all = await store.all();
    if (read.length) show(all.find(({ id }) => id === read[0].id));
    toast(`${plural(read.length, "conversation")} imported`);
  } catch (error) {
    toast(error.message);
  }
}

function fileName(conversation, ending) {
  const name = title(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50);
  return `${name.replace(/^-|-$/g, "") || "conversation"}.${ending}`;
}
