// The native build, on the same software renderer as the browser: what a tab's results are held against.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = path.join(path.dirname(fileURLToPath(import.meta.url)), "../..");
const RELEASE = path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "release");
const ENV = { ...process.env, VK_ICD_FILENAMES: "/usr/lib/chromium/vk_swiftshader_icd.json", XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? "/tmp" };

function program(name) {
  const found = path.join(RELEASE, name);
  assert.ok(existsSync(found), `${found} is missing: cargo build --release --bin portray --examples`);
  return found;
}

/** `portray ARGS`; gives what it prints. */
export const portray = (...args) => ran("portray", args);

/** Writes a tiny model of random weights ("tiny-sd1" or "tiny-sd2"): a folder, or a single file. */
export const makeModel = (...args) => ran("examples/make_model", args);

function ran(name, args) {
  return new Promise((resolve, reject) => {
    execFile(program(name), args, { env: ENV, maxBuffer: 1 << 26 }, (error, out, err) => (error ? reject(new Error(`${error.message}\n${err}`)) : resolve(out)));
  });
}

/** A process that times a step whenever it is asked: `await time("unet")`. */
export function stopwatch(t) {
  const child = spawn(program("examples/step_time"), { env: ENV, stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill());
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return async (step) => {
    child.stdin.write(`${step}\n`);
    const { value, done } = await lines.next();
    assert.ok(!done, "step_time ended");
    return Number(value);
  };
}

export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
