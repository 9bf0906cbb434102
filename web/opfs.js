// Files in the origin-private file system: paths, writers that tell when nothing more fits, and moves that replace.

/** Nothing more fits into what the browser gives this page. */
export class StorageFull extends Error {
  /** @param {string} text @param {ErrorOptions} [options] */
  constructor(text, options) {
    super(text, options);
    this.name = "StorageFull";
    this.kind = "storage";
  }
}

/** @param {string} text @param {unknown} [cause] */
export function failure(text, cause) {
  return Object.assign(new Error(text, { cause }), { kind: "storage" });
}

/**
 * What a browser's error means here; others stay what they are.
 * @param {unknown} error @param {string} path
 */
export function told(error, path) {
  if (error instanceof StorageFull) return error;
  switch (error?.name) {
    case "QuotaExceededError":
      return new StorageFull(`${path}: the browser's storage for this page is full. Delete trainings or downloaded models, or free disk space.`, { cause: error });
    case "NoModificationAllowedError":
      return failure(`${path} is in use in another tab: close that tab and try again.`, error);
    default:
      return error;
  }
}

/** @param {unknown} error */
export function missing(error) {
  return error?.name === "NotFoundError" || error?.name === "TypeMismatchError";
}

/** @param {number} ms @param {AbortSignal} [signal] */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/**
 * "runs/7/run.json" as names.
 * @param {string} path
 */
export function names(path) {
  const parts = path.split("/");
  if (parts.some((part) => part === "" || part === "." || part === ".." || /[\\\0]/.test(part))) {
    throw failure(`"${path}" is no path in this page's storage`);
  }
  return parts;
}

/**
 * The folder of these names; null where there is none and none is wanted.
 * @param {FileSystemDirectoryHandle} root @param {string[]} parts @param {boolean} create
 */
export async function folder(root, parts, create) {
  let at = root;
  for (const part of parts) {
    try {
      at = await at.getDirectoryHandle(part, { create });
    } catch (error) {
      if (!create && missing(error)) return null;
      throw error;
    }
  }
  return at;
}

/** @param {FileSystemDirectoryHandle | null} at @param {string} name */
export async function existing(at, name) {
  try {
    return (await at?.getFileHandle(name)) ?? null;
  } catch (error) {
    if (missing(error)) return null;
    throw error;
  }
}

/** @param {FileSystemDirectoryHandle | null} at @param {string} name */
export async function removed(at, name) {
  try {
    await at?.removeEntry(name, { recursive: true });
  } catch (error) {
    if (!missing(error)) throw told(error, name);
  }
}

/**
 * Puts a finished file where it belongs, over what is there, in one step.
 * @param {FileSystemFileHandle} handle @param {FileSystemDirectoryHandle} to @param {string} name
 */
export async function moved(handle, to, name) {
  if (handle.move) {
    try {
      return await handle.move(to, name);
    } catch (error) {
      // Not every browser lets a move replace a file.
      if (error?.name !== "InvalidModificationError") throw error;
      await removed(to, name);
      return handle.move(to, name);
    }
  }
  // A writable stream replaces the file when it is closed and not before.
  const target = await to.getFileHandle(name, { create: true });
  if (!target.createWritable) throw failure("this browser can neither move nor replace a file: try a newer one");
  const from = await handle.getFile();
  await from.stream().pipeTo(await target.createWritable());
}

/**
 * Adds to the end of a file. What `keep` and `close` return without an error survives this page.
 * @param {FileSystemFileHandle} handle
 * @returns {Promise<SyncAppender | StreamAppender>}
 */
export async function appender(handle) {
  if (handle.createSyncAccessHandle) return new SyncAppender(await exclusively(handle));
  if (handle.createWritable) return new StreamAppender(handle, (await handle.getFile()).size);
  throw failure("this browser writes files in workers only: create the engine with a worker, or try a newer browser");
}

/** The handle of a page that has just gone is given back a little later. */
async function exclusively(handle) {
  for (let tries = 0; ; tries++) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (error) {
      if (error?.name !== "NoModificationAllowedError" || tries === 20) throw error;
      await pause(100);
    }
  }
}

/** In workers. */
class SyncAppender {
  constructor(access) {
    this.access = access;
    this.size = access.getSize();
    this.kept = this.size;
  }

  /** @param {Uint8Array} bytes */
  async write(bytes) {
    const written = this.access.write(bytes, { at: this.size });
    if (written < bytes.length) throw new DOMException("only a part was written", "QuotaExceededError");
    this.size += written;
  }

  async keep() {
    this.access.flush();
    this.kept = this.size;
  }

  /** @param {number} size */
  async truncate(size) {
    this.access.truncate(size);
    this.size = size;
    await this.keep();
  }

  async close() {
    try {
      await this.keep();
    } finally {
      this.access.close();
    }
  }
}

/**
 * Where nothing more fits, Chromium's streams end now and then with an AbortError instead of the reason. Nobody here
 * aborts a stream that is written to.
 */
function unaborted(error) {
  if (error?.name === "AbortError") throw new DOMException("the browser gave up writing", "QuotaExceededError");
  throw error;
}

/** In pages, where a file is written beside and takes the other's place on closing. */
class StreamAppender {
  constructor(handle, size) {
    this.handle = handle;
    this.size = size;
    this.kept = size;
    this.stream = null;
  }

  /** @param {Uint8Array} bytes */
  async write(bytes) {
    if (!this.stream) {
      this.stream = await this.handle.createWritable({ keepExistingData: true });
      await this.stream.seek(this.size);
    }
    await this.stream.write(bytes).catch(unaborted);
    this.size += bytes.length;
  }

  /** Every opening copies the file: kept whenever it has grown by half, all copies together stay below three files. */
  async keep() {
    if (this.size - this.kept >= Math.max(32 << 20, this.kept / 2)) await this.close();
  }

  /** @param {number} size */
  async truncate(size) {
    await this.stream?.abort().catch(() => {});
    this.stream = await this.handle.createWritable({ keepExistingData: true });
    await this.stream.truncate(size);
    this.size = size;
    await this.close();
  }

  async close() {
    const stream = this.stream;
    this.stream = null;
    await stream?.close().catch(unaborted);
    this.kept = this.size;
  }
}
