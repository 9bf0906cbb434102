// Requests for a part of a file: what the answer means, and when another try is worth it.

import { pause } from "./opfs.js";

/** How long to wait, in milliseconds, and how often. Tests wait less. */
export const patience = { stall: 60_000, pause: 500, longest: 30_000, tries: 6, first: 3, changes: 3 };

/** The file cannot be had, whatever we try. */
export class DownloadError extends Error {
  /** @param {string} text @param {ErrorOptions} [options] */
  constructor(text, options) {
    super(text, options);
    this.name = "DownloadError";
    this.kind = "file";
    /** The server has no such file. */
    this.absent = false;
  }
}

/** Something that another try may not meet. */
export class Passing extends Error {
  /** @param {string} text @param {number} [wait] milliseconds that the server asks for */
  constructor(text, wait = 0) {
    super(text);
    this.wait = wait;
  }
}

/**
 * What a server says of a file. Headers that another origin hides are null.
 * @typedef {{total: number | null, etag: string | null, changed: string | null}} Version
 */

/**
 * What lets a server send all of a file that has changed, in place of a part that would be thrown away. Other origins are
 * not asked so: a browser would first ask them whether they allow it, and few do; the answer's version tells as well.
 * @param {string} url @param {Version | null} known
 */
function ifUnchanged(url, known) {
  const strong = known?.etag?.startsWith('"') ? known.etag : null;
  const mark = strong ?? known?.changed;
  const own = new URL(url, globalThis.location?.href).origin === globalThis.location?.origin;
  return mark && own ? { "If-Range": mark } : {};
}

/**
 * One request, given up when nothing comes for a while.
 * @param {string} url @param {[number, number] | null} range from, up to
 * @param {AbortSignal} [signal]
 * @param {{method?: string, known?: Version | null}} [options] `known`: the range is wanted of this version
 */
export async function ask(url, range, signal, { method = "GET", known = null } = {}) {
  const control = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(), patience.stall);
  };
  const ended = () => clearTimeout(timer);
  const passing = (error) => {
    ended();
    signal?.throwIfAborted();
    if (error instanceof Passing || error instanceof DownloadError) return error;
    if (control.signal.aborted) return new Passing(`${url}: nothing came for ${patience.stall / 1000} seconds`);
    return new Passing(`${url}: the connection broke`);
  };
  alive();
  try {
    const headers = range ? { Range: `bytes=${range[0]}-${range[1] - 1}`, ...ifUnchanged(url, known) } : {};
    const both = signal ? AbortSignal.any([signal, control.signal]) : control.signal;
    // What is kept in files need not be kept in the browser's cache too.
    const response = await fetch(url, { method, headers, signal: both, cache: "no-store", referrerPolicy: "no-referrer" });
    alive();
    const answer = understood(url, response);
    answer.cancel = () => {
      ended();
      return response.body?.cancel().catch(() => {});
    };
    answer.read = async (take) => {
      const reader = response.body?.getReader();
      try {
        for (;;) {
          const { done, value } = (await reader?.read().catch((error) => Promise.reject(passing(error)))) ?? { done: true };
          alive();
          if (done || (await take(value)) === false) return;
        }
      } finally {
        ended();
        await reader?.cancel().catch(() => {});
      }
    };
    return answer;
  } catch (error) {
    throw passing(error);
  }
}

/**
 * @returns {{kind: "part" | "unclear" | "whole" | "beyond", version: Version, start: number, end: number}}
 */
function understood(url, response) {
  const { status, headers } = response;
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const wait = Number(headers.get("Retry-After")) * 1000;
    throw new Passing(`${url}: the server says ${status}`, Number.isFinite(wait) ? wait : 0);
  }
  const version = { total: null, etag: headers.get("ETag"), changed: headers.get("Last-Modified") };
  const range = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+)$/.exec(headers.get("Content-Range") ?? "");
  if (range) version.total = Number(range[3]);
  if (status === 416) return { kind: "beyond", version, start: 0, end: 0 };
  if (status === 206) {
    const [start, end] = range?.[1] === undefined ? [0, 0] : [Number(range[1]), Number(range[2]) + 1];
    return { kind: range?.[1] === undefined ? "unclear" : "part", version, start, end };
  }
  if (status !== 200) {
    const why = { 401: " (it wants a login)", 403: " (it does not let us)", 404: " (there is no such file)" }[status] ?? "";
    // Servers that list nothing say 403 of what is not there.
    throw Object.assign(new DownloadError(`${url}: the server says ${status}${why}`), { absent: [403, 404, 410].includes(status) });
  }
  // Of what is compressed on the way the length tells nothing.
  const length = headers.get("Content-Encoding") ? null : headers.get("Content-Length");
  version.total = length === null ? null : Number(length);
  return { kind: "whole", version, start: 0, end: version.total ?? 0 };
}

/** Tries until it works, it cannot work, or patience ends. `work` returns whether there is nothing more to do. */
export async function persistently(url, signal, work, size = () => 0) {
  let [tries, answered] = [0, false];
  for (;;) {
    const before = size();
    try {
      signal?.throwIfAborted();
      if (await work(() => { answered = true; })) return;
      tries = 0;
    } catch (error) {
      if (!(error instanceof Passing)) throw error;
      tries = size() > before ? 1 : tries + 1;
      if (tries >= (answered ? patience.tries : patience.first)) {
        const hint = answered
          ? "What has come is kept: try again later."
          : "Is this machine online, and does that server let other pages read its files (CORS)?";
        throw new DownloadError(`${error.message}. ${hint}`, { cause: error });
      }
      const wait = Math.min(patience.pause * 2 ** (tries - 1) * (0.5 + Math.random() / 2), patience.longest);
      await pause(Math.max(wait, Math.min(error.wait, patience.longest)), signal);
    }
  }
}

