// `PORTRAY_MODEL=DIR node --test tests/web/full_size.mjs`: a model of full size in a tab (`cargo xtask make-model sd2-base
// DIR` writes one), from the folder picker to two small pictures. Says what the tab's process holds at most, and what the
// second picture takes with the weights where the first left them. Half an hour of a software renderer: not in the tests.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { gpuPage } from "./harness.mjs";

const MODEL = process.env.PORTRAY_MODEL;
const id = (name) => `[data-testid=${name}]`;
const PATIENT = { timeout: 30 * 60_000 };

/** Anonymous memory of the processes that draw pages, in bytes: the largest. Adapters' memory is another process's. */
function held() {
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map((name) => {
    try {
      if (!readFileSync(`/proc/${name}/cmdline`, "utf8").includes("--type=renderer")) return 0;
      return Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1] ?? 0) * 1024;
    } catch {
      return 0;
    }
  });
  return Math.max(...processes);
}

test("a model of full size makes pictures in a tab", { skip: MODEL ? false : "PORTRAY_MODEL names none" }, async (t) => {
  const page = await gpuPage(t, "/index.html");
  page.setDefaultTimeout(PATIENT.timeout);
  await page.waitForSelector(`${id("generate")}:not([disabled])`, { state: "attached" });
  const before = held();
  let most = before;
  const watch = setInterval(() => { most = Math.max(most, held()); }, 100);
  t.after(() => clearInterval(watch));
  await page.click(id("model-open"));
  await page.selectOption("#dtype", "q8");
  await page.setInputFiles(id("model-folder"), MODEL);
  const name = MODEL.replace(/\/$/, "").split("/").pop();
  await page.waitForFunction((name) => document.querySelector("[data-testid=model-name]").textContent === name, name, PATIENT);
  await page.click(id("tab-generate"));
  for (const [field, value] of Object.entries({ width: "64", height: "64", steps: "1" })) await page.fill(`#${field}`, value);
  const took = [];
  for (const count of [1, 2]) {
    const began = performance.now();
    await page.click(id("generate"));
    await page.waitForFunction((count) => document.querySelectorAll("[data-testid=picture]").length >= count, count, PATIENT);
    took.push((performance.now() - began) / 1000);
  }
  const megabytes = Math.round((most - before) / 1e6);
  t.diagnostic(`the tab's process held ${megabytes} MB more at most; pictures took ${took.map((s) => s.toFixed(1)).join(" and ")} s`);
  assert.ok(megabytes < 500, `${megabytes} MB`);
  assert.ok(took[1] < took[0], `${took}`);
});
