// Vision models for a tab: tiny ones in folders, as somebody chooses them; and what is none.

import assert from "node:assert/strict";
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";

import { ROOT } from "./native.mjs";

/** Makes a whole CLIP at `folder`: the fixture's tensors, its few rows of tokens in the table of them all, and a tokenizer. */
export async function makeClip(folder) {
  const fixture = (name) => path.join(ROOT, "tests/fixtures/vision", name);
  await mkdir(folder);
  for (const name of ["config.json", "preprocessor_config.json"]) await copyFile(fixture(`clip/${name}`), path.join(folder, name));
  const tokenizer = path.join(ROOT, "tests/fixtures/golden/sd15/tokenizer");
  for (const name of await readdir(tokenizer)) await copyFile(path.join(tokenizer, name), path.join(folder, name));
  const [model, tokens] = [await tensors(fixture("clip/model.safetensors")), await tensors(fixture("clip.safetensors"))];
  const ids = tokens.get("token_ids").bytes;
  const rows = tokens.get("token_rows");
  const row = 4 * rows.shape[1];
  const table = Buffer.alloc(49408 * row);
  for (let i = 0; i < rows.shape[0]; i++) rows.bytes.copy(table, Number(ids.readBigInt64LE(8 * i)) * row, i * row, (i + 1) * row);
  model.set("text_model.embeddings.token_embedding.weight", { dtype: "F32", shape: [49408, rows.shape[1]], bytes: table });
  await writeFile(path.join(folder, "model.safetensors"), safetensors(model));
  return folder;
}

/** Tensors of a safetensors file by name: type, shape, bytes. */
export async function tensors(file) {
  const whole = await readFile(file);
  const start = 8 + Number(whole.readBigUInt64LE(0));
  const header = Object.entries(JSON.parse(whole.subarray(8, start))).filter(([name]) => name !== "__metadata__");
  return new Map(header.map(([name, { dtype, shape, data_offsets: [from, to] }]) => [name, { dtype, shape, bytes: whole.subarray(start + from, start + to) }]));
}

/** The bytes of a safetensors file of such tensors. */
export function safetensors(tensors) {
  let end = 0;
  const header = Object.fromEntries([...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data_offsets: [end, (end += bytes.length)] }]));
  const text = Buffer.from(JSON.stringify(header).padEnd(8));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([size, text, ...[...tensors.values()].map(({ bytes }) => bytes)]);
}

/** Adds a DINO and a CLIP from their `folders` to a page's `engine`, and sees that others, made in `out`, are refused in one line. */
export async function addVisionModels(page, folders, out) {
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("input"), { type: "file", id: "folder", webkitdirectory: true })));
  const add = async (folder) => {
    await page.setInputFiles("#folder", folder);
    return page.evaluate(() => engine.addVisionModel([...document.getElementById("folder").files]).catch(({ kind, message }) => [kind, message]));
  };
  const [dino, clip] = [await add(folders[0]), await add(folders[1])];
  assert.deepEqual([dino.name, dino.option, dino.class], ["dino", "vision", "ViTModel"]);
  assert.deepEqual([clip.name, clip.option, clip.class], ["clip", "clip", "CLIPModel"]);
  const [side, mute] = ["side", "mute"].map((name) => path.join(out, name));
  for (const folder of [side, mute]) {
    await mkdir(folder);
    for (const name of ["config.json", "preprocessor_config.json"]) await copyFile(path.join(folders[1], name), path.join(folder, name));
  }
  await copyFile(path.join(folders[1], "model.safetensors"), path.join(mute, "model.safetensors"));
  const images = [...(await tensors(path.join(folders[1], "model.safetensors")))].filter(([name]) => !name.startsWith("text_"));
  await writeFile(path.join(side, "model.safetensors"), safetensors(new Map(images)));
  const wrong = [[path.join(ROOT, "assets/model/unet"), /^unet.*UNet/], [side, /^side: is CLIP's image side alone/], [mute, /^mute.*tokenizer/]];
  for (const [folder, pattern] of wrong) refused(await add(folder), "file", pattern);
  refused(await page.evaluate(() => engine.plan("train", { prompt: "a dog", evaluateEvery: 2, vision: "clip" }).catch(({ kind, message }) => [kind, message])), "usage", /^vision clip: is a CLIP model.*with clip/);
}

function refused(found, kind, pattern) {
  assert.equal(found[0], kind, JSON.stringify(found));
  assert.match(found[1], pattern);
  assert.doesNotMatch(found[1], /\n|\/vision\//);
}
