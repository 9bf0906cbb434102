// The page as somebody uses it, and what it must survive. Screenshots go to the folder that PORTRAY_SHOTS names; those of
// a training that has learnt something are film.test.mjs's.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";

import { gpuPage, open, site } from "./harness.mjs";
import { ROOT } from "./native.mjs";
import { LONG, SIZES, id, pictures, ready, shoot, small, trainForm, trained } from "./visitor.mjs";

test("images, a training, and images with what it made", async (t) => {
  const page = await gpuPage(t, "/index.html", { viewport: SIZES.wide });
  await ready(page);
  await small(page);
  await shoot(page, "start");
  await page.fill(id("prompt"), "a cat wearing a crown");
  await page.fill(id("steps"), "4");
  await page.fill(id("count"), "2");
  await page.click(id("generate"));
  await page.waitForSelector(`${id("preview")}:not([hidden])`, LONG);
  await shoot(page, "forming");
  await pictures(page, 2);
  await shoot(page, "gallery");

  // A cancelled generation, and another at once.
  await page.fill(id("steps"), "500");
  await page.fill(id("count"), "1");
  await page.click(id("generate"));
  await page.waitForSelector(`${id("preview")}:not([hidden])`, LONG);
  await page.click(id("stop"));
  await page.fill(id("steps"), "2");
  await page.click(`${id("generate")}:not([disabled])`, LONG);
  await pictures(page, 3);
  assert.equal(await page.locator(id("picture")).count(), 3);

  await trainForm(page);
  await shoot(page, "train");
  await page.click(id("train"));
  await trained(page, 4);
  await shoot(page, "training");
  await page.waitForSelector(`${id("training-done")}:not([hidden])`, LONG);
  await shoot(page, "trained");
  for (const format of ["diffusers", "kohya", "peft"]) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(id(`download-${format}`))]);
    assert.equal(download.suggestedFilename(), `dog-${format}.safetensors`);
  }
  await page.click(id("try"));
  await page.fill(id("steps"), "2");
  await page.click(id("generate"));
  await pictures(page, 5);
  await shoot(page, "compare");
});

test("models come from folders and single files, and the panel says what they are", async (t) => {
  const page = await gpuPage(t, "/index.html", { viewport: SIZES.wide });
  await ready(page);
  await page.click(id("model-open"));
  await shoot(page, "models");
  await page.setInputFiles(id("model-folder"), path.join(ROOT, "assets/model"));
  await page.waitForFunction(() => document.querySelector("[data-testid=model-name]").textContent === "model", null, LONG);
  await ready(page);
  assert.match(await page.textContent(id("model-facts")), /small Stable Diffusion.*velocity/s);
  await page.click(id("tab-generate"));
  await small(page);
  await page.fill(id("steps"), "1");
  await page.click(id("generate"));
  await pictures(page, 1);
  assert.match(await page.textContent("[data-testid=card]"), /a cat on the beach/);
});

test("a training goes on after a reload, and another tab leaves it alone", async (t) => {
  const page = await gpuPage(t, "/index.html");
  await ready(page);
  await trainForm(page, { steps: 400, resolution: "64" });
  await page.click(id("train"));
  await page.waitForFunction(() => /^Step [4-9]/.test(document.querySelector("[data-testid=training-status]").textContent), null, LONG);
  const other = await open(t, "/index.html", { beside: page });
  await ready(other);
  await other.click(id("tab-train"));
  await other.waitForSelector(id("run"), LONG);
  assert.match(await other.textContent(id("run")), /running in another tab/);
  assert.equal(await other.locator(id("resume")).count(), 0);
  await other.close();
  await page.reload();
  await ready(page);
  await page.click(id("tab-train"));
  await page.waitForSelector(id("resume"), LONG);
  assert.match(await page.textContent(id("run")), /step ([3-9]|\d\d)/);
  await page.click(id("resume"));
  await page.waitForFunction(() => /^Step \d/.test(document.querySelector("[data-testid=training-status]").textContent), null, LONG);
  await page.click(id("finish"));
  await page.waitForSelector(`${id("training-done")}:not([hidden])`, LONG);
  assert.equal(await page.locator(id("run")).count(), 0);
});

test("files that are not what they should be are named, and the page stays usable", async (t) => {
  const page = await gpuPage(t, "/index.html");
  await ready(page);
  const declared = Buffer.alloc(9);
  declared.writeBigUInt64LE(1_000_000_000n);
  const wrong = [["empty.safetensors", Buffer.alloc(0), /empty\.safetensors.*0 bytes/], ["big.safetensors", declared, /big\.safetensors.*1000000000 bytes/], ["model.ckpt", Buffer.from("PK\x03\x04xxxx"), /pickle/]];
  await page.click(id("model-open"));
  for (const [name, buffer, message] of wrong) {
    await page.setInputFiles(id("model-file"), { name, mimeType: "application/octet-stream", buffer });
    await page.waitForFunction((source) => new RegExp(source, "i").test(document.querySelector("[data-testid=model-error]").textContent), message.source, LONG);
    await ready(page);
  }
  await page.click(id("tab-generate"));
  await page.setInputFiles(id("lora-file"), { name: "x.safetensors", mimeType: "application/octet-stream", buffer: declared });
  await page.waitForSelector(`${id("lora-error")}:not([hidden])`, LONG);
  await page.click(id("tab-train"));
  await page.setInputFiles(id("photos"), { name: "note.png", mimeType: "image/png", buffer: Buffer.from("no image") });
  await page.waitForSelector(`${id("train-error")}:not([hidden])`, LONG);
  assert.match(await page.textContent(id("train-error")), /note\.png.*expected PNG/s);
  await page.click(id("tab-generate"));
  await small(page);
  await page.fill(id("steps"), "1");
  await page.click(id("generate"));
  await pictures(page, 1);
});

test("a lost device is told, and work begins again", async (t) => {
  const page = await gpuPage(t, "/index.html");
  // The page's engine lives in a Worker: its device is taken away from there.
  await page.addInitScript(() => {
    const Real = Worker;
    globalThis.Worker = class extends Real {
      constructor(...args) {
        super(...args);
        globalThis.lastWorker = this;
      }
    };
  });
  await page.reload();
  await ready(page);
  await small(page);
  await page.fill(id("steps"), "500");
  await page.click(id("generate"));
  await page.waitForSelector(`${id("preview")}:not([hidden])`, LONG);
  await page.evaluate(() => lastWorker.postMessage({ call: -1, method: "loseDevice", args: [] }));
  await page.waitForSelector(`${id("page-error")}:not([hidden])`, LONG);
  assert.match(await page.textContent(id("page-error")), /device was lost/);
  await shoot(page, "lost");
  await page.click(`${id("page-error")} button:text("Start again")`);
  await ready(page);
  await page.fill(id("steps"), "1");
  await page.click(id("generate"));
  await pictures(page, 1);
});

test("without WebGPU the page says so", async (t) => {
  const page = await open(t, "/index.html");
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined }));
  await page.route("**/worker.js", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: `Object.defineProperty(WorkerNavigator.prototype, "gpu", { value: undefined });\n${await answer.text()}` });
  });
  await page.reload();
  await page.waitForSelector(`${id("page-error")}:not([hidden])`, LONG);
  assert.match(await page.textContent(id("page-error")), /no WebGPU.*Chrome/s);
  assert.ok(await page.isDisabled(id("generate")));
});

test("the page works below any path and by keyboard", async (t) => {
  const page = await gpuPage(t, "/index.html", { server: await site(t, { base: "/some/where/" }) });
  await ready(page);
  assert.ok(page.url().endsWith("/some/where/index.html"));
  await page.focus(id("tab-generate"));
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-train");
  await page.keyboard.press("Home");
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("button, input, select, textarea")].filter((control) => {
    const label = control.labels?.[0]?.textContent.trim() || control.getAttribute("aria-label") || control.textContent.trim();
    return !label && control.type !== "hidden";
  }).map((control) => control.outerHTML));
  assert.deepEqual(unnamed, []);
});
