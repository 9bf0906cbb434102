// The watch over pages can fail, and the adapter is there.

import assert from "node:assert/strict";
import { test } from "node:test";

import { gpuPage, realm, site, watched } from "./harness.mjs";

for (const kind of ["page", "worker"]) {
  test(`what a ${kind} must not do is seen`, async (t) => {
    const other = await site(t);
    other.files.set("/x", { bytes: Buffer.from("x"), expose: "" });
    const at = await realm(t, kind, { allow: [/./] });
    const complaints = watched(at.page, { origins: [at.server.origin] });
    await at.evaluate(() => console.log("fine"));
    await at.evaluate(() => fetch("/blank.html").then((answer) => answer.text()));
    assert.deepEqual(complaints, []);
    await at.evaluate(() => console.warn("careful"));
    await at.evaluate((url) => fetch(url).then((answer) => answer.text()), `${other.origin}/x`);
    await at.evaluate(() => fetch("/nothing.js").then((answer) => answer.text()));
    await at.evaluate(() => void setTimeout(() => { throw new Error("thrown"); }));
    await at.page.waitForTimeout(200);
    for (const expected of [/^console warning: careful/, /^request to .*\/x$/, /^status 404: .*nothing.js$/, /^uncaught: .*thrown/]) {
      assert.ok(complaints.some((text) => expected.test(text)), `${expected} is not in\n${complaints.join("\n")}`);
    }
  });
}

test("no name of another machine is found", async (t) => {
  const at = await realm(t, "page", { allow: [/./] });
  assert.equal(await at.evaluate(() => fetch("https://example.com/").then(() => "found", () => "not found")), "not found");
});

test("pages have an adapter", async (t) => {
  const server = await site(t);
  server.files.set("/bare.html", { bytes: Buffer.from("<!doctype html><link rel='icon' href='data:,'>"), type: "text/html" });
  await gpuPage(t, "/bare.html", { server });
});
