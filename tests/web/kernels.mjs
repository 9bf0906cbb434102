// `node tests/web/kernels.mjs STEP [ROUNDS] [DIST]`: how long each kernel of a page's UNet step ("unet") or training step
// ("train") takes, and beside it those of another built page, both with this tree's model. Each dispatch of a step is run
// again by itself; ratios are of rounds that follow one another.

import path from "node:path";

import { DIST } from "./server.mjs";
import { STEPS, alive, checked, counted, median, model, opened, refused } from "./watches.mjs";

/** In a page: keeps each dispatch in `taken` while that is a list. */
function listen() {
  const pass = GPUComputePassEncoder.prototype;
  const [setPipeline, setBindGroup, dispatchWorkgroups] = [pass.setPipeline, pass.setBindGroup, pass.dispatchWorkgroups];
  const states = new WeakMap();
  const state = (of) => states.get(of) ?? states.set(of, { groups: [] }).get(of);
  globalThis.taken = null;
  globalThis.dispatch = { setPipeline, setBindGroup, dispatchWorkgroups };
  pass.setPipeline = function (pipeline) {
    state(this).pipeline = pipeline;
    return setPipeline.call(this, pipeline);
  };
  pass.setBindGroup = function (...given) {
    const [index, group, offsets = [], first, count] = given;
    // Offsets may lie in memory that is written again.
    state(this).groups[index] = [index, group, Array.from(count === undefined ? offsets : offsets.slice(first, first + count))];
    return setBindGroup.apply(this, given);
  };
  pass.dispatchWorkgroups = function (...counts) {
    const { pipeline, groups } = state(this);
    taken?.push({ pipeline, groups: groups.filter(Boolean), counts });
    return dispatchWorkgroups.apply(this, counts);
  };
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...given) {
    globalThis.device = await requestDevice.apply(this, given);
    return device;
  };
}

/** In a page: `[kernel, milliseconds]` of each recorded dispatch, from as many runs as take several milliseconds. */
async function timed() {
  const run = async ({ pipeline, groups, counts }, times) => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    dispatch.setPipeline.call(pass, pipeline);
    for (const group of groups) dispatch.setBindGroup.apply(pass, group);
    for (let i = 0; i < times; i++) dispatch.dispatchWorkgroups.apply(pass, counts);
    pass.end();
    const commands = encoder.finish();
    const began = performance.now();
    device.queue.submit([commands]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - began;
  };
  const found = [];
  for (const each of recorded) {
    const times = Math.max(2, Math.min(24, Math.ceil(12 / (await run(each, 1)))));
    const more = await run(each, times + 1);
    // Less what a submission takes by itself.
    found.push([each.pipeline.label, Math.max(0, more - (await run(each, 1))) / times]);
  }
  return found;
}

/** Milliseconds of a round by kernel, with the sum of all under "all". */
function sums(round) {
  const by = new Map([["all", 0]]);
  for (const [kernel, ms] of round) for (const key of [kernel, "all"]) by.set(key, (by.get(key) ?? 0) + ms);
  return by;
}

const [step, given = "5", other] = process.argv.slice(2);
if (!STEPS.includes(step)) refused(`give a step, ${STEPS.join(" or ")}: node tests/web/kernels.mjs STEP [ROUNDS] [DIST]`);
const count = counted("ROUNDS", given);
const folders = other ? [path.resolve(other), DIST] : [DIST];
checked(folders);
const rounds = await alive(async (t) => {
  const files = await model();
  const pages = [];
  for (const root of folders) {
    const page = await opened(t, root, files, [step], listen);
    await page.evaluate(async (step) => {
      await watches[step].run();
      globalThis.taken = [];
      await watches[step].run();
      [globalThis.recorded, globalThis.taken] = [taken, null];
    }, step);
    pages.push(page);
  }
  const found = folders.map(() => []);
  for (let i = 0; i < count; i++) for (const [at, page] of pages.entries()) found[at].push(await page.evaluate(timed));
  return found;
});

const tables = rounds.map((of) => of.map(sums));
const kernels = [...new Set(tables.flatMap((of) => [...of[0].keys()]))].filter((kernel) => kernel !== "all");
const ms = (of, kernel) => median(of.map((round) => round.get(kernel) ?? 0));
const ours = tables.at(-1);
kernels.sort((a, b) => ms(ours, b) - ms(ours, a));
const head = other ? ["there: count", "ms", "here: count", "ms", "ratio"] : ["count", "ms"];
const line = (cells) => console.log(cells[0].padEnd(24) + cells.slice(1).map((cell) => cell.padStart(14)).join(""));
line([step, ...head]);
for (const kernel of [...kernels, "all"]) {
  const cells = [kernel];
  for (const [at, of] of tables.entries()) {
    const times = rounds[at][0].filter(([name]) => kernel === "all" || name === kernel).length;
    cells.push(String(times), ms(of, kernel).toFixed(2));
  }
  if (other) {
    const each = ours.map((round, i) => (round.get(kernel) ?? 0) / (tables[0][i].get(kernel) ?? 0)).filter(Number.isFinite);
    cells.push(each.length ? median(each).toFixed(3) : "-");
  }
  line(cells);
}
