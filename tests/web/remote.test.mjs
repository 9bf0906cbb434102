// web/remote.js: which files a model at an address has, where nothing lists them. A stand-in is the WASM.

import assert from "node:assert/strict";
import { test } from "node:test";

import { mocked, realm, site } from "./harness.mjs";

test("a model's files are found by the parts that its index names, in halves and in shards", async (t) => {
  const server = await mocked(await site(t));
  const at = await realm(t, "worker", { server, allow: [/status.*404/] });
  const weights = (header) => {
    const text = Buffer.from(JSON.stringify(header));
    return Buffer.concat([Buffer.from([text.length, 0, 0, 0, 0, 0, 0, 0]), text, Buffer.alloc(100)]);
  };
  const [wide, half] = ["F32", "F16"].map((dtype) => weights({ x: { dtype, shape: [1], data_offsets: [0, 4] } }));
  const json = (value) => Buffer.from(JSON.stringify(value));
  const stem = "diffusion_pytorch_model";
  const files = {
    "model_index.json": json({ _class_name: "X", text_encoder: ["a", "b"], text_encoder_2: ["a", "b"], tokenizer_2: ["a", "b"], unet: ["a", "b"], vae: ["a", "b"], safety_checker: ["a", "b"], image_encoder: [null, null] }),
    "text_encoder/pytorch_model.bin": Buffer.from("x"), "text_encoder_2/model.safetensors": half, "tokenizer_2/vocab.json": json({}),
    [`unet/${stem}.safetensors`]: wide, [`unet/${stem}.fp16.safetensors`]: half, "safety_checker/model.safetensors": half,
    [`vae/${stem}.safetensors.index.json`]: json({ weight_map: { a: "1.safetensors", b: "2.safetensors", c: "../../3.safetensors" } }),
    "vae/1.safetensors": wide, "vae/2.safetensors": wide,
  };
  for (const [name, bytes] of Object.entries(files)) server.files.set(`/hub/folder/${name}`, { bytes, etag: '"1"' });
  const found = await at.evaluate(async (url) => {
    const [{ Realm }, wasm] = await Promise.all([import("/engine.js"), import("/pkg/portray.js")]);
    const engine = await Realm.create(() => {});
    const needs = await engine.requirements(url);
    const { info } = await engine.load(url, {}, () => {});
    return { needs, below: wasm.below(info.model).map((file) => file.slice(info.model.length + 1)).sort(), staged: wasm.below("/models").length };
  }, server.url("/hub/folder/"));
  const expected = ["model_index.json", "text_encoder/pytorch_model.bin", "text_encoder_2/model.safetensors", "tokenizer_2/vocab.json", `unet/${stem}.fp16.safetensors`, "vae/1.safetensors", "vae/2.safetensors", `vae/${stem}.safetensors.index.json`];
  assert.deepEqual(found.below, expected);
  assert.equal(found.staged, expected.length);
  const { types, ...needs } = found.needs;
  assert.deepEqual({ ...needs, room: needs.room > 0 }, { name: "folder", bytes: 2 * half.length + 2 * wide.length, missing: 2 * half.length + 2 * wide.length, room: true });
  assert.deepEqual(types.map(({ dtype, fits }) => [dtype, fits]), [["f32", true], ["f16", true], ["q8", true], ["q4", true]]);
});
