// Pages whose steps are timed: each in a browser of its own, because a tab's threads lie well or badly as long as it lives.

import { existsSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import path from "node:path";

import { realm, site } from "./harness.mjs";
import { DIST } from "./server.mjs";

/** Steps that the engine has stopwatches for. */
export const STEPS = ["unet", "train"];

/** Of an even number, the mean of the two in the middle. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** Ends the program with one line. */
export function refused(message) {
  console.error(`error: ${message}`);
  process.exit(2);
}

/** Checks that each of `folders` holds a built page. */
export function checked(folders) {
  for (const folder of folders) {
    if (existsSync(path.join(folder, "pkg/portray.js"))) continue;
    refused(`${folder} holds no built page (no pkg/portray.js): cargo xtask web writes one to web/dist`);
  }
}

/** A whole number from 1 on, from the command line. */
export function counted(name, text) {
  if (/^[1-9]\d*$/.test(text)) return Number(text);
  return refused(`${name} is ${text}: a whole number from 1 on`);
}

/** Files of this tree's model, by the paths under which a page asks for them. */
export async function model() {
  const folder = path.join(DIST, "model");
  const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  return Promise.all(names.map(async ({ parentPath, name }) => {
    const file = path.join(parentPath, name);
    return [`/model/${path.relative(folder, file)}`, { bytes: await readFile(file) }];
  }));
}

/**
 * The page in folder `root`, with `files` in place of its own and `watches[step].run()` for each of `steps`.
 * @param {() => void} [before] runs in it before the engine does
 */
export async function opened(t, root, files, steps, before) {
  const server = await site(t, { root });
  for (const [name, file] of files) server.files.set(name, file);
  const { page } = await realm(t, "page", { server, alone: true });
  page.setDefaultTimeout(0);
  if (before) await page.evaluate(before);
  await page.evaluate(async (steps) => {
    const { Portray } = await import("/portray.js");
    await (await Portray.create({ worker: false })).load();
    const wasm = await import("/pkg/portray.js");
    const engine = await wasm.Engine.request();
    globalThis.watches = {};
    for (const step of steps) watches[step] = await engine.stopwatch(step, '{"model":"/bundled"}');
  }, steps);
  return page;
}

/** What `work` answers, given where to leave what must end after it. */
export async function alive(work) {
  const ends = [];
  try {
    return await work({ after: (end) => ends.unshift(end) });
  } finally {
    for (const end of ends) await end();
  }
}
