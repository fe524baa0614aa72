// Files that go with a message: text is read here, PDF and DOCX by the server.

import { extract } from "./api.js";
import { bytes } from "./dom.js";

/** Text files beyond this hold more tokens than models have room for. */
const MAX_TEXT_BYTES = 4 << 20;
/** The server's limit for a body. */
const MAX_DOCUMENT_BYTES = 32 << 20;
export const MAX_FILES = 16;

const DOCUMENTS = /\.(pdf|docx)$/i;
const PICTURES = /\.(png|jpe?g|gif|webp|bmp|tiff?|heic|svgz|ico|mp[34]|mov|avi|wav|ogg|webm)$/i;

/** Reads a file: `{name, bytes, pages, text}`. Throws what to tell the user. */
export async function read(file, signal) {
  const name = file.name.slice(0, 200);
  if (file.size === 0) throw new Error(`${name} is empty.`);
  if (PICTURES.test(name)) throw new Error(`${name} is a picture or a recording; the models here read text.`);
  const isDocument = DOCUMENTS.test(name);
  const limit = isDocument ? MAX_DOCUMENT_BYTES : MAX_TEXT_BYTES;
  if (file.size > limit) {
    const kind = isDocument ? "documents" : "text files";
    throw new Error(`${name} has ${bytes(file.size)}; ${kind} may have up to ${bytes(limit)}.`);
  }
  if (isDocument) {
    try {
      const { text, pages } = await extract(file, signal);
      return { name, bytes: file.size, pages: pages ?? null, text };
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error(`${name} could not be read. ${error.message}`);
    }
  }
  return { name, bytes: file.size, pages: null, text: decode(new Uint8Array(await file.arrayBuffer()), name) };
}

function decode(data, name) {
  const encoding = data[0] === 0xff && data[1] === 0xfe ? "utf-16le" : data[0] === 0xfe && data[1] === 0xff ? "utf-16be" : "utf-8";
  let text;
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(data);
  } catch {
    throw new Error(`${name} is not a text file (UTF-8 or UTF-16), nor a PDF or DOCX.`);
  }
  if (text.includes("\0")) throw new Error(`${name} is not a text file, nor a PDF or DOCX.`);
  if (!text.trim()) throw new Error(`${name} has no text.`);
  return text;
}

/** What the model is sent for a message: what was written, then each file between marks. */
export function withFiles(content, files) {
  const quoted = (files ?? []).map((file) => {
    const name = file.name.replace(/[<>"\n]/g, "_");
    return `<file name="${name}">\n${file.text}\n</file>`;
  });
  return [content, ...quoted].filter(Boolean).join("\n\n");
}
