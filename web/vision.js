// Vision models that judge a training's images: folders from disk, which last as long as this engine.
import { content, failure, fingerprint, put, safe, wasm } from "./files.js";
import { folder } from "./models.js";

/** Options of a training that name one. */
const OPTIONS = ["vision", "clip"];

export class VisionModels {
  #describe;
  /** By name: its path in the WASM, and what it is. */
  #known = new Map();
  /** Paths of those that judge a training which runs, with their number. */
  #held = new Map();

  /** @param {(path: string) => object} describe what the vision model at a path is; throws where it is none */
  constructor(describe) {
    this.#describe = describe;
  }

  /** @param {File[]} given the files of a folder */
  async add(given) {
    if (given.length === 0) throw failure("file", "this folder is empty: choose the one with config.json");
    const { name, files } = folder(given, "vision model");
    // The path tells one model from another of its name.
    const path = `/vision/${await fingerprint(files)}/${name}`;
    const known = [...this.#known.values()].find((other) => other.path === path);
    if (known) return known.info;
    const read = await Promise.all(files.map(async ([file, blob]) => [`${path}/${file}`, await content(blob)]));
    for (const [file, what] of read) put(file, what);
    try {
      let free = safe(name);
      for (let i = 2; this.#known.has(free); i++) free = `${safe(name)}-${i}`;
      const info = { ...this.#describe(path), name: free };
      this.#known.set(free, { path, info });
      return info;
    } catch (error) {
      wasm.remove(path);
      throw error;
    }
  }

  remove(name) {
    const known = this.#known.get(name);
    if (!known) return;
    if (this.#held.has(known.path)) throw failure("usage", `${name} judges a training that runs: let it end first`);
    wasm.remove(known.path);
    this.#known.delete(name);
  }

  list() {
    return [...this.#known.values()].map(({ info }) => info);
  }

  /** Where the models that `job` names lie, by option. */
  paths(job) {
    return Object.fromEntries(OPTIONS.filter((option) => job[option]).map((option) => {
      const known = this.#known.get(job[option]);
      if (!known) throw failure("usage", `there is no vision model called ${job[option]}`);
      return [option, known.path];
    }));
  }

  /** Keeps the models at `paths` until the answer is called; throws where one is not there any more. */
  hold(paths) {
    const all = Object.values(paths);
    for (const path of all) {
      if ([...this.#known.values()].some((known) => known.path === path)) continue;
      throw failure("usage", `this training is judged by the vision model ${path.split("/").pop()}: add that one first`);
    }
    const count = (path, more) => {
      const now = (this.#held.get(path) ?? 0) + more;
      if (now > 0) this.#held.set(path, now);
      else this.#held.delete(path);
    };
    for (const path of all) count(path, 1);
    return () => all.forEach((path) => count(path, -1));
  }
}
