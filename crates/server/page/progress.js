// How far an answer is that has not begun yet, or whose tokens take seconds.

import * as chat from "./chat.js";
import { byId, bytes, count, el, figure, meter } from "./dom.js";
import { loaded, sameModel, shortName } from "./models.js";

const status = byId("status");

/** Tokens that take longer than this are worth a bar. */
const SLOW_S = 0.7;

let stats = null;
let timer = null;

export function update(latest) {
  stats = latest;
  draw();
}

/** Draws the line over the field; again and again while something moves. */
export function draw() {
  clearTimeout(timer);
  const now = chat.answering;
  if (!now) {
    status.replaceChildren();
    return;
  }
  status.replaceChildren(...lines(now));
  timer = setTimeout(draw, 200);
}

function lines({ message, phase, done, total, since, lastToken }) {
  const model = loaded(stats);
  const waited = (performance.now() - since) / 1000;
  if (phase === "prompt") {
    const text = `Reading the prompt: ${count(done)} of ${count(total)} tokens`;
    return [el("p", {}, text), meter(done / total, text), ...pass(model, null)];
  }
  if (phase === "waiting") {
    const isLoading = stats?.loading.some((name) => sameModel(name, message.model));
    const isQueued = model && model.queued > 0 && model.running > 0;
    const text = isLoading
      ? `Loading ${shortName(message.model)}: ${figure(waited)} s`
      : isQueued
        ? `Waiting for a turn: ${count(model.queued)} before it or with it`
        : "Waiting for the first token";
    return waited > 0.4 ? [el("p", {}, text)] : [];
  }
  return pass(model, (performance.now() - lastToken) / 1000);
}

/** A pass over a model that is streamed: how long it takes, and how far it should be by now. */
function pass(model, elapsed) {
  const rate = model?.passes_s > 0 ? model.passes_s : model?.bound_tok_s;
  if (!model?.streamed || !rate || 1 / rate < SLOW_S) return [];
  const read = model.placement.reduce((sum, layer) => sum + layer.streamed, 0);
  const text = `A pass reads ${bytes(read || model.bytes_touched_per_pass)} from the disk and takes about ${figure(1 / rate)} s`;
  const parts = [el("p", {}, elapsed === null ? text : `${text}; ${figure(elapsed)} s so far`)];
  if (elapsed !== null) parts.push(meter(elapsed * rate, "Progress of the pass"));
  return parts;
}
