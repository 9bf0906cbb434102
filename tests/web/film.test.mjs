// Twenty seconds of the page learning a subject, for the README: PORTRAY_SHOTS=DIR makes DIR/page.webp of real frames.

import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";

import { film } from "./film.mjs";
import { gpuPage, realm } from "./harness.mjs";
import { LONG, SHOTS, id, pictures, ready, shoot, trainForm } from "./visitor.mjs";

test("an animation shows its frames, each for as long as it was told", async (t) => {
  const { page } = await realm(t, "page");
  // A square that moves, twice the same frame, and one whose every pixel is new.
  const pngs = await page.evaluate(async () => {
    const drawn = async (colour, x, y) => {
      const canvas = new OffscreenCanvas(100, 70);
      const context = canvas.getContext("2d");
      context.fillStyle = colour;
      context.fillRect(0, 0, 100, 70);
      context.fillStyle = "rgb(200, 30, 30)";
      context.fillRect(x, y, 20, 20);
      return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
    };
    return Promise.all([drawn("white", 0, 0), drawn("white", 70, 45), drawn("white", 70, 45), drawn("rgb(20, 90, 160)", 40, 20)]);
  });
  const shots = pngs.map((png, i) => ({ png: Buffer.from(png), ms: 100 * (i + 1) }));
  const bytes = await film(page, shots, { quality: 0.9 });
  const seen = await page.evaluate(async (base64) => {
    const data = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const decoder = new ImageDecoder({ data, type: "image/webp" });
    await decoder.tracks.ready;
    const { frameCount, repetitionCount } = decoder.tracks.selectedTrack;
    const frames = [];
    for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
      const { image } = await decoder.decode({ frameIndex });
      const canvas = new OffscreenCanvas(image.displayWidth, image.displayHeight);
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const at = (x, y) => [...context.getImageData(x, y, 1, 1).data];
      frames.push({ size: [canvas.width, canvas.height], ms: image.duration / 1000, corner: at(8, 8), far: at(80, 55), middle: at(50, 30) });
    }
    return { frames, repetitionCount };
  }, bytes.toString("base64"));
  const [white, red, blue] = [[255, 255, 255], [200, 30, 30], [20, 90, 160]];
  const like = (pixel, colour) => assert.ok(pixel[3] === 255 && colour.every((c, i) => Math.abs(c - pixel[i]) <= 12), `${pixel} is not ${colour}`);
  assert.deepEqual(seen.frames.map(({ size, ms }) => [...size, ms]), [[100, 70, 100], [100, 70, 500], [100, 70, 400]]);
  assert.equal(seen.repetitionCount, Infinity, "it begins again for ever");
  for (const [i, colours] of [[red, white, white], [white, red, white], [blue, blue, red]].entries()) {
    const { corner, far, middle } = seen.frames[i];
    [corner, far, middle].forEach((pixel, at) => like(pixel, colours[at]));
  }
});

const WHY = !SHOTS && "PORTRAY_SHOTS names no folder";

test("a film of the page learning a cat and drawing it on a beach", { skip: WHY }, async (t) => {
  const page = await gpuPage(t, "/index.html", { viewport: { width: 1120, height: 720 }, scheme: "light" });
  await page.emulateMedia({ reducedMotion: "reduce" });
  const shots = [];
  const take = async (ms) => shots.push({ png: await page.screenshot(), ms });
  await ready(page);
  await page.click(id("tab-train"));
  await take(700);
  await trainForm(page, { subject: "cat", steps: 300, samples: 50, every: 25 });
  await page.click("#panel-train summary");
  await page.evaluate(() => scrollTo(0, 0));
  await take(1800);
  await learn(page, take);
  await take(1500);

  await page.click(id("try"));
  await page.fill(id("prompt"), "a sks cat on the beach");
  await page.fill(id("seed"), "3");
  await page.evaluate(() => scrollTo(0, 0));
  await take(900);
  await page.click(id("generate"));
  await form(page, take);
  await lowest(page);
  await take(4000);
  const { page: bare } = await realm(t, "page");
  const bytes = await film(bare, shots, { quality: 0.9 });
  await mkdir(SHOTS, { recursive: true });
  await writeFile(path.join(SHOTS, "page.webp"), bytes);
  const seconds = shots.reduce((sum, { ms }) => sum + ms, 0) / 1000;
  t.diagnostic(`${shots.length} frames, ${seconds.toFixed(1)} s, ${bytes.length} bytes`);
  assert.ok(bytes.length < 1_500_000, `${bytes.length} bytes are much for a README`);

  await page.fill(id("prompt"), "a sks cat at night");
  await page.click(id("generate"));
  await pictures(page, 4);
  await shoot(page, "personal");
});

/** Trains to the end: a frame whenever some steps are done or a sample has come. */
async function learn(page, take) {
  await page.click(id("train"));
  const seen = () => page.evaluate(() => ({
    step: Number(/^Step (\d+)/.exec(document.querySelector("[data-testid=training-status]").textContent)?.[1] ?? 0),
    samples: document.querySelectorAll("[data-testid=sample]").length,
    done: !document.querySelector("[data-testid=training-done]").hidden,
  }));
  let last = { step: -6, samples: 0 };
  for (let now = await seen(), shown = false; !now.done; now = await seen()) {
    if (now.step >= last.step + 6 || now.samples > last.samples) {
      await take(now.samples > last.samples ? 600 : 100);
      last = now;
    }
    if (now.step >= 200 && !shown) {
      await shoot(page, "learning");
      shown = true;
    }
    await page.waitForTimeout(100);
  }
}

/** Brings what was made last into view. */
const lowest = (page) => page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));

/** Draws two images, with and without what was learnt: a frame whenever they have changed. */
async function form(page, take) {
  let last = "";
  await page.waitForSelector(id("live"));
  await lowest(page);
  for (;;) {
    const [status, made] = await page.evaluate(() => [document.querySelector("[data-testid=status]").textContent, document.querySelectorAll("[data-testid=picture]").length]);
    if (made === 2) return;
    const step = Number(/^Step (\d+)/.exec(status)?.[1] ?? 0);
    if (status !== last && step % 3 === 1) await take(step === 25 ? 300 : 110);
    last = status;
    await page.waitForTimeout(50);
  }
}
