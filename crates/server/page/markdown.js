// Markdown of models as DOM nodes. Nothing is ever parsed as HTML: a tag in the text is shown as it is written, and links
// go to the web or to mail only. Pictures become links, so that a text cannot make the browser ask other machines.

import { button, el } from "./dom.js";

/** How deep lists and quotes may be in each other. */
const MAX_DEPTH = 12;
/** How deep emphasis and links may be in each other. */
const MAX_INLINE_DEPTH = 6;
/** How far the end of a mark is looked for, so that a text of marks alone takes no longer than any other. */
const MAX_SPAN = 4000;

/** Shows `text` in `container`, leaving blocks alone that are the same as the last time. */
export function render(container, text) {
  const sources = split(text);
  const old = [...container.children];
  sources.forEach((source, index) => {
    if (old[index]?.markdown === source) return;
    const nodes = blocks(source.split("\n"), 0);
    // One source is one block; a wrapper keeps it one child even where it makes several.
    const node = nodes.length === 1 ? nodes[0] : el("div", {}, nodes);
    node.markdown = source;
    if (old[index]) old[index].replaceWith(node);
    else container.append(node);
  });
  old.slice(sources.length).forEach((node) => node.remove());
}

/** The text of each block at the top, for `render` to tell which have changed. */
function split(text) {
  const sources = [];
  let lines = [];
  let fence = null;
  const end = () => {
    if (lines.some((line) => line.trim())) sources.push(lines.join("\n"));
    lines = [];
  };
  const all = text.replace(/\r\n?/g, "\n").split("\n");
  all.forEach((line, index) => {
    if (fence) {
      lines.push(line);
      if (closes(line, fence)) fence = null;
      return;
    }
    fence = opens(line);
    lines.push(line);
    // A list or a quote goes on after an empty line if what follows belongs to it.
    const next = all[index + 1];
    const goesOn = next !== undefined && /^(\s+\S|\s*([-*+]|\d{1,9}[.)])\s)/.test(next) && isList(lines[0]);
    if (!fence && !line.trim() && !goesOn) end();
  });
  end();
  return sources;
}

function isList(line) {
  return /^\s*([-*+]|\d{1,9}[.)])\s/.test(line ?? "");
}

function opens(line) {
  const match = /^(\s{0,12})(`{3,}|~{3,})\s*([^`]*)$/.exec(line);
  return match && { indent: match[1].length, mark: match[2], language: match[3].trim().split(/\s+/)[0] };
}

function closes(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.mark.length && [...trimmed].every((char) => char === fence.mark[0]);
}

/** Nodes of a run of lines. */
function blocks(lines, depth) {
  const nodes = [];
  let paragraph = [];
  const endParagraph = () => {
    if (paragraph.length) nodes.push(el("p", {}, inlineLines(paragraph)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const fence = opens(line);
    const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
    if (fence) {
      endParagraph();
      const code = [];
      at += 1;
      while (at < lines.length && !closes(lines[at], fence)) {
        code.push(lines[at].slice(Math.min(fence.indent, /^\s*/.exec(lines[at])[0].length)));
        at += 1;
      }
      at += 1;
      nodes.push(codeBlock(code.join("\n"), fence.language));
    } else if (heading) {
      endParagraph();
      // The page has its own first and second level.
      nodes.push(el(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2], 0)));
      at += 1;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      endParagraph();
      nodes.push(el("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line) && depth < MAX_DEPTH) {
      endParagraph();
      const quoted = [];
      while (at < lines.length && /^ {0,3}>/.test(lines[at])) {
        quoted.push(lines[at].replace(/^ {0,3}> ?/, ""));
        at += 1;
      }
      nodes.push(el("blockquote", {}, blocks(quoted, depth + 1)));
    } else if (isList(line) && depth < MAX_DEPTH) {
      endParagraph();
      const [list, next] = listBlock(lines, at, depth);
      nodes.push(list);
      at = next;
    } else if (line.includes("|") && isTableRule(lines[at + 1])) {
      endParagraph();
      const [table, next] = tableBlock(lines, at);
      nodes.push(table);
      at = next;
    } else {
      if (line.trim()) paragraph.push(line);
      else endParagraph();
      at += 1;
    }
  }
  endParagraph();
  return nodes;
}

function codeBlock(code, language) {
  const copy = button("Copy", async () => {
    const isCopied = await copyText(code);
    copy.textContent = isCopied ? "Copied" : "Not copied";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  copy.className = "copy";
  copy.setAttribute("aria-label", `Copy the ${language || "code"} block`);
  return el(
    "div",
    { class: "code" },
    el("div", { class: "code-bar" }, el("span", {}, language || "code"), copy),
    el("pre", { tabindex: "0", role: "region", "aria-label": `${language || "Code"} block` }, el("code", {}, code)),
  );
}

/** Puts text on the clipboard, also where the page is not served over https. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

function listBlock(lines, start, depth) {
  const marker = (line) => /^(\s*)([-*+]|(\d{1,9})[.)])(\s+|$)(.*)$/.exec(line);
  const first = marker(lines[start]);
  const isOrdered = first[3] !== undefined;
  const indent = first[1].length;
  const items = [];
  let at = start;
  while (at < lines.length) {
    const found = marker(lines[at]);
    const width = /^\s*/.exec(lines[at])[0].length;
    if (found && found[1].length <= indent + 1 && (found[3] !== undefined) === isOrdered) {
      if (found[1].length < indent) break;
      items.push([found[5]]);
    } else if (!lines[at].trim()) {
      // Empty lines are within the list if more of it follows.
      const next = lines.slice(at).find((line) => line.trim());
      if (next === undefined || (!/^\s/.test(next) && !marker(next))) break;
      items.at(-1).push("");
    } else if (width > indent) {
      items.at(-1).push(lines[at].slice(Math.min(width, indent + (isOrdered ? 3 : 2))));
    } else {
      break;
    }
    at += 1;
  }
  const nodes = items.map((item) => {
    const task = /^\[([ xX])\] (.*)$/.exec(item[0]);
    if (task) item[0] = `${task[1] === " " ? "☐" : "☑"} ${task[2]}`;
    const content = blocks(item, depth + 1);
    // A single paragraph needs no distance of its own.
    const isTight = content[0]?.tagName === "P";
    return el("li", {}, isTight ? [...content[0].childNodes] : content[0], content.slice(1));
  });
  const begin = isOrdered && first[3] !== "1" ? first[3] : null;
  return [el(isOrdered ? "ol" : "ul", { start: begin }, nodes), at];
}

function isTableRule(line) {
  return line !== undefined && line.includes("-") && line.includes("|") && /^[\s|:-]+$/.test(line);
}

function cells(line) {
  const parts = [];
  let cell = "";
  let inCode = false;
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (text[at] === "|" && !inCode) {
      parts.push(cell.trim());
      cell = "";
    } else {
      if (text[at] === "`") inCode = !inCode;
      cell += text[at];
    }
  }
  if (cell.trim()) parts.push(cell.trim());
  return parts;
}

function tableBlock(lines, start) {
  const sides = cells(lines[start + 1]).map((rule) => {
    const [left, right] = [rule.startsWith(":"), rule.endsWith(":")];
    return right ? (left ? "center" : "right") : null;
  });
  const head = cells(lines[start]);
  const row = (tag, parts) =>
    el(
      "tr",
      {},
      head.map((_, index) => {
        const scope = tag === "th" ? "col" : null;
        return el(tag, { scope, class: sides[index] ?? null }, inline(parts[index] ?? "", 0));
      }),
    );
  const rows = [];
  let at = start + 2;
  while (at < lines.length && lines[at].includes("|")) {
    rows.push(row("td", cells(lines[at])));
    at += 1;
  }
  const table = el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, rows));
  return [el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table), at];
}

/** Lines of a paragraph: models mean the ends of their lines. */
function inlineLines(lines) {
  return lines.flatMap((line, index) => {
    const nodes = inline(line.trim().replace(/\\$/, ""), 0);
    return index ? [el("br"), ...nodes] : nodes;
  });
}

/** Marks of emphasis, the longer first, and what they make. */
const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

function inline(text, depth) {
  const nodes = [];
  let plain = "";
  const push = (node) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
  };
  for (let at = 0; at < text.length; ) {
    const char = text[at];
    if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
      continue;
    }
    const found =
      depth < MAX_INLINE_DEPTH
        ? char === "`"
          ? codeSpan(text, at)
          : char === "[" || (char === "!" && text[at + 1] === "[")
            ? link(text, at, depth)
            : char === "*" || char === "_" || char === "~"
              ? emphasis(text, at, depth)
              : char === "h" || char === "<"
                ? address(text, at)
                : null
        : null;
    if (found) {
      push(found.node);
      at = found.next;
    } else {
      // A run of one mark that opens nothing is passed over at once.
      const run = /[`*_~]/.test(char) ? runLength(text, at) : 1;
      plain += text.slice(at, at + run);
      at += run;
    }
  }
  if (plain) nodes.push(plain);
  return nodes;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function codeSpan(text, at) {
  const length = runLength(text, at);
  const mark = "`".repeat(length);
  text = text.slice(0, at + MAX_SPAN);
  for (let end = text.indexOf(mark, at + length); end >= 0; end = text.indexOf(mark, end)) {
    const run = runLength(text, end);
    if (run === length) {
      const code = text.slice(at + length, end).replace(/^ (.*\S.*) $/, "$1");
      return { node: el("code", {}, code), next: end + length };
    }
    end += run;
  }
  return null;
}

function emphasis(text, at, depth) {
  text = text.slice(0, at + MAX_SPAN);
  for (const [mark, tag] of MARKS) {
    if (!text.startsWith(mark, at)) continue;
    const start = at + mark.length;
    // Marks stand at the word that they begin; an underscore within a word is a part of it.
    if (!/\S/.test(text[start] ?? "")) continue;
    if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) continue;
    for (let end = text.indexOf(mark, start + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
      if (/\s/.test(text[end - 1]) || text[end - 1] === "\\") continue;
      if (mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark)) continue;
      if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[end + mark.length] ?? "")) continue;
      const node = el(tag, {}, inline(text.slice(start, end), depth + 1));
      return { node, next: end + mark.length };
    }
  }
  return null;
}

function link(text, at, depth) {
  const start = text[at] === "!" ? at + 2 : at + 1;
  let open = 1;
  let end = start;
  for (; end < Math.min(text.length, at + MAX_SPAN) && open > 0; end += 1) {
    if (text[end] === "\\") end += 1;
    else if (text[end] === "[") open += 1;
    else if (text[end] === "]") open -= 1;
  }
  if (open > 0 || text[end] !== "(") return null;
  const rest = /^\(\s*<?([^\s<>]*?)>?(?:\s+["'(][^"')]*["')])?\s*\)/.exec(text.slice(end, end + 4096));
  if (!rest) return null;
  const label = text.slice(start, end - 1);
  const target = safe(rest[1]);
  const next = end + rest[0].length;
  const content = inline(label || rest[1], depth + 1);
  return { node: target ? anchor(target, content) : el("span", {}, content), next };
}

/** An address that stands in the text by itself. */
function address(text, at) {
  const match = /^(<?)(https?:\/\/[^\s<>"'`]+)(>?)/.exec(text.slice(at, at + 2048));
  if (!match || /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) return null;
  // The stop of a sentence is not a part of the address, nor is a bracket that it did not open.
  let url = match[2];
  if (!match[1]) url = url.replace(/[.,;:!?*_~]+$/, "");
  if (!url.includes("(")) url = url.replace(/\)+[.,;:!?]*$/, "");
  const target = safe(url);
  if (!target) return null;
  return { node: anchor(target, [url]), next: at + match[1].length + url.length + (match[1] ? match[3].length : 0) };
}

function anchor(href, content) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, content);
}

/** The address, if a link may go there. */
function safe(target) {
  try {
    const url = new URL(target);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    // Not a whole address: a path here would be one of this server.
    return null;
  }
}
