// Which models there are, which one is chosen, and what can be expected of it.

import { getJson } from "./api.js";
import { byId, bytes, el, figure } from "./dom.js";
import { set, setting } from "./store.js";

const select = byId("model");
const facts = byId("model-facts");

let models = [];
let stats = null;

/** Names of models with and without the tag that they have by default are the same. */
export function sameModel(a, b) {
  const tagged = (name) => (/:[^/]*$/.test(name) ? name : `${name}:latest`);
  return tagged(a) === tagged(b);
}

export function shortName(name) {
  return name.replace(/:latest$/, "");
}

export function chosen() {
  return select.value;
}

export function choose(name) {
  const found = models.find((model) => sameModel(model.name, name));
  if (found) select.value = found.name;
  showFacts();
  return Boolean(found);
}

/** Figures of the chosen model, where it is loaded. */
export function loaded(of = stats) {
  return of?.models.find((model) => sameModel(model.name, chosen())) ?? null;
}

/** Reads the list anew. */
export async function refresh() {
  ({ models } = await getJson("/api/tags"));
  const kept = select.value || setting("model", "");
  select.replaceChildren(
    ...models.map((model) => {
      const { parameter_size: size, quantization_level: kind } = model.details;
      const label = [shortName(model.name), bytes(model.size), kind, size].filter(Boolean).join(" · ");
      return el("option", { value: model.name }, label);
    }),
  );
  if (models.length === 0) select.append(el("option", { value: "" }, "No models: run rawrz pull smollm2"));
  if (!choose(kept)) showFacts();
}

/** Takes new figures over. */
export function update(latest) {
  stats = latest;
  showFacts();
}

/** What there is to say of the chosen model: where it lies, in what budget, how fast it is or may be. */
function showFacts() {
  const model = models.find((model) => model.name === select.value);
  if (!model) {
    facts.textContent = "";
    return;
  }
  const now = loaded();
  const said = [];
  if (now) {
    said.push(now.streamed ? "streamed from the disk" : "in memory");
    said.push(`${bytes(now.budget_bytes)} budget`);
    if (now.tok_s > 0) said.push(`${figure(now.tok_s)} tok/s now`);
    if (now.bound_tok_s) said.push(`up to ${figure(now.bound_tok_s)} tok/s`);
  } else {
    said.push(stats?.loading.some((name) => sameModel(name, model.name)) ? "loading" : "not loaded");
    const budget = stats?.budget_bytes;
    if (budget) said.push(`${bytes(budget)} budget`);
    if (budget && model.size > budget) said.push("larger than the budget: streamed from the disk");
    else if (expected(model)) said.push(`about ${figure(expected(model))} tok/s at most`);
  }
  facts.textContent = said.join(" · ");
}

/** Tokens in a second that memory allows, from what it was measured to deliver to another model. */
function expected(model) {
  const measured = stats?.models.find((other) => !other.streamed && other.bound_tok_s);
  return measured ? (measured.bound_tok_s * measured.bytes_touched_per_pass) / model.size : null;
}

export function onChoose(then) {
  select.addEventListener("change", () => {
    set("model", select.value);
    showFacts();
    then(select.value);
  });
}
