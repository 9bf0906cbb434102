// Stands in for web/dist/pkg/portray.js: the files of the WASM, and trainings that are nothing but their events, so that
// tests reach what web/engine.js does around them in no time. `knobs` is what a test wants of it.
const files = new Map();
let fresh = new Set();

export const knobs = {
  /** Parameters of a model by its path's end; one that is not here cannot be opened. */
  models: { "/bundled": 10, "a.safetensors": 20, "b.safetensors": 30, folder: 40 },
  /** What a training writes into the cache before its first step. */
  classPictures: 0,
  /** Called with every event's name and step before it is told. */
  before: async () => {},
  /** What the page calls options, as the engine was told. */
  labels: null,
  /** A training ends with this error before its first step. */
  refusal: null,
  /** Paths of the vision models of trainings. */
  judges: [],
  /** Whether the adapter has room, or for how many bytes it has. */
  room: true,
  /** What the WASM was asked of the adapter's memory, in order: "trial", "release", "kept" or "passing" images. */
  memory: [],
};

const below = (path) => [...files.keys()].filter((file) => file === path || file.startsWith(`${path}/`));
const thrown = (kind, message) => Object.assign(new Error(message), { kind });
const later = () => new Promise((resolve) => setTimeout(resolve));

// Nor is there an adapter to ask for.
if (globalThis.GPU) GPU.prototype.requestAdapter = async () => ({});

export default async () => ({ memory: { buffer: new ArrayBuffer(0) } });

function write(path, bytes) {
  files.set(path, bytes);
  fresh.add(path);
}

function read(path) {
  const found = files.get(path);
  if (!found) throw thrown("file", `${path}: is not there`);
  return found instanceof Uint8Array ? found : new Uint8Array(found.read(0, found.size));
}

export const put = (path, bytes) => { files.set(path, bytes.slice()); };
export const putSlices = (path, size, read) => { files.set(path, { size, read }); };
export const remove = (path) => { for (const file of below(path)) { files.delete(file); fresh.delete(file); } };
export const file = (path) => (files.get(path) instanceof Uint8Array ? files.get(path) : undefined);
export { below };
export const written = () => {
  const all = [...fresh];
  fresh = new Set();
  return all;
};
export const convert = (from, format, to) => write(to, new TextEncoder().encode(`${format} of ${new TextDecoder().decode(read(from))}`));
export const prepare = (path, side) => {
  read(path);
  return new Uint8Array(4 * side * side);
};

function model(options) {
  const { model: path } = JSON.parse(options);
  const parameters = Object.entries(knobs.models).find(([end]) => path.endsWith(end))?.[1];
  if (below(path).length === 0) throw thrown("file", `${path}: is not there`);
  if (parameters === undefined) throw thrown("file", `${path}: is no model`);
  return { event: "model", model: path, parameters, bytes: 2 * parameters, pixels: 8, factor: 8, prediction: "epsilon" };
}

export class CancelToken {
  asked = null;
  stop() { this.asked = "stop"; }
  finish() { this.asked ??= "finish"; }
}

export class Engine {
  static async request(labels) {
    knobs.labels = JSON.parse(labels);
    return new Engine();
  }
  info() { return JSON.stringify({ adapter: "mock", software: true }); }
  device() {
    let destroy;
    const lost = new Promise((resolve) => { destroy = () => resolve({ message: "destroyed" }); });
    return { lost, destroy };
  }
  async canAllocate(bytes) {
    knobs.memory.push("trial");
    return typeof knobs.room === "number" ? bytes <= knobs.room : knobs.room;
  }
  release() { knobs.memory.push("release"); }
  /** A vision model is the class that its folder's config names. */
  vision(path) {
    const { class: name } = JSON.parse(new TextDecoder().decode(read(`${path}/config.json`)));
    if (name === "CLIPVisionModel") throw thrown("file", "clip: reads no text");
    return JSON.stringify({ option: name === "CLIPModel" ? "clip" : "vision", class: name, bytes: 8 });
  }

  async generate(_, keep) { knobs.memory.push(keep ? "kept" : "passing"); }
  model(options) { return JSON.stringify(model(options)); }
  plan(_, job) {
    model(JSON.stringify(JSON.parse(job).model));
    return JSON.stringify({ event: "plan", peak_bytes: 1e9, kept_bytes: 1.5e9, rows: [] });
  }

  /** A LoRA names the parameters of the model that it fits. */
  lora(options, path) {
    const wanted = Number(/^lora of (\d+)/.exec(new TextDecoder().decode(read(path)))?.[1]);
    if (wanted !== model(options).parameters) throw thrown("file", `${path}: no key matches the model`);
    return JSON.stringify({ event: "lora", kinds: { LoRA: 8 }, rank: 4, unmatched: [] });
  }

  async train(text, control, listener) {
    const job = JSON.parse(text);
    const tell = async (type, more = {}) => {
      await knobs.before(type, more.step);
      await later();
      return listener(JSON.stringify({ event: type, ...more }), null, null);
    };
    if (job.vision) knobs.judges.push(job.vision);
    const state = `${job.out}.state/state.safetensors`;
    const { parameters } = model(JSON.stringify(job.model));
    if (job.prompt === "a trap") {
      globalThis.portrayPanic = "panicked at src/x.rs:1:1:\nboom";
      queueMicrotask(() => { throw new WebAssembly.RuntimeError("unreachable"); });
      await new Promise(() => {});
    }
    if (knobs.refusal) throw Object.assign(thrown("usage", knobs.refusal), { field: "lr" });
    for (let i = 0; i < knobs.classPictures; i++) {
      write(`/cache/portray/class/x/${i}.png`, new Uint8Array(1000));
      await tell("progress", { unit: "image", done: i + 1, total: knobs.classPictures });
      if (control.asked === "stop") throw thrown("interrupted", "interrupted");
    }
    const saved = async (step) => {
      write(state, new Uint8Array([step]));
      await tell("saved", { path: `${job.out}.state` });
    };
    let step = job.resume && files.has(state) ? read(state)[0] : 0;
    while (step < job.steps) {
      await tell("step", { step, steps: job.steps, loss: 1 });
      const flow = control.asked;
      step += 1;
      if (step < job.steps && (flow === "stop" || step % job.save_every === 0)) await saved(step);
      if (flow === "stop" && step < job.steps) throw thrown("interrupted", `interrupted after step ${step}`);
      if (flow === "finish") break;
    }
    write(job.out, new TextEncoder().encode(`lora of ${parameters} after ${step}`));
    remove(`${job.out}.state`);
    await tell("saved", { path: job.out });
    return step;
  }
}
