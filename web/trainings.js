// Trainings: begun, paused, taken up again, and what of them lasts: in the browser's storage, or where it has none as long
// as this engine.
import { content, defined, failure, put, safe, snake, wasm } from "./files.js";
import { StorageFull } from "./opfs.js";

const UNKEPT = "This browser keeps no files for this page (a private window?): the training lasts only as long as this tab. Download its LoRA before you close it.";

export class Trainings {
  #realm;
  #storage;
  #locks = new Map();
  /** Those that no storage keeps, by id. */
  #here = new Map();
  /** What the engine wrote and nothing keeps yet. */
  #unkept = new Set();

  /** @param {import("./engine.js").Realm} realm */
  constructor(realm) {
    this.#realm = realm;
    this.#storage = realm.storage;
  }

  /** What `job` is to the WASM, with its files below `folder`, and `judges`: paths of its vision models. */
  job(job, model, folder, judges = this.#realm.visionModels.paths(job)) {
    const { images, name, samplePrompts, vision, clip, ...rest } = job;
    const options = snake(defined(rest));
    return { ...options, ...judges, model, images: images.length > 0 ? `${folder}/images` : undefined,
      sample_prompts: samplePrompts ?? [], save_every: options.save_every ?? 25, out: `${folder}/lora.safetensors` };
  }

  start(id, job, tell, control) {
    const images = job.images.map((image, i) => ({ name: `${i}-${safe(image.name)}`, blob: image.blob }));
    const name = safe((job.name || job.prompt || "LoRA").slice(0, 60));
    const model = this.#realm.loaded();
    const { bytes, parameters } = this.#realm.about;
    const judges = this.#realm.visionModels.paths(job);
    const run = { id, name, prompt: job.prompt, step: 0, steps: job.steps ?? 400, model, judges, about: { bytes, parameters },
      job: { ...job, images: images.map(({ name }) => ({ name })) }, updated: Date.now() };
    return this.#owned(id, () => this.#judged(run, async () => {
      const pictures = await Promise.all(images.map(async ({ name, blob }) => [`runs/${id}/images/${name}`, new Uint8Array(await blob.arrayBuffer())]));
      for (const [path, bytes] of pictures) wasm.put(`/${path}`, bytes);
      await this.#fits(run);
      try {
        if (this.#storage) {
          for (const [path, bytes] of pictures) await this.#storage.write(path, bytes);
          // It comes last: what is without it never began.
          await this.#keepRun(run);
        } else {
          this.#here.set(id, run);
          tell({ type: "warning", text: UNKEPT }, []);
        }
        await this.#train(run, false, tell, control);
      } catch (error) {
        // Nobody goes on with what was refused. A device that fails may come back.
        if (run.step === 0 && error.kind !== "device") await this.#drop(id).catch(() => {});
        throw error;
      }
    }));
  }

  resume(id, tell, control) {
    return this.#owned(id, async () => {
      const run = this.#here.get(id) ?? (await this.#read(id));
      if (!run) throw failure("storage", "this training is no longer in the browser's storage");
      this.#sameModel(run);
      for (const file of this.#here.has(id) ? [] : await this.#storage.list(`runs/${id}`)) {
        const bytes = await this.#storage.read(`runs/${id}/${file}`);
        if (bytes) wasm.put(`/runs/${id}/${file}`, bytes);
      }
      await this.#judged(run, async () => {
        await this.#fits(run);
        await this.#train(run, true, tell, control);
      });
    });
  }

  /** Refuses to go on with other weights than those of the first steps. */
  #sameModel(run) {
    const { model } = this.#realm.loaded();
    const { bytes, parameters } = this.#realm.about;
    if (run.model.model === model && run.about?.bytes === bytes && run.about.parameters === parameters) return;
    const [asked, now] = [run.model.model, model].map((path) => path.split("/").pop());
    throw failure("usage", asked === now ? `this training was started with another model of the name ${asked}: load that one first`
      : `this training was started with the model ${asked}: load that one first`);
  }

  /** Does `work` while no other tab may touch the training. */
  async #owned(id, work) {
    const release = this.#storage ? await this.#storage.lock(id) : () => {};
    if (!release) throw failure("usage", "this training runs in another tab");
    this.#locks.set(id, release);
    try {
      return await work();
    } finally {
      // What the storage has need not be in memory, too.
      if (!this.#here.has(id)) wasm.remove(`/runs/${id}`);
      if (this.#storage) wasm.remove("/cache");
      this.#unkept.clear();
      this.#locks.delete(id);
      release();
    }
  }

  /** Does `work` while the vision models of `run` stay. */
  async #judged(run, work) {
    const release = this.#realm.visionModels.hold(run.judges ?? {});
    try {
      return await work();
    } finally {
      release();
    }
  }

  #fits(run) {
    const job = this.job(run.job, run.model, `/runs/${run.id}`, run.judges);
    return this.#realm.trial("train", { ...job, force: true }, "This training");
  }

  async #train(run, resume, tell, control) {
    const folder = `/runs/${run.id}`;
    await this.#cached();
    const train = (resume, control) => {
      const options = JSON.stringify({ ...this.job(run.job, run.model, folder, run.judges), resume, force: true });
      return this.#realm.run((listener) => this.#realm.engine.train(options, control, listener), passed, control, seen);
    };
    let full = null;
    let warned = false;
    // Class images can be made again: that they are not kept stops nothing.
    const warn = (error) => {
      if (!warned) tell({ type: "warning", text: `The class images are not kept, and will be made again: ${error.message}` }, []);
      warned = true;
    };
    const seen = async (event) => {
      if (event.type === "step") run.step = event.step + 1;
      if (event.type === "evaluation" && event.best) run.best = event.best;
      if (event.type !== "saved" && event.type !== "progress") return;
      try {
        await this.#keepWritten(warn);
        if (event.type === "saved") await this.#keepRun(run);
      } catch (error) {
        if (!(error instanceof StorageFull)) throw error;
        full = error.message;
        control.finish();
      }
      if (event.type === "saved" && event.path.endsWith(".state")) Object.assign(event, { type: "checkpoint", step: run.step });
    };
    const passed = (event, transfer) => { if (event.type !== "saved") tell(event, transfer); };
    let steps;
    try {
      steps = await train(resume, control);
    } catch (error) {
      if (error.kind !== "interrupted") throw error;
      if (!full) {
        // Class images that were under way when it stopped.
        await this.#keepWritten(warn).catch(() => {});
        await this.#keepRun(run).catch(() => {});
        return tell({ type: "paused", step: run.step, kept: this.#storage !== null }, []);
      }
      // The checkpoint of this pause is in memory alone, and finds no room: a step more, and the training has its LoRA.
      const last = this.#realm.control();
      last.finish();
      steps = await train(true, last);
    }
    if (full) tell({ type: "storage", message: full }, []);
    const bytes = wasm.file(`${folder}/lora.safetensors`);
    const { info, kept } = await this.#realm.loras.trained(bytes, run.name, () => this.#drop(run.id));
    const blob = (bytes) => new Blob([bytes], { type: "application/octet-stream" });
    const best = run.best && wasm.file(`${folder}/lora.best.safetensors`);
    tell({ type: "done", step: steps, lora: info, kept, file: blob(bytes), ...(best ? { best: { step: run.best, file: blob(best) } } : {}) }, []);
    await this.#drop(run.id).catch(() => { /* it can be deleted in the list */ });
  }

  /** Class images of earlier trainings, of which the engine reads those that it wants. */
  async #cached() {
    for (const file of (await this.#storage?.list("cache")) ?? []) {
      const blob = await this.#storage.file(`cache/${file}`);
      if (blob) put(`/cache/${file}`, await content(blob, 0));
    }
  }

  /** Keeps what the engine wrote. What finds no room stays to be kept. */
  async #keepWritten(warn) {
    for (const path of wasm.written()) if (/^\/(cache\/|runs\/[\w-]+\/(.*\.state\/|lora\.best\.safetensors$))/.test(path)) this.#unkept.add(path);
    for (const path of this.#storage ? this.#unkept : []) {
      const bytes = wasm.file(path);
      try {
        if (bytes) await this.#storage.write(path.slice(1), bytes);
      } catch (error) {
        if (!path.startsWith("/cache/")) throw error;
        warn(error);
      }
      this.#unkept.delete(path);
    }
  }

  async #keepRun(run) {
    run.updated = Date.now();
    await this.#storage?.write(`runs/${run.id}/run.json`, new TextEncoder().encode(JSON.stringify(run)));
  }

  async #read(id) {
    const text = await this.#storage?.read(`runs/${id}/run.json`);
    return text && JSON.parse(new TextDecoder().decode(text));
  }

  async #drop(id) {
    this.#here.delete(id);
    await this.#storage?.remove(`runs/${id}`);
  }

  /** Trainings that are not done, the last first. */
  async list() {
    const held = (await this.#storage?.held()) ?? new Set();
    const runs = [...this.#here.values()];
    for (const file of (await this.#storage?.list("runs")) ?? []) {
      if (!file.endsWith("/run.json") || file.split("/").length !== 2) continue;
      const run = await this.#read(file.split("/")[0]).catch(() => null);
      if (run) runs.push(run);
    }
    const state = ({ id }) => (this.#locks.has(id) ? "running" : held.has(id) ? "running elsewhere" : "paused");
    const shown = runs.map((run) => ({ id: run.id, name: run.name, step: run.step, steps: run.steps, prompt: run.prompt, updated: run.updated, state: state(run) }));
    return shown.sort((a, b) => b.updated - a.updated);
  }

  async forget(id) {
    const release = this.#storage ? await this.#storage.lock(id) : () => {};
    if (!release) throw failure("usage", "this training runs: stop it first");
    try {
      if (this.#locks.has(id)) throw failure("usage", "this training runs: stop it first");
      await this.#drop(id);
      wasm.remove(`/runs/${id}`);
    } finally {
      release();
    }
  }

  /** Removes what was never begun: images that a tab kept before it ended. */
  async sweep() {
    const files = (await this.#storage?.list("runs")) ?? [];
    // Asked after the list: whoever keeps a training's images has its lock.
    const held = (await this.#storage?.held()) ?? new Set();
    const ids = new Set(files.map((file) => file.split("/")[0]));
    for (const id of ids) if (!held.has(id) && !files.includes(`${id}/run.json`)) await this.#drop(id);
  }

  release() {
    for (const release of this.#locks.values()) release();
  }
}
