// `node tests/web/compare.mjs DIST [PAIRS]`: a UNet step and a training step of this tree's page against those of another
// built page, both with this tree's model: seconds, and processor seconds of all processes of the browser, which other work
// on the machine disturbs less. A pair is two browsers of their own. Their steps alternate, and each step is held against its
// neighbour.

import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";

import { DIST } from "./server.mjs";
import { STEPS, alive, checked, counted, median, model, opened, refused } from "./watches.mjs";

const ROUNDS = 6;

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

/** A function that runs a step in a page of `root`: seconds and processor seconds. */
async function runner(t, root, files) {
  const known = new Set(descendants());
  const page = await opened(t, root, files, STEPS);
  const own = descendants().filter((pid) => !known.has(pid));
  return async (step) => {
    const began = processor(own);
    const seconds = await page.evaluate((step) => watches[step].run(), step);
    return [seconds, processor(own) - began];
  };
}

/** Steps of a page of either folder: by step and round `[theirs, ours]`, each seconds and processor seconds. */
function pair(folders, files, odd) {
  return alive(async (t) => {
    const runs = [];
    for (const root of folders) runs.push(await runner(t, root, files));
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
  });
}

/** Medians of the rounds' ratios, of seconds and of processor seconds. */
function ratios(rounds) {
  return [0, 1].map((unit) => median(rounds.map(([theirs, ours]) => ours[unit] / theirs[unit])));
}

const [other, given = "10"] = process.argv.slice(2);
if (!other) refused("give the folder of another built page: node tests/web/compare.mjs DIST [PAIRS]");
checked([other, DIST]);
const count = counted("PAIRS", given);
const files = await model();
const pairs = [];
for (let i = 0; i < count; i++) {
  pairs.push(await pair([path.resolve(other), DIST], files, i % 2));
  console.error(`pair ${i + 1} of ${count}: ${STEPS.map((step) => `${step} ${ratios(pairs.at(-1)[step]).map((r) => r.toFixed(2)).join(" ")}`).join(", ")}`);
}

for (const step of STEPS) {
  for (const [unit, name] of ["s", "processor s"].entries()) {
    const [theirs, ours] = [0, 1].map((which) => median(pairs.map((of) => median(of[step].map((round) => round[which][unit])))));
    const all = pairs.map((of) => ratios(of[step])[unit]);
    console.log(`${step}: ${theirs.toFixed(3)} ${name} there, ${ours.toFixed(3)} here; ratio ${median(all).toFixed(3)} (${all.map((r) => r.toFixed(2)).join(" ")})`);
  }
}
