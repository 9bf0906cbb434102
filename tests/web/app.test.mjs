// The page without an engine: what it makes of what the module says. A stand-in is the module (mock/portray.js).

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";

import { open, site } from "./harness.mjs";
import { ROOT } from "./native.mjs";

const id = (name) => `[data-testid=${name}]`;

async function page(t, mock, options = {}) {
  const server = await site(t);
  server.files.set("/portray.js", { bytes: await readFile(new URL("mock/portray.js", import.meta.url)), type: "text/javascript" });
  for (const picture of ["cat", "dog"].flatMap((subject) => [0, 1, 2, 3].map((i) => `assets/subjects/${subject}/${i}.png`))) {
    server.files.set(`/${picture}`, { bytes: await readFile(path.join(ROOT, picture)), type: "image/png" });
  }
  return open(t, `/index.html?mock=${mock}&speed=20`, { ...options, server });
}

const ready = (page) => page.waitForSelector(`${id("generate")}:not([disabled])`, { state: "attached" });

async function train(page, steps, prior = false) {
  await page.click(id("tab-train"));
  await page.setInputFiles(id("photos"), path.join(ROOT, "assets/subjects/dog/0.png"));
  await page.fill(id("class"), "dog");
  await page.setChecked(id("prior"), prior, { force: true });
  // Long enough to be seen, however slow the machine is.
  if (prior) await page.fill(id("class-count"), "500");
  await page.fill(id("train-steps"), String(steps));
  await page.click(`${id("train")}:not([disabled])`);
}

const says = (page, name, pattern) => page.waitForFunction(([name, source]) => new RegExp(source).test(document.querySelector(`[data-testid=${name}]`).textContent), [name, pattern.source]);

test("what the browser keeps is listed with its size, and deleted", async (t) => {
  const at = await page(t, "kept");
  await ready(at);
  await at.click(id("tab-models"));
  await at.waitForSelector(id("kept-row"));
  const rows = await at.locator(id("kept-row")).allTextContents();
  assert.match(rows.join("\n"), /stable-diffusion-2-1\s*2\.58 GB.*\n.*740 MB, a part.*\nClass images\s*1\.2 MB/);
  await at.click(id("kept-load"));
  await says(at, "model-name", /^sd21$/);
  await ready(at);
  assert.equal(await at.getAttribute("#width", "placeholder"), "512");
  for (let left = 2; left >= 0; left--) {
    await at.click(`${id("kept-row")}:first-child ${id("kept-delete")}`);
    await at.waitForFunction((left) => document.querySelectorAll("[data-testid=kept-row]").length === left, left);
  }
  assert.ok(await at.isHidden(id("kept")));
});

test("what a model at an address takes is told before it is downloaded", async (t) => {
  const at = await page(t, "");
  await ready(at);
  await at.click(id("tab-models"));
  await at.click(id("small-BK-SDM-tiny"));
  assert.match(await at.inputValue(id("model-url")), /^https:.*bk-sdm-tiny/);
  await at.waitForSelector(id("need"));
  assert.match(await at.textContent(id("model-needs")), /bk-sdm-tiny: 760 MB to download of 1\.06 GB\..*f32one image takes 1\.54 GB.*cannot give.*q4one image takes 470 MB/);
  assert.equal(await at.locator(id("need-f32")).count(), 0);
  await at.click(id("need-q8"));
  await says(at, "model-name", /^main$/);
  assert.equal(await at.inputValue(id("dtype")), "q8");
  await at.fill(id("model-url"), "https://example.com/a/nothing");
  await at.click(id("model-weigh"));
  await says(at, "model-error", /no such file/);
  assert.ok(await at.isHidden(id("model-needs")));
});

test("what is painted over an image is made anew, and only an inpainting model is painted for", async (t) => {
  const cat = path.join(ROOT, "assets/subjects/cat/0.png");
  const at = await page(t, "inpaints");
  await ready(at);
  await at.click(id("generate"));
  await says(at, "generate-error", /start from an image/);
  await at.setInputFiles(id("init-file"), cat);
  await at.waitForSelector(id("start-view"));
  await at.click(id("generate"));
  await says(at, "generate-error", /Paint over/);
  const { x, y, width, height } = await at.locator(id("start-view")).boundingBox();
  await at.mouse.move(x + width * 0.2, y + height * 0.5);
  await at.mouse.down();
  await at.mouse.move(x + width * 0.8, y + height * 0.5);
  await at.mouse.up();
  await at.fill(id("strength"), "0.9");
  await at.click(id("generate"));
  const job = () => at.evaluate(async () => {
    const { init, mask, strength } = lastJob;
    if (!mask) return { init: init.name, mask, strength };
    const image = await createImageBitmap(mask);
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const at = (x, y) => context.getImageData(x * image.width, y * image.height, 1, 1).data[0];
    const same = await createImageBitmap(init);
    return { init: init.name, strength, sizes: [same.width === image.width, same.height === image.height], painted: [at(0.25, 0.5), at(0.5, 0.5), at(0.75, 0.5)], kept: [at(0.5, 0.2), at(0.5, 0.8), at(0.02, 0.5)] };
  });
  await at.waitForFunction(() => globalThis.lastJob);
  assert.deepEqual(await job(), { init: "0.png", strength: 0.9, sizes: [true, true], painted: [255, 255, 255], kept: [0, 0, 0] });
  await at.waitForSelector(`${id("generate")}:not([disabled])`);
  await at.click(id("start-remove"));
  assert.ok(await at.isVisible("#start-add"));

  const plain = await page(t, "");
  await ready(plain);
  await plain.setInputFiles(id("init-file"), cat);
  await plain.waitForSelector(id("start-view"));
  assert.ok(await plain.isHidden(id("brush")));
  await plain.click(id("generate"));
  await plain.waitForFunction(() => globalThis.lastJob);
  assert.deepEqual(await plain.evaluate(() => [lastJob.init.name, lastJob.mask === undefined]), ["0.png", true]);
});

test("a LoRA of another model is shown as such", async (t) => {
  const at = await page(t, "others");
  await ready(at);
  await at.waitForSelector(id("lora-other"));
  assert.match(await at.textContent(id("lora-other")), /vase.*another model/);
});

test("a bundled model that cannot be had is told where it is seen, and asked for again", async (t) => {
  const at = await page(t, "nobundled");
  await says(at, "page-error", /server says 503/);
  await at.click(id("error-way"));
  await ready(at);
  assert.ok(await at.isHidden(id("page-error")));
});

test("a training holds the engine: no model takes its place, and it ends where it can", async (t) => {
  const at = await page(t, "");
  await ready(at);
  await train(at, 20_000, true);
  // There is nothing yet to finish with.
  assert.equal(await at.getAttribute(id("finish"), "aria-disabled"), "true");
  await says(at, "training-status", /^Step/);
  assert.equal(await at.getAttribute(id("finish"), "aria-disabled"), null);
  assert.match(await at.textContent("#samples-empty"), /after step 50/);
  await at.click(id("tab-models"));
  await at.selectOption(id("dtype"), "q8");
  await says(at, "model-error", /training holds the engine/);
  assert.equal(await at.inputValue(id("dtype")), "auto");
  assert.notEqual(await at.textContent(id("model-name")), "Loading…");
  await at.click(id("tab-train"));
  await at.click(id("pause"));
  await says(at, "training-status", /It is saved/);
  await at.click(id("resume"));
  await says(at, "training-status", /^Step/);
  await at.click(id("finish"));
  await at.waitForSelector(`${id("training-done")}:not([hidden])`);
  assert.match(await at.textContent(id("training-done")), /keeps it until you remove it/);
});

test("evaluations are drawn, and the best checkpoint is offered", async (t) => {
  const at = await page(t, "");
  await ready(at);
  await at.click(id("tab-train"));
  await at.evaluate(() => { document.getElementById("train-more").open = true; });
  await at.fill(id("evaluate-every"), "10");
  await train(at, 30);
  await at.waitForSelector(`${id("training-done")}:not([hidden])`);
  assert.equal(await at.getAttribute(id("curves"), "data-points"), "3");
  assert.match(await at.textContent(id("evaluations")), /After step 30: score 0\.40: likeness 0\.50, drift 0\.10; loss 0\.\d+ on the training photos\. Best at step 10\./);
  assert.match(await at.textContent(id("download-best")), /as of step 10/);
  assert.deepEqual(await at.evaluate(() => [lastJob.vision, lastJob.clip]), [undefined, undefined]);
  assert.ok(await at.isHidden("#evaluations .clip"));

  // With vision models, each where it has something to do.
  await at.click(id("again"));
  const judge = (name) => at.setInputFiles(id("judge-folder"), path.join(ROOT, name));
  await judge("assets/model/unet");
  await says(at, "judge-error", /^unet: is no vision model/);
  await judge("tests/fixtures/vision/registers");
  await says(at, "judges", /registers/);
  await judge("tests/fixtures/vision/dino");
  await judge("tests/fixtures/vision/clip");
  await says(at, "judges", /dinolikeness to your images, 86 MB.*clipnot used: it compares with the class/);
  assert.equal(await at.locator(id("judge")).count(), 2, "one of a kind");
  await at.fill(id("evaluate-every"), "");
  await says(at, "judges", /dinonot used: “Evaluated every” is empty/);
  await at.fill(id("evaluate-every"), "10");
  await at.setChecked(id("prior"), true, { force: true });
  await says(at, "judges", /dinolikeness to your images, 86 MB.*cliplikeness to what the class is, 605 MB/);
  await train(at, 10, true);
  await at.waitForSelector(`${id("training-done")}:not([hidden])`);
  assert.deepEqual(await at.evaluate(() => [lastJob.vision, lastJob.clip, lastJob.classPrompt]), ["dino", "clip", "a dog"]);
  assert.match(await at.textContent(id("evaluations")), /likeness 0\.50, prompt 0\.90, drift 0\.10/);
  assert.ok(await at.isVisible("#evaluations .clip"));
  await at.click(id("again"));
  await at.click(`${id("judge-remove")} >> nth=0`);
  await at.waitForFunction(() => document.querySelectorAll("[data-testid=judge]").length === 1);
});

test("while kernels are compiled, that is what is said, until there is more to say", async (t) => {
  const at = await page(t, "compiling");
  await ready(at);
  await at.fill(id("steps"), "1000");
  await at.click(id("generate"));
  await says(at, "status", /^Compiling 41 of 63 kernels$/);
  await says(at, "status", /^Step \d+ of/);
  await at.click(id("stop"));
  await train(at, 2000);
  await says(at, "training-status", /^Compiling 41 of 63 kernels$/);
  assert.equal(await at.getAttribute(id("training-bar"), "aria-valuenow"), "65");
  await says(at, "training-status", /^Step/);
});

test("what nothing keeps is said, whichever panel is open", async (t) => {
  const at = await page(t, "unkept");
  await ready(at);
  await train(at, 20_000);
  await says(at, "train-error", /only as long as this tab/);
  await says(at, "training-status", /^Step/);
  await at.click(id("pause"));
  await says(at, "training-status", /goes with this tab/);
  const full = await page(t, "full");
  await ready(full);
  await train(full, 2000);
  await full.click(id("tab-generate"));
  await says(full, "page-error", /storage is full.*download it now/);
  await full.click(id("tab-train"));
  await full.waitForSelector(`${id("training-done")}:not([hidden])`);
  assert.match(await full.textContent(id("training-done")), /does not keep it/);
});

test("a file that is dropped beside its place opens nothing", async (t) => {
  const at = await page(t, "");
  await ready(at);
  const taken = await at.evaluate(() => ["model-url", "prompt", "main"].map((id) => {
    const event = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: new DataTransfer() });
    document.getElementById(id).dispatchEvent(event);
    return event.defaultPrevented;
  }));
  assert.deepEqual(taken, [true, true, true]);
});
