// A server for tests: the built page, and files that come as badly as they do in the world.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** What is tested; another folder, such as web/ itself, by the environment. */
export const DIST = path.resolve(process.env.PORTRAY_WEB ?? fileURLToPath(new URL("../../web/dist", import.meta.url)));

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".png": "image/png",
  ".wasm": "application/wasm",
};

/** The page's own policy, as servers should send it: a Worker goes by the header of its file alone. */
const POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self' https:; img-src 'self' blob: data:; worker-src 'self'";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * @typedef {object} Served A file that is not in the folder, and how it comes.
 * @property {Uint8Array} bytes
 * @property {string} [type]
 * @property {string | null} [etag] @property {string | null} [modified]
 * @property {boolean} [ranges] false: always sends all of it
 * @property {boolean} [length] false: does not say how long it is
 * @property {number[]} [cuts] the next answers' connections break after so many bytes
 * @property {number[]} [stalls] the next answers stop after so many bytes, and the connection stays
 * @property {number[]} [failures] the next answers' status
 * @property {number} [delay] milliseconds for every 256 KiB
 * @property {string} [expose] headers that pages of other origins may read; where set, they may read the file
 * @property {(served: Served, request: http.IncomingMessage) => void} [before] called for every request
 */

/**
 * Serves `root` under `base`, and what is put into `files` by path, until `close`.
 * @param {{root?: string, base?: string}} [options]
 */
export async function serve({ root = DIST, base = "/" } = {}) {
  /** @type {Map<string, Served>} */
  const files = new Map();
  /** @type {{method: string, path: string, range: string | undefined, condition: string | undefined, status: number}[]} */
  const log = [];
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const entry = { method: request.method, path: pathname, range: request.headers.range, condition: request.headers["if-range"], status: 0 };
    log.push(entry);
    const served = files.get(pathname);
    // A browser that leaves in the middle is no error of ours.
    const answered = served ? send(served, request, response) : sendFile(root, base, pathname, response);
    answered.catch(() => response.destroy()).finally(() => { entry.status = response.statusCode; });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${server.address().port}`;
  return {
    origin,
    files,
    log,
    url: (file) => origin + base + file.replace(/^\//, ""),
    close: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}

async function sendFile(root, base, pathname, response) {
  const inside = pathname.startsWith(base) ? decodeURIComponent(pathname.slice(base.length)) : "..";
  const file = path.join(root, inside.endsWith("/") || inside === "" ? `${inside}index.html` : inside);
  const found = file.startsWith(root + path.sep) && (await stat(file).catch(() => null));
  if (!found || !found.isFile()) {
    response.writeHead(404, { "Content-Length": 0 }).end();
    return;
  }
  const type = TYPES[path.extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { "Content-Type": type, "Content-Length": found.size, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY });
  await new Promise((resolve, reject) => createReadStream(file).on("error", reject).pipe(response).on("close", resolve));
}

/** Until there is room again, or nobody wants more. */
function drained(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done).off("close", done);
      resolve();
    };
    response.on("drain", done).on("close", done);
  });
}

/** @param {Served} served @param {http.IncomingMessage} request @param {http.ServerResponse} response */
async function send(served, request, response) {
  served.before?.(served, request);
  const { bytes, etag = null, modified = null, ranges = true, length = true, delay = 0 } = served;
  const failure = served.failures?.shift();
  if (failure) {
    response.writeHead(failure, { "Content-Length": 0 }).end();
    return;
  }
  const headers = { "Content-Type": served.type ?? "application/octet-stream" };
  if (etag) headers.ETag = etag;
  if (modified) headers["Last-Modified"] = modified;
  if (served.expose !== undefined) {
    Object.assign(headers, { "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": served.expose });
    if (request.method === "OPTIONS") {
      response.writeHead(204, { ...headers, "Access-Control-Allow-Headers": "*" }).end();
      return;
    }
  }
  let [status, start, end] = [200, 0, bytes.length];
  const condition = request.headers["if-range"];
  const changed = condition !== undefined && condition !== etag && condition !== modified;
  const range = ranges && !changed && /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  if (range) {
    start = Number(range[1]);
    end = range[2] === "" ? bytes.length : Math.min(Number(range[2]) + 1, bytes.length);
    if (start >= bytes.length) {
      response.writeHead(416, { ...headers, "Content-Range": `bytes */${bytes.length}`, "Content-Length": 0 }).end();
      return;
    }
    status = 206;
    headers["Content-Range"] = `bytes ${start}-${end - 1}/${bytes.length}`;
  }
  if (length) headers["Content-Length"] = end - start;
  response.writeHead(status, headers);
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  const [cut, stall] = [served.cuts?.shift() ?? Infinity, served.stalls?.shift() ?? Infinity];
  const last = Math.min(end, start + cut, start + stall);
  for (let at = start; at < last; at += 256 << 10) {
    if (delay) await pause(delay);
    if (response.destroyed) return;
    const fits = response.write(bytes.subarray(at, Math.min(at + (256 << 10), last)));
    if (!fits) await drained(response);
  }
  if (stall < end - start) return;
  if (cut >= end - start) {
    response.end();
    return;
  }
  // A connection that is reset takes with it what the browser has not read yet.
  if (cut > 0) await pause(200);
  response.destroy();
}
