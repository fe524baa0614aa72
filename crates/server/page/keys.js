// The keyboard.

import * as chat from "./chat.js";
import { attach } from "./composer.js";
import { create } from "./conversations.js";
import { button, byId, el } from "./dom.js";
import { closeDrawers, toggle } from "./shell.js";

/** Keys, what they do, and how. */
const KEYS = [
  ["Enter", "Send the message"],
  ["Shift + Enter", "A new line"],
  ["Esc", "Stop the answer; close what is open"],
  ["/", "Go to the message"],
  ["Alt + N", "New conversation", "KeyN", create],
  ["Alt + U", "Attach files", "KeyU", attach],
  ["Alt + M", "Choose the model", "KeyM", () => byId("model").focus()],
  ["Alt + L", "Conversations", "KeyL", () => toggle("list")],
  ["Alt + P", "Parameters and live figures", "KeyP", () => toggle("panel")],
  ["?", "This list"],
];

export function bindKeys() {
  byId("open-keys").addEventListener("click", showKeys);
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, textarea, select");
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (!closeDrawers()) chat.stop();
    } else if (event.altKey && !event.ctrlKey && !event.metaKey) {
      // By the key's place: with Alt some systems write other letters.
      const found = KEYS.find(([, , code]) => code === event.code);
      if (found) {
        event.preventDefault();
        found[3]();
      }
    } else if (isPlain && !isTyping && event.key === "?") {
      event.preventDefault();
      showKeys();
    } else if (isPlain && !isTyping && event.key === "/") {
      event.preventDefault();
      byId("prompt").focus();
    }
  });
}

function showKeys() {
  const rows = KEYS.map(([keys, what]) => {
    const parts = keys.split(" + ").flatMap((key, index) => [index ? " + " : null, el("kbd", {}, key)]);
    return el("div", { class: "line" }, el("dt", {}, what), el("dd", {}, parts));
  });
  const dialog = el(
    "dialog",
    { "aria-labelledby": "keys-title" },
    el("h2", { id: "keys-title" }, "Keyboard shortcuts"),
    el("dl", { class: "keys" }, rows),
    el("div", { class: "row end" }, button("Close", () => dialog.close(), { class: "primary" })),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
