// web/portray.js: jobs, calls, and losses of the engine, in a Worker and in the page's realm. A stand-in is the WASM.

import assert from "node:assert/strict";
import { test } from "node:test";

import { mocked, realm, site } from "./harness.mjs";

/** A bare page with `engine`, its model loaded, and `job` for trainings. */
async function opened(t, worker, options = {}) {
  const at = await realm(t, "page", { ...options, server: await mocked(await site(t)) });
  await at.evaluate(async (worker) => {
    const { Portray } = await import("/portray.js");
    globalThis.create = () => Portray.create({ worker });
    globalThis.engine = await create();
    await engine.load();
    globalThis.job = { images: [{ name: "a.png", blob: new Blob(["cat"]) }], prompt: "a sks cat", name: "cat", steps: 9 };
    globalThis.kind = (promise) => promise.then(() => null, (error) => [error.kind, error.message]);
    globalThis.types = async (job) => {
      const found = [];
      for await (const { type } of job) found.push(type);
      return found;
    };
  }, worker);
  return at;
}

for (const worker of [true, false]) {
  const where = worker ? "worker" : "page";

  test(`${where}: a trap is a loss of the engine, and gives back what it held`, async (t) => {
    const at = await opened(t, worker, { allow: [/unreachable/] });
    const found = await at.evaluate(async () => {
      const lost = new Promise((resolve) => { engine.onlost = resolve; });
      const failed = await kind(types(engine.train({ ...job, prompt: "a trap" })));
      const found = { lost: await lost, failed, later: await kind(engine.runs()) };
      for (let tries = 0; tries < 100 && (await navigator.locks.query()).held.some(({ name }) => name.includes("run")); tries++) await new Promise((resolve) => setTimeout(resolve, 20));
      found.locks = (await navigator.locks.query()).held.filter(({ name }) => name.includes("run")).length;
      engine.destroy();
      const next = await create();
      await next.load();
      found.runs = (await next.runs()).map(({ state }) => state);
      return found;
    });
    assert.equal(found.lost, "The engine crashed: panicked at src/x.rs:1:1: boom");
    assert.deepEqual(found.failed, ["device", found.lost]);
    assert.equal(found.later[0], "device");
    assert.equal(found.locks, 0);
    assert.deepEqual(found.runs, ["paused"]);
  });

  test(`${where}: what is stopped before it begins is over at once, and LoRAs do not wait`, async (t) => {
    const at = await opened(t, worker);
    const found = await at.evaluate(async () => {
      const training = engine.train({ ...job, steps: 1e6 });
      const events = training[Symbol.asyncIterator]();
      await events.next();
      const control = new AbortController();
      const load = kind(engine.load(undefined, { signal: control.signal }));
      control.abort();
      const found = { load: await load, aborted: await kind(engine.load(undefined, { signal: AbortSignal.abort() })) };
      const behind = engine.train(job);
      behind.stop();
      await behind.ended;
      found.behind = await types(behind);
      found.lora = (await engine.addLora(new Blob(["lora of 10"]), "x")).name;
      found.clone = await kind(engine.plan("generate", { prompt: "x", seed: () => {} }));
      training.finish();
      let last;
      for (let next = await events.next(); !next.done; next = await events.next()) last = next.value;
      found.last = last.type;
      // Who listens again hears that it is over.
      found.again = await types(training);
      return found;
    });
    assert.deepEqual([found.load[0], found.aborted[0]], ["interrupted", "interrupted"]);
    assert.deepEqual(found.behind, []);
    assert.equal(found.lora, "x");
    if (worker) assert.equal(found.clone[0], "usage");
    assert.deepEqual([found.last, found.again], ["done", []]);
  });

  test(`${where}: a loss is heard however late, and a farewell is none`, async (t) => {
    const at = await opened(t, worker);
    const found = await at.evaluate(async () => {
      await engine.loseDevice();
      await new Promise((resolve) => setTimeout(resolve, 50));
      const late = await new Promise((resolve) => { engine.onlost = resolve; });
      const other = await create();
      let heard = 0;
      other.onlost = () => { heard += 1; };
      other.destroy();
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { late, heard, closed: (await kind(other.runs()))?.[0] ?? null };
    });
    assert.match(found.late, /device was lost/);
    assert.equal(found.heard, 0);
  });
}
