// The engine in whichever realm it runs: a Worker (worker.js) or the page itself. Files, jobs and what of them lasts.
import init, * as wasm from "./pkg/portray.js";
import { Storage, StorageFull } from "./storage.js";

/** Where the WASM has the bundled model; `io::files::BUNDLED_MODEL`. */
const BUNDLED = "/bundled";
const MODEL_FILES = [
  "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
  "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
  "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
  "vae/diffusion_pytorch_model.safetensors",
];
/** What a folder on a server may hold besides, in other spellings. */
const OPTIONAL = ["tokenizer/tokenizer.json"];
/** Files below this size are held whole. */
const SMALL = 4 << 20;

const start = () => init({ module_or_path: new URL("./pkg/portray_bg.wasm", import.meta.url) });

/** An error with a `kind`, as portray.js throws it. */
export function failure(kind, message) {
  return Object.assign(new Error(message), { kind });
}

/** The options of a job as the WASM names them: `classPrompt` is `class_prompt`. */
function snake(object) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), value]));
}

/** A message without the folders that only the engine knows. */
export const plainly = (message) => message.replaceAll(/\/(models|loras|converted|runs\/[\w-]+)\//g, "").replace(/^\/(prepare|init): /, "").replace(/^options: (.*) at line \d+ column \d+$/, "$1");

const defined = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null));
const safe = (name) => name.replace(/[^\w.\- ]+/g, "_");

export class Realm {
  /** @param {(event: object, transfer?: Transferable[]) => void} lost called with a message when the device is lost */
  static async create(lost) {
    if (!globalThis.navigator?.gpu) {
      const secure = globalThis.isSecureContext;
      throw failure("unsupported", secure ? "This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or later have it." : "WebGPU needs a secure page: open this one through https or from localhost.");
    }
    if (!(await navigator.gpu.requestAdapter())) {
      throw failure("unsupported", "No graphics adapter answers. Turn on hardware acceleration in the browser's settings, or try another browser.");
    }
    await start();
    const realm = new Realm();
    realm.engine = await wasm.Engine.request();
    realm.info = JSON.parse(realm.engine.info());
    realm.device = realm.engine.device();
    realm.device.lost.then((info) => {
      realm.gone = `The graphics device was lost${info.message ? `: ${info.message}` : ""}`;
      lost(realm.gone);
    });
    realm.storage = await Storage.open().catch(() => null);
    return realm;
  }

  constructor() {
    this.model = null;
    this.loras = new Map();
    this.locks = new Map();
    this.gone = null;
  }

  // ---- models

  /** Loads the bundled model, files, or what a URL names. */
  async load(source, options, progress, signal) {
    if (this.gone) throw failure("device", this.gone);
    await this.#bundled(progress);
    const folder = source === undefined || source === null ? BUNDLED
      : typeof source === "string" ? await this.#remote(source, options, progress, signal)
      : await this.#local(source);
    const model = defined({ model: folder, dtype: options?.dtype, prediction: options?.prediction });
    const info = JSON.parse(this.engine.model(JSON.stringify(model)));
    await this.#fits(model);
    const kept = new Map();
    for (const lora of this.loras.values()) {
      try {
        kept.set(lora.name, { ...JSON.parse(this.engine.lora(JSON.stringify(model), lora.path)), name: lora.name, path: lora.path });
      } catch { /* it belongs to another model, and would be refused with every picture */ }
    }
    if (this.model && this.model.model !== folder && this.model.model !== BUNDLED) wasm.remove(this.model.model);
    this.model = model;
    this.loras = kept;
    info.name = folder === BUNDLED ? "bundled" : folder.split("/").pop();
    return { info, loras: [...kept.values()] };
  }

  async #bundled(progress) {
    if (wasm.below(BUNDLED).length > 0) return;
    const base = new URL("./model/", import.meta.url);
    let done = 0;
    await Promise.all(MODEL_FILES.map(async (name) => {
      const answer = await fetch(new URL(name, base));
      if (!answer.ok) throw failure("file", `${name} of the bundled model: the server says ${answer.status}`);
      wasm.put(`${BUNDLED}/${name}`, new Uint8Array(await answer.arrayBuffer()));
      progress({ done: ++done, total: MODEL_FILES.length, text: "loading the bundled model" });
    }));
  }

  async #local(source) {
    const files = Array.isArray(source) ? source : [source];
    if (files.length === 1 && !files[0].webkitRelativePath?.includes("/")) {
      const path = `/models/${safe(files[0].name)}`;
      await this.#putBlob(path, files[0]);
      return path;
    }
    const root = `/models/${safe((files[0].webkitRelativePath || "model").split("/")[0])}`;
    wasm.remove(root);
    for (const file of files) {
      const inside = file.webkitRelativePath.split("/").slice(1);
      if (!inside.some((part) => part.startsWith("."))) await this.#putBlob(`${root}/${inside.join("/")}`, file);
    }
    return root;
  }

  /** A URL's files, once their headers say that the model fits. */
  async #remote(url, options, progress, signal) {
    if (!this.storage) throw failure("storage", "This browser keeps no files for this page (a private window?), so a model cannot be downloaded. Open a downloaded file instead.");
    const address = new URL(url, globalThis.location?.href);
    const single = address.pathname.endsWith(".safetensors");
    const name = safe(decodeURIComponent(address.pathname.split("/").filter(Boolean).pop() ?? "model"));
    const key = `${name}-${[...address.href].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7).toString(16)}`;
    const root = `/models/${name}`;
    const at = (file) => (single ? address.href : new URL(file, address.href.endsWith("/") ? address.href : `${address.href}/`).href);
    const wanted = single ? [name] : MODEL_FILES;
    wasm.remove(root);
    // Configurations are small; of weights the headers tell enough to plan with.
    const plain = single ? [] : wanted.filter((file) => !file.endsWith(".safetensors"));
    for (const file of plain.concat(single ? [] : OPTIONAL)) {
      const answer = await fetch(at(file), { signal });
      if (answer.ok) wasm.put(`${root}/${file}`, new Uint8Array(await answer.arrayBuffer()));
      else if (file === "model_index.json") throw failure("file", `${at(file)}: the server says ${answer.status}. Give the address of a folder in diffusers layout, or of a .safetensors file.`);
    }
    const weights = wanted.filter((file) => file.endsWith(".safetensors"));
    for (const file of weights) {
      const { bytes, total } = await this.storage.peek(at(file), 0, 1 << 20);
      const length = bytes.length < 8 ? 0 : Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
      const head = 8 + length > bytes.length && length < 1e8 ? (await this.storage.peek(at(file), 0, 8 + length)).bytes : bytes;
      wasm.putSlices(single ? root : `${root}/${file}`, total, (start, end) => {
        if (end > head.length) throw new Error("is not downloaded yet");
        return head.subarray(start, end);
      });
    }
    await this.#fits(defined({ model: root, dtype: options?.dtype, prediction: options?.prediction }));
    for (const file of weights) {
      const onprogress = (done, total) => progress({ done, total, text: `downloading ${file}` });
      const got = await this.storage.download(at(file), key, file, { onprogress, signal });
      await this.#putBlob(single ? root : `${root}/${file}`, got);
    }
    return root;
  }

  /** Refuses a model whose smallest picture the adapter cannot hold. */
  async #fits(model) {
    const plan = JSON.parse(this.engine.plan("generate", JSON.stringify({ prompts: [""], model })));
    await this.#trial(plan, "Making a picture with this model");
  }

  async #trial(plan, what) {
    if (!(await this.engine.canAllocate(plan.peakBytes))) {
      const gb = (plan.peakBytes / 1e9).toFixed(2);
      throw failure("limit", `${what} takes ${gb} GB of graphics memory, which this adapter cannot give now. Choose dtype q8 or f16, a smaller size, or close other programs.`);
    }
  }

  /** Puts a Blob at `path`: small ones whole, large ones read slice by slice. */
  async #putBlob(path, blob) {
    if (blob.size <= SMALL) {
      wasm.put(path, new Uint8Array(await blob.arrayBuffer()));
    } else if (globalThis.FileReaderSync) {
      const reader = new FileReaderSync();
      wasm.putSlices(path, blob.size, (start, end) => new Uint8Array(reader.readAsArrayBuffer(blob.slice(start, end))));
    } else {
      // Outside of Workers nothing reads a file at once: the browser holds it, not the WASM's memory.
      const bytes = new Uint8Array(await blob.arrayBuffer());
      wasm.putSlices(path, bytes.length, (start, end) => bytes.subarray(start, end));
    }
  }

  // ---- LoRAs

  async addLora(blob, name) {
    const path = `/loras/${safe(name)}`;
    await this.#putBlob(path, blob);
    return this.#register(path, name);
  }

  #register(path, name) {
    try {
      const info = { ...JSON.parse(this.engine.lora(JSON.stringify(this.#loaded()), path)), name };
      this.loras.set(name, { ...info, path });
      return info;
    } catch (error) {
      wasm.remove(path);
      throw error;
    }
  }

  removeLora(name) {
    const lora = this.loras.get(name);
    if (lora) wasm.remove(lora.path);
    this.loras.delete(name);
  }

  async convert(name, format) {
    const lora = this.loras.get(name);
    if (!lora) throw failure("usage", `there is no LoRA called ${name}`);
    const out = `/converted/${safe(name)}`;
    wasm.convert(lora.path, format, out);
    const bytes = wasm.file(out);
    wasm.remove(out);
    wasm.written();
    return new Blob([bytes], { type: "application/octet-stream" });
  }

  #loaded() {
    if (this.gone) throw failure("device", this.gone);
    if (!this.model) throw failure("usage", "no model is loaded yet");
    return this.model;
  }

  // ---- jobs

  plan(kind, job) {
    const said = kind === "train" ? this.#trainJob({ images: [], ...job }, "/none") : this.#generateJob(job);
    return JSON.parse(this.engine.plan(kind, JSON.stringify(said)));
  }

  async preparePicture(blob, resolution) {
    await this.#putBlob("/prepare", blob);
    try {
      const side = resolution ?? JSON.parse(this.engine.model(JSON.stringify(this.#loaded()))).side;
      return { width: side, height: side, image: await pixels(wasm.prepare("/prepare", side), side, side) };
    } finally {
      wasm.remove("/prepare");
    }
  }

  #generateJob(job) {
    const { prompt, count, strength, previews = true, loras = [], init, texture, ...sampling } = job;
    const paths = loras.map(({ name, scale }) => {
      const lora = this.loras.get(name);
      if (!lora) throw failure("usage", `there is no LoRA called ${name}`);
      return { path: lora.path, scale: scale ?? 1 };
    });
    return defined({ prompts: [prompt ?? ""], model: this.#loaded(), sampling: defined(snake(sampling)), loras: paths, count,
      strength, previews, init: init ? "/init" : undefined });
  }

  /** @param {(event: object, transfer: Transferable[]) => void} tell  @param {{asked: string | null}} control */
  async generate(job, tell, control) {
    const said = this.#generateJob(job);
    await this.#trial(JSON.parse(this.engine.plan("generate", JSON.stringify(said))), "This");
    if (job.init) await this.#putBlob("/init", job.init);
    try {
      await this.#run((listener) => this.engine.generate(JSON.stringify(said), listener), tell, control);
    } finally {
      wasm.remove("/init");
    }
    tell({ type: "done" }, []);
  }

  /** Runs a job of the WASM; events that carry pictures wait for them in order. */
  async #run(start, tell, control, seen = () => {}) {
    let last = Promise.resolve();
    let fault = null;
    const listener = (text, rgba, png) => {
      const event = JSON.parse(text);
      last = last.then(async () => {
        if (rgba) event.image = await pixels(rgba, event.width, event.height);
        if (png) event.png = new Blob([png], { type: "image/png" });
        await seen(event);
        tell(event, event.image ? [event.image] : []);
      }).catch((error) => {
        fault ??= error;
        control.asked ??= "stop";
      });
      return control.asked ?? "";
    };
    try {
      return await start(listener);
    } catch (error) {
      throw this.gone && error.kind !== "interrupted" ? failure("device", this.gone) : error;
    } finally {
      await last;
      if (fault) throw fault;
    }
  }

  // ---- trainings

  #trainJob(job, folder) {
    const { images, name, samplePrompts, ...rest } = job;
    const options = snake(defined(rest));
    return { ...options, model: this.#loaded(), images: images.length > 0 ? `${folder}/images` : undefined,
      sample_prompts: samplePrompts ?? [], save_every: options.save_every ?? 25, out: `${folder}/lora.safetensors` };
  }

  /** Begins a training: its folder, its lock, its pictures kept. */
  async train(id, job, tell, control) {
    const folder = `/runs/${id}`;
    const run = { id, name: safe(job.name || job.prompt || "LoRA"), prompt: job.prompt, step: 0, steps: job.steps ?? 400,
      model: this.#loaded(), job: { ...job, images: job.images.map((image, i) => ({ name: `${i}-${safe(image.name)}` })) }, updated: Date.now() };
    for (const [i, image] of job.images.entries()) {
      const bytes = new Uint8Array(await image.blob.arrayBuffer());
      await this.#keep(`runs/${id}/images/${run.job.images[i].name}`, bytes);
      wasm.put(`${folder}/images/${run.job.images[i].name}`, bytes);
    }
    await this.#keepRun(run);
    return this.#training(run, false, tell, control);
  }

  async resume(id, tell, control) {
    const text = await this.storage?.read(`runs/${id}/run.json`);
    if (!text) throw failure("storage", "this training is no longer in the browser's storage");
    const run = JSON.parse(new TextDecoder().decode(text));
    if (run.model.model !== this.#loaded().model) throw failure("usage", `this training was started with the model ${run.model.model.split("/").pop()}: load that one first`);
    for (const file of await this.storage.list(`runs/${id}`)) {
      const bytes = await this.storage.read(`runs/${id}/${file}`);
      if (bytes) wasm.put(`/runs/${id}/${file}`, bytes);
    }
    return this.#training(run, true, tell, control);
  }

  async #training(run, resume, tell, control) {
    const folder = `/runs/${run.id}`;
    const release = this.storage ? await this.storage.lock(run.id) : () => {};
    if (!release) throw failure("usage", "this training runs in another tab");
    this.locks.set(run.id, release);
    try {
      await this.#cached();
      const job = { ...this.#trainJob(run.job, folder), resume, force: true };
      await this.#trial(JSON.parse(this.engine.plan("train", JSON.stringify({ ...job, resume: false }))), "This training");
      let full = null;
      const seen = async (event) => {
        if (event.type === "step") run.step = event.step + 1;
        if (event.type !== "saved" && event.type !== "progress") return;
        try {
          await this.#keepWritten();
          if (event.type === "saved") await this.#keepRun(run);
        } catch (error) {
          if (!(error instanceof StorageFull)) throw error;
          full = error.message;
          control.asked = "finish";
        }
        if (event.type === "saved" && event.path.endsWith(".state")) Object.assign(event, { type: "checkpoint", step: run.step });
      };
      const passed = (event, transfer) => { if (event.type !== "saved") tell(event, transfer); };
      let steps;
      try {
        steps = await this.#run((listener) => this.engine.train(JSON.stringify(job), listener), passed, control, seen);
      } catch (error) {
        if (error.kind !== "interrupted") throw error;
        await this.#keepWritten().catch(() => {});
        await this.#keepRun(run).catch(() => {});
        return tell({ type: "paused", step: run.step }, []);
      }
      if (full) tell({ type: "storage", message: full }, []);
      const bytes = wasm.file(`${folder}/lora.safetensors`);
      const file = new Blob([bytes], { type: "application/octet-stream" });
      const path = `/loras/${run.name}.safetensors`;
      wasm.put(path, bytes);
      const lora = this.#register(path, run.name);
      await this.forget(run.id, true);
      tell({ type: "done", step: steps, lora, file }, []);
    } finally {
      wasm.remove(folder);
      this.locks.delete(run.id);
      release();
    }
  }

  /** What is cached of earlier trainings: class pictures. */
  async #cached() {
    for (const file of (await this.storage?.list("cache")) ?? []) {
      const bytes = wasm.below(`/cache/${file}`).length === 0 && (await this.storage.read(`cache/${file}`));
      if (bytes) wasm.put(`/cache/${file}`, bytes);
    }
  }

  async #keepWritten() {
    for (const path of wasm.written()) {
      const bytes = /^\/(runs|cache)\//.test(path) && wasm.file(path);
      if (bytes) await this.#keep(path.slice(1), bytes);
    }
  }

  #keepRun(run) {
    return this.#keep(`runs/${run.id}/run.json`, new TextEncoder().encode(JSON.stringify({ ...run, updated: Date.now() })));
  }

  async #keep(path, bytes) {
    await this.storage?.write(path, bytes);
  }

  /** Trainings in the browser's storage that are not done. */
  async runs() {
    if (!this.storage) return [];
    const held = await this.storage.held();
    const found = [];
    for (const file of await this.storage.list("runs")) {
      if (!file.endsWith("/run.json") || file.split("/").length !== 2) continue;
      try {
        const run = JSON.parse(new TextDecoder().decode(await this.storage.read(`runs/${file}`)));
        const state = this.locks.has(run.id) ? "running" : held.has(run.id) ? "running elsewhere" : "paused";
        found.push({ id: run.id, name: run.name, step: run.step, steps: run.steps, prompt: run.prompt, updated: run.updated, state });
      } catch { /* a run whose first file was never finished */ }
    }
    return found.sort((a, b) => b.updated - a.updated);
  }

  async forget(id, own = false) {
    if (!this.storage) return;
    if (!own) {
      const release = await this.storage.lock(id);
      if (!release) throw failure("usage", "this training runs in another tab: stop it there first");
      release();
    }
    await this.storage.remove(`runs/${id}`);
  }

  destroy() {
    for (const release of this.locks.values()) release();
    this.device.destroy();
    this.gone = "The engine was closed";
  }
}

function pixels(rgba, width, height) {
  return createImageBitmap(new ImageData(new Uint8ClampedArray(rgba.buffer, rgba.byteOffset, rgba.byteLength), width, height));
}

/** Tests count what the WASM holds. */
export const memoryBytes = async () => (await start()).memory.buffer.byteLength;
