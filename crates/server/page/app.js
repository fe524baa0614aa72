// The page as a whole: puts the parts together.

import { getJson } from "./api.js";
import * as chat from "./chat.js";
import * as composer from "./composer.js";
import * as conversations from "./conversations.js";
import { byId, toast } from "./dom.js";
import { bindKeys } from "./keys.js";
import * as models from "./models.js";
import * as panel from "./panel.js";
import * as parameters from "./parameters.js";
import * as progress from "./progress.js";
import { drawTheme, bindDrawers } from "./shell.js";
import * as store from "./store.js";

/** How often figures are asked for: while something is under way, and while not. */
const BUSY_MS = 500;
const IDLE_MS = 3000;

let timer = null;
let isWatching = false;

/** Shows the newest figures, and again after a while. */
async function refreshStats() {
  clearTimeout(timer);
  let stats = null;
  if (!document.hidden) {
    try {
      stats = await getJson("/api/rawrz/stats");
      models.update(stats);
      panel.show(stats);
      composer.update(stats);
      progress.update(stats);
    } catch (error) {
      panel.show(null, error.message);
    }
  }
  isWatching = Boolean(chat.answering) || stats?.loading.length > 0;
  clearTimeout(timer);
  timer = setTimeout(refreshStats, isWatching ? BUSY_MS : IDLE_MS);
}

async function start() {
  drawTheme();
  bindDrawers();
  const lasts = await store.open();
  parameters.draw(composer.changed);
  composer.bind();
  bindKeys();
  chat.listen(() => {
    composer.changed();
    progress.draw();
    conversations.draw();
    // What begins is watched from its beginning.
    if (chat.answering && !isWatching) {
      isWatching = true;
      refreshStats();
    }
  });
  models.onChoose(() => composer.changed());
  try {
    await models.refresh();
  } catch (error) {
    toast(error.message);
  }
  await conversations.start();
  if (!lasts) toast("This browser keeps no data for the page: conversations are gone when the tab closes.");
  byId("prompt").focus();
  refreshStats();
}

start();
