// Models of people's own in a tab: from an address, cut halfway and gone on with; what they take of memory, before and while
// they are loaded. With PORTRAY_TAB=DIR also a model of full size, in about five minutes:
// `cargo xtask make-model bk-tiny DIR && PORTRAY_TAB=DIR node tests/web/run.mjs tab`

import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";

import { realm } from "./harness.mjs";
import { switching, told } from "./loras.mjs";
import { ROOT } from "./native.mjs";

/** Bytes that the WASM's memory may grow by while a model is loaded. */
const GROWTH = 64 << 20;
const UNET = "unet/diffusion_pytorch_model.safetensors";

/** Columns between the layers of `widened`'s text encoder. */
const WIDE = 65_536;

/**
 * Makes the text encoder at `at` larger than the WASM may grow, by zeros: of its three blocks, two tensors each have 17 MB
 * as f32.
 */
function widened(server, at) {
  const config = server.files.get(`${at}/config.json`);
  config.bytes = Buffer.from(JSON.stringify({ ...JSON.parse(config.bytes), intermediate_size: WIDE }));
  const weights = server.files.get(`${at}/model.safetensors`);
  const length = Number(weights.bytes.readBigUInt64LE(0));
  const header = JSON.parse(weights.bytes.subarray(8, 8 + length));
  const parts = [];
  let end = 0;
  for (const [name, tensor] of Object.entries(header).filter(([name]) => name !== "__metadata__")) {
    const [from, to] = tensor.data_offsets;
    const narrow = header[name].shape.findIndex((side) => side === 136);
    if (narrow >= 0) {
      tensor.shape[narrow] = WIDE;
      tensor.dtype = "F32";
    }
    parts.push(narrow >= 0 ? Buffer.alloc(4 * tensor.shape.reduce((a, b) => a * b)) : weights.bytes.subarray(8 + length + from, 8 + length + to));
    tensor.data_offsets = [end, (end += parts.at(-1).length)];
  }
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  weights.bytes = Buffer.concat([size, text, ...parts]);
}

/** Serves the model in `folder` below `at`, without a listing. */
async function hub(server, at, folder) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const from = path.join(folder, entry.name);
    // The fixtures' parts are links to each other's.
    if (entry.name.endsWith(".json") || entry.name.endsWith(".txt") || entry.name.endsWith(".safetensors")) {
      server.files.set(`${at}/${entry.name}`, { bytes: await readFile(from), etag: '"1"' });
    } else await hub(server, `${at}/${entry.name}`, from);
  }
}

/** In a page: an engine, and `draw`, which gives the bytes of one image's PNG. */
async function engine(page) {
  await page.evaluate(async () => {
    const { Portray } = await import("/portray.js");
    globalThis.engine = await Portray.create();
    globalThis.draw = async (job) => {
      for await (const said of engine.generate({ prompt: "a cat", seed: 3, previews: false, ...job })) if (said.png) return said.png.size;
    };
  });
}

/** The first byte of a range that was asked for. */
const start = (range) => Number(/=(\d+)-/.exec(range ?? "")?.[1]);

/**
 * Loads the model in `folder` as q8 from an address, cut when `cut` bytes of the UNet are there, again after a reload, and
 * draws; gives what was seen.
 */
async function resumed(t, { folder, wide = false, cut, job }) {
  const at = "/hub/some/model/resolve/main";
  const { page } = await realm(t, "page", { allow: [/status 404/] });
  page.setDefaultTimeout(0);
  await hub(page.server, at, folder);
  if (wide) widened(page.server, `${at}/text_encoder`);
  const { log } = page.server;
  const unet = page.server.files.get(`${at}/${UNET}`);
  const asked = () => log.splice(0).filter((entry) => entry.path.endsWith(UNET) && entry.method === "GET" && entry.range !== "bytes=0-1048575");
  const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;
  let began = performance.now();
  await engine(page);
  const memory = await page.evaluate(() => engine.memory());
  const needs = await page.evaluate((at) => engine.requirements(at), at);
  t.diagnostic(`requirements: ${seconds(began)}`);

  // Nothing more comes, until somebody has enough and closes the page.
  const reached = (range) => range !== "bytes=0-1048575" && start(range) <= cut && Number(range.split("-")[1]) >= cut;
  unet.before = (_, { headers: { range } }) => { unet.stalls = reached(range) ? [cut - start(range)] : undefined; };
  began = performance.now();
  const stopping = page.evaluate((at) => {
    globalThis.control = new AbortController();
    return engine.load(at, { dtype: "q8", signal: control.signal }).catch((error) => error.kind);
  }, at);
  while (!log.some((entry) => entry.path.endsWith(UNET) && entry.status === 206 && reached(entry.range))) await page.waitForTimeout(50);
  await page.waitForTimeout(700);
  await page.evaluate(() => control.abort());
  const stopped = await stopping;
  unet.before = unet.stalls = undefined;
  const kept = await page.evaluate(() => engine.models());
  const first = asked();
  t.diagnostic(`the first part: ${seconds(began)}`);

  began = performance.now();
  await page.reload();
  await engine(page);
  const seen = await page.evaluate(async (at) => ({
    memory: await engine.memory(),
    missing: (await engine.requirements(at)).missing,
    model: await engine.load(at, { dtype: "q8" }),
    loaded: await engine.memory(),
  }), at);
  t.diagnostic(`the rest: ${seconds(began)}`);
  began = performance.now();
  const drawn = await page.evaluate(async (job) => ({ png: await draw(job), memory: await engine.memory() }), job);
  t.diagnostic(`an image: ${seconds(began)}`);
  const grown = [seen.loaded - seen.memory, drawn.memory - seen.memory];
  t.diagnostic(`the WASM's memory: ${memory} bytes, then ${seen.memory}, ${seen.loaded} with the model, ${drawn.memory} with an image`);
  return { needs, stopped, kept, first, later: asked(), grown, png: drawn.png, ...seen };
}

/** What holds of every such download. */
function check(found, cut) {
  const { needs, kept: [part] } = found;
  assert.equal(needs.missing, needs.bytes);
  assert.deepEqual(needs.types.map(({ dtype }) => dtype), ["f32", "f16", "q8", "q4"]);
  const peaks = needs.types.map(({ peakBytes }) => peakBytes);
  assert.deepEqual(peaks, [...peaks].sort((a, b) => b - a));
  assert.equal(found.stopped, "interrupted");
  assert.deepEqual([part.name, part.whole, new URL(part.url).pathname], ["model", false, "/hub/some/model/resolve/main"]);
  assert.equal(found.later[0].condition, '"1"');
  assert.ok(start(found.later[0].range) > cut / 2 && start(found.later[0].range) <= cut, `went on from ${found.later[0].range}, cut at ${cut}`);
  assert.ok(found.missing < needs.bytes);
  assert.ok(found.png > 100);
  for (const grown of found.grown) assert.ok(grown <= GROWTH, `the WASM's memory has grown by ${grown} bytes`);
}

test("a model at an address is cut halfway, goes on after a reload, and draws", async (t) => {
  const cut = 200_000;
  const found = await resumed(t, { folder: path.join(ROOT, "tests/fixtures/xl/bk"), wide: true, cut, job: { steps: 1, guidance: 1, width: 64, height: 64 } });
  check(found, cut);
  assert.ok(found.model.bytes > GROWTH, `${found.model.bytes} bytes would fit`);
  assert.equal(found.model.family, "small Stable Diffusion");
});

test("a model from disk is opened once, whatever is asked of it", async (t) => {
  const { page } = await realm(t, "page");
  page.setDefaultTimeout(0);
  const parts = await readdir(path.join(ROOT, "assets/model"), { recursive: true, withFileTypes: true });
  const names = parts.filter(({ name }) => /\.(json|txt|safetensors)$/.test(name)).map((entry) => path.relative(path.join(ROOT, "assets/model"), path.join(entry.parentPath, entry.name)));
  const opened = await page.evaluate(async ([names, unet]) => {
    const files = [];
    for (const name of names) {
      const bytes = await (await fetch(`/model/${name}`)).arrayBuffer();
      files.push(Object.defineProperty(new File([bytes], name.split("/").pop()), "webkitRelativePath", { value: `disk/${name}` }));
    }
    // Whoever opens a file reads first how long its header is.
    const { size } = files[names.indexOf(unet)];
    const { subarray } = Uint8Array.prototype;
    let opened = 0;
    Uint8Array.prototype.subarray = function (start, end) {
      if (this.length === size && start === 0 && end === 8) opened += 1;
      return subarray.call(this, start, end);
    };
    const { Portray } = await import("/portray.js");
    const engine = await Portray.create({ worker: false });
    await engine.load(files);
    for (const seed of [1, 2]) {
      const job = { prompt: "a cat", steps: 1, width: 16, height: 16, seed };
      await engine.plan("generate", job);
      await engine.generate(job).ended;
    }
    return opened;
  }, [names, UNET]);
  assert.equal(opened, 1);
});

const FULL = process.env.PORTRAY_TAB;
const skip = FULL ? false : "PORTRAY_TAB=DIR names the model";
test("BK-SDM-tiny in eight bits: cut halfway, gone on with, in 64 MB of the WASM's memory", { skip }, async (t) => {
  const cut = 38 * (8 << 20) + 5_000_000;
  check(await resumed(t, { folder: FULL, cut, job: { steps: 2, width: 128, height: 128 } }), cut);
});

test("another LoRA beside BK-SDM-tiny in eight bits", { skip }, async (t) => {
  const { page } = await realm(t, "page");
  page.setDefaultTimeout(0);
  await engine(page);
  t.diagnostic(told(await switching(page, FULL, { dtype: "q8", rounds: 3 })));
});
