// LoRAs beside a model: those that somebody added, and those that trainings made, which the browser keeps.
import { content, failure, put, safe, wasm } from "./files.js";
import { StorageFull } from "./opfs.js";

const ENDING = ".safetensors";

export class Loras {
  #storage;
  #describe;
  /** By name; `info` is null where the model has no such layers, and `why` says so. */
  #known = new Map();
  #next = 0;

  /**
   * @param {import("./storage.js").Storage | null} storage
   * @param {(path: string) => object} describe what the LoRA at a path is to the model; throws where it fits nowhere
   */
  constructor(storage, describe) {
    this.#storage = storage;
    this.#describe = describe;
  }

  /** For another model: all that are known, and what is kept besides. */
  async match() {
    for (const file of (await this.#storage?.list("loras").catch(() => [])) ?? []) {
      const name = file.slice(0, -ENDING.length);
      if (!file.endsWith(ENDING) || this.#known.has(name)) continue;
      const read = await this.#storage.file(`loras/${file}`).then((blob) => blob && content(blob)).catch(() => null);
      if (read) this.#known.set(name, { path: this.#place(name, read), kept: true });
    }
    for (const [name, lora] of this.#known) {
      try {
        Object.assign(lora, { info: { ...this.#describe(lora.path), name }, why: null });
      } catch (error) {
        Object.assign(lora, { info: null, why: error.message });
      }
    }
  }

  /** Those that fit the model. */
  list() {
    return [...this.#known.values()].filter((lora) => lora.info).map((lora) => lora.info);
  }

  /** Those that do not. */
  others() {
    return [...this.#known].filter(([, lora]) => !lora.info).map(([name, { why }]) => ({ name, why }));
  }

  path(name) {
    const lora = this.#known.get(name);
    if (!lora) throw failure("usage", `there is no LoRA called ${name}`);
    return lora.path;
  }

  /** In place of one of that name, unless the browser keeps it. */
  async add(blob, name) {
    const read = await content(blob);
    const free = this.#known.get(name)?.kept ? this.#free(name) : name;
    const path = this.#place(free, read);
    try {
      const info = { ...this.#describe(path), name: free };
      this.#drop(free);
      this.#known.set(free, { path, info });
      return info;
    } catch (error) {
      wasm.remove(path);
      throw error;
    }
  }

  /**
   * What a training made, under a name that is free. Where it finds no room in the browser, `makeRoom` is called first.
   * @param {Uint8Array} bytes @param {() => Promise<void>} makeRoom
   * @returns {Promise<{info: object, kept: boolean}>}
   */
  async trained(bytes, wanted, makeRoom) {
    // Another tab may have given names meanwhile.
    const stored = (await this.#storage?.list("loras").catch(() => [])) ?? [];
    const name = this.#free(safe(wanted), stored.map((file) => file.slice(0, -ENDING.length)));
    const kept = await this.#keep(name, bytes, makeRoom);
    const path = this.#place(name, { bytes });
    const info = { ...this.#describe(path), name };
    this.#known.set(name, { path, kept, info });
    return { info, kept };
  }

  #free(name, others = []) {
    let free = name;
    for (let i = 2; this.#known.has(free) || others.includes(free); i++) free = `${name}-${i}`;
    return free;
  }

  async #keep(name, bytes, makeRoom) {
    if (!this.#storage) return false;
    const write = () => this.#storage.write(`loras/${name}${ENDING}`, bytes);
    try {
      await write().catch((error) => {
        if (!(error instanceof StorageFull)) throw error;
        return makeRoom().then(write);
      });
      return true;
    } catch {
      return false;
    }
  }

  #place(name, read) {
    const path = `/loras/${this.#next++}/${safe(name)}${ENDING}`;
    put(path, read);
    return path;
  }

  #drop(name) {
    const lora = this.#known.get(name);
    if (lora) wasm.remove(lora.path);
    this.#known.delete(name);
  }

  async remove(name) {
    if (this.#known.get(name)?.kept) await this.#storage.remove(`loras/${name}${ENDING}`);
    this.#drop(name);
  }
}
