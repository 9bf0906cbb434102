// LoRAs of chance values for a model, and how long it takes to switch from one to another.

import { open } from "node:fs/promises";
import path from "node:path";

import { safetensors } from "./vision.mjs";

const UNET = "unet/diffusion_pytorch_model.safetensors";

/** A LoRA of `rank` on every attention layer of the UNet of the model in `folder`, as PEFT writes it. */
export async function makeLora(folder, rank, seed) {
  const file = await open(path.join(folder, UNET));
  const size = Number((await file.read(Buffer.alloc(8), 0, 8, 0)).buffer.readBigUInt64LE(0));
  const header = JSON.parse((await file.read(Buffer.alloc(size), 0, size, 8)).buffer);
  await file.close();
  let state = seed;
  const chance = (count) => {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      values[i] = (state / 2 ** 32 - 0.5) * 0.02;
    }
    return Buffer.from(values.buffer);
  };
  const layers = Object.entries(header).filter(([name]) => /\.attn[12]\.to_(q|k|v|out\.0)\.weight$/.test(name));
  return safetensors(new Map(layers.flatMap(([name, { shape: [rows, columns] }]) => [["A", [rank, columns]], ["B", [rows, rank]]].map(([factor, shape]) =>
    [`unet.${name.replace(/weight$/, `lora_${factor}.weight`)}`, { dtype: "F32", shape, bytes: chance(shape[0] * shape[1]) }]))));
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

/**
 * Milliseconds from asking for an image until its first step begins, less those in which its prompt is encoded: where it comes
 * with another LoRA of rank 8 than the last one, and where its model is loaded from disk in place of another, `load` and all.
 * The medians of `rounds`.
 *
 * @param {import("playwright-core").Page} page a bare page, with `engine`
 * @returns {Promise<{load: number, change: number}>}
 */
export async function switching(page, folder, { dtype, rounds }) {
  const loras = [await makeLora(folder, 8, 1), await makeLora(folder, 8, 2)];
  for (const [i, bytes] of loras.entries()) page.server.files.set(`/lora-${i}`, { bytes });
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("input"), { type: "file", id: "model", webkitdirectory: true })));
  await page.setInputFiles("#model", folder);
  const seen = await page.evaluate(async ([dtype, rounds]) => {
    const files = [...document.getElementById("model").files];
    const blobs = await Promise.all([0, 1].map(async (i) => (await fetch(`/lora-${i}`)).blob()));
    const draw = async (lora, began = performance.now()) => {
      const at = {};
      const job = engine.generate({ prompt: "a cat", steps: 1, guidance: 1, width: 16, height: 16, seed: 1, previews: false, loras: [{ name: `lora-${lora}`, scale: 1 }] });
      for await (const { phase } of job) at[phase] = performance.now();
      return at.encoding_prompts - began + at.sampling - at.loading_model;
    };
    const load = async () => {
      const began = performance.now();
      await engine.load(files, { dtype });
      return began;
    };
    // What a first image takes for compiling is none of it.
    await load();
    for (const [i, blob] of blobs.entries()) await engine.addLora(blob, `lora-${i}`);
    await draw(0);
    const seen = { load: [], change: [] };
    for (let i = 0; i < rounds; i++) {
      await engine.load();
      seen.load.push(await draw(0, await load()));
      seen.change.push(await draw(1), await draw(0));
    }
    for (const i of [0, 1]) await engine.removeLora(`lora-${i}`);
    return seen;
  }, [dtype, rounds]);
  return { load: median(seen.load), change: median(seen.change) };
}

/** What `switching` found, in words. */
export const told = ({ load, change }) => `to another LoRA ${change.toFixed(0)} ms, loading the model ${load.toFixed(0)} ms: ${(change / load).toFixed(3)}`;
