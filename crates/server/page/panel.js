// The live panel: what the server does now, from /api/rawrz/stats.

import { byId, bytes, count, el, figure, meter, plural } from "./dom.js";
import { chosen, loaded, shortName } from "./models.js";

const root = byId("live");

/** Colours of kinds of memory, by turns. */
const KINDS = 6;

export function show(stats, problem) {
  if (problem) {
    root.replaceChildren(el("p", { class: "facts" }, problem));
    return;
  }
  const model = loaded(stats);
  const parts = [];
  if (model) parts.push(...speed(model), ...memory(model), ...layers(model), ...totals(model));
  else {
    const isLoading = stats.loading.length > 0;
    const text = isLoading
      ? `Loading ${stats.loading.map(shortName).join(", ")} …`
      : `${shortName(chosen()) || "No model"} is not loaded yet. The first message loads it.`;
    parts.push(el("p", { class: "facts" }, text));
  }
  parts.push(process(stats));
  root.replaceChildren(...parts);
}

function line(label, value) {
  return el("div", { class: "line" }, el("span", {}, label), el("span", { class: "value" }, value));
}

function speed(model) {
  const share = model.share_of_bound;
  const percent = `${Math.round((share ?? 0) * 100)} %`;
  return [
    el(
      "div",
      { class: "big-line" },
      el("span", { class: "number" }, figure(model.tok_s)),
      el("span", {}, "tok/s"),
      el("span", { class: "value" }, model.prompt_tok_s > 0 ? `prompt ${figure(model.prompt_tok_s)} tok/s` : ""),
    ),
    model.bound_tok_s
      ? el(
          "div",
          {},
          meter(share, `${percent} of the bound of ${figure(model.bound_tok_s)} tokens per second`),
          line("of the bound", `${percent} of ${figure(model.bound_tok_s)} tok/s`),
        )
      : null,
    line("read per token", model.streamed ? bytes(model.bytes_read_per_token) : "0 B (in memory)"),
    line("weights per pass", bytes(model.bytes_touched_per_pass)),
    line("requests", `${count(model.running)} running, ${count(model.queued)} waiting`),
  ].filter(Boolean);
}

function memory(model) {
  const entries = model.memory.filter((entry) => entry.bytes > 0);
  const sum = entries.reduce((sum, entry) => sum + entry.bytes, 0);
  const whole = Math.max(model.budget_bytes ?? 0, sum);
  const bar = el("div", {
    class: "stack",
    role: "img",
    "aria-label": `${bytes(sum)} of ${bytes(whole)} planned`,
  });
  const rows = entries.map((entry, index) => {
    const part = el("span", { class: `kind-${index % KINDS}`, title: entry.what });
    part.style.width = `${(entry.bytes / whole) * 100}%`;
    bar.append(part);
    return el(
      "div",
      { class: "line" },
      el("span", {}, el("span", { class: `dot kind-${index % KINDS}`, "aria-hidden": "true" }), entry.what),
      el("span", { class: "value" }, bytes(entry.bytes)),
    );
  });
  return [
    el("h3", {}, "Memory"),
    bar,
    line("planned of its budget", `${bytes(sum)} of ${bytes(model.budget_bytes ?? sum)}`),
    ...rows,
    line("KV cache in use", bytes(model.kv_bytes_in_use)),
  ];
}

/** A bar for each layer: which shares of it are kept, streamed, and chosen among experts. */
function layers(model) {
  const places = [
    ["pinned", "kept in memory"],
    ["streamed", "streamed"],
    ["experts", "experts"],
  ];
  if (model.placement.length === 0) {
    return [el("h3", {}, "Layers"), el("p", { class: "facts" }, "All layers are mapped in memory.")];
  }
  const sums = places.map(([key]) => model.placement.reduce((sum, layer) => sum + layer[key], 0));
  const said = places.map(([, name], index) => `${name} ${bytes(sums[index])}`).join(", ");
  const bars = model.placement.map((layer, index) => {
    const isHead = index === model.placement.length - 1;
    const name = isHead ? "Output head" : `Layer ${index}`;
    const whole = Math.max(1, layer.pinned + layer.streamed + layer.experts);
    const parts = places.map(([key]) => {
      const part = el("span", { class: key });
      part.style.height = `${(layer[key] / whole) * 100}%`;
      return part;
    });
    const title = places.map(([key, name]) => `${name} ${bytes(layer[key])}`).join(", ");
    return el("span", { class: "layer", title: `${name}: ${title}` }, parts);
  });
  const legend = places.map(([key, name], index) =>
    el(
      "div",
      { class: "line" },
      el("span", {}, el("span", { class: `dot ${key}`, "aria-hidden": "true" }), name),
      el("span", { class: "value" }, bytes(sums[index])),
    ),
  );
  return [
    el("h3", {}, "Layers"),
    el("div", { class: "layers", role: "img", "aria-label": `${plural(model.placement.length, "layer")}: ${said}` }, bars),
    ...legend,
  ];
}

function totals(model) {
  const { totals } = model;
  return [
    el("h3", {}, "Since it was loaded"),
    line("requests", count(totals.requests)),
    line("tokens made", count(totals.tokens)),
    line("prompt tokens", `${count(totals.prompt_tokens)} read, ${count(totals.reused_tokens)} reused`),
    line("passes", count(totals.passes)),
  ];
}

function process(stats) {
  const resident = stats.process.resident_bytes;
  const budget = stats.budget_bytes;
  return el(
    "div",
    {},
    el("h3", {}, "Process"),
    resident && budget ? meter(resident / budget, `${bytes(resident)} of ${bytes(budget)} in use`) : null,
    resident ? line("memory", budget ? `${bytes(resident)} of ${bytes(budget)}` : bytes(resident)) : null,
    stats.process.peak_resident_bytes ? line("at most so far", bytes(stats.process.peak_resident_bytes)) : null,
    line("version", stats.version),
  );
}
