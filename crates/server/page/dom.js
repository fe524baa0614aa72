// Elements, and numbers as people read them. Text only ever becomes text nodes: nothing here parses HTML.

/** An element: `el("p", {class: "facts", onclick: f}, "text", otherElement)`. Children that are null are left out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(label, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, label);
}

export function byId(id) {
  return document.getElementById(id);
}

const announcer = byId("announce");

/** Tells readers of the screen something when they are not busy. */
export function announce(text) {
  announcer.textContent = "";
  // A change that comes with the emptying is not noticed.
  setTimeout(() => (announcer.textContent = text), 50);
}

/** Bytes as `94 MiB`. */
export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A rate or another small number. */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2);
}

export function count(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString("en") : "–";
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

/** A bar that is filled up to `share` of 1, with what it says for readers of the screen. */
export function meter(share, label, kind = "") {
  const fill = el("span", { class: `fill ${kind}` });
  fill.style.width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`;
  return el("div", { class: "meter", role: "img", "aria-label": label }, fill);
}

/** Asks a question in a dialog; resolves to the answer's text, or null. `field` is null for yes or no. */
export function ask({ title, text, field = null, action, danger = false }) {
  return new Promise((resolve) => {
    const input = field === null ? null : el("input", { value: field, "aria-label": title, maxlength: 200 });
    const close = (value) => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    const form = el(
      "form",
      { method: "dialog" },
      el("h2", { id: "ask-title" }, title),
      text ? el("p", {}, text) : null,
      input,
      el(
        "div",
        { class: "row end" },
        button("Cancel", () => close(null)),
        el("button", { type: "submit", class: danger ? "danger" : "primary" }, action),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close(input ? input.value : "");
    });
    const dialog = el("dialog", { "aria-labelledby": "ask-title" }, form);
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close(null);
    });
    document.body.append(dialog);
    dialog.showModal();
    input?.select();
  });
}

/** A line that comes and goes at the foot of the page. */
export function toast(text) {
  const line = el("div", { class: "toast" }, text);
  document.body.append(line);
  announce(text);
  setTimeout(() => line.remove(), 6000);
}

/** Gives the user a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
