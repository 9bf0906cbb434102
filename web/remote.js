// A model at an address: which files it has, found without a listing by the names that models' files have, and its download.
import { content, failure, safe } from "./files.js";

const TOKENIZER = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json", "tokenizer.json"];
/** Folders of a model that are read, and what is in them beside weights. */
const FOLDERS = {
  scheduler: ["scheduler_config.json"], text_encoder: ["config.json"], text_encoder_2: ["config.json"],
  tokenizer: TOKENIZER, tokenizer_2: TOKENIZER, unet: ["config.json"], vae: ["config.json"],
};
/** Folders of a model whose model_index.json names none that we know. */
const USUAL = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"];
/** Names of weights, without their endings. */
const STEMS = { text_encoder: "model", text_encoder_2: "model", unet: "diffusion_pytorch_model", vae: "diffusion_pytorch_model" };
/** Names of weights that are not read; what is there is then told by its name. */
const PICKLED = { model: "pytorch_model.bin", diffusion_pytorch_model: "diffusion_pytorch_model.bin" };
/** Beside a downloaded model: its address, its name, and once it is whole which files it has. */
const RECORD = "portray.json";
/** Bytes of a weight file's beginning that are asked for; a longer header takes a second request. */
const HEAD = 1 << 20;

const INDEX = "model_index.json";

/** What a file's beginning tells of it: enough to plan with. */
class Header {
  constructor(bytes, size) {
    this.size = size;
    this.read = (start, end) => {
      if (end > bytes.length) throw new Error("is not downloaded yet");
      return bytes.subarray(start, end);
    };
    // Keys hold no quotes: the words are types of tensors.
    const text = new TextDecoder().decode(bytes);
    this.wide = text.includes('"F32"') && !text.includes('"F16"') && !text.includes('"BF16"');
  }
}

/**
 * A file of weights: its bytes, those of them that are to be downloaded still, whether it is in full precision, and what
 * `put` takes of it.
 * @typedef {{file: string, size: number, left: number, wide: boolean, content: object}} Weights
 */

export class Remote {
  /** Small files by name. @type {[string, Blob][]} */
  configurations = [];
  /** @type {Weights[]} */
  weights = [];
  #storage;
  #signal;
  #at;
  #half;
  #record;

  /**
   * @param {import("./storage.js").Storage} storage @param {string} url
   * @param {string | undefined} dtype what the weights will be held as
   * @param {AbortSignal} [signal]
   */
  constructor(storage, url, dtype, signal) {
    const { single, name, at, href } = address(url);
    const key = `${name}-${[...href].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7).toString(16)}`;
    Object.assign(this, { single, name, key, href });
    this.#storage = storage;
    this.#signal = signal;
    this.#at = at;
    // A variant of half the size says as much, unless every bit is wanted.
    this.#half = dtype !== "f32";
  }

  /** Whether all of it is in the browser's storage. */
  get whole() {
    return this.weights.every(({ left }) => left === 0);
  }

  /** Gets the small files, and of the weights what their beginnings tell. */
  async look() {
    this.#record = await record(this.#storage, this.key);
    // What came whole once has the files that it has: it opens where its server cannot be asked, too.
    const known = this.#record?.files;
    if (known) return this.#known(known);
    if (this.single) {
      this.weights = [await this.#weight(this.name)];
      return;
    }
    const found = await this.#get(INDEX).catch((error) => {
      throw error.absent ? failure("file", `${error.message}. Give the address of a folder in diffusers layout, or of a .safetensors file`) : error;
    });
    const folders = await wanted(found);
    await together(folders.flatMap((folder) => FOLDERS[folder].map((file) => this.#small(`${folder}/${file}`))));
    const weights = await together(folders.filter((folder) => STEMS[folder]).map((folder) => this.#weightsOf(folder)));
    this.weights = weights.flat();
  }

  async #known(files) {
    await together(files.filter((file) => !isWeights(file)).map((file) => this.#small(file)));
    this.weights = await together(files.filter(isWeights).map((file) => this.#weight(file)));
  }

  /** Downloads a small file. */
  async #get(file) {
    const blob = await this.#storage.download(this.#at(file), this.key, file, { signal: this.#signal });
    this.configurations.push([file, blob]);
    return blob;
  }

  /** The same; null where the server has none of the name. */
  #small(file) {
    return this.#get(file).catch(absent);
  }

  /** The weight files of a part: whole or in shards, in the spellings that diffusers has for them. */
  async #weightsOf(folder) {
    const stem = `${folder}/${STEMS[folder]}`;
    for (const variant of ["", ".fp16", ".bf16"]) {
      const whole = await this.#found(`${stem}${variant}.safetensors`);
      if (whole) return [(whole.wide && this.#half && (await this.#found(`${stem}.fp16.safetensors`))) || whole];
      const indices = [`${stem}${variant}.safetensors.index.json`, ...(variant ? [`${stem}.safetensors.index${variant}.json`] : [])];
      for (const file of indices) {
        const shards = await this.#shards(folder, file);
        if (shards) return shards;
      }
    }
    const pickled = `${folder}/${PICKLED[STEMS[folder]]}`;
    const has = await this.#storage.peek(this.#at(pickled), 0, 1, this.#signal).catch(absent);
    if (has) this.configurations.push([pickled, new Blob([])]);
    return [];
  }

  async #shards(folder, file) {
    const blob = await this.#small(file);
    if (!blob) return null;
    const { weight_map = {} } = (await parsed(blob)) ?? {};
    const names = [...new Set(Object.values(weight_map))].filter((name) => typeof name === "string" && !/[/\\]/.test(name)).sort();
    return together(names.map((name) => this.#weight(`${folder}/${name}`)));
  }

  #found(file) {
    return this.#weight(file).catch(absent);
  }

  /** @returns {Promise<Weights>} */
  async #weight(file) {
    const blob = await this.#storage.file(`models/${this.key}/${file}`);
    if (blob) return { file, size: blob.size, left: 0, wide: false, content: await content(blob) };
    const url = this.#at(file);
    const { bytes, total } = await this.#storage.peek(url, 0, HEAD, this.#signal);
    const length = bytes.length < 8 ? 0 : Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    const more = 8 + length > bytes.length && length < 1e8;
    const header = new Header(more ? (await this.#storage.peek(url, 0, 8 + length, this.#signal)).bytes : bytes.slice(0, 8 + length), total);
    const part = await this.#storage.file(`downloads/${this.key}/${file}/part`);
    return { file, size: total, left: Math.max(1, total - (part?.size ?? 0)), wide: header.wide, content: header };
  }

  /**
   * Downloads what is not here yet, from where the last attempt ended.
   * @returns {Promise<[string, Blob][]>} all files
   */
  async download(progress) {
    const total = this.weights.reduce((sum, { size }) => sum + size, 0);
    // Who comes again goes on with this address.
    if (!this.#record && !this.whole) await this.#note();
    const files = [...this.configurations];
    let before = 0;
    for (const { file, size } of this.weights) {
      const onprogress = (done, _, note) => progress({ done: Math.min(before + done, total), total, text: `downloading ${file}${note ? ` (${note})` : ""}` });
      files.push([file, await this.#storage.download(this.#at(file), this.key, file, { onprogress, signal: this.#signal })]);
      before += size;
    }
    if (!this.#record?.files) await this.#note(files.map(([file]) => file));
    return files;
  }

  #note(files) {
    const text = JSON.stringify({ url: this.href, name: this.name, files });
    return this.#storage.write(`models/${this.key}/${RECORD}`, new TextEncoder().encode(text));
  }
}

const isWeights = (file) => file.endsWith(".safetensors");

/** What this browser noted of a model: its address, its name, and its files once all are there. */
export async function record(storage, key) {
  const bytes = await storage.read(`models/${key}/${RECORD}`);
  return bytes && parsed(new Blob([bytes]));
}

async function parsed(blob) {
  try {
    return JSON.parse(await blob.text());
  } catch {
    return null;
  }
}

/** Folders that are named by a model_index.json and read; what is wrong with one, the engine says. */
async function wanted(blob) {
  const named = Object.entries((await parsed(blob)) ?? {}).filter(([name, value]) => FOLDERS[name] && Array.isArray(value) && value[0] !== null);
  return named.length > 0 ? named.map(([name]) => name) : USUAL;
}

/** A file that the server has not is null; other errors stay. */
function absent(error) {
  if (error.absent) return null;
  throw error;
}

/** As `Promise.all`, but nothing of it runs on after an error. */
async function together(all) {
  const ends = await Promise.allSettled(all);
  const failed = ends.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  return ends.map(({ value }) => value);
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
