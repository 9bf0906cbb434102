// Screenshots as an animated WebP (https://developers.google.com/speed/webp/docs/riff_container). Chromium encodes the
// frames, each only where it differs from the one before.

/** Frames are compared in blocks of so many pixels, those of VP8. */
const BLOCK = 16;

/**
 * An animated WebP of screenshots.
 *
 * @param {import("playwright-core").Page} page any that can encode: none of the film is drawn on it
 * @param {{png: Buffer, ms: number}[]} shots all of one size, and how long each is seen
 * @param {{quality?: number}} [options] of the encoder, 0 to 1
 * @returns {Promise<Buffer>}
 */
export async function film(page, shots, { quality = 0.8 } = {}) {
  const frames = [];
  let size = null;
  for (const { png, ms } of shots) {
    const made = await page.evaluate(encoded, [png.toString("base64"), quality, BLOCK]);
    size ??= made;
    // What shows nothing new is the frame before, for longer.
    if (made.webp) frames.push({ ...made, ms });
    else frames.at(-1).ms += ms;
  }
  await page.evaluate(() => { delete globalThis.lastFrame; });
  return container(size.width, size.height, frames);
}

/** In the page: the part of a frame that differs from the last one, what did not change in it transparent. */
async function encoded([base64, quality, block]) {
  const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const words = new Uint32Array(data.buffer);
  const last = globalThis.lastFrame;
  globalThis.lastFrame = words;
  const differs = (x, y) => {
    for (let row = y; row < Math.min(height, y + block); row++) {
      for (let at = row * width + x; at < row * width + Math.min(width, x + block); at++) if (words[at] !== last[at]) return true;
    }
    return false;
  };
  let [left, top, right, bottom] = last ? [width, height, 0, 0] : [0, 0, width, height];
  for (let y = 0; last && y < height; y += block) {
    for (let x = 0; x < width; x += block) {
      if (!differs(x, y)) {
        context.clearRect(x, y, block, block);
        continue;
      }
      [left, top] = [Math.min(left, x), Math.min(top, y)];
      [right, bottom] = [Math.max(right, Math.min(width, x + block)), Math.max(bottom, Math.min(height, y + block))];
    }
  }
  if (right <= left) return { width, height };
  const part = new OffscreenCanvas(right - left, bottom - top);
  part.getContext("2d").drawImage(canvas, -left, -top);
  const blob = await part.convertToBlob({ type: "image/webp", quality });
  if (blob.type !== "image/webp") throw new Error("this browser encodes no WebP");
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return { width, height, left, top, across: right - left, down: bottom - top, webp: btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join("")) };
}

/** A chunk of RIFF: its name, its length, its bytes, an even number of them. */
function chunk(name, ...parts) {
  const body = Buffer.concat(parts);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return Buffer.concat([Buffer.from(name, "latin1"), length, body, Buffer.alloc(body.length % 2)]);
}

const u24 = (...values) => Buffer.concat(values.map((value) => Buffer.from([value, value >> 8, value >> 16])));

/** The chunks of a still WebP that hold its pixels: VP8 or VP8L, and before VP8 its transparency. */
function pixels(webp) {
  const found = [];
  for (let at = 12; at + 8 <= webp.length;) {
    const end = at + 8 + webp.readUInt32LE(at + 4);
    if (["ALPH", "VP8 ", "VP8L"].includes(webp.toString("latin1", at, at + 4))) found.push(webp.subarray(at, end + (end % 2)));
    at = end + (end % 2);
  }
  return found;
}

function container(width, height, frames) {
  const [ANIMATED, TRANSPARENT] = [0x02, 0x10];
  const head = chunk("VP8X", Buffer.from([ANIMATED | TRANSPARENT, 0, 0, 0]), u24(width - 1, height - 1));
  // Nothing lies below the first frame, and it begins again for ever.
  const animation = chunk("ANIM", Buffer.alloc(4), Buffer.alloc(2));
  const all = frames.map(({ left, top, across, down, ms, webp }) => chunk("ANMF",
    u24(left / 2, top / 2, across - 1, down - 1, ms), Buffer.from([0]), ...pixels(Buffer.from(webp, "base64"))));
  return chunk("RIFF", Buffer.from("WEBP"), head, animation, ...all);
}
