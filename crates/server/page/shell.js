// What is around the conversation: the theme, and the columns that slide in where there is no room for them.

import { byId, announce } from "./dom.js";

const THEMES = ["system", "light", "dark"];
const DRAWERS = [
  ["open-list", "list"],
  ["open-panel", "panel"],
];

const root = document.documentElement;

/** The button's picture and words for the theme that is chosen. */
export function drawTheme() {
  const toggle = byId("theme");
  const current = () => root.dataset.theme ?? "system";
  const draw = () => {
    toggle.dataset.theme = current();
    toggle.setAttribute("aria-label", `Theme: ${current()}`);
    toggle.title = `Theme: ${current()}`;
  };
  toggle.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("rawrz-theme", next);
    } catch {
      // It holds as long as the tab.
    }
    draw();
    announce(`Theme: ${next}`);
  });
  draw();
}

/** Whether a column lies over the others instead of beside them. */
function isDrawer(column) {
  return getComputedStyle(column).position === "fixed";
}

export function bindDrawers() {
  for (const [opener, id] of DRAWERS) byId(opener).addEventListener("click", () => toggle(id));
  byId("shade").addEventListener("click", closeDrawers);
  addEventListener("resize", draw);
  draw();
}

/** Opens or closes a column: a drawer slides in, a column beside the others goes or comes. */
export function toggle(id) {
  const column = byId(id);
  if (isDrawer(column)) {
    const isOpen = !column.classList.contains("open");
    closeDrawers();
    column.classList.toggle("open", isOpen);
    if (isOpen) column.focus();
  } else {
    column.classList.toggle("closed");
  }
  draw();
}

/** Closes what lies over the conversation. Tells whether there was anything. */
export function closeDrawers() {
  const open = [...document.querySelectorAll(".side.open")].filter(isDrawer);
  open.forEach((column) => column.classList.remove("open"));
  draw();
  if (open.length) byId(DRAWERS.find(([, id]) => id === open[0].id)[0]).focus();
  return open.length > 0;
}

function draw() {
  let hasOpen = false;
  for (const [opener, id] of DRAWERS) {
    const column = byId(id);
    const isOpen = isDrawer(column) ? column.classList.contains("open") : !column.classList.contains("closed");
    hasOpen ||= isDrawer(column) && isOpen;
    byId(opener).setAttribute("aria-expanded", String(isOpen));
  }
  byId("shade").hidden = !hasOpen;
  // What lies under a drawer is out of reach.
  byId("main").inert = hasOpen;
}
