// `node tests/web/run.mjs [NAME…] [-NAME…]`: all tests beside this file, or those whose names contain one of the words,
// without those whose names contain one behind a dash.

import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const { DIST } = await import("./server.mjs");

function refuse(text) {
  console.error(`error: ${text}`);
  process.exit(2);
}

if (!existsSync(path.join(here, "node_modules/playwright-core"))) refuse(`playwright-core is missing: cd ${here} && npm ci`);
if (!existsSync(path.join(DIST, "storage.js"))) refuse(`${DIST} has no page: cargo xtask web builds it`);
const given = process.argv.slice(2);
const words = given.filter((word) => !word.startsWith("-"));
const without = given.filter((word) => word.startsWith("-")).map((word) => word.slice(1));
const wanted = (name) => (words.length === 0 || words.some((word) => name.includes(word))) && !without.some((word) => name.includes(word));
const files = readdirSync(here)
  .filter((name) => name.endsWith(".test.mjs") && wanted(name))
  .map((name) => path.join(here, name));
if (files.length === 0) refuse(`no test is called ${given.join(" or ")}`);

// Browsers that draw in software would only take the processors from each other; the others wait most of the time.
const DRAW = ["engine", "module", "pace", "page", "tab"];
const draws = (file) => DRAW.includes(path.basename(file, ".test.mjs"));
for (const [some, concurrency] of [[files.filter((file) => !draws(file)), 2], [files.filter(draws), 1]]) {
  if (some.length === 0) continue;
  // A worker that waits for a GPU in software is slow, not stuck.
  const tests = run({ files: some, concurrency, timeout: 20 * 60_000 });
  tests.on("test:fail", () => { process.exitCode = 1; });
  for await (const text of tests.compose(new spec())) process.stdout.write(text);
}
