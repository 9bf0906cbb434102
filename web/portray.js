// Portray for web pages: `const engine = await Portray.create()`. Types are in portray.d.ts.
import { Job, TrainingJob } from "./jobs.js";

export class PortrayError extends Error {
  /** @param {string} kind @param {string} message @param {string | null} [field] the option that is wrong */
  constructor(kind, message, field = null) {
    super(message);
    this.name = "PortrayError";
    this.kind = kind;
    this.field = field && field.replace(/_[a-z]/g, (c) => c[1].toUpperCase());
  }
}

/** What is told of a trap in the engine's code. */
const crash = (why) => `The engine crashed: ${why.trim().replace(/\s+/g, " ")}`;

/** Calls to the engine, in a Worker. */
class Remote {
  #lost;
  /** Why no more calls are taken: a PortrayError's arguments. */
  #over = null;

  constructor(lost) {
    this.#lost = lost;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.calls = new Map();
    this.next = 0;
    this.started = false;
    this.worker.onmessage = ({ data }) => {
      if (data.lost) lost(data.lost);
      else if (data.crashed) this.#crashed(data.crashed);
      else this.#heard(data);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      if (this.started) this.#crashed(event.message || "for no reason that the browser tells");
      else this.#end("unsupported", event.message || "the engine could not be started: its files are missing or blocked");
    };
  }

  #crashed(why) {
    const message = crash(why);
    this.#end("device", message);
    if (this.started) this.#lost(message);
  }

  #heard({ call, event, progress, result, error }) {
    this.started = true;
    const waiting = this.calls.get(call);
    if (!waiting) return;
    if (event) return waiting.event?.(event);
    if (progress) return waiting.progress?.(progress);
    this.calls.delete(call);
    if (error) waiting.reject(new PortrayError(error.kind, error.message, error.field));
    else waiting.resolve(result);
  }

  call(method, args, handlers = {}) {
    const call = this.next++;
    const promise = new Promise((resolve, reject) => {
      if (this.#over) throw new PortrayError(...this.#over);
      try {
        this.worker.postMessage({ call, method, args });
      } catch (error) {
        throw new PortrayError("usage", `${method} takes nothing of the kind: ${error.message}`);
      }
      this.calls.set(call, { resolve, reject, ...handlers });
    });
    return { promise, ask: (ask) => this.worker.postMessage({ call, ask }) };
  }

  #end(kind, message) {
    if (this.#over) return;
    this.#over = [kind, message];
    // What it held goes with it: memory, and the locks of trainings.
    this.worker.terminate();
    for (const { reject } of this.calls.values()) reject(new PortrayError(kind, message));
    this.calls.clear();
  }

  end() {
    this.#end("interrupted", "the engine was closed");
  }
}

/** The same in the page's own realm. */
class Local {
  static async create(lost, labels) {
    const [{ Realm, memoryBytes }, { plain }] = await Promise.all([import("./engine.js"), import("./files.js")]);
    const local = new Local();
    local.thrown = (error) => {
      const { kind, message, field } = plain(error);
      return new PortrayError(kind, message, field);
    };
    local.memory = memoryBytes;
    // A trap leaves promises that never settle: calls race with this one.
    local.trap = new Promise((_, reject) => {
      local.trapped = ({ error, reason = error }) => {
        if (!(reason instanceof WebAssembly.RuntimeError)) return;
        const message = crash(globalThis.portrayPanic ?? reason.message);
        reject(new PortrayError("device", message));
        local.end(message);
        lost(message);
      };
    });
    local.trap.catch(() => {});
    addEventListener("error", local.trapped);
    addEventListener("unhandledrejection", local.trapped);
    try {
      local.realm = await Promise.race([Realm.create(lost, labels), local.trap]);
    } catch (error) {
      local.end();
      throw error.kind ? local.thrown(error) : new PortrayError("unsupported", error.message);
    }
    return local;
  }

  call(method, args, { event, progress } = {}) {
    const control = ["generate", "train", "resume"].includes(method) ? this.realm.control() : null;
    const abort = new AbortController();
    const textured = method === "generate" && args[0].texture;
    const tell = (said) => event?.(textured && said.type === "picture" ? { ...said, texture: this.#texture(said.image) } : said);
    const extra = { load: [progress ?? (() => {}), abort.signal], requirements: [abort.signal], generate: [tell, control], train: [tell, control], resume: [tell, control] };
    const run = async () => (method === "memory" ? this.memory() : this.realm[method](...args, ...(extra[method] ?? [])));
    const promise = Promise.race([run(), this.trap]).catch((error) => {
      throw this.thrown(error);
    });
    return { promise, ask: (ask) => { control?.[ask](); abort.abort(); } };
  }

  /** The image as a texture of the engine's device. */
  #texture(image) {
    const { device } = this.realm;
    const usage = GPUTextureUsage.TEXTURE_BINDING | GPUTextureUsage.COPY_SRC | GPUTextureUsage.COPY_DST | GPUTextureUsage.RENDER_ATTACHMENT;
    const size = [image.width, image.height];
    const texture = device.createTexture({ label: "portray image", size, format: "rgba8unorm", usage });
    device.queue.copyExternalImageToTexture({ source: image }, { texture }, size);
    return texture;
  }

  end(why) {
    removeEventListener("error", this.trapped);
    removeEventListener("unhandledrejection", this.trapped);
    this.realm?.destroy(why);
  }
}

export class Portray {
  #realm = null;
  #loras = [];
  #others = [];
  #visionModels = [];
  /** What the one device does now: jobs wait for each other. */
  #last = Promise.resolve();
  #onlost = null;
  /** A loss that nobody has heard of yet. */
  #lost = null;

  static async create({ worker = true, device, labels } = {}) {
    if (device) throw new PortrayError("unsupported", "an existing GPUDevice cannot be adopted: create({ worker: false }) makes one that you may use as engine.device");
    const engine = new Portray();
    const lost = (message) => {
      if (engine.#onlost) engine.#onlost(message);
      else engine.#lost = message;
    };
    if (worker) {
      engine.#realm = new Remote(lost);
      try {
        engine.info = await engine.#call("create", labels);
      } catch (error) {
        engine.#realm.end();
        throw error;
      }
    } else {
      engine.#realm = await Local.create(lost, labels);
      engine.info = engine.#realm.realm.info;
      engine.device = engine.#realm.realm.device;
    }
    return engine;
  }

  get onlost() {
    return this.#onlost;
  }

  set onlost(hear) {
    this.#onlost = hear;
    const message = this.#lost;
    if (!hear || message === null) return;
    this.#lost = null;
    queueMicrotask(() => hear(message));
  }

  #call(method, ...args) {
    return this.#realm.call(method, args).promise;
  }

  /** Runs `start` when everything before it has ended. What is stopped before that is over at once. */
  #queued(start) {
    let asked = null;
    let running = null;
    let giveUp;
    const stopped = new Promise((_, reject) => {
      giveUp = () => reject(new PortrayError("interrupted", "stopped before it began"));
    });
    const turn = this.#last.then(() => {
      if (asked === "stop") return undefined;
      running = start();
      if (asked) running.ask(asked);
      return running.promise;
    });
    this.#last = turn.then(() => {}, () => {});
    const ask = (what) => {
      if (asked === "stop") return;
      asked = what;
      if (running) running.ask(what);
      else if (what === "stop") giveUp();
    };
    return { promise: Promise.race([turn, stopped]), ask };
  }

  #has({ loras, others }) {
    this.#loras = loras;
    this.#others = others;
  }

  async load(model, { onprogress, signal, ...options } = {}) {
    const { info, ...lists } = await this.#stoppable(signal, () => this.#realm.call("load", [model, options], { progress: onprogress }));
    this.#has(lists);
    return info;
  }

  requirements(model, { signal } = {}) {
    return this.#stoppable(signal, () => this.#realm.call("requirements", [model]));
  }

  /** What `start` gives, in its turn, unless `signal` stops it. */
  async #stoppable(signal, start) {
    if (signal?.aborted) throw new PortrayError("interrupted", "stopped before it began");
    const { promise, ask } = this.#queued(start);
    const stop = () => ask("stop");
    signal?.addEventListener("abort", stop, { once: true });
    return promise.finally(() => signal?.removeEventListener("abort", stop));
  }

  async addLora(file, name) {
    const { info, ...lists } = await this.#call("addLora", file, name);
    this.#has(lists);
    return info;
  }

  async removeLora(name) {
    this.#has(await this.#call("removeLora", name));
  }

  loras() {
    return [...this.#loras];
  }

  otherLoras() {
    return [...this.#others];
  }

  async addVisionModel(files) {
    const { info, models } = await this.#call("addVisionModel", files);
    this.#visionModels = models;
    return info;
  }

  async removeVisionModel(name) {
    this.#visionModels = await this.#call("removeVisionModel", name);
  }

  visionModels() {
    return [...this.#visionModels];
  }

  plan(kind, job) {
    return this.#call("plan", kind, job);
  }

  preparePicture(file, resolution) {
    return this.#call("preparePicture", file, resolution);
  }

  convert(lora, format) {
    return this.#call("convert", lora, format);
  }

  models() {
    return this.#call("keptModels");
  }

  forgetModel(key) {
    return this.#call("forgetModel", key);
  }

  cacheBytes() {
    return this.#call("cacheBytes");
  }

  clearCache() {
    return this.#call("clearCache");
  }

  runs() {
    return this.#call("runs");
  }

  forget(id) {
    return this.#call("forget", id);
  }

  generate(job) {
    return new Job((event) => this.#queued(() => this.#realm.call("generate", [job], { event })));
  }

  train(job) {
    const id = crypto.randomUUID();
    return this.#training(id, "train", [id, job]);
  }

  resume(id) {
    return this.#training(id, "resume", [id]);
  }

  #training(id, method, args) {
    return new TrainingJob(id, (event) => {
      const heard = (said) => {
        if (said.type === "done") this.#loras = [...this.#loras.filter((lora) => lora.name !== said.lora.name), said.lora];
        event(said);
      };
      return this.#queued(() => this.#realm.call(method, args, { event: heard }));
    });
  }

  /** Bytes of the WASM's memory; for tests. */
  memory() {
    return this.#call("memory");
  }

  /** Loses the device, as a driver that fails does; for tests. */
  async loseDevice() {
    if (this.device) this.device.destroy();
    else await this.#call("loseDevice");
  }

  destroy() {
    this.#realm.end();
  }
}
