// Files and locks of web/storage.js, from a page and from a worker.

import assert from "node:assert/strict";
import { test } from "node:test";

import { realm, setQuota } from "./harness.mjs";

/** Opens the storage as `store`, with `text` and `put` for tests. */
async function opened(t, kind, options) {
  const at = await realm(t, kind, options);
  await at.evaluate(async () => {
    Object.assign(globalThis, await import("/storage.js"));
    globalThis.store = await Storage.open();
    globalThis.put = (path, text) => store.write(path, new TextEncoder().encode(text));
    globalThis.text = async (path) => {
      const bytes = await store.read(path);
      return bytes && new TextDecoder().decode(bytes);
    };
    globalThis.failing = (promise) => promise.then(() => null, (error) => ({ name: error.name, kind: error.kind, message: error.message, full: error instanceof StorageFull }));
  });
  return at;
}

for (const kind of ["page", "worker"]) {
  test(`${kind}: files are written, listed and removed`, async (t) => {
    const at = await opened(t, kind);
    const found = await at.evaluate(async () => {
      await put("runs/7/run.json", "old, and longer");
      await put("runs/7/run.json", "new");
      await put("runs/7/images/a b.png", "");
      await put("runs/12/run.json", "other");
      const found = { read: await text("runs/7/run.json"), empty: await text("runs/7/images/a b.png") };
      found.file = await (await store.file("runs/7/run.json")).text();
      found.all = await store.list("runs");
      found.one = await store.list("runs/7");
      found.none = [await store.list("cache"), await store.read("cache/x"), await store.file("runs/7"), await store.read("runs/7/run.json/x")];
      found.estimate = await store.estimate();
      await store.remove("runs/7");
      await store.remove("runs/7");
      await store.remove("cache/nothing/here");
      found.left = await store.list("runs");
      return found;
    });
    const { estimate, ...rest } = found;
    assert.deepEqual(rest, {
      read: "new",
      empty: "",
      file: "new",
      all: ["12/run.json", "7/images/a b.png", "7/run.json"],
      one: ["images/a b.png", "run.json"],
      none: [[], null, null, null],
      left: ["12/run.json"],
    });
    assert.ok(estimate.quota > estimate.usage, JSON.stringify(estimate));
  });

  test(`${kind}: no path leads out of the folder`, async (t) => {
    const at = await opened(t, kind);
    for (const path of ["../x", "runs/../../x", "/x", "runs//x", "", ".", "runs\\x"]) {
      for (const call of ["read", "write", "list", "remove", "file"]) {
        const error = await at.evaluate(([call, path]) => failing((async () => store[call](path, new Uint8Array(1)))()), [call, path]);
        assert.match(error?.message ?? "none", /is no path/, `${call} ${path}`);
      }
    }
  });

  test(`${kind}: writes that nobody waits for happen in their order`, async (t) => {
    const at = await opened(t, kind);
    const last = await at.evaluate(async () => {
      // The first takes longest.
      const writes = [4 << 20, 1 << 20, 10].map((length, i) => store.write("runs/x", new Uint8Array(length).fill(i)));
      await Promise.all([...writes, put("runs/y", "there"), store.remove("runs/y")]);
      return [(await store.read("runs/x")).length, await text("runs/y")];
    });
    assert.deepEqual(last, [10, null]);
  });

  test(`${kind}: readers beside a writer see whole files`, async (t) => {
    const at = await opened(t, kind);
    const reader = await opened(t, kind, { beside: at.page });
    const writing = at.evaluate(async () => {
      for (let i = 1; i <= 30; i++) await store.write("runs/x", new Uint8Array((i % 3) * 700_000 + 1000).fill(i));
    });
    const seen = await reader.evaluate(async () => {
      const seen = new Set();
      for (let torn = 0; ; ) {
        const bytes = await store.read("runs/x");
        if (!bytes) continue;
        if (bytes.length !== (bytes[0] % 3) * 700_000 + 1000 || bytes.some((b) => b !== bytes[0])) torn++;
        seen.add(bytes[0]);
        if (torn || bytes[0] === 30) return { torn, several: seen.size > 1 };
      }
    });
    await writing;
    assert.deepEqual(seen, { torn: 0, several: true });
  });

  test(`${kind}: what ends in the middle of a write leaves the old file, and nothing else`, async (t) => {
    const at = await opened(t, kind);
    const other = await opened(t, kind, { beside: at.page });
    await at.evaluate(() => put("runs/x", "old"));
    await at.evaluate(() => {
      void (async () => {
        for (;;) await store.write("runs/y", new Uint8Array(64 << 20).fill(1));
      })();
    });
    await other.evaluate(async () => { while (!(await store.list("tmp")).length) await new Promise((r) => setTimeout(r, 1)); });
    await at.page.close();
    const left = await other.evaluate(async () => {
      const y = await store.file("runs/y");
      // Until the browser has noticed that the page is gone.
      for (let tries = 0; tries < 100; tries++) {
        await Storage.open();
        if (!(await store.list("tmp")).length) break;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return { x: await text("runs/x"), y: [undefined, 64 << 20].includes(y?.size), tmp: await store.list("tmp") };
    });
    assert.deepEqual(left, { x: "old", y: true, tmp: [] });
  });

  test(`${kind}: where nothing more fits, the old file stays`, async (t) => {
    const at = await opened(t, kind);
    await setQuota(at.page, 3_000_000);
    const found = await at.evaluate(async () => {
      await put("runs/x", "old");
      const error = await failing(store.write("runs/x", new Uint8Array(8 << 20)));
      const found = { ...error, x: await text("runs/x"), all: [...(await store.list("runs")), ...(await store.list("tmp"))] };
      await store.write("runs/z", new Uint8Array(1 << 20));
      found.z = (await store.file("runs/z")).size;
      return found;
    });
    const { message, ...rest } = found;
    assert.deepEqual(rest, { name: "StorageFull", kind: "storage", full: true, x: "old", all: ["x"], z: 1 << 20 });
    assert.match(message, /^runs\/x: .* is full/);
  });

  test(`${kind}: one training, one tab`, async (t) => {
    const first = await opened(t, kind);
    const second = await opened(t, kind, { beside: first.page });
    const held = (at) => at.evaluate(async () => [...(await store.held())]);
    const take = (at, id) => at.evaluate(async (id) => { globalThis.release = await store.lock(id); return release !== null; }, id);
    assert.equal(await take(first, "7"), true);
    assert.equal(await take(second, "7"), false);
    assert.deepEqual([await held(first), await held(second)], [["7"], ["7"]]);
    assert.equal(await take(second, "8"), true);
    assert.deepEqual((await held(first)).sort(), ["7", "8"]);
    await second.evaluate(() => { release(); release(); });
    assert.deepEqual(await held(first), ["7"]);
    // A tab that goes gives back what it has.
    await first.page.close();
    const taken = await second.evaluate(async () => {
      for (let tries = 0; tries < 100; tries++) {
        if (await store.lock("7")) return true;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return false;
    });
    assert.equal(taken, true);
  });
}

test("a browser that keeps nothing is named", async (t) => {
  const at = await realm(t, "page");
  const messages = await at.evaluate(async () => {
    const { Storage } = await import("/storage.js");
    const message = () => Storage.open().then(() => "opened", (error) => `${error.kind}: ${error.message}`);
    const manager = StorageManager.prototype;
    const real = manager.getDirectory;
    manager.getDirectory = () => Promise.reject(new DOMException("no", "SecurityError"));
    const refused = await message();
    delete manager.getDirectory;
    const missing = await message();
    manager.getDirectory = real;
    return [refused, missing, await message()];
  });
  assert.match(messages[0], /^storage: .*private window/);
  assert.match(messages[1], /^storage: .*no file system/);
  assert.equal(messages[2], "opened");
});

test("files are written where a page has no move", async (t) => {
  const at = await opened(t, "page");
  const found = await at.evaluate(async () => {
    delete FileSystemHandle.prototype.move;
    delete FileSystemFileHandle.prototype.move;
    await put("runs/x", "old");
    await put("runs/x", "new");
    return ["move" in FileSystemFileHandle.prototype, await text("runs/x"), await store.list("tmp")];
  });
  assert.deepEqual(found, [false, "new", []]);
});
