// What every browser test starts with: an origin that has kept nothing, with the built page served, and a watch over what no
// page of ours does: errors and warnings in the console, and requests to another origin.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after } from "node:test";
import { chromium } from "playwright-core";

import { serve } from "./server.mjs";

const CHROMIUM = process.env.PORTRAY_CHROMIUM ?? "/usr/bin/chromium";
// WebGPU in software, and no way to another machine whatever a page asks for.
const FLAGS = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
];

/**
 * The built page (see server.mjs), until the test ends.
 * @param {import("node:test").TestContext} t
 */
export async function site(t, options) {
  const server = Object.assign(await serve(options), { pages: [] });
  // Pages first: what one asked of a server that is gone would be a complaint.
  t.after(async () => {
    await Promise.all(server.pages.map((page) => page.close()));
    await server.close();
  });
  return server;
}

/** A browser with an empty profile: `[context, close]`. */
async function browser() {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM}: no such browser; apt-get install chromium, or set PORTRAY_CHROMIUM`);
  const profile = await mkdtemp(path.join(tmpdir(), "portray-browser-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: CHROMIUM, args: FLAGS });
  return [context, async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }];
}

/**
 * That of a file's tests: to start one for each takes longer than most of them. What one keeps no other sees, because each
 * has a server and so an origin of its own.
 */
let shared;
// What runs as no test has no end for it.
if (process.argv[1]?.endsWith(".test.mjs")) after(async () => (await shared)?.[1]());

/**
 * A new page, until the test ends.
 * @param {import("node:test").TestContext} t
 */
async function blank(t, { beside, alone, viewport, scheme }) {
  let context = beside?.context();
  if (!context) {
    const [own, close] = await (alone ? browser() : (shared ??= browser()));
    if (alone) t.after(close);
    // The next test gets another where this one has crashed.
    else own.on("close", () => { shared = undefined; });
    context = own;
  }
  const page = await context.newPage();
  if (!alone) t.after(() => page.close());
  await page.setViewportSize(viewport ?? { width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: scheme ?? "light" });
  return page;
}

/**
 * Collects what a page, or a worker of it, does and must not do.
 * @param {import("playwright-core").Page} page
 * @param {{origins: string[], allow?: RegExp[], log?: boolean}} options
 * @returns {string[]} grows
 */
export function watched(page, { origins, allow = [], log = false }) {
  const complaints = [];
  const complain = (text) => {
    if (!allow.some((pattern) => pattern.test(text))) complaints.push(text);
  };
  page.on("console", (message) => {
    const text = `console ${message.type()}: ${message.text()} (${message.location().url})`;
    if (log) console.log(text);
    if (["error", "warning", "assert"].includes(message.type())) complain(text);
  });
  page.on("pageerror", (error) => complain(`uncaught: ${error.stack ?? error.message}`));
  page.on("crash", () => complain("the page crashed"));
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol.startsWith("http") && !origins.includes(origin)) complain(`request to ${request.url()}`);
  });
  // The console tells of a page's requests, not of a worker's.
  page.on("response", (response) => {
    if (response.status() >= 400) complain(`status ${response.status()}: ${response.url()}`);
  });
  page.on("requestfailed", (request) => {
    // A page may change its mind.
    const reason = request.failure()?.errorText ?? "";
    if (reason !== "net::ERR_ABORTED") complain(`failed ${reason}: ${request.url()}`);
  });
  return complaints;
}

/**
 * Opens a path of the page. When the test ends, it fails for whatever `watched` has collected.
 *
 * @param {import("node:test").TestContext} t
 * @param {string} at path below the server's base
 * @param {object} [options]
 * @param {Awaited<ReturnType<typeof serve>>} [options.server] where from; one of its own otherwise: `page.server`
 * @param {import("playwright-core").Page} [options.beside] a page of the same browser, with which it shares what is kept
 * @param {string[]} [options.origins] others that it may ask
 * @param {RegExp[]} [options.allow] what it may say in the console
 * @param {boolean} [options.log] prints the console
 * @param {boolean} [options.alone] in a browser of its own
 * @param {{width: number, height: number}} [options.viewport] @param {"light" | "dark"} [options.scheme]
 * @returns {Promise<import("playwright-core").Page & {server: Awaited<ReturnType<typeof serve>>}>}
 */
export async function open(t, at, options = {}) {
  const server = options.server ?? options.beside?.server ?? (await site(t));
  const page = await blank(t, options);
  const complaints = watched(page, { ...options, origins: [server.origin, ...(options.origins ?? [])] });
  t.after(() => assert.deepEqual(complaints, [], `${at} complained`));
  page.server = server;
  server.pages.push(page);
  const answer = await page.goto(server.url(at));
  assert.ok(answer.ok(), `${at}: the server says ${answer.status()}; was the page built (cargo xtask web)?`);
  return page;
}

/** `open`, on a page that has an adapter. */
export async function gpuPage(t, at, options) {
  const page = await open(t, at, options);
  const adapter = await page.evaluate(async () => (await navigator.gpu?.requestAdapter())?.info.vendor ?? null);
  assert.ok(adapter, "this chromium gives pages no WebGPU adapter");
  return page;
}

/**
 * Where `evaluate` runs a function: a bare page of our origin, or a worker of it.
 * @param {import("node:test").TestContext} t
 * @param {"page" | "worker"} kind
 */
export async function realm(t, kind, options = {}) {
  const server = options.server ?? options.beside?.server ?? (await site(t));
  const blank = { bytes: Buffer.from("<!doctype html><title>test</title><link rel='icon' href='data:,'>"), type: "text/html" };
  server.files.set("/blank.html", blank);
  server.files.set("/blank.js", { bytes: Buffer.from("onmessage = () => {};"), type: "text/javascript" });
  const page = await open(t, "/blank.html", { ...options, server });
  if (kind === "page") return Object.assign(page, { page });
  const [worker] = await Promise.all([
    page.waitForEvent("worker"),
    page.evaluate(() => { globalThis.worker = new Worker("/blank.js", { type: "module" }); }),
  ]);
  return Object.assign(worker, { page, server });
}

/** A site whose WASM is a stand-in (mock/wasm.js), with a bundled model of nothing. */
export async function mocked(server) {
  const bytes = await readFile(new URL("mock/wasm.js", import.meta.url));
  server.files.set("/pkg/portray.js", { bytes, type: "text/javascript" });
  const weights = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"].map((name) => `${name}.safetensors`);
  const configs = ["text_encoder", "unet", "vae"].map((name) => `${name}/config.json`);
  const tokenizer = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"].map((name) => `tokenizer/${name}`);
  for (const name of ["model_index.json", "scheduler/scheduler_config.json", ...configs, ...tokenizer, ...weights]) {
    server.files.set(`/model/${name}`, { bytes: Buffer.from("{}") });
  }
  return server;
}

/** Gives a page's origin so much room, in bytes. */
export async function setQuota(page, quotaSize) {
  const session = await page.context().newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(page.url()).origin, quotaSize });
}
