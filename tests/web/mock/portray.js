// Stands in for web/portray.js: the same interface with no engine behind it, for work on the page.
// What goes wrong, or is there, is asked for in the address: ?mock=nogpu,software,lost,memory,oom,runs,full,unkept,kept,
// others,nobundled,compiling,inpaints
const asked = new Set((new URLSearchParams(location.search).get("mock") ?? "").split(","));
const speed = Number(new URLSearchParams(location.search).get("speed") ?? 1);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms / speed));
const asset = async (path) => createImageBitmap(await (await fetch(new URL(`assets/${path}`, import.meta.url))).blob());

export class PortrayError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = "PortrayError";
    this.kind = kind;
  }
}

const SIDE = 128;

function canvasOf(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  return [canvas, canvas.getContext("2d")];
}

/** An image that fits the prompt somehow: of assets/subjects. */
async function painting(prompt, seed, width, height) {
  const subject = /\bsks\b/.test(prompt) ? "cat" : "dog";
  const at = Math.max(0, ["beach", "snow", "night", "forest", "crown"].findIndex((word) => prompt.includes(word)));
  const [canvas, context] = canvasOf(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(await asset(`subjects/${subject}/${(at + seed) % 4}.png`), 0, 0, width, height);
  return canvas;
}

/** `canvas` with noise over it, all of it at `clear` = 0. */
function noisy(canvas, clear) {
  const { width, height } = canvas;
  const [out, context] = canvasOf(width, height);
  context.filter = `blur(${((1 - clear) * 5).toFixed(2)}px)`;
  context.drawImage(canvas, 0, 0);
  const data = context.getImageData(0, 0, width, height);
  const amount = (1 - clear) ** 1.4;
  for (let i = 0; i < data.data.length; i += 4) {
    for (let c = 0; c < 3; c++) data.data[i + c] = data.data[i + c] * (1 - amount) + (128 + (Math.random() - 0.5) * 200) * amount;
  }
  context.filter = "none";
  context.putImageData(data, 0, 0);
  return createImageBitmap(out);
}

class Job {
  constructor(engine, run) {
    this.asked = null;
    this.run = () => run(this);
    this.engine = engine;
  }
  stop() { this.asked ??= "stop"; }
  async *[Symbol.asyncIterator]() {
    const before = this.engine.last;
    let free;
    this.engine.last = new Promise((resolve) => (free = resolve));
    await before;
    try {
      for await (const event of this.run()) {
        if (this.engine.gone) throw new PortrayError("device", this.engine.gone);
        yield event;
      }
    } finally {
      this.asked ??= "stop";
      free();
    }
  }
}

class TrainingJob extends Job {
  constructor(engine, id, run) {
    super(engine, run);
    this.id = id;
  }
  pause() { this.asked ??= "pause"; }
  finish() { this.asked ??= "finish"; }
}

const kept = {
  all: () => JSON.parse(sessionStorage.getItem("mock-runs") ?? "[]"),
  put(run) { sessionStorage.setItem("mock-runs", JSON.stringify([run, ...kept.all().filter((other) => other.id !== run.id)])); },
  drop(id) { sessionStorage.setItem("mock-runs", JSON.stringify(kept.all().filter((run) => run.id !== id))); },
};

/** What the browser keeps, with ?mock=kept. */
const stored = {
  models: asked.has("kept") ? [
    { key: "sd21-1", name: "stable-diffusion-2-1", bytes: 2.58e9, whole: true, loaded: false, url: "https://example.com/sd21" },
    { key: "sd15-2", name: "v1-5-pruned-emaonly.safetensors", bytes: 7.4e8, whole: false, loaded: false },
  ] : [],
  cache: asked.has("kept") ? 1.2e6 : 0,
};

/** What a first job says, with ?mock=compiling. */
async function* compiled() {
  for (const done of asked.has("compiling") ? [0, 41, 63] : []) {
    yield { type: "compiling", done, total: 63 };
    await wait(4000);
  }
}

export class Portray {
  #loras = [];
  last = Promise.resolve();

  static async create() {
    await wait(150);
    if (asked.has("nogpu")) throw new PortrayError("unsupported", "This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 or later have it.");
    if (asked.has("insecure")) throw new PortrayError("unsupported", "WebGPU needs a secure page: open this one through https or from localhost.");
    if (asked.has("noadapter")) throw new PortrayError("unsupported", "No graphics adapter answers. Turn on hardware acceleration in the browser's settings, or try another browser.");
    const engine = new Portray();
    engine.onlost = null;
    engine.info = { adapter: "mock", software: asked.has("software"), maxBindingBytes: 2 ** 27, maxBufferBytes: 2 ** 28 };
    return engine;
  }

  lose() {
    this.gone = "The graphics device was lost";
    asked.delete("lost");
    this.onlost?.(this.gone);
  }

  async load(model, { onprogress, signal } = {}) {
    if (asked.delete("nobundled")) throw new PortrayError("file", "the bundled model's unet/config.json: the server says 503");
    const files = Array.isArray(model) ? model : [model];
    const name = model === undefined ? "bundled" : typeof model === "string" ? model.split("/").pop() : (files[0].webkitRelativePath || files[0].name).split("/")[0];
    const total = model === undefined ? 12 : 1.74e9;
    for (let i = 0; i <= 12; i++) {
      if (signal?.aborted) throw new PortrayError("interrupted", "stopped");
      onprogress?.({ done: (total * i) / 12, total, text: model === undefined ? "loading the bundled model" : "reading unet/diffusion_pytorch_model.safetensors" });
      await wait(model === undefined ? 15 : 250);
    }
    if (/\.(ckpt|png)$/.test(name)) throw new PortrayError("file", `${name} is not a .safetensors file`);
    if (asked.has("memory")) throw new PortrayError("limit", "Making an image with this model takes 2.27 GB of graphics memory, which this adapter cannot give now. Choose dtype q8 or f16, a smaller size, or close other programs.");
    this.model = model === undefined
      ? { name, family: "small Stable Diffusion", pixels: SIDE, factor: 8, parameters: 15.6e6, bytes: 31.2e6, prediction: "v", steps: 25, guidance: 7.5, sampler: "ddim", inpaints: asked.has("inpaints") }
      : { name, family: "Stable Diffusion 2.x", pixels: 512, factor: 8, parameters: 1.29e9, bytes: 1.74e9, prediction: name.endsWith(".safetensors") ? null : "v", steps: 25, guidance: 7.5, sampler: "pndm" };
    return this.model;
  }

  async addLora(file, name) {
    await wait(100);
    if (file.name && !file.name.endsWith(".safetensors")) throw new PortrayError("file", "this is not a LoRA: a .safetensors file with the layers of one is expected");
    const info = { name, kinds: { LoRA: 56 }, rank: 8, unmatched: [] };
    this.#loras = [...this.#loras.filter((lora) => lora.name !== name), info];
    return info;
  }
  async removeLora(name) { this.#loras = this.#loras.filter((lora) => lora.name !== name); }
  loras() { return [...this.#loras]; }
  #visionModels = [];
  async addVisionModel(files) {
    await wait(100);
    const name = files[0].webkitRelativePath.split("/")[0];
    if (!files.some((file) => file.name === "preprocessor_config.json")) throw new PortrayError("file", `${name}: is no vision model`);
    const info = name === "clip" ? { name, option: "clip", class: "CLIPModel", bytes: 6.05e8 } : { name, option: "vision", class: "ViTModel", bytes: 8.6e7 };
    this.#visionModels = [...this.#visionModels.filter((model) => model.name !== name), info];
    return info;
  }
  async removeVisionModel(name) { this.#visionModels = this.#visionModels.filter((model) => model.name !== name); }
  visionModels() { return [...this.#visionModels]; }
  otherLoras() { return asked.has("others") ? [{ name: "vase", why: "no key matches" }] : []; }
  async models() { return stored.models; }
  async requirements(url) {
    await wait(100);
    if (url.endsWith("/nothing")) throw new PortrayError("file", `${url}: the server has no such file`);
    const types = [["f32", 1.54e9, false], ["f16", 8.96e8, true], ["q8", 5.93e8, true], ["q4", 4.7e8, true]];
    return { name: url.split("/").at(-3), bytes: 1.06e9, missing: 7.6e8, room: 1e10, types: types.map(([dtype, peakBytes, fits]) => ({ dtype, peakBytes, fits })) };
  }
  async forgetModel(key) { stored.models = stored.models.filter((model) => model.key !== key); }
  async cacheBytes() { return stored.cache; }
  async clearCache() { stored.cache = 0; }
  async plan() { return { peakBytes: 61.3e6, dispatches: 4200, flops: 3e12, rows: [], notes: [] }; }

  async preparePicture(file, resolution = this.model.pixels) {
    await wait(60);
    const whole = await createImageBitmap(file).catch(() => null);
    if (!whole) throw new PortrayError("file", "is not an image that can be read: JPEG, PNG, WebP or GIF");
    const [canvas, context] = canvasOf(resolution, resolution);
    const side = Math.min(whole.width, whole.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(whole, (whole.width - side) / 2, (whole.height - side) / 2, side, side, 0, 0, resolution, resolution);
    return { width: resolution, height: resolution, image: await createImageBitmap(canvas) };
  }

  generate(job) {
    const { prompt, steps = this.model.steps, guidance = 7.5, sampler = "ddim", seed = 0, count = 1, loras = [] } = job;
    const [width, height] = [job.width ?? SIDE, job.height ?? SIDE];
    const engine = this;
    globalThis.lastJob = job;
    return new Job(this, async function* (self) {
      yield { type: "phase", phase: "encoding_prompts", name: "encoding the prompts" };
      await wait(200);
      yield* compiled();
      if (asked.has("oom")) throw new PortrayError("limit", "This takes 3.10 GB of graphics memory, which this adapter cannot give now. Choose dtype q8 or f16, a smaller size, or close other programs.");
      for (let index = 0; index < count; index++) {
        const canvas = await painting(loras.length ? prompt : prompt.replace(/\bsks /, ""), seed + index, width, height);
        for (let step = 1; step <= steps; step++) {
          await wait(90);
          if (self.asked) return;
          if (asked.has("lost") && step === 4) engine.lose();
          yield { type: "preview", index, step, steps, image: await noisy(canvas, step / steps) };
        }
        const extra = loras.length ? `, Lora: "${loras.map((lora) => `${lora.name}: ${lora.scale}`).join(", ")}"` : "";
        const parameters = `${prompt}\nSteps: ${steps}, Sampler: ${sampler}, CFG scale: ${guidance}, Seed: ${seed + index}, Size: ${width}x${height}, Model: bundled${extra}, Version: portray 1.0`;
        yield { type: "picture", index, seed: seed + index, prompt, parameters, width, height, image: await createImageBitmap(canvas), png: await canvas.convertToBlob() };
      }
      yield { type: "done" };
    });
  }

  train(job) {
    const { prompt, steps = 300, name } = job;
    globalThis.lastJob = job;
    return this.#training({ id: crypto.randomUUID(), name, prompt, steps, step: 0, sampleEvery: job.sampleEvery ?? 50, evaluateEvery: job.evaluateEvery, clip: job.clip, samplePrompt: job.samplePrompts?.[0] ?? prompt, classCount: job.classCount ?? 0, updated: Date.now() });
  }
  resume(id) { return this.#training(kept.all().find((run) => run.id === id)); }

  #training(run) {
    const engine = this;
    return new TrainingJob(this, run.id, async function* (self) {
      if (run.step === 0 && run.classCount) {
        yield { type: "phase", phase: "making_class_images", name: "making class images" };
        for (let i = 1; i <= run.classCount; i++) {
          await wait(40);
          yield { type: "progress", unit: "image", done: i, total: run.classCount };
        }
      }
      if (asked.has("unkept")) yield { type: "warning", text: "This browser keeps no files for this page (a private window?): the training lasts only as long as this tab. Download its LoRA before you close it." };
      yield { type: "phase", phase: "training", name: "training" };
      yield* compiled();
      engine.running = run.id;
      try {
        while (run.step < run.steps) {
          await wait(30);
          const step = run.step++;
          const loss = (0.09 + 0.2 * Math.exp(-step / 90)) * (0.45 + 1.1 * Math.random()) * (Math.random() < 0.03 ? 1.9 : 1);
          yield { type: "step", step, steps: run.steps, loss, instance: loss, gradNorm: 1, lr: 0.001 };
          if (run.step % 25 === 0) kept.put({ ...run, updated: Date.now() });
          if (run.step % run.sampleEvery === 0 || run.step === run.steps) {
            const canvas = await painting(run.step < 60 ? run.samplePrompt.replace(/\bsks /, "") : run.samplePrompt, 3, SIDE, SIDE);
            yield { type: "sample", step: run.step, index: 0, prompt: run.samplePrompt, image: await createImageBitmap(canvas), png: await canvas.convertToBlob() };
          }
          if (run.evaluateEvery && run.step % run.evaluateEvery === 0) {
            yield { type: "evaluation", step: run.step, loss, heldOut: false, drift: 0.1, likeness: 0.5, likenessError: 0.1, ...(run.clip ? { promptFidelity: 0.9 } : {}), score: 0.4, best: run.evaluateEvery };
          }
          if (self.asked === "finish") break;
          if (self.asked) {
            kept.put({ ...run, updated: Date.now() });
            return void (yield { type: "paused", step: run.step, kept: !asked.has("unkept") });
          }
          // Once somebody looks elsewhere, however slow the machine is.
          if (asked.has("full") && run.step >= 60 && document.getElementById("panel-train").hidden) {
            yield { type: "storage", message: "This browser's storage is full" };
            break;
          }
        }
      } finally {
        engine.running = null;
      }
      kept.drop(run.id);
      const file = new Blob(["LoRA"]);
      const lora = await engine.addLora(file, run.name ?? "subject");
      yield { type: "done", step: run.step, lora, kept: !asked.has("unkept") && !asked.has("full"), file, ...(run.evaluateEvery ? { best: { step: run.evaluateEvery, file } } : {}) };
    });
  }

  async runs() {
    const shown = asked.has("runs") ? [
      { id: "one", name: "cat", prompt: "a sks cat", step: 175, steps: 300, sampleEvery: 50, samplePrompt: "a sks cat in the snow", updated: Date.now() - 4 * 60_000 },
      { id: "two", name: "vase", prompt: "a zwx vase", step: 50, steps: 400, state: "running elsewhere", updated: Date.now() - 1000 },
    ] : [];
    if (!sessionStorage.getItem("mock-runs")) sessionStorage.setItem("mock-runs", JSON.stringify(shown));
    return kept.all().map((run) => ({ state: run.id === this.running ? "running" : "paused", ...run }));
  }
  async forget(id) { kept.drop(id); }
  async convert(_, format) { return new Blob([format]); }
  destroy() { this.gone = "The engine was closed"; }
}
