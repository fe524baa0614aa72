// What the user sets of sampling, the context and the system prompt. Empty fields leave it to the model and the server.

import { byId, el } from "./dom.js";
import { set, setting } from "./store.js";

/** Name, label, what it does, and the attributes of its field. */
const NUMBERS = [
  ["temperature", "Temperature", "0 always takes the most probable token", { min: 0, max: 5, step: 0.05, placeholder: "0.8" }],
  ["top_p", "Top P", "draw from tokens that have this much of the probability together", { min: 0, max: 1, step: 0.01, placeholder: "0.95" }],
  ["top_k", "Top K", "draw from so many tokens; 0 is all", { min: 0, step: 1, placeholder: "40" }],
  ["seed", "Seed", "the same draws each time", { min: 0, step: 1, placeholder: "anew" }],
  ["num_predict", "Most tokens", "of one answer", { min: 1, step: 1, placeholder: "no limit" }],
  ["num_ctx", "Context", "tokens of conversation and answer together", { min: 16, step: 1, placeholder: "all there is" }],
];

let values = setting("parameters", {});

/** Draws the fields. */
export function draw(onChange) {
  const fields = NUMBERS.map(([name, label, help, attributes]) => {
    const input = el("input", {
      type: "number",
      id: `p-${name}`,
      inputmode: "decimal",
      "aria-describedby": `h-${name}`,
      value: values[name],
      ...attributes,
    });
    input.addEventListener("change", () => {
      if (input.value === "" || !input.checkValidity()) delete values[name];
      else values[name] = Number(input.value);
      input.setAttribute("aria-invalid", String(!input.checkValidity()));
      keep(onChange);
    });
    return el(
      "div",
      { class: "field" },
      el("label", { for: `p-${name}` }, label),
      input,
      el("p", { class: "facts", id: `h-${name}` }, help),
    );
  });
  const system = el("textarea", { id: "p-system", rows: 4, placeholder: "The model's own" });
  system.value = values.system ?? "";
  system.addEventListener("input", () => {
    values.system = system.value;
    keep(onChange);
  });
  const reset = el(
    "button",
    {
      type: "button",
      onclick: () => {
        values = {};
        keep(onChange);
        draw(onChange);
      },
    },
    "Reset",
  );
  byId("parameters").replaceChildren(
    el("div", { class: "field wide" }, el("label", { for: "p-system" }, "System prompt"), system),
    el("div", { class: "fields" }, fields),
    reset,
  );
}

function keep(onChange) {
  set("parameters", values);
  onChange();
}

export function system() {
  return values.system?.trim() ? values.system : "";
}

/** As `/api/chat` takes them. */
export function options() {
  const { system: _, ...numbers } = values;
  return numbers;
}
