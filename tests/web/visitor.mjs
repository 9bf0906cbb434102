// What somebody does who uses the page, and what they see: for its tests, and for the screenshots of it in the README.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";

import { ROOT } from "./native.mjs";

export const SIZES = { wide: { width: 1440, height: 900 }, narrow: { width: 390, height: 844 } };
export const LONG = { timeout: 240_000 };
export const id = (name) => `[data-testid=${name}]`;

/** Where screenshots go. Without it none are made. */
export const SHOTS = process.env.PORTRAY_SHOTS;

const photos = (subject) => [0, 1, 2, 3].map((i) => path.join(ROOT, `assets/subjects/${subject}/${i}.png`));

/** Makes the page light or dark. */
async function shine(page, theme) {
  const shade = () => page.evaluate(() => document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  for (let i = 0; i < 3 && (await shade()) !== theme; i++) await page.click("#theme");
}

/** Checks that nothing of the page is wider than the screen, in every size; keeps how it looks. */
export async function shoot(page, name) {
  if (SHOTS) await mkdir(SHOTS, { recursive: true });
  const before = page.viewportSize();
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    const spill = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(spill <= 0, `${name} is ${spill} pixels wider than ${viewport.width}`);
    for (const theme of SHOTS ? ["dark", "light"] : []) {
      await shine(page, theme);
      await page.waitForTimeout(300);
      await page.screenshot({ path: path.join(SHOTS, `${name}-${size}-${theme}.png`) });
    }
  }
  await page.setViewportSize(before);
}

export async function ready(page) {
  await page.waitForSelector(`${id("generate")}:not([disabled])`, { ...LONG, state: "attached" });
}

/** Side of images where no screenshots are made: in software those of 128 pixels take four times as long. */
const SMALL = SHOTS ? undefined : "64";

/** Asks for small images, unless screenshots are made. */
export async function small(page) {
  if (SMALL) for (const field of ["width", "height"]) await page.fill(id(field), SMALL);
}

export async function pictures(page, count) {
  await page.waitForFunction((count) => document.querySelectorAll("[data-testid=picture]").length >= count, count, LONG);
}

/** Fills in a training on the four images of `subject`. */
export async function trainForm(page, { subject = "dog", steps = 9, every = 3, samples = 1000, resolution = SMALL } = {}) {
  await page.click(id("tab-train"));
  await page.setInputFiles(id("photos"), photos(subject));
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=thumb]").length === 4, null, LONG);
  await page.fill(id("class"), subject);
  await page.uncheck(id("prior"));
  await page.fill(id("train-steps"), String(steps));
  await page.click("#panel-train summary");
  await page.fill(id("sample-every"), String(samples));
  await page.fill(id("save-every"), String(every));
  if (resolution) await page.fill(id("resolution"), resolution);
}

/** Until a training has come as far as update `step`. */
export async function trained(page, step) {
  await page.waitForFunction((step) => Number(/^Step (\d+)/.exec(document.querySelector("[data-testid=training-status]").textContent)?.[1]) >= step, step, LONG);
}
