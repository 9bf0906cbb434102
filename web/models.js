// Models: the bundled one, files, and what a URL names; with those that this browser has downloaded.
import { content, failure, fingerprint, put, safe, wasm } from "./files.js";

/** Where the WASM has the bundled model; `io::files::BUNDLED_MODEL`. */
export const BUNDLED = "/bundled";
const FILES = [
  "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
  "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
  "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
  "vae/diffusion_pytorch_model.safetensors",
];
/** What a folder on a server may hold besides, in other spellings. */
const OPTIONAL = ["tokenizer/tokenizer.json"];
/** Beside a downloaded model: its address, and which files it has. */
const RECORD = "portray.json";

const weights = (file) => file.endsWith(".safetensors");
const text = (object) => new TextEncoder().encode(JSON.stringify(object));

/**
 * A model whose files may be put: `path` is the model's own, below `root`, where nothing else is. The path tells one
 * model from another: another file of the same name has another one.
 * @typedef {{path: string, root: string, name: string, key: string | null, files: [string, object][]}} Found
 */

export class Models {
  #storage;
  #fits;

  /**
   * @param {import("./storage.js").Storage | null} storage
   * @param {(path: string, options: object) => Promise<void>} fits throws where the adapter cannot hold the model at a path
   */
  constructor(storage, fits) {
    this.#storage = storage;
    this.#fits = fits;
  }

  /**
   * @param {undefined | null | Blob | File[] | string} source
   * @returns {Promise<Found>}
   */
  async find(source, options, progress, signal) {
    if (source === undefined || source === null) {
      await bundled(FILES, progress, signal);
      return { path: BUNDLED, root: BUNDLED, name: "bundled", key: null, files: [] };
    }
    const { name, files, single, key = null } = typeof source === "string" ? await this.#remote(source, options, progress, signal) : local(source);
    // A single file has no tokenizer: CLIP's comes with the page.
    if (single) await bundled(FILES.filter((file) => file.startsWith("tokenizer/")), progress, signal);
    const root = `/models/${await fingerprint(files)}`;
    const path = `${root}/${name}`;
    const read = [];
    for (const [file, blob] of files) read.push([single ? path : `${path}/${file}`, await content(blob)]);
    signal?.throwIfAborted();
    return { path, root, name, key, files: read };
  }

  /** A URL's files, once their headers say that the model fits. */
  async #remote(url, options, progress, signal) {
    const storage = this.#storage;
    if (!storage) throw failure("storage", "This browser keeps no files for this page (a private window?), so a model cannot be downloaded. Open a downloaded file instead.");
    const { single, name, at, href } = address(url);
    const key = `${name}-${[...href].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7).toString(16)}`;
    // What came whole once has the files that it has: it opens where its server cannot be asked, too.
    const record = await this.#record(key);
    const wanted = record?.files ?? (single ? [name] : [...FILES, ...OPTIONAL]);
    const files = [];
    const download = async (file) => {
      const onprogress = weights(file) ? (done, total) => progress({ done, total, text: `downloading ${file}` }) : undefined;
      files.push([file, await storage.download(at(file), key, file, { onprogress, signal })]);
    };
    // Configurations are small; of weights the headers tell enough to plan with.
    for (const file of wanted.filter((file) => !weights(file))) {
      await download(file).catch((error) => {
        if (!error.absent) throw error;
        if (file === "model_index.json") throw failure("file", `${error.message}. Give the address of a folder in diffusers layout, or of a .safetensors file`);
      });
    }
    await this.#planned(wanted.filter(weights), files, { single, name, key, at, options, signal });
    for (const file of wanted.filter(weights)) await download(file);
    if (!record) await storage.write(`models/${key}/${RECORD}`, text({ url: href, name, files: files.map(([file]) => file) }));
    return { name, files, single, key };
  }

  /** Refuses what the adapter cannot hold before it is downloaded. */
  async #planned(wanted, configurations, { single, name, key, at, options, signal }) {
    const here = await Promise.all(wanted.map((file) => this.#storage.file(`models/${key}/${file}`)));
    if (here.every(Boolean)) return;
    const path = `/models/new/${name}`;
    if (single) await bundled(FILES.filter((file) => file.startsWith("tokenizer/")), () => {}, signal);
    try {
      for (const [file, blob] of configurations) put(`${path}/${file}`, await content(blob));
      for (const [i, file] of wanted.entries()) {
        put(single ? path : `${path}/${file}`, here[i] ? await content(here[i]) : await this.#header(at(file), signal));
      }
      await this.#fits(path, options);
    } finally {
      wasm.remove("/models/new");
    }
  }

  /** What `put` takes of a safetensors file that is not here yet. */
  async #header(url, signal) {
    const { bytes, total } = await this.#storage.peek(url, 0, 1 << 20, signal);
    const length = bytes.length < 8 ? 0 : Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    const head = 8 + length > bytes.length && length < 1e8 ? (await this.#storage.peek(url, 0, 8 + length, signal)).bytes : bytes;
    const read = (start, end) => {
      if (end > head.length) throw new Error("is not downloaded yet");
      return head.subarray(start, end);
    };
    return { size: total, read };
  }

  async #record(key) {
    const bytes = await this.#storage.read(`models/${key}/${RECORD}`);
    try {
      return bytes && JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      return null;
    }
  }

  /** Models in the browser's storage, whole or in part. */
  async list() {
    const found = new Map();
    for (const kind of this.#storage ? ["models", "downloads"] : []) {
      for (const path of await this.#storage.list(kind)) {
        const key = path.split("/")[0];
        if (!found.has(key)) found.set(key, { key, name: key.replace(/-[0-9a-f]+$/, ""), bytes: 0, whole: false });
        found.get(key).bytes += (await this.#storage.file(`${kind}/${path}`))?.size ?? 0;
      }
    }
    for (const model of found.values()) {
      const record = await this.#record(model.key);
      if (record) Object.assign(model, { url: record.url, name: record.name, whole: true });
    }
    return [...found.values()];
  }

  /** @param {string} key as `list` gives it */
  async forget(key) {
    await this.#storage?.remove(`models/${key}`);
  }
}

/** Brings those of the bundled model's files that are not there yet. */
async function bundled(wanted, progress, signal) {
  const here = new Set(wasm.below(BUNDLED));
  const base = new URL("./model/", import.meta.url);
  let done = 0;
  await Promise.all(wanted.filter((name) => !here.has(`${BUNDLED}/${name}`)).map(async (name, _, missing) => {
    const wrong = (why) => failure("file", `the bundled model's ${name}: ${why}`);
    const answer = await fetch(new URL(name, base), { signal }).catch((error) => Promise.reject(signal?.aborted ? error : wrong("the connection broke")));
    if (!answer.ok) throw wrong(`the server says ${answer.status}`);
    wasm.put(`${BUNDLED}/${name}`, new Uint8Array(await answer.arrayBuffer().catch((error) => Promise.reject(signal?.aborted ? error : wrong("the connection broke")))));
    progress({ done: ++done, total: missing.length, text: "loading the bundled model" });
  }));
}

/** One file, or those of a folder. */
function local(source) {
  const files = Array.isArray(source) ? source : [source];
  if (files.length === 0) throw failure("file", "this folder is empty: choose the one with model_index.json");
  if (files.length === 1 && !files[0].webkitRelativePath?.includes("/")) {
    const name = safe(files[0].name ?? "model.safetensors");
    return { name, files: [[name, files[0]]], single: true };
  }
  const inside = (file) => (file.webkitRelativePath || file.name).split("/").slice(file.webkitRelativePath ? 1 : 0);
  const shown = files.filter((file) => !inside(file).some((part) => part.startsWith(".")));
  const name = safe((files[0].webkitRelativePath || "model").split("/")[0]);
  return { name, files: shown.map((file) => [inside(file).join("/"), file]), single: false };
}

/** What an address says by itself. */
export function address(url) {
  let found;
  try {
    found = new URL(url, globalThis.location?.href);
  } catch {
    throw failure("usage", `${url} is no address: one begins with https://`);
  }
  const near = found.origin === globalThis.location?.origin || ["localhost", "127.0.0.1", "[::1]"].includes(found.hostname);
  if (found.protocol !== "https:" && !(found.protocol === "http:" && near)) {
    throw failure("usage", `${found.href}: a page reaches other servers by https:// only. Give such an address, or open a downloaded file`);
  }
  found.hash = "";
  const parts = found.pathname.split("/").filter(Boolean).map((part) => decoded(part));
  const single = found.pathname.endsWith(".safetensors");
  // …/OWNER/NAME/resolve/REVISION, as model hubs have it: the revision is no name.
  const named = parts.at(-2) === "resolve" && !single ? parts.at(-3) : parts.at(-1);
  const at = (file) => {
    const full = new URL(found.href);
    if (!single) full.pathname = `${full.pathname.replace(/\/$/, "")}/${file}`;
    return full.href;
  };
  return { single, name: safe(named ?? "model"), at, href: found.href };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
