// Downloads of web/storage.js over connections and from servers as they are in the world.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { realm, setQuota, site } from "./harness.mjs";

const PART = 8 << 20;
/** What a browser says of a connection that a test has broken. */
const BROKEN = { allow: [/ERR_|Failed to load|status 50\d|status 404|status 416|CORS/] };

/** Bytes that are the same nowhere. */
function content(length, seed = 1) {
  const bytes = Buffer.alloc(length);
  for (let i = 0, x = seed; i + 4 <= length; i += 4) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(x, i);
  }
  return bytes;
}

const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** A realm with `get(url)`, which tells what came of a download of it to models/m/w, and how it went. */
async function opened(t, kind, options = {}) {
  const at = await realm(t, kind, options);
  await at.evaluate(async () => {
    Object.assign(globalThis, await import("/storage.js"));
    const { patience } = await import("/request.js");
    Object.assign(patience, { stall: 700, pause: 20 });
    globalThis.store = await Storage.open();
    globalThis.control = new AbortController();
    globalThis.get = async (url, stopAt = Infinity) => {
      const seen = [];
      const notes = new Set();
      const onprogress = (done, total, note) => {
        seen.push([done, total]);
        if (note) notes.add(note);
        if (done >= stopAt) control.abort();
      };
      try {
        const file = await store.download(url, "m", "unet/w.safetensors", { onprogress, signal: control.signal });
        const bytes = await file.arrayBuffer();
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
        const left = await store.list("downloads");
        return { hash: [...digest].map((b) => b.toString(16).padStart(2, "0")).join(""), last: seen.at(-1), notes: [...notes], left, files: await store.list("models") };
      } catch (error) {
        return { error: error.name, kind: error.kind, message: error.message, seen };
      } finally {
        globalThis.control = new AbortController();
      }
    };
  });
  return at;
}

const get = (at, url, stopAt) => at.evaluate(([url, stopAt]) => get(url, stopAt ?? undefined), [url, stopAt ?? null]);

function whole(result, bytes) {
  assert.equal(result.hash, hash(bytes), JSON.stringify(result));
  assert.deepEqual(result.last, [bytes.length, bytes.length]);
  assert.deepEqual(result.files, ["m/unet/w.safetensors"]);
  assert.deepEqual(result.left, ["m/unet/w.safetensors/about.json"]);
}

/** First bytes of the ranges that were asked for since the last call. */
function starts(server) {
  const asked = server.log.splice(0).filter((entry) => entry.path === "/w" && entry.method === "GET");
  return asked.map((entry) => (entry.range ? Number(/=(\d+)-/.exec(entry.range)[1]) : null));
}

for (const kind of ["page", "worker"]) {
  test(`${kind}: a file comes in parts, once`, async (t) => {
    const at = await opened(t, kind);
    const bytes = content(2 * PART + 12345);
    at.server.files.set("/w", { bytes, etag: '"1"' });
    whole(await get(at, "/w"), bytes);
    assert.deepEqual(starts(at.server), [0, PART, 2 * PART]);
    whole(await get(at, "/w"), bytes);
    assert.deepEqual(starts(at.server), [0], "only whether it is still the same");
  });

  test(`${kind}: an empty file comes too`, async (t) => {
    const at = await opened(t, kind, { allow: [/status.* 416/] });
    for (const ranges of [true, false]) {
      at.server.files.set("/w", { bytes: Buffer.alloc(0), ranges });
      whole(await get(at, "/w"), Buffer.alloc(0));
    }
  });

  test(`${kind}: a page that stops and comes again goes on`, async (t) => {
    const at = await opened(t, kind, { allow: [/ERR_/] });
    const bytes = content(3 * PART);
    at.server.files.set("/w", { bytes, modified: "Mon, 01 Jan 2024 00:00:00 GMT", delay: 10 });
    const stopped = await get(at, "/w", PART + 1);
    assert.equal(stopped.error, "AbortError");
    assert.deepEqual(at.server.log.filter(({ path }) => path === "/w").slice(0, 2).map(({ condition }) => condition), [undefined, "Mon, 01 Jan 2024 00:00:00 GMT"]);
    const { length } = starts(at.server);
    assert.ok(length >= 2, `${length} requests`);
    const next = await opened(t, kind, { beside: at.page });
    await at.page.close();
    whole(await get(next, "/w"), bytes);
    const again = starts(next.server);
    assert.ok(again[0] > PART && again.length <= 2, `went on from ${again}`);
  });

  test(`${kind}: a page that is killed loses a part at most`, async (t) => {
    const at = await opened(t, kind);
    const bytes = content(6 * PART);
    at.server.files.set("/w", { bytes, etag: '"1"', delay: 5 });
    const next = await opened(t, kind, { beside: at.page, allow: [/ERR_/] });
    await at.evaluate(() => void get("/w"));
    while (!at.server.log.some((entry) => entry.range?.startsWith(`bytes=${5 * PART}-`))) await next.page.waitForTimeout(20);
    await at.page.close();
    starts(next.server);
    whole(await get(next, "/w"), bytes);
    // Pages keep what they have every 32 MiB, workers every part.
    assert.equal(starts(next.server)[0], kind === "page" ? 4 * PART : 5 * PART);
  });

  test(`${kind}: connections that break cost what was not there yet`, async (t) => {
    const at = await opened(t, kind, BROKEN);
    const bytes = content(2 * PART);
    at.server.files.set("/w", { bytes, etag: '"1"', cuts: [1 << 20, 3 << 20, 0], failures: [503] });
    whole(await get(at, "/w"), bytes);
    const from = starts(at.server);
    assert.deepEqual(from, [...from].sort((a, b) => a - b), "never back");
    assert.ok(from.filter((start) => start % PART > 0).length >= 2, `went on from ${from}`);
    await at.evaluate(() => store.remove("models/m"));
    at.server.files.set("/w", { bytes: bytes.subarray(9), etag: '"2"', stalls: [0, 1000, 2 << 20] });
    whole(await get(at, "/w"), bytes.subarray(9));
  });

  test(`${kind}: a file that changes on the way is taken from its start`, async (t) => {
    const at = await opened(t, kind);
    const [before, after] = [content(2 * PART, 1), content(2 * PART, 2)];
    for (const versions of [[{ etag: '"1"' }, { etag: '"2"' }], [{ modified: "a" }, { modified: "b" }]]) {
      let asked = 0;
      at.server.files.set("/w", {
        bytes: before,
        ...versions[0],
        before(served) {
          if (++asked === 2) Object.assign(served, { bytes: after, ...versions[1] });
        },
      });
      whole(await get(at, "/w"), after);
      assert.deepEqual(starts(at.server).slice(-2), [0, PART]);
      await at.evaluate(() => store.remove("models/m"));
      assert.deepEqual(await at.evaluate(() => store.list("downloads")), []);
    }
    let version = 0;
    at.server.files.set("/w", { bytes: before, before(served) { served.etag = `"${++version}"`; } });
    const error = await get(at, "/w");
    assert.equal(error.kind, "file");
    assert.match(error.message, /changes on the server again and again/);
  });

  test(`${kind}: a part of another file is not continued`, async (t) => {
    const at = await opened(t, kind, { allow: [/ERR_/] });
    const [before, after] = [content(2 * PART, 1), content(2 * PART, 2)];
    const stopInTheMiddle = async (served) => {
      at.server.files.set("/w", served);
      assert.equal((await get(at, "/w", PART + 1)).error, "AbortError");
      starts(at.server);
    };
    await stopInTheMiddle({ bytes: before, etag: '"1"', delay: 10 });
    at.server.files.set("/w", { bytes: after, etag: '"2"' });
    whole(await get(at, "/w"), after);
    assert.deepEqual(starts(at.server).slice(1), [0, PART]);
    await at.evaluate(() => store.remove("models/m"));
    // Of a file without a version nobody knows whether it is the same.
    await stopInTheMiddle({ bytes: before, delay: 10 });
    at.server.files.set("/w", { bytes: after });
    whole(await get(at, "/w"), after);
    await at.evaluate(() => store.remove("models/m"));
    // Another address, the same place.
    await stopInTheMiddle({ bytes: before, etag: '"1"', delay: 10 });
    at.server.files.set("/v", { bytes: after, etag: '"1"' });
    whole(await get(at, "/v"), after);
  });

  test(`${kind}: a file that is there is taken again when the server has another`, async (t) => {
    const at = await opened(t, kind, BROKEN);
    const [before, after] = [content(1000, 1), content(1000, 2)];
    at.server.files.set("/w", { bytes: before, etag: '"1"' });
    whole(await get(at, "/w"), before);
    at.server.files.set("/w", { bytes: after, etag: '"2"' });
    whole(await get(at, "/w"), after);
    // Without an answer, what is here is what there is.
    at.server.files.set("/w", { bytes: before, etag: '"3"', failures: [500, 404] });
    for (let i = 0; i < 2; i++) whole(await get(at, "/w"), after);
  });

  test(`${kind}: servers without ranges send all of it`, async (t) => {
    const at = await opened(t, kind, BROKEN);
    const bytes = content(PART + 1000);
    at.server.files.set("/w", { bytes, etag: '"1"', ranges: false, cuts: [5 << 20] });
    const told = await get(at, "/w");
    whole(told, bytes);
    assert.match(told.notes.join(), /cannot go on from where a connection breaks/);
    assert.deepEqual(starts(at.server), [0, null]);
    await at.evaluate(() => store.remove("models/m"));
    at.server.files.set("/w", { bytes, ranges: false, length: false });
    whole(await get(at, "/w"), bytes);
    // Who begins with parts and ends without.
    await at.evaluate(() => store.remove("models/m"));
    let asked = 0;
    at.server.files.set("/w", { bytes, etag: '"1"', before(served) { served.ranges = ++asked < 2; } });
    whole(await get(at, "/w"), bytes);
  });

  test(`${kind}: servers that hide what they say are believed as far as they can be`, async (t) => {
    const other = await site(t);
    const at = await opened(t, kind, { origins: [other.origin], ...BROKEN });
    const bytes = content(PART + 1000);
    for (const expose of ["", "ETag, Content-Range"]) {
      other.files.set("/w", { bytes, etag: '"1"', modified: "a", expose });
      whole(await get(at, `${other.origin}/w`), bytes);
      assert.deepEqual(starts(other), expose ? [0, PART] : [0, null]);
      const { head, total } = await at.evaluate(async (url) => {
        const { bytes, total } = await store.peek(url, 100, 4);
        return { head: [...bytes], total };
      }, `${other.origin}/w`);
      assert.deepEqual([head, total], [[...bytes.subarray(100, 104)], bytes.length]);
      other.log.splice(0);
      await at.evaluate(() => store.remove("models/m"));
    }
    other.files.set("/w", { bytes });
    const hidden = await get(at, `${other.origin}/w`);
    assert.match(hidden.message, /CORS/);
  });

  test(`${kind}: what cannot be had is said at once, or after some tries`, async (t) => {
    const at = await opened(t, kind, BROKEN);
    const missing = await get(at, "/w");
    assert.deepEqual([missing.error, missing.kind], ["DownloadError", "file"]);
    assert.match(missing.message, /404 \(there is no such file\)/);
    assert.equal(starts(at.server).length, 1);
    at.server.files.set("/w", { bytes: content(10), failures: Array(100).fill(503) });
    assert.match((await get(at, "/w")).message, /says 503/);
    assert.equal(starts(at.server).length, 3);
  });

  test(`${kind}: what has no room is refused before it comes, or gives back what it took`, async (t) => {
    const at = await opened(t, kind, { allow: [/ERR_/] });
    await setQuota(at.page, 6 << 20);
    at.server.files.set("/w", { bytes: content(PART + 1000), etag: '"1"' });
    await at.evaluate(() => { StorageManager.prototype.estimate = async () => ({ usage: 9e9, quota: 9e9 + 5e6 }); });
    const refused = await get(at, "/w");
    assert.deepEqual([refused.error, refused.kind], ["StorageFull", "storage"]);
    assert.match(refused.message, /has 0\.01 GB, and the browser has room for 0\.01 GB/);
    assert.deepEqual(refused.seen, []);
    // Not every browser tells the truth.
    await at.evaluate(() => { StorageManager.prototype.estimate = async () => ({ usage: 0, quota: 10 * 2 ** 30 }); });
    const surprised = await get(at, "/w");
    assert.deepEqual([surprised.error, surprised.kind], ["StorageFull", "storage"]);
    assert.ok(surprised.seen.length > 0);
    // A server that does not say how much it is.
    at.server.files.set("/w", { bytes: content(PART + 1000), ranges: false, length: false });
    const full = await get(at, "/w");
    assert.deepEqual([full.error, full.kind], ["StorageFull", "storage"]);
    await at.evaluate(() => store.write("runs/x", new Uint8Array(4 << 20)));
    await setQuota(at.page, 100 << 20);
    whole(await get(at, "/w"), content(PART + 1000));
  });

  test(`${kind}: two pages that want one file get it by one download`, async (t) => {
    const first = await opened(t, kind);
    const second = await opened(t, kind, { beside: first.page });
    const bytes = content(2 * PART);
    first.server.files.set("/w", { bytes, etag: '"1"', delay: 2 });
    for (const result of await Promise.all([get(first, "/w"), get(second, "/w")])) whole(result, bytes);
    assert.deepEqual(starts(first.server), [0, PART, 0]);
  });

  test(`${kind}: who waits for another page's download can stop`, async (t) => {
    const first = await opened(t, kind);
    const second = await opened(t, kind, { beside: first.page });
    first.server.files.set("/w", { bytes: content(2 * PART), etag: '"1"', delay: 30 });
    const going = get(first, "/w");
    await second.page.waitForTimeout(200);
    const stopped = await second.evaluate(async () => {
      setTimeout(() => control.abort(), 50);
      return get("/w");
    });
    assert.equal(stopped.error, "AbortError");
    whole(await going, content(2 * PART));
  });

  test(`${kind}: a look at a few bytes`, async (t) => {
    const at = await opened(t, kind, BROKEN);
    const bytes = content(3 << 20);
    const peek = (offset, length) => at.evaluate(async ([offset, length]) => {
      const { bytes, total } = await store.peek("/w", offset, length);
      return { bytes: [...bytes], total };
    }, [offset, length]);
    for (const served of [{}, { ranges: false }, { ranges: false, length: false }, { cuts: [3] }, { failures: [503] }]) {
      at.server.files.set("/w", { bytes, ...served });
      for (const [offset, length] of [[0, 8], [1000, 5], [bytes.length - 3, 10], [bytes.length + 5, 10]]) {
        const expected = { bytes: [...bytes.subarray(offset, offset + length)], total: bytes.length };
        assert.deepEqual(await peek(offset, length), expected, `${offset} ${length} ${JSON.stringify(served)}`);
      }
    }
    at.server.log.splice(0);
    at.server.files.set("/w", { bytes });
    await peek(0, 8);
    assert.deepEqual(at.server.log.map((entry) => entry.range), ["bytes=0-7"]);
  });
}
