// Where messages are written: the field, files to go with it, and how much of the context is taken.

import * as chat from "./chat.js";
import { announce, button, byId, bytes, count, el, plural, toast } from "./dom.js";
import { MAX_FILES, read, withFiles } from "./files.js";
import * as models from "./models.js";
import * as parameters from "./parameters.js";

const field = byId("prompt");
const chips = byId("chips");
const drop = byId("drop");

/** Files that go with the next message, and those that are being read. */
let files = [];
let reading = [];
let contextLength = null;

export function bind() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("stop").addEventListener("click", chat.stop);
  field.addEventListener("keydown", (event) => {
    // Enter also ends the choice of a character in some scripts.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  field.addEventListener("input", changed);
  byId("attach").addEventListener("click", attach);
  byId("files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";
  });
  field.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files];
    if (pasted.length) {
      event.preventDefault();
      add(pasted);
    }
  });
  bindDrop();
}

export function attach() {
  byId("files").click();
}

function bindDrop() {
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const end = () => {
    depth = 0;
    drop.hidden = true;
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth += 1;
    drop.hidden = false;
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("dragleave", (event) => {
    depth -= hasFiles(event) ? 1 : 0;
    if (depth <= 0) end();
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    end();
    add([...event.dataTransfer.files]);
  });
}

async function add(chosen) {
  for (const file of chosen) {
    if (files.length + reading.length >= MAX_FILES) {
      toast(`A message takes up to ${MAX_FILES} files.`);
      break;
    }
    const entry = { name: file.name, abort: new AbortController() };
    reading.push(entry);
    drawChips();
    read(file, entry.abort.signal)
      .then((done) => {
        files.push(done);
        announce(`${done.name} attached`);
      })
      .catch((error) => error.name !== "AbortError" && toast(error.message))
      .finally(() => {
        reading = reading.filter((other) => other !== entry);
        drawChips();
        changed();
      });
  }
}

function drawChips() {
  const remove = (name, onclick) => button("×", onclick, { "aria-label": `Remove ${name}`, class: "icon" });
  chips.replaceChildren(
    ...files.map((file) => {
      const size = [bytes(file.bytes), file.pages ? plural(file.pages, "page") : null, `≈ ${count(chat.estimate(file.text))} tokens`];
      const gone = () => {
        files = files.filter((other) => other !== file);
        drawChips();
        changed();
        field.focus();
      };
      return el(
        "li",
        { class: "chip" },
        el("span", { class: "name" }, file.name),
        el("span", { class: "facts" }, size.filter(Boolean).join(" · ")),
        remove(file.name, gone),
      );
    }),
    ...reading.map((entry) =>
      el(
        "li",
        { class: "chip" },
        el("span", { class: "name" }, entry.name),
        el("span", { class: "facts" }, "reading …"),
        remove(entry.name, () => entry.abort.abort()),
      ),
    ),
  );
}

function submit() {
  const content = field.value.trim();
  if (chat.answering || reading.length || (!content && files.length === 0)) return;
  if (!models.chosen()) {
    toast("There is no model to ask. Fetch one with: rawrz pull smollm2");
    return;
  }
  const sent = files;
  files = [];
  field.value = "";
  drawChips();
  chat.send(content, sent);
  changed();
}

/** Takes new figures over. */
export function update(stats) {
  const length = models.loaded(stats)?.context_length ?? null;
  if (length !== contextLength) {
    contextLength = length;
    changed();
  }
}

/** Draws what depends on what is written, on the answer under way and on parameters. */
export function changed() {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight * 0.4)}px`;
  const isBusy = Boolean(chat.answering);
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  const isEmpty = !field.value.trim() && files.length === 0;
  byId("send").disabled = isEmpty || reading.length > 0;
  if (chat.conversation) drawTokens();
}

/** How much of the context is taken, and what happens when it is all. */
function drawTokens() {
  const { total, isCounted } = chat.tokens();
  const draft = withFiles(field.value, files);
  const more = draft ? chat.estimate(draft) : 0;
  const asked = parameters.options().num_ctx;
  const limit = contextLength && asked ? Math.min(contextLength, asked) : (contextLength ?? asked);
  const sum = total + more;
  const about = isCounted && !more ? "" : "≈ ";
  const shown = byId("tokens");
  const isOver = Boolean(limit) && sum >= limit;
  shown.classList.toggle("warning", isOver);
  const base = limit ? `${about}${count(sum)} of ${count(limit)} tokens of context` : `${about}${plural(sum, "token")}`;
  const policy =
    more >= limit
      ? ". This message alone is longer than the context: shorten it, or start the server with a larger --ctx."
      : ". The oldest turns are left out of what the model sees; the system prompt never is.";
  const { dropped = 0 } = chat.conversation.messages.findLast(({ role }) => role === "assistant") ?? {};
  const left = dropped ? `, ${plural(dropped, "oldest message")} left out` : "";
  shown.textContent = isOver ? base + policy : base + left;
}
