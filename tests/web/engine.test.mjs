// The engine in a tab: every kernel, the native build's images and losses, and that nothing piles up.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

import { gpuPage, realm, setQuota, site } from "./harness.mjs";
import { switching, told } from "./loras.mjs";
import { ROOT, makeModel, portray } from "./native.mjs";
import { addVisionModels, makeClip } from "./vision.mjs";

/** A bare page with an engine of the bundled model as `engine`. */
async function tab(t, options = {}) {
  const { page } = await realm(t, "page", options);
  page.setDefaultTimeout(0);
  await page.evaluate(async (worker) => {
    const { Portray } = await import("/portray.js");
    globalThis.engine = await Portray.create({ worker });
    await engine.load();
    globalThis.all = async (job) => {
      const events = [];
      for await (const event of job) {
        if (event.png) event.png = [...new Uint8Array(await event.png.arrayBuffer())];
        if (event.file) event.file = [...new Uint8Array(await event.file.arrayBuffer())];
        delete event.image;
        events.push(event);
      }
      return events;
    };
  }, options.worker ?? true);
  return page;
}

const photos = (count) => Promise.all([...Array(count).keys()].map((i) => readFile(path.join(ROOT, `assets/subjects/dog/${i}.png`), "base64")));

async function folder(t) {
  const made = await mkdtemp(path.join(tmpdir(), "portray-web-"));
  t.after(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** Runs every case of the ops; `hardware` with the kernels for GPUs. */
function cases(page, hardware, only, every = 1) {
  return page.evaluate(async ([hardware, only, every]) => {
    const wasm = await import("/pkg/portray.js");
    await wasm.default({ module_or_path: "/pkg/portray_bg.wasm" });
    const engine = await wasm.Engine.request();
    const wrong = [];
    let count = 0;
    for (const op of wasm.ops().filter((op) => only.length === 0 || only.includes(op))) {
      for (let i = 0; ; i += every) {
        const fault = await engine.checkKernel(op, i, hardware).catch((error) => `throws ${error.message}`);
        if (fault === undefined || fault === null) break;
        count += 1;
        if (fault) wrong.push(`${op} case ${i}: ${fault}`);
      }
    }
    return { count, wrong };
  }, [hardware, only, every]);
}

/** In software the kernels for GPUs take minutes: of their cases every fourth, or, with PORTRAY_ALL, all. */
const EVERY = process.env.PORTRAY_ALL ? 1 : 4;

for (const [kind, hardware, only, least] of [["this adapter", false, [], 400], ["hardware", true, ["attention", "gemm", "weight_grad"], 40]]) {
  test(`kernels for ${kind} compile and match their references`, async (t) => {
    const { page } = await realm(t, "page");
    page.setDefaultTimeout(0);
    const { count, wrong } = await cases(page, hardware, only, hardware ? EVERY : 1);
    assert.deepEqual(wrong, []);
    assert.ok(count >= least, `${count} cases`);
  });
}

test("a tab trains as the native build does, and its LoRA gives the same image there", async (t) => {
  const page = await tab(t);
  const out = await folder(t);
  const [dino, clip] = [path.join(ROOT, "tests/fixtures/vision/dino"), await makeClip(path.join(out, "clip"))];
  await addVisionModels(page, [dino, clip], out);
  const job = { prompt: "a sks dog", classPrompt: "a dog", classCount: 1, steps: 6, rank: 4, lr: 2e-3, seed: 5, resolution: 32, evaluateEvery: 6 };
  const events = await page.evaluate(async ([job, photos]) => {
    const blobs = photos.map((photo) => new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))]));
    return all(engine.train({ ...job, vision: "dino", clip: "clip", images: blobs.map((blob, i) => ({ name: `${i}.png`, blob })) }));
  }, [job, await photos(4)]);
  const losses = events.filter((event) => event.type === "step").map((event) => event.loss);
  const native = await portray("train", "--images", path.join(ROOT, "assets/subjects/dog"), "--prompt", job.prompt, "--class-prompt", "a dog", "--class-count", "1", "--steps", "6", "--rank", "4", "--lr", "2e-3", "--seed", "5", "--resolution", "32", "--evaluate-every", "6", "--vision", dino, "--clip", clip, "--json", "--out", path.join(out, "native.safetensors"));
  const lines = native.split("\n").filter((line) => line.includes('"step"')).map((line) => JSON.parse(line));
  const expected = lines.filter((line) => line.event === "step").map((line) => line.loss);
  assert.equal(losses.length, 6);
  for (const [i, loss] of losses.entries()) assert.ok(Math.abs(loss - expected[i]) <= 1e-3 * expected[i], `step ${i}: ${loss}, natively ${expected[i]}`);
  const seen = [events.filter(({ type }) => type === "evaluation"), lines.filter(({ event }) => event === "evaluation")];
  assert.deepEqual(seen.map((evaluations) => evaluations.map(({ step }) => step)), [[0, 6], [0, 6]]);
  const [own, theirs] = seen.map(([, { drift, likeness, score, ...rest }]) => ({ drift, likeness, prompt: rest.promptFidelity ?? rest.prompt_fidelity, score }));
  for (const [name, value] of Object.entries(theirs)) assert.ok(Math.abs(own[name] - value) <= 1e-2, `${name}: ${own[name]}, natively ${value}`);
  t.diagnostic(`evaluated: ${JSON.stringify(own)}, natively ${JSON.stringify(theirs)}`);

  const done = events.at(-1);
  assert.equal(done.type, "done");
  assert.equal(done.best.step, 6);
  const made = await page.evaluate(async (name) => {
    const picture = (await all(engine.generate({ prompt: "a sks dog in the snow", steps: 4, seed: 3, width: 64, height: 64, loras: [{ name, scale: 1.5 }] }))).find((event) => event.type === "picture");
    const layouts = {};
    for (const format of ["diffusers", "peft", "kohya"]) layouts[format] = [...new Uint8Array(await (await engine.convert(name, format)).arrayBuffer())];
    return { png: picture.png, parameters: picture.parameters, layouts };
  }, done.lora.name);
  assert.match(made.parameters, /a sks dog in the snow\n.*Seed: 3/);
  await writeFile(path.join(out, "tab.png"), Buffer.from(made.png));
  for (const [format, bytes] of Object.entries(made.layouts)) {
    const lora = path.join(out, `${format}.safetensors`);
    await writeFile(lora, Buffer.from(bytes));
    const report = JSON.parse(await portray("inspect", lora, "--json"));
    assert.equal(report.event, "lora", format);
    if (format !== "kohya") continue;
    await portray("generate", "a sks dog in the snow", "--steps", "4", "--seed", "3", "--width", "64", "--height", "64", "--lora", `${lora}=1.5`, "--out", path.join(out, "native.png"), "--quiet");
    const [a, b] = await Promise.all(["tab.png", "native.png"].map((name) => readFile(path.join(out, name), "base64")));
    const db = await page.evaluate(psnr, [a, b]);
    t.diagnostic(`PSNR ${db.toFixed(1)} dB`);
    assert.ok(db >= 40, `${db} dB`);
    const other = await page.evaluate(psnr, [a, (await photos(1))[0]]);
    assert.ok(other < 40, "the comparison takes any image");
  }
});

/** Peak signal-to-noise ratio of two images of one size, in dB. */
async function psnr(pictures) {
  const pixels = await Promise.all(pictures.map(async (base64) => {
    const blob = new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]);
    const image = await createImageBitmap(blob);
    const canvas = new OffscreenCanvas(64, 64);
    canvas.getContext("2d").drawImage(image, 0, 0, 64, 64);
    return canvas.getContext("2d").getImageData(0, 0, 64, 64).data;
  }));
  let sum = 0;
  for (let i = 0; i < pixels[0].length; i++) sum += i % 4 === 3 ? 0 : (pixels[0][i] - pixels[1][i]) ** 2;
  return 10 * Math.log10(255 ** 2 / Math.max(1e-9, sum / (pixels[0].length * 0.75)));
}

test("the first image and the next are the same, but for what compiling takes; another LoRA takes little", async (t) => {
  const page = await tab(t, { alone: true });
  const [first, next] = await page.evaluate(async () => {
    const timed = async () => {
      const began = performance.now();
      const said = await all(engine.generate({ prompt: "a cat", steps: 4, seed: 3 }));
      return { seconds: (performance.now() - began) / 1000, png: said.find((event) => event.type === "picture").png };
    };
    return [await timed(), await timed()];
  });
  t.diagnostic(`cold extra ${(first.seconds - next.seconds).toFixed(1)} s: ${first.seconds.toFixed(1)} s, then ${next.seconds.toFixed(1)}`);
  assert.deepEqual(first.png, next.png);
  t.diagnostic(told(await switching(page, path.join(ROOT, "assets/model"), { rounds: 5 })));
});

test("fifty generations leave no buffers and no memory behind", async (t) => {
  const { page } = await realm(t, "page");
  page.setDefaultTimeout(0);
  const counts = await page.evaluate(async () => {
    let live = 0;
    const create = GPUDevice.prototype.createBuffer;
    GPUDevice.prototype.createBuffer = function (...args) {
      live += 1;
      const buffer = create.apply(this, args);
      const destroy = buffer.destroy.bind(buffer);
      let gone = false;
      buffer.destroy = () => {
        if (!gone) live -= 1;
        gone = true;
        destroy();
      };
      return buffer;
    };
    const { Portray } = await import("/portray.js");
    const engine = await Portray.create({ worker: false });
    await engine.load();
    const counts = [];
    for (let i = 0; i < 50; i++) {
      const job = engine.generate({ prompt: "a cat", steps: 2, seed: i, width: 16, height: 16 });
      for await (const event of job) {
        event.image?.close();
        if (i % 5 === 4 && event.type === "preview") break;
      }
      await job.ended;
      counts.push([live, await engine.memory()]);
    }
    return counts;
  });
  t.diagnostic(`${counts[9]} after ten, ${counts.at(-1)} after fifty`);
  assert.ok(counts[9][0] < 20, `${counts[9][0]} buffers`);
  assert.equal(counts.at(-1)[0], counts[9][0], "buffers");
  assert.equal(counts.at(-1)[1], counts[9][1], "bytes of the WASM's memory");
});

test("single files and addresses are loaded, kept, and draw", async (t) => {
  // A folder is asked for the tokenizer in both of its spellings.
  const page = await tab(t, { allow: [/404.*tokenizer\.json/] });
  const file = path.join(await folder(t), "tiny.safetensors");
  await makeModel("tiny-sd2", file);
  page.server.files.set("/hub/tiny.safetensors", { bytes: await readFile(file), etag: '"1"' });
  const found = await page.evaluate(async () => {
    const draws = async (side) => (await all(engine.generate({ prompt: "a cat", steps: 1, width: side, height: side }))).some((event) => event.type === "picture");
    const bundled = await engine.load();
    const folder = await engine.load("/model/");
    const found = { folder: [folder.name, folder.parameters === bundled.parameters, await draws(64)] };
    const blob = await (await fetch("/hub/tiny.safetensors")).blob();
    for (const source of [new File([blob], "tiny.safetensors"), "/hub/tiny.safetensors"]) {
      const { name, family, prediction } = await engine.load(source);
      found[typeof source] = [name, family, prediction, await draws(32)];
    }
    found.kept = (await engine.models()).map(({ name, whole, loaded }) => [name, whole, loaded]);
    return found;
  });
  const tiny = ["tiny.safetensors", "small Stable Diffusion", null, true];
  assert.deepEqual(found, { folder: ["model", true, true], object: tiny, string: tiny, kept: [["model", true, false], ["tiny.safetensors", true, true]] });
});

test("an inpainting model draws what the native build draws", async (t) => {
  const page = await tab(t);
  const out = await folder(t);
  const file = path.join(out, "inpainting.safetensors");
  await makeModel("tiny-sd1-inpainting", file);
  page.server.files.set("/hub/inpainting.safetensors", { bytes: await readFile(file), etag: '"1"' });
  const fixture = (name) => path.join(ROOT, "tests/fixtures/inpaint", name);
  const starts = await Promise.all(["init.png", "mask.png"].map((name) => readFile(fixture(name), "base64")));
  const found = await page.evaluate(async (starts) => {
    const [init, mask] = starts.map((text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
    const { inpaints } = await engine.load("/hub/inpainting.safetensors");
    const job = { prompt: "a cat", steps: 3, seed: 7, sampler: "ddim" };
    const refused = await all(engine.generate(job)).catch((error) => error.message);
    const plan = await engine.plan("generate", { ...job, init, mask });
    const picture = (await all(engine.generate({ ...job, init, mask }))).find((event) => event.type === "picture");
    return { inpaints, refused, plan: plan.notes.join("\n"), parameters: picture.parameters, png: picture.png };
  }, starts);
  assert.equal(found.inpaints, true);
  assert.match(found.refused, /is an inpainting model/);
  assert.match(found.plan, /38x46/);
  assert.match(found.parameters, /Denoising strength: 1, .*Mask image: mask/);
  await portray("generate", "a cat", "--model", file, "--steps", "3", "--seed", "7", "--sampler", "ddim", "--init", fixture("init.png"), "--mask", fixture("mask.png"), "--out", path.join(out, "native.png"), "--quiet");
  const db = await page.evaluate(psnr, [Buffer.from(found.png).toString("base64"), await readFile(path.join(out, "native.png"), "base64")]);
  t.diagnostic(`PSNR ${db.toFixed(1)} dB`);
  assert.ok(db >= 40, `${db} dB`);
});

test("a panic is told in its words, and another engine works", async (t) => {
  const page = await tab(t, { allow: [/unreachable/] });
  const [lost, made] = await page.evaluate(async () => {
    const lost = new Promise((resolve) => { engine.onlost = resolve; });
    const canvas = new OffscreenCanvas(8, 8);
    canvas.getContext("2d").fillRect(0, 0, 8, 8);
    // No memory of a WASM holds that.
    engine.preparePicture(await canvas.convertToBlob(), 30_000).catch(() => {});
    const said = await lost;
    const { Portray } = await import("/portray.js");
    engine.destroy();
    globalThis.engine = await Portray.create();
    await engine.load();
    return [said, await all(engine.generate({ prompt: "a cat", steps: 1, width: 16, height: 16 }))];
  });
  assert.match(lost, /^The engine crashed: panicked at /);
  assert.ok(made.some((event) => event.type === "picture"));
});

test("the engine's Worker reaches no other server", async (t) => {
  const other = await site(t);
  other.files.set("/x", { bytes: Buffer.from("x"), expose: "" });
  const page = await gpuPage(t, "/index.html", { allow: [/./] });
  const [worker] = page.workers().length ? page.workers() : [await page.waitForEvent("worker")];
  const reach = (url) => worker.evaluate((url) => fetch(url).then((answer) => answer.status, () => "refused"), url);
  assert.equal(await reach(page.server.url("/embed.html")), 200);
  assert.equal(await reach(`${other.origin}/x`), "refused");
  assert.deepEqual(other.log, []);
});

test("a full storage ends a training with its LoRA at hand", async (t) => {
  const page = await tab(t, { allow: [/quota/i] });
  const running = page.evaluate(async (photos) => {
    const blobs = photos.map((photo) => new Blob([Uint8Array.from(atob(photo), (c) => c.charCodeAt(0))]));
    const images = blobs.map((blob, i) => ({ name: `${i}.png`, blob }));
    const said = [];
    for await (const event of engine.train({ images, prompt: "a sks dog", steps: 200, rank: 4, resolution: 64, saveEvery: 3 })) {
      globalThis.trained = event.type === "step" ? event.step : globalThis.trained;
      if (["checkpoint", "storage", "done"].includes(event.type)) said.push({ type: event.type, message: event.message, bytes: event.file?.size });
    }
    return said;
  }, await photos(1));
  await page.waitForFunction(() => globalThis.trained >= 4);
  await setQuota(page, 1);
  const said = await running;
  assert.equal(said[0].type, "checkpoint");
  assert.deepEqual(said.slice(-2).map((event) => event.type), ["storage", "done"]);
  assert.ok(said.at(-1).bytes > 100_000, `${said.at(-1).bytes} bytes`);
});

test("a device of the page's own", async (t) => {
  const page = await tab(t, { worker: false });
  const seen = await page.evaluate(async () => {
    const { Portray } = await import("/portray.js");
    const refused = await Portray.create({ device: engine.device }).catch((error) => [error.kind, error.message]);
    // A texture's pixels come back as the image's own.
    let same = null;
    for await (const said of engine.generate({ prompt: "a cat", steps: 1, width: 64, height: 64, texture: true })) {
      if (said.type !== "picture") continue;
      const { width, height } = said;
      const buffer = engine.device.createBuffer({ size: width * height * 4, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
      const encoder = engine.device.createCommandEncoder();
      encoder.copyTextureToBuffer({ texture: said.texture }, { buffer, bytesPerRow: width * 4 }, [width, height]);
      engine.device.queue.submit([encoder.finish()]);
      await buffer.mapAsync(GPUMapMode.READ);
      const canvas = new OffscreenCanvas(width, height);
      canvas.getContext("2d").drawImage(said.image, 0, 0);
      const expected = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      same = new Uint8Array(buffer.getMappedRange()).every((value, i) => value === expected[i]);
    }
    return { device: engine.device instanceof GPUDevice, refused, same };
  });
  assert.equal(seen.device, true);
  assert.equal(seen.same, true);
  assert.equal(seen.refused[0], "unsupported");
});

test("what the adapter cannot hold is refused with its size, and the tab goes on", async (t) => {
  const page = await tab(t, { worker: false });
  const [refused, made] = await page.evaluate(async () => {
    // No adapter tells what it has; its answer to a trial allocation is what counts.
    const { popErrorScope } = GPUDevice.prototype;
    GPUDevice.prototype.popErrorScope = async function () {
      await popErrorScope.call(this);
      return new GPUOutOfMemoryError("no more");
    };
    const tell = (error) => [error.kind, error.message];
    const refused = [await engine.load().catch(tell), await all(engine.generate({ prompt: "a cat", steps: 1 })).catch(tell)];
    GPUDevice.prototype.popErrorScope = popErrorScope;
    await engine.load();
    return [refused, await all(engine.generate({ prompt: "a cat", steps: 1, width: 64, height: 64 }))];
  });
  for (const [kind, message] of refused) {
    assert.equal(kind, "limit");
    assert.match(message, /takes 0\.\d\d GB of graphics memory/);
  }
  assert.ok(made.some((event) => event.type === "picture"));
});

test("the example page draws", async (t) => {
  const page = await gpuPage(t, "/embed.html");
  await page.fill("#prompt", "a cat");
  await page.click("button:not([disabled])");
  await page.waitForFunction(() => /^seed/.test(document.getElementById("status").textContent), null, { timeout: 120_000 });
});
