// The WASM, and what JavaScript puts under a path for it to read.
import init, * as wasm from "./pkg/portray.js";

export { wasm };

/** Files up to this size are held whole. */
const SMALL = 4 << 20;

export const start = () => init({ module_or_path: new URL("./pkg/portray_bg.wasm", import.meta.url) });

/** Tests count what the WASM holds. */
export const memoryBytes = async () => (await start()).memory.buffer.byteLength;

/** An error with a `kind`, as portray.js throws it. */
export function failure(kind, message) {
  return Object.assign(new Error(message), { kind });
}

export const defined = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null));

/** The options of a job as the WASM names them: `classPrompt` is `class_prompt`. */
export function snake(object) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), value]));
}

/** What the WASM says as JavaScript has it: `class_prompt` is `classPrompt`. */
export function camel(object) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key.replace(/_[a-z]/g, (c) => c[1].toUpperCase()), value]));
}

/** A report of the WASM, from its JSON. */
export function report(text) {
  const { event, ...fields } = camel(JSON.parse(text));
  return fields;
}

/** An error as data that goes through `postMessage`: the kind of a PortrayError, its message, and what else it has. */
export function plain(error) {
  const kind = error?.kind ?? (error?.name === "AbortError" ? "interrupted" : "usage");
  return { kind, message: error?.message ?? String(error), field: error?.field ?? null };
}

/** `name` as one part of a path: letters of every script stay what they are. */
export function safe(name) {
  return name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N}_.\- ]+/gu, "_").replace(/^\.+/, "_").trim() || "_";
}

/**
 * What is in a Blob, for `put`: small ones whole, larger ones read slice by slice.
 * @param {Blob} blob @param {number} [small] bytes up to which it is held whole
 */
export async function content(blob, small = SMALL) {
  if (blob.size <= small) return { bytes: new Uint8Array(await blob.arrayBuffer()) };
  if (globalThis.FileReaderSync) {
    const reader = new FileReaderSync();
    return { size: blob.size, read: (start, end) => new Uint8Array(reader.readAsArrayBuffer(blob.slice(start, end))) };
  }
  // Outside of Workers nothing reads a file at once: the browser holds it, not the WASM's memory.
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return { size: bytes.length, read: (start, end) => bytes.subarray(start, end) };
}

/** Puts what `content` gave at `path`. */
export function put(path, { bytes, size, read }) {
  if (bytes) wasm.put(path, bytes);
  else wasm.putSlices(path, size, read);
}

/**
 * A few letters that tell these files from others, by names, sizes and pieces of each.
 * @param {[string, Blob][]} files
 */
export async function fingerprint(files) {
  const [pieces, piece] = [16, 16 << 10];
  const parts = [...files].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([name, blob]) => {
    const starts = blob.size <= pieces * piece ? [] : [...Array(pieces).keys()].map((i) => Math.floor((i * blob.size) / pieces));
    const seen = starts.length ? [...starts.map((at) => blob.slice(at, at + piece)), blob.slice(-piece)] : [blob];
    return [`${name}\n${blob.size}\n`, ...seen];
  });
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  return [...new Uint8Array(digest, 0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
