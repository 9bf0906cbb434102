// Models: the bundled one, files, and what a URL names; with those that this browser has downloaded.
import { content, failure, fingerprint, put, safe, wasm } from "./files.js";
import { Remote, record } from "./remote.js";

/** Where the WASM has the bundled model; `io::files::BUNDLED_MODEL`. */
export const BUNDLED = "/bundled";
const FILES = [
  "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
  "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
  "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
  "vae/diffusion_pytorch_model.safetensors",
];

/**
 * A model whose files may be put: `path` is the model's own, below `root`, where nothing else is. The path tells one
 * model from another: another file of the same name has another one.
 * @typedef {{path: string, root: string, name: string, key: string | null, files: [string, object][]}} Found
 */

export class Models {
  #storage;
  #fits;
  #stagings = 0;

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
    const remote = this.#address(url, options, signal);
    await remote.look();
    if (!remote.whole) await this.#staged(remote, signal, (path) => this.#fits(path, options));
    return { name: remote.name, files: await remote.download(progress), single: remote.single, key: remote.key };
  }

  #address(url, options, signal) {
    if (!this.#storage) throw failure("storage", "This browser keeps no files for this page (a private window?), so a model cannot be downloaded. Open a downloaded file instead.");
    return new Remote(this.#storage, url, options.dtype, signal);
  }

  /**
   * What `examine` finds of the model at an address, of which only the beginnings of its weights are needed, with the bytes
   * that it has, that are to be downloaded still, and that the browser has room for.
   */
  async weighed(url, signal, examine) {
    const remote = this.#address(url, {}, signal);
    await remote.look();
    const found = await this.#staged(remote, signal, examine);
    const sum = (bytes) => remote.weights.reduce((sum, file) => sum + file[bytes], 0);
    const { usage, quota } = await this.#storage.estimate();
    return { name: remote.name, bytes: sum("size"), missing: sum("left"), room: Math.max(0, quota - usage), ...found };
  }

  /** Does `work` on the path of a model that need not be downloaded: what there is of it lies there meanwhile. */
  async #staged({ name, single, configurations, weights }, signal, work) {
    const root = `/models/new-${++this.#stagings}`;
    const path = `${root}/${name}`;
    if (single) await bundled(FILES.filter((file) => file.startsWith("tokenizer/")), () => {}, signal);
    try {
      for (const [file, blob] of configurations) put(`${path}/${file}`, await content(blob));
      for (const { file, content } of weights) put(single ? path : `${path}/${file}`, content);
      return await work(path);
    } finally {
      wasm.remove(root);
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
      const noted = await record(this.#storage, model.key);
      if (noted) Object.assign(model, { url: noted.url, name: noted.name, whole: Boolean(noted.files) });
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
  return { ...folder(files, "model"), single: false };
}

/**
 * A folder's name, else `unnamed`, and its files by their paths inside of it.
 * @param {File[]} files @param {string} unnamed
 * @returns {{name: string, files: [string, File][]}}
 */
export function folder(files, unnamed) {
  const inside = (file) => (file.webkitRelativePath || file.name).split("/").slice(file.webkitRelativePath ? 1 : 0);
  const shown = files.filter((file) => !inside(file).some((part) => part.startsWith(".")));
  const name = safe((files[0].webkitRelativePath || unnamed).split("/")[0]);
  return { name, files: shown.map((file) => [inside(file).join("/"), file]) };
}
