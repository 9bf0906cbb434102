// `node tests/web/compare.mjs DIST [PAIRS]`: a UNet step and a training step of this tree's page against those of another
// built page, both with this tree's model: seconds, and processor seconds of all processes of the browser, which other work
// on the machine disturbs less. A pair is two browsers of their own, because a tab's threads lie well or badly as long as it
// lives. Their steps alternate, and each step is held against its neighbour.

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import path from "node:path";

import { realm } from "./harness.mjs";
import { DIST, serve } from "./server.mjs";

const ROUNDS = 6;
const STEPS = ["unet", "train"];

/** Of an even number, the mean of the two in the middle. */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** Fields of a process's `/proc/PID/stat` behind its name: the second is its parent, the twelfth and thirteenth are ticks. */
function stat(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null;
  }
}

/** Processes that run below this one. */
function descendants() {
  const parents = new Map(readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map((pid) => [pid, stat(pid)?.[1]]));
  const below = (pid) => {
    for (let at = pid, i = 0; at && i < 20; at = parents.get(at), i++) if (at === String(process.pid)) return true;
    return false;
  };
  return [...parents.keys()].filter(below);
}

/** Processor seconds of `pids` so far, at 100 ticks a second. */
const processor = (pids) => pids.map(stat).filter(Boolean).reduce((sum, fields) => sum + (Number(fields[11]) + Number(fields[12])) / 100, 0);

/** Files of this tree's model, by the paths under which a page asks for them. */
async function model() {
  const folder = path.join(DIST, "model");
  const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  return Promise.all(names.map(async ({ parentPath, name }) => {
    const file = path.join(parentPath, name);
    return [`/model/${path.relative(folder, file)}`, { bytes: await readFile(file) }];
  }));
}

/** A page of `root` with `watches`, by step. */
async function opened(t, root, files) {
  const known = new Set(descendants());
  const server = await serve({ root });
  t.after(() => server.close());
  for (const [name, file] of files) server.files.set(name, file);
  const { page } = await realm(t, "page", { server, alone: true });
  page.setDefaultTimeout(0);
  await page.evaluate(async (steps) => {
    const { Portray } = await import("/portray.js");
    await (await Portray.create({ worker: false })).load();
    const wasm = await import("/pkg/portray.js");
    const engine = await wasm.Engine.request();
    globalThis.watches = {};
    for (const step of steps) watches[step] = await engine.stopwatch(step, '{"model":"/bundled"}');
  }, STEPS);
  const own = descendants().filter((pid) => !known.has(pid));
  return async (step) => {
    const began = processor(own);
    const seconds = await page.evaluate((step) => watches[step].run(), step);
    return [seconds, processor(own) - began];
  };
}

/** Steps of a page of either folder: by step and round `[theirs, ours]`, each seconds and processor seconds. */
async function pair(folders, files, odd) {
  const ends = [];
  const t = { after: (end) => ends.unshift(end) };
  try {
    const runs = [];
    for (const root of folders) runs.push(await opened(t, root, files));
    const found = {};
    for (const step of STEPS) {
      for (const run of runs) await run(step);
      found[step] = [];
      for (let i = 0; i < ROUNDS; i++) {
        const round = [];
        for (const which of (i + odd) % 2 ? [1, 0] : [0, 1]) round[which] = await runs[which](step);
        found[step].push(round);
      }
    }
    return found;
  } finally {
    for (const end of ends) await end();
  }
}

const [other, count = "10"] = process.argv.slice(2);
if (!other) {
  console.error("error: give the folder of another built page: node tests/web/compare.mjs DIST [PAIRS]");
  process.exit(2);
}
for (const folder of [other, DIST]) {
  if (existsSync(path.join(folder, "pkg/portray.js"))) continue;
  console.error(`error: ${folder} holds no built page (no pkg/portray.js): cargo xtask web writes one to web/dist`);
  process.exit(2);
}
if (!(Number(count) >= 1)) {
  console.error(`error: PAIRS is ${count}: a number from 1 on`);
  process.exit(2);
}
const files = await model();
const pairs = [];
for (let i = 0; i < Number(count); i++) {
  pairs.push(await pair([path.resolve(other), DIST], files, i % 2));
  console.error(`pair ${i + 1} of ${count}: ${STEPS.map((step) => `${step} ${ratios(pairs.at(-1)[step]).map((r) => r.toFixed(2)).join(" ")}`).join(", ")}`);
}

/** Medians of the rounds' ratios, of seconds and of processor seconds. */
function ratios(rounds) {
  return [0, 1].map((unit) => median(rounds.map(([theirs, ours]) => ours[unit] / theirs[unit])));
}

for (const step of STEPS) {
  for (const [unit, name] of ["s", "processor s"].entries()) {
    const [theirs, ours] = [0, 1].map((which) => median(pairs.map((of) => median(of[step].map((round) => round[which][unit])))));
    const all = pairs.map((of) => ratios(of[step])[unit]);
    console.log(`${step}: ${theirs.toFixed(3)} ${name} there, ${ours.toFixed(3)} here; ratio ${median(all).toFixed(3)} (${all.map((r) => r.toFixed(2)).join(" ")})`);
  }
}
