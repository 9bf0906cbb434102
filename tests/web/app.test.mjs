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
  assert.match(rows.join("\n"), /stable-diffusion-2-1\s*2\.58 GB.*\n.*740 MB, a part.*\nClass pictures\s*1\.2 MB/);
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
  await train(at, 2000, true);
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

test("while kernels are compiled, that is what is said, until there is more to say", async (t) => {
  const at = await page(t, "compiling");
  await ready(at);
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
  await train(at, 2000);
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
