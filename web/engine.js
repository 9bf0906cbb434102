// The engine in whichever realm it runs: a Worker (worker.js) or the page itself.
import { camel, content, defined, failure, memoryBytes, put, report, safe, snake, start, wasm } from "./files.js";
import { Loras } from "./loras.js";
import { BUNDLED, Models } from "./models.js";
import { Storage } from "./storage.js";
import { Trainings } from "./trainings.js";
import { VisionModels } from "./vision.js";

export { memoryBytes };

/** Types that weights may be held as, from the largest. */
const TYPES = ["f32", "f16", "q8", "q4"];

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
const tooMuch = (what, bytes, way) => `${what} takes ${gigabytes(bytes)} of graphics memory, which this adapter cannot give now. ${way}`;

export class Realm {
  /** Which weights the adapter holds between images, and what the largest job with them takes. */
  #held = null;
  /** Calls that had images. */
  #calls = 0;

  /**
   * @param {(message: string) => void} lost called when the device is lost
   * @param {Record<string, string>} [labels] what the page calls options, in messages
   */
  static async create(lost, labels = {}) {
    if (!globalThis.navigator?.gpu) {
      const secure = globalThis.isSecureContext;
      throw failure("unsupported", secure ? "This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or later have it." : "WebGPU needs a secure page: open this one through https or from localhost.");
    }
    if (!(await navigator.gpu.requestAdapter())) {
      throw failure("unsupported", "No graphics adapter answers. Turn on hardware acceleration in the browser's settings, or try another browser.");
    }
    await start();
    const realm = new Realm(await wasm.Engine.request(JSON.stringify(snake(labels))), await Storage.open().catch(() => null));
    realm.device.lost.then((info) => {
      if (realm.gone) return;
      realm.gone = `The graphics device was lost${info.message ? `: ${info.message}` : ""}`;
      lost(realm.gone);
    });
    await realm.trainings.sweep().catch(() => { /* it takes room, and nothing else */ });
    return realm;
  }

  constructor(engine, storage) {
    this.engine = engine;
    this.storage = storage;
    this.info = report(engine.info());
    this.device = engine.device();
    /** What the WASM is told of the model: `{ model, dtype, prediction }`, and what it said of it. */
    this.model = null;
    this.about = null;
    /** What is wrong with the whole engine. */
    this.gone = null;
    this.models = new Models(storage, (path, options) => this.#fits({ ...options, model: path }));
    this.loras = new Loras(storage, (path) => report(engine.lora(JSON.stringify(this.loaded()), path)));
    this.visionModels = new VisionModels((path) => JSON.parse(engine.vision(path)));
    this.trainings = new Trainings(this);
  }

  // ---- models

  /** Loads the bundled model, files, or what a URL names. What was loaded before stays until this one is. */
  async load(source, options, progress, signal) {
    if (this.gone) throw failure("device", this.gone);
    const chosen = defined({ dtype: options?.dtype, prediction: options?.prediction });
    const { path, root, name, key, files } = await this.models.find(source, chosen, progress, signal);
    const before = this.about?.root;
    for (const [file, read] of files) put(file, read);
    const model = { ...chosen, model: path };
    let info;
    try {
      info = { ...report(this.engine.model(JSON.stringify(model))), name };
      await this.#fits(model);
      signal?.throwIfAborted();
    } catch (error) {
      if (root !== before && root !== BUNDLED) wasm.remove(root);
      throw error;
    }
    if (before && before !== root && before !== BUNDLED) wasm.remove(before);
    this.model = model;
    this.about = { ...info, root, key };
    await this.loras.match();
    return { info, ...this.#lists() };
  }

  #lists() {
    return { loras: this.loras.list(), others: this.loras.others() };
  }

  /** Refuses a model whose smallest image the adapter cannot hold, and names the storage types in which it can. */
  async #fits(model) {
    const what = "Making an image with this model";
    const peak = await this.#refused("model", { prompts: [""], model });
    if (peak === null) return;
    const fitting = (await this.#inTypes(model)).filter(({ fits, peakBytes }) => fits && peakBytes < peak);
    const ways = fitting.map(({ dtype, peakBytes }) => `${dtype} (${gigabytes(peakBytes)})`).join(" or ");
    throw failure("limit", tooMuch(what, peak, ways ? `It fits with weights held as ${ways}.` : "Nor does it fit with weights held as q4. Close other programs, or choose a smaller model."));
  }

  /** What one image of the model takes with its weights held as each type, and whether the adapter can give that now. */
  async #inTypes(model) {
    const found = [];
    for (const dtype of TYPES) {
      const { peakBytes } = report(this.engine.plan("model", JSON.stringify({ prompts: [""], model: { ...model, dtype } })));
      found.push({ dtype, peakBytes, fits: await this.engine.canAllocate(peakBytes) });
    }
    return found;
  }

  /** What a model takes, before it is downloaded or loaded: its bytes, and the memory that one image of its own size needs. */
  async requirements(source, signal) {
    if (this.gone) throw failure("device", this.gone);
    this.#release();
    const examine = async (path) => ({ types: await this.#inTypes({ model: path }) });
    if (typeof source === "string") return this.models.weighed(source, signal, examine);
    const { path, root, name, files } = await this.models.find(source, {}, () => {}, signal);
    for (const [file, read] of files) put(file, read);
    try {
      const bytes = files.reduce((sum, [file, { bytes, size }]) => sum + (file.endsWith(".safetensors") ? (size ?? bytes.length) : 0), 0);
      return { name, bytes, missing: 0, room: null, ...(await examine(path)) };
    } finally {
      if (root !== BUNDLED && root !== this.about?.root) wasm.remove(root);
    }
  }

  #release() {
    this.#held = null;
    this.engine.release();
  }

  /** Refuses what the adapter cannot hold now, with nothing of the last images on it. */
  async trial(kind, job, what) {
    const peak = await this.#refused(kind, job);
    if (peak !== null) throw failure("limit", tooMuch(what, peak, "Hold the weights as q8 or q4, choose a smaller size, or close other programs."));
  }

  /** The bytes that a job takes where the adapter cannot give them now, with nothing of the last images on it; else null. */
  async #refused(kind, job) {
    this.#release();
    const { peakBytes } = report(this.engine.plan(kind, JSON.stringify(job)));
    return (await this.engine.canAllocate(peakBytes)) ? null : peakBytes;
  }

  loaded() {
    if (this.gone) throw failure("device", this.gone);
    if (!this.model) throw failure("usage", "no model is loaded yet");
    return this.model;
  }

  async keptModels() {
    return (await this.models.list()).map((model) => ({ ...model, loaded: model.key === this.about?.key }));
  }

  async forgetModel(key) {
    if (key === this.about?.key) throw failure("usage", `${this.about.name} is loaded: load another model first`);
    await this.models.forget(key);
  }

  /** Bytes of what can be made again: class images. */
  async cacheBytes() {
    const files = (await this.storage?.list("cache")) ?? [];
    const sizes = await Promise.all(files.map(async (file) => (await this.storage.file(`cache/${file}`))?.size ?? 0));
    return sizes.reduce((sum, size) => sum + size, 0);
  }

  async clearCache() {
    await this.storage?.remove("cache");
  }

  // ---- LoRAs

  async addLora(blob, name) {
    const info = await this.loras.add(blob, name);
    return { info, ...this.#lists() };
  }

  async removeLora(name) {
    await this.loras.remove(name);
    return this.#lists();
  }

  async convert(name, format) {
    const out = `/converted/${safe(name)}`;
    wasm.convert(this.loras.path(name), format, out);
    const bytes = wasm.file(out);
    wasm.remove(out);
    return new Blob([bytes], { type: "application/octet-stream" });
  }

  // ---- vision models

  async addVisionModel(files) {
    const info = await this.visionModels.add(files);
    return { info, models: this.visionModels.list() };
  }

  removeVisionModel(name) {
    this.visionModels.remove(name);
    return this.visionModels.list();
  }

  // ---- jobs

  /** A start image decides the size, and is read first: with one it gives a promise. */
  plan(kind, job) {
    if (kind !== "train" && job.init) return this.#withStart(job, (said) => report(this.engine.plan("generate", JSON.stringify(said))));
    const said = kind === "train" ? this.trainings.job({ ...job, images: [] }, this.loaded(), "/none") : this.#generateJob(job);
    return report(this.engine.plan(kind, JSON.stringify(said)));
  }

  /** Runs `work` with what `job` is to the WASM, while its start image and its mask lie where the engine reads them. */
  async #withStart(job, work) {
    const folder = this.#folder();
    const said = this.#generateJob(job, folder);
    try {
      for (const name of ["init", "mask"]) if (job[name]) put(`${folder}/${name}`, await content(job[name]));
      return await work(said);
    } finally {
      wasm.remove(folder);
    }
  }

  /** A folder for the images of one call, which another may overtake. */
  #folder() {
    return `/pictures/${++this.#calls}`;
  }

  async preparePicture(blob, resolution) {
    const read = await content(blob);
    this.loaded();
    const side = resolution ?? this.about.pixels;
    const path = `${this.#folder()}/prepare`;
    put(path, read);
    try {
      return { width: side, height: side, image: await pixels(wasm.prepare(path, side), side, side) };
    } finally {
      wasm.remove(path);
    }
  }

  #generateJob(job, folder = "") {
    const { prompt, merge, count, batch, strength, previews = true, loras = [], init, mask, texture, ...sampling } = job;
    return defined({ prompts: [prompt ?? ""], model: this.loaded(), sampling: defined(snake(sampling)),
      loras: loras.map(({ name, scale }) => ({ path: this.loras.path(name), scale: scale ?? 1 })), merge, count, batch, strength, previews,
      init: init ? `${folder}/init` : undefined, mask: mask ? `${folder}/mask` : undefined });
  }

  /**
   * Whether the weights may stay on the adapter after the images of `job`: where they do from the last ones, and where a
   * trial has all of them at once. Refuses what the adapter cannot hold at all.
   */
  async #keeps(job) {
    // LoRAs lie beside the weights, unless they are merged into them.
    const weights = JSON.stringify([job.model, job.merge ? job.loras : null]);
    // Planning opens the model, which takes a while; words and seeds change nothing.
    const like = JSON.stringify({ ...job, prompts: job.prompts.length, sampling: { ...job.sampling, seed: 0, negative: job.sampling.negative ? "x" : "" } });
    if (!job.init && this.#held?.weights === weights && this.#held.like === like) return true;
    const { keptBytes, rows } = report(this.engine.plan("generate", JSON.stringify(job)));
    const weightBytes = rows.filter(({ what }) => what.endsWith(": weights")).reduce((sum, { bytes }) => sum + bytes, 0);
    if (this.#held?.weights === weights) {
      // The last job's working memory is free again; its weights lie there.
      const more = keptBytes - this.#held.weightBytes;
      if (keptBytes <= this.#held.bytes || (await this.engine.canAllocate(more))) {
        this.#held = { weights, like, weightBytes, bytes: Math.max(keptBytes, this.#held.bytes) };
        return true;
      }
    }
    this.#release();
    if (!(await this.engine.canAllocate(keptBytes))) {
      await this.trial("generate", job, "This");
      return false;
    }
    this.#held = { weights, like, weightBytes, bytes: keptBytes };
    return true;
  }

  /** A request to end a job, of which nobody has asked anything yet. */
  control() {
    return new wasm.CancelToken();
  }

  /** @param {(event: object, transfer: Transferable[]) => void} tell  @param {wasm.CancelToken} control */
  async generate(job, tell, control) {
    try {
      // A start image decides the size, so that planning reads it.
      await this.#withStart(job, async (said) => {
        const keep = await this.#keeps(said);
        await this.run((listener) => this.engine.generate(JSON.stringify(said), keep, control, listener), tell, control);
      });
    } catch (error) {
      if (error.kind !== "interrupted") this.#release();
      throw error;
    }
    tell({ type: "done" }, []);
  }

  /** Runs a job of the WASM; events that carry images wait for them in order. */
  async run(begin, tell, control, seen = () => {}) {
    let last = Promise.resolve();
    let fault = null;
    const listener = (text, rgba, png) => {
      const { event: type, ...said } = camel(JSON.parse(text));
      const event = { type, ...said };
      last = last.then(async () => {
        if (rgba) event.image = await pixels(rgba, event.width, event.height);
        if (png) event.png = new Blob([png], { type: "image/png" });
        await seen(event);
        tell(event, event.image ? [event.image] : []);
      }).catch((error) => {
        fault ??= error;
        control.stop();
      });
    };
    try {
      return await begin(listener);
    } catch (error) {
      throw this.gone && error.kind !== "interrupted" ? failure("device", this.gone) : error;
    } finally {
      await last;
      if (fault) throw fault;
    }
  }

  train(id, job, tell, control) {
    return this.trainings.start(id, job, tell, control);
  }

  resume(id, tell, control) {
    return this.trainings.resume(id, tell, control);
  }

  runs() {
    return this.trainings.list();
  }

  forget(id) {
    return this.trainings.forget(id);
  }

  /** Ends the engine; `why` is what calls hear from then on. */
  destroy(why = "The engine was closed") {
    this.gone ??= why;
    this.trainings.release();
    this.device.destroy();
  }
}

function pixels(rgba, width, height) {
  return createImageBitmap(new ImageData(new Uint8ClampedArray(rgba.buffer, rgba.byteOffset, rgba.byteLength), width, height));
}
