// Portray for web pages: `const engine = await Portray.create()`. Types are in portray.d.ts.

export class PortrayError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = "PortrayError";
    this.kind = kind;
  }
}

/** Calls to the engine, in a Worker. */
class Remote {
  constructor(lost) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.calls = new Map();
    this.next = 0;
    this.worker.onmessage = ({ data }) => (data.lost ? lost(data.lost) : this.#heard(data));
    this.worker.onerror = (event) => {
      event.preventDefault();
      const error = { kind: "unsupported", message: event.message || "the engine could not be started: its files are missing or blocked" };
      for (const call of [...this.calls.keys()]) this.#heard({ call, error });
    };
  }

  #heard({ call, event, progress, result, error }) {
    const waiting = this.calls.get(call);
    if (!waiting) return;
    if (event) return waiting.event?.(event);
    if (progress) return waiting.progress?.(progress);
    this.calls.delete(call);
    if (error) waiting.reject(new PortrayError(error.kind, error.message));
    else waiting.resolve(result);
  }

  call(method, args, handlers = {}) {
    const call = this.next++;
    const promise = new Promise((resolve, reject) => this.calls.set(call, { resolve, reject, ...handlers }));
    this.worker.postMessage({ call, method, args });
    return { promise, ask: (ask) => this.worker.postMessage({ call, ask }) };
  }

  end() {
    this.worker.terminate();
    for (const call of [...this.calls.keys()]) this.#heard({ call, error: { kind: "interrupted", message: "the engine was closed" } });
  }
}

/** The same in the page's own realm. */
class Local {
  static async create(lost) {
    const { Realm, memoryBytes, plainly } = await import("./engine.js");
    const local = new Local();
    try {
      local.realm = await Realm.create(lost);
    } catch (error) {
      throw new PortrayError(error.kind ?? "unsupported", error.message);
    }
    Object.assign(local, { memory: memoryBytes, plainly });
    return local;
  }

  call(method, args, { event, progress } = {}) {
    const control = { asked: null };
    const abort = new AbortController();
    const textured = method === "generate" && args[0].texture;
    const tell = (said) => event?.(textured && said.type === "picture" ? { ...said, texture: this.#texture(said.image) } : said);
    const extra = { load: [progress ?? (() => {}), abort.signal], generate: [tell, control], train: [tell, control], resume: [tell, control] };
    const run = async () => (method === "memory" ? this.memory() : this.realm[method](...args, ...(extra[method] ?? [])));
    const promise = run().catch((error) => {
      throw new PortrayError(error.kind ?? "usage", this.plainly(error.message));
    });
    return { promise, ask: (ask) => { control.asked = ask; abort.abort(); } };
  }

  /** The picture as a texture of the engine's device. */
  #texture(image) {
    const { device } = this.realm;
    const usage = GPUTextureUsage.TEXTURE_BINDING | GPUTextureUsage.COPY_SRC | GPUTextureUsage.COPY_DST | GPUTextureUsage.RENDER_ATTACHMENT;
    const size = [image.width, image.height];
    const texture = device.createTexture({ label: "portray picture", size, format: "rgba8unorm", usage });
    device.queue.copyExternalImageToTexture({ source: image }, { texture }, size);
    return texture;
  }

  end() {
    this.realm.destroy();
  }
}

/** A job: events by `for await`; leaving it early stops. */
class Job {
  constructor(start) {
    this.queue = [];
    this.wake = null;
    this.over = false;
    this.started = start((event) => this.#push({ event }));
    this.started.promise.then(() => this.#push({ end: true }), (error) => this.#push({ error }));
  }

  #push(item) {
    this.queue.push(item);
    this.wake?.();
  }

  stop() {
    this.started.ask("stop");
  }

  /** Resolves when nothing of it runs any more. */
  get ended() {
    return this.started.promise.then(() => {}, () => {});
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.queue.length === 0) await new Promise((resolve) => (this.wake = resolve));
        const { event, end, error } = this.queue.shift();
        if (end) return;
        if (error) {
          // A job that was stopped by its own caller has nothing more to say.
          if (error.kind === "interrupted") return;
          throw error;
        }
        yield event;
      }
    } finally {
      this.started.ask("stop");
    }
  }
}

class TrainingJob extends Job {
  constructor(id, start) {
    super(start);
    this.id = id;
  }

  /** Saves, then ends with `{ type: "paused" }`. */
  pause() {
    this.started.ask("stop");
  }

  /** Ends with this update and the LoRA as it is. */
  finish() {
    this.started.ask("finish");
  }
}

export class Portray {
  #realm;
  #loras = [];
  /** What the one device does now: jobs wait for each other. */
  #last = Promise.resolve();

  static async create({ worker = true, device } = {}) {
    if (device) throw new PortrayError("unsupported", "an existing GPUDevice cannot be adopted: create({ worker: false }) makes one that you may use as engine.device");
    const engine = new Portray();
    engine.onlost = null;
    const lost = (message) => engine.onlost?.(message);
    if (worker) {
      engine.#realm = new Remote(lost);
      engine.info = await engine.#call("create");
    } else {
      engine.#realm = await Local.create(lost);
      engine.info = engine.#realm.realm.info;
      engine.device = engine.#realm.realm.device;
    }
    return engine;
  }

  #call(method, ...args) {
    return this.#realm.call(method, args).promise;
  }

  /** Runs `start` when everything before it has ended. */
  #queued(start) {
    let asked = null;
    let running = null;
    const promise = this.#last.then(() => {
      if (asked === "stop") throw new PortrayError("interrupted", "stopped before it began");
      running = start();
      if (asked) running.ask(asked);
      return running.promise;
    });
    this.#last = promise.then(() => {}, () => {});
    return { promise, ask: (ask) => { asked = ask; running?.ask(ask); } };
  }

  async load(model, { onprogress, signal, ...options } = {}) {
    const { promise, ask } = this.#queued(() => this.#realm.call("load", [model, options], { progress: onprogress }));
    signal?.addEventListener("abort", () => ask("stop"), { once: true });
    const { info, loras } = await promise;
    this.#loras = loras;
    return info;
  }

  async addLora(file, name) {
    const info = await this.#queued(() => this.#realm.call("addLora", [file, name])).promise;
    this.#loras = [...this.#loras.filter((lora) => lora.name !== name), info];
    return info;
  }

  async removeLora(name) {
    await this.#call("removeLora", name);
    this.#loras = this.#loras.filter((lora) => lora.name !== name);
  }

  loras() {
    return [...this.#loras];
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
