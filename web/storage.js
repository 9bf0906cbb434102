// What this page keeps in the browser: trainings, downloaded models, caches. For workers and pages, without WebAssembly.

import { fetched, peeked } from "./download.js";
import { StorageFull, appender, existing, failure, folder, missing, moved, names, pause, removed, told } from "./opfs.js";

export { StorageFull };

const RUN = "portray-run-";
const TEMPORARY = "portray-tmp-";

/**
 * Takes a lock that others see; null where somebody holds it.
 * @param {string} name
 * @returns {Promise<(() => void) | null>}
 */
function taken(name) {
  return new Promise((resolve, reject) => {
    const granted = (lock) => (lock ? new Promise((release) => resolve(() => release())) : resolve(null));
    navigator.locks.request(name, { ifAvailable: true }, granted).catch(reject);
  });
}

/** Names, without the prefix, of locks that somebody holds. */
async function heldLocks(prefix) {
  const { held } = await navigator.locks.query();
  return new Set(held.map((lock) => lock.name).filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length)));
}

export class Storage {
  #root;
  #temporary;
  #writes = Promise.resolve();

  /**
   * @throws where the browser keeps nothing for this page; the message is for its reader.
   */
  static async open() {
    if (!navigator.storage?.getDirectory || !navigator.locks) {
      throw failure(
        globalThis.isSecureContext
          ? "This browser has no file system for pages: try a newer one."
          : "Browsers keep files only for pages that come by https (or from this machine).",
      );
    }
    try {
      const root = await folder(await navigator.storage.getDirectory(), ["portray"], true);
      const id = crypto.randomUUID();
      // Held until this page or worker ends: what bears its name is in use.
      await taken(TEMPORARY + id);
      await sweep(root).catch(() => {});
      return new Storage(root, await folder(root, ["tmp", id], true));
    } catch (error) {
      if (told(error, "") !== error) throw told(error, "This page's storage");
      throw failure("This browser keeps no files for this page (a private window, or storage switched off in its settings).", error);
    }
  }

  /** @param {FileSystemDirectoryHandle} root @param {FileSystemDirectoryHandle} temporary */
  constructor(root, temporary) {
    this.#root = root;
    this.#temporary = temporary;
  }

  /**
   * @param {string} path
   * @returns {Promise<File | null>}
   */
  async file(path) {
    const parts = names(path);
    const name = parts.pop();
    try {
      return (await (await existing(await folder(this.#root, parts, false), name))?.getFile()) ?? null;
    } catch (error) {
      if (missing(error)) return null;
      throw error;
    }
  }

  /**
   * @param {string} path
   * @returns {Promise<Uint8Array | null>}
   */
  async read(path) {
    for (let tries = 0; ; tries++) {
      const file = await this.file(path);
      try {
        return file && new Uint8Array(await file.arrayBuffer());
      } catch (error) {
        // Another tab has put a new file in its place meanwhile.
        if ((error?.name !== "NotReadableError" && !missing(error)) || tries === 5) throw error;
        await pause(20);
      }
    }
  }

  /**
   * Writes a file: whoever reads it, and whoever comes after a crash, finds the old one or the new one, whole.
   * Writes of one page happen in the order of the calls.
   * @param {string} path @param {Uint8Array} bytes
   * @throws {StorageFull}
   */
  write(path, bytes) {
    return this.#inTurn(async () => {
      const parts = names(path);
      const name = parts.pop();
      const temporary = crypto.randomUUID();
      try {
        const to = await folder(this.#root, parts, true);
        const handle = await this.#temporary.getFileHandle(temporary, { create: true });
        const out = await appender(handle);
        try {
          await out.write(bytes);
        } catch (error) {
          await out.close().catch(() => {});
          throw error;
        }
        await out.close();
        await moved(handle, to, name);
        if (!handle.move) await removed(this.#temporary, temporary);
      } catch (error) {
        await removed(this.#temporary, temporary).catch(() => {});
        throw told(error, path);
      }
    });
  }

  /** Removes a file or a folder with all in it; nothing where there is none. */
  remove(path) {
    return this.#inTurn(async () => {
      const all = [path];
      // What is left of a download goes with the model.
      if (path === "models" || path.startsWith("models/")) all.push(path.replace("models", "downloads"));
      for (const parts of all.map(names)) {
        const name = parts.pop();
        await removed(await folder(this.#root, parts, false), name);
      }
    });
  }

  #inTurn(work) {
    const done = this.#writes.then(work);
    this.#writes = done.catch(() => {});
    return done;
  }

  /**
   * All files below `path`, by their paths from there.
   * @param {string} path
   * @returns {Promise<string[]>}
   */
  async list(path) {
    const found = [];
    const visit = async (at, before) => {
      try {
        for await (const [name, handle] of at.entries()) {
          if (handle.kind === "directory") await visit(handle, `${before}${name}/`);
          else found.push(before + name);
        }
      } catch (error) {
        // Another tab removes the folder while we look.
        if (!missing(error)) throw error;
      }
    };
    const at = await folder(this.#root, names(path), false);
    if (at) await visit(at, "");
    return found.sort();
  }

  /** @returns {Promise<{usage: number, quota: number}>} */
  async estimate() {
    const { usage = 0, quota = 0 } = await navigator.storage.estimate();
    return { usage, quota };
  }

  /**
   * Takes a training; the result gives it back. Null where another page or worker has it.
   * @param {string} id
   */
  lock(id) {
    return taken(RUN + id);
  }

  /** Trainings that somebody has. */
  held() {
    return heldLocks(RUN);
  }

  /**
   * Downloads `url` to models/KEY/PATH, from where an earlier attempt ended. A file that is there already is returned
   * if the server still has that one, or cannot be asked. Pages that want one file at a time wait for each other.
   * @param {string} url @param {string} key @param {string} path
   * @param {{onprogress?: (done: number, total: number, note: string) => void, signal?: AbortSignal}} [options]
   * @returns {Promise<File>}
   * @throws {StorageFull}
   */
  download(url, key, path, { onprogress, signal } = {}) {
    const place = new Place(this, this.#root, `${key}/${path}`);
    const lock = `portray-download-${key}/${path}`;
    return navigator.locks.request(lock, { signal }, async () => {
      try {
        return await fetched(url, place, { onprogress, signal });
      } catch (error) {
        throw told(error, path);
      }
    });
  }

  /**
   * `length` bytes from `offset` of what is at `url`, fewer where it ends before, and the size of all of it.
   * @param {string} url @param {number} offset @param {number} length @param {AbortSignal} [signal]
   * @returns {Promise<{bytes: Uint8Array, total: number}>}
   */
  peek(url, offset, length, signal) {
    return peeked(url, offset, length, signal);
  }
}

/** Where one download lies: models/KEY/PATH once whole; until then downloads/KEY/PATH/part, with what is known of it. */
class Place {
  /** @param {Storage} storage @param {FileSystemDirectoryHandle} root @param {string} path */
  constructor(storage, root, path) {
    this.storage = storage;
    this.root = root;
    this.path = path;
    this.parts = names(path);
  }

  whole() {
    return this.storage.file(`models/${this.path}`);
  }

  dropWhole() {
    return this.storage.remove(`models/${this.path}`);
  }

  /** What the server said of the file, or of the part. */
  async about() {
    try {
      const bytes = await this.storage.read(`downloads/${this.path}/about.json`);
      return bytes && JSON.parse(new TextDecoder().decode(bytes));
    } catch (error) {
      if (error instanceof SyntaxError) return null;
      throw error;
    }
  }

  /** @param {object} about */
  setAbout(about) {
    return this.storage.write(`downloads/${this.path}/about.json`, new TextEncoder().encode(JSON.stringify(about)));
  }

  async part() {
    const at = await folder(this.root, ["downloads", ...this.parts], true);
    return appender(await at.getFileHandle("part", { create: true }));
  }

  /** The part is the whole. */
  async finish() {
    const part = await existing(await folder(this.root, ["downloads", ...this.parts], false), "part");
    const to = await folder(this.root, ["models", ...this.parts.slice(0, -1)], true);
    await moved(part, to, this.parts.at(-1));
    if (!part.move) await this.drop();
    return this.whole();
  }

  /** Lets go of the part. */
  drop() {
    return this.storage.remove(`downloads/${this.path}/part`);
  }
}

/** Removes what pages left that ended in the middle of a write. */
async function sweep(root) {
  const all = await folder(root, ["tmp"], true);
  const ids = [];
  for await (const id of all.keys()) ids.push(id);
  // Looked at after the list: whoever made a folder has its lock.
  const alive = await heldLocks(TEMPORARY);
  for (const id of ids) if (!alive.has(id)) await removed(all, id);
}
