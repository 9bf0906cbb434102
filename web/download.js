// Large files over connections that break: in parts, from where the last attempt ended, of one and the same file.

import { StorageFull } from "./opfs.js";
import { DownloadError, Passing, ask, patience, persistently } from "./request.js";

/** Bytes a request asks for. */
const PART = 8 << 20;
/** Browsers that do not tell how much room there is say this much (Chromium since 2025): it is no limit. */
const CEILING = 10 * 2 ** 30;

/** @typedef {import("./request.js").Version} Version */

/**
 * Whether both are one file for sure: what came of one may be continued with the other.
 * @param {Version} a @param {Version} b
 */
function same(a, b) {
  const equal = (x, y) => x !== null && x === y;
  return equal(a.total, b.total) && (equal(a.etag, b.etag) || equal(a.changed, b.changed));
}

/**
 * Whether they are two files for sure.
 * @param {Version} a @param {Version} b
 */
function differ(a, b) {
  const unequal = (x, y) => x !== null && y !== null && x !== y;
  if (unequal(a.total, b.total)) return true;
  if (a.changed !== null && a.changed === b.changed) return false;
  return unequal(a.etag, b.etag) || ((a.etag === null || b.etag === null) && unequal(a.changed, b.changed));
}

/** At most ten reports a second, and the last one. */
function paced(report) {
  let last = 0;
  return (done, total, { now = false, note = "" } = {}) => {
    if (!report || (!now && performance.now() - last < 100)) return;
    last = performance.now();
    report(done, total ?? 0, note);
  };
}

/**
 * Whether the server has the file that is here; so too where it cannot be asked.
 * @param {string} url @param {(Version & {url: string}) | null} about
 */
async function current(url, about, signal) {
  if (!about) return true;
  if (about.url !== url) return false;
  try {
    const answer = await ask(url, [0, 1], signal);
    await answer.cancel();
    return !differ(about, answer.version);
  } catch (error) {
    if (error instanceof Passing || error instanceof DownloadError) return true;
    throw error;
  }
}

/**
 * Brings what is at `url` to `place` (see storage.js).
 * @param {string} url
 * @param {{onprogress?: (done: number, total: number, note: string) => void, signal?: AbortSignal}} options `note`: what the
 *   reader should know of the way it comes
 * @returns {Promise<File>}
 */
export async function fetched(url, place, { onprogress, signal }) {
  signal?.throwIfAborted();
  const report = paced(onprogress);
  const whole = await place.whole();
  if (whole) {
    if (await current(url, await place.about(), signal)) {
      report(whole.size, whole.size, { now: true });
      return whole;
    }
    // The new one may need its room.
    await place.dropWhole();
  }
  const download = new Download(url, place, report, signal);
  download.out = await place.part();
  try {
    await download.resume();
    await persistently(url, signal, (answered) => download.more(answered), () => download.out.size);
  } catch (error) {
    if (error instanceof StorageFull || error?.name === "QuotaExceededError") {
      // A part that cannot grow only takes the room that trainings could use.
      await download.out.truncate(0).catch(() => {});
      download.about = null;
    }
    await download.close().catch(() => {});
    throw error;
  }
  await download.close();
  report(download.out.size, download.out.size, { now: true });
  return place.finish();
}

/** One file on its way. */
class Download {
  constructor(url, place, report, signal) {
    Object.assign(this, { url, place, report, signal });
    this.out = null;
    /** @type {(Version & {url: string, kept: number}) | null} of what is in `out` */
    this.about = null;
    this.ranges = true;
    this.changes = 0;
    // Whether what is there was written by this page: then a file without a version is believed to be the same.
    this.ours = false;
    /** What the reader should know of the way it comes. */
    this.said = "";
  }

  /** Takes up what an earlier attempt left. */
  async resume() {
    const about = await this.place.about();
    const usable = about?.url === this.url && about.kept > 0 && this.out.size >= about.kept;
    // What came after the last note may be there by its length alone.
    const size = usable ? about.kept : 0;
    if (this.out.size !== size) await this.out.truncate(size);
    this.about = usable ? about : null;
  }

  /** One request's worth; whether that was the last. */
  async more(answered) {
    const { out } = this;
    if (out.size > 0 && this.about.total === out.size) return true;
    const known = out.size > 0 ? this.about : null;
    const answer = await ask(this.url, this.ranges ? [out.size, out.size + PART] : null, this.signal, { known });
    answered();
    switch (answer.kind) {
      case "whole":
        // Not the version of which a part was asked for.
        if (out.size > 0 && this.ranges && differ(this.about, answer.version)) {
          await answer.cancel();
          return this.again();
        }
        this.said = "in one piece: this server cannot go on from where a connection breaks";
        await this.start(answer.version);
        // A server that sends all of it will not go on from the middle: nothing of this is noted.
        this.ranges = false;
        await this.take(answer, null);
        if (answer.version.total !== null && out.size < answer.version.total) throw new Passing(`${this.url}: the connection ended early`);
        return true;
      case "part":
        break;
      case "beyond":
        await answer.cancel();
        if (out.size === answer.version.total && (out.size === 0 || this.continues(answer.version))) {
          if (out.size === 0) await this.start(answer.version);
          return true;
        }
        return this.again();
      default:
        return this.withoutRanges(answer);
    }
    if (answer.start !== out.size || answer.end <= answer.start) return this.withoutRanges(answer);
    if (out.size > 0 && !this.continues(answer.version)) {
      await answer.cancel();
      return this.again();
    }
    if (out.size === 0) await this.start(answer.version);
    await this.take(answer, answer.end);
    await this.note();
    return out.size >= answer.version.total;
  }

  /** The server sends a part of we know not what: it is asked for all. */
  async withoutRanges(answer) {
    await answer.cancel();
    if (!this.ranges) throw new DownloadError(`${this.url}: the server sends parts that nobody asked for`);
    this.ranges = false;
    return false;
  }

  continues(version) {
    return same(this.about, version) || (this.ours && !differ(this.about, version));
  }

  /** From the beginning: the server has another file by now. */
  async again() {
    await this.out.truncate(0);
    this.about = null;
    this.said = "again: the file has changed on the server";
    if (++this.changes > patience.changes) throw new DownloadError(`${this.url} changes on the server again and again: try later`);
    return false;
  }

  async start(version) {
    if (this.out.size > 0) await this.out.truncate(0);
    this.ours = true;
    this.about = { ...version, url: this.url, kept: 0 };
    if (version.total !== null) {
      const { usage, quota } = await this.place.storage.estimate();
      if (quota > 0 && quota - usage < CEILING && version.total > quota - usage) {
        const gb = (bytes) => `${(Math.max(bytes, 0) / 1e9).toFixed(2)} GB`;
        throw new StorageFull(`${this.url} has ${gb(version.total)}, and the browser has room for ${gb(quota - usage)} of this page. Delete trainings or downloaded models, or free disk space.`);
      }
    }
    await this.place.setAbout(this.about);
  }

  /** Writes what comes, up to `end`. */
  async take(answer, end) {
    const { out } = this;
    this.ours = true;
    await answer.read(async (bytes) => {
      const wanted = end === null ? bytes : bytes.subarray(0, end - out.size);
      await out.write(wanted);
      this.report(out.size, this.about.total, { note: this.said });
      return end === null || out.size < end;
    });
    if (end !== null && out.size < end) throw new Passing(`${this.url}: the connection ended early`);
  }

  /** Notes how much is there for good. */
  async note() {
    await this.out.keep();
    await this.noteKept();
  }

  async noteKept() {
    if (!this.about || !this.ranges || this.out.kept === this.about.kept) return;
    this.about.kept = this.out.kept;
    await this.place.setAbout(this.about);
  }

  async close() {
    await this.out.close();
    await this.noteKept();
  }
}

/**
 * @param {string} url @param {number} offset @param {number} length @param {AbortSignal} [signal]
 * @returns {Promise<{bytes: Uint8Array, total: number}>}
 */
export async function peeked(url, offset, length, signal) {
  let found;
  await persistently(url, signal, async (answered) => {
    const answer = await ask(url, [offset, offset + Math.max(length, 1)], signal);
    answered();
    let { total } = answer.version;
    if (answer.kind === "beyond") {
      await answer.cancel();
      found = { bytes: new Uint8Array(0), total: total ?? (await size(url, signal)) };
      return true;
    }
    const bytes = new Uint8Array(length);
    // Where the bytes that come lie in the file, and how many are there.
    let [at, filled] = [answer.kind === "part" ? answer.start : answer.kind === "whole" ? 0 : offset, 0];
    if (at > offset) throw new DownloadError(`${url}: the server sends other bytes than those asked for`);
    await answer.read((chunk) => {
      const from = Math.min(Math.max(offset - at, 0), chunk.length);
      const wanted = chunk.subarray(from, from + length - filled);
      bytes.set(wanted, filled);
      filled += wanted.length;
      at += chunk.length;
      // Without a length only the end tells how long it is.
      return filled < length || (answer.kind === "whole" && total === null);
    });
    if (answer.kind === "unclear") total = await size(url, signal);
    total ??= at;
    if (filled < Math.min(length, total - offset)) throw new Passing(`${url}: the connection ended early`);
    found = { bytes: bytes.subarray(0, filled), total };
    return true;
  });
  return found;
}

/** By another request, for servers that hide the range of a part. */
async function size(url, signal) {
  const answer = await ask(url, null, signal, { method: "HEAD" });
  await answer.cancel();
  if (answer.version.total === null) throw new DownloadError(`${url}: the server does not say how large the file is`);
  return answer.version.total;
}
