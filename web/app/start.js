// The image to start from: chosen or dropped; for inpainting models with a mask, painted over it or from a file.
import { $, complain, dropZone, hush, number } from "./dom.js";

/** Side of the largest mask: it is scaled to the latents anyway. */
const MOST = 1024;

export function startStart(app) {
  /** @type {{file: File, image: ImageBitmap} | null} */
  let start = null;
  /** White where the image is repainted, else clear; of the image's aspect. */
  const mask = new OffscreenCanvas(1, 1);
  let painted = false;
  let last = null;
  const view = $("start-view");

  async function open([file]) {
    hush($("generate-error"));
    const image = await createImageBitmap(file).catch(() => null);
    if (!image) return complain($("generate-error"), `${file.name} is no image that this browser reads`);
    close();
    start = { file, image };
    const scale = Math.min(1, MOST / Math.max(image.width, image.height));
    Object.assign(mask, { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
    Object.assign(view, { width: mask.width, height: mask.height });
    $("start-name").textContent = file.name;
    $("strength").value = "";
    clear();
    show();
  }

  function close() {
    start?.image.close();
    start = null;
    show();
  }

  function clear() {
    mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
    painted = false;
    draw();
  }

  /** The image, and over it in colour what is repainted. */
  function draw() {
    if (!start) return;
    const context = view.getContext("2d");
    const { width, height } = view;
    context.globalAlpha = 1;
    context.drawImage(start.image, 0, 0, width, height);
    if (!painted) return;
    context.globalAlpha = 0.7;
    context.drawImage(filled("#0f5f4e", "source-in"), 0, 0);
  }

  /** The mask with `colour` in it, or behind it. */
  function filled(colour, how) {
    const canvas = new OffscreenCanvas(mask.width, mask.height);
    const context = canvas.getContext("2d");
    context.drawImage(mask, 0, 0);
    context.globalCompositeOperation = how;
    context.fillStyle = colour;
    context.fillRect(0, 0, mask.width, mask.height);
    return canvas;
  }

  function show() {
    $("start-with").hidden = !start;
    $("start-add").hidden = Boolean(start);
    const inpaints = Boolean(app.model?.inpaints);
    for (const tool of document.querySelectorAll("#start-with .painting")) tool.hidden = !inpaints;
    view.classList.toggle("paints", inpaints);
    view.setAttribute("aria-label", inpaints ? "The image to start from: paint over what is to be repainted" : "The image to start from");
    $("strength").placeholder = inpaints ? "1" : "0.7";
  }

  /** A stroke of the brush from the last point to that of `event`. */
  function stroke(event) {
    const box = view.getBoundingClientRect();
    const point = [((event.clientX - box.left) * view.width) / box.width, ((event.clientY - box.top) * view.height) / box.height];
    const context = mask.getContext("2d");
    Object.assign(context, { strokeStyle: "white", lineCap: "round", lineJoin: "round", lineWidth: (Number($("brush").value) / 100) * Math.min(mask.width, mask.height) });
    context.beginPath();
    context.moveTo(...(last ?? point));
    context.lineTo(...point);
    context.stroke();
    last = point;
    painted = true;
    draw();
  }

  view.addEventListener("pointerdown", (event) => {
    if (!start || !app.model?.inpaints) return;
    view.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  view.addEventListener("pointermove", (event) => { if (last) stroke(event); });
  for (const type of ["pointerup", "pointercancel"]) view.addEventListener(type, () => { last = null; });
  dropZone($("start"), $("init-file"), open);
  $("mask-file").addEventListener("change", async ({ target }) => {
    const [file] = target.files;
    target.value = "";
    const image = file && (await createImageBitmap(file).catch(() => null));
    if (!image) return file && complain($("generate-error"), `${file.name} is no image that this browser reads`);
    clear();
    const context = mask.getContext("2d");
    context.drawImage(image, 0, 0, mask.width, mask.height);
    image.close();
    // What is bright becomes white, what is dark clear.
    const pixels = context.getImageData(0, 0, mask.width, mask.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const light = (pixels.data[i] + pixels.data[i + 1] + pixels.data[i + 2]) / 3;
      pixels.data.set([255, 255, 255, (light * pixels.data[i + 3]) / 255], i);
    }
    context.putImageData(pixels, 0, 0);
    painted = true;
    draw();
  });
  $("mask-clear").addEventListener("click", clear);
  $("start-remove").addEventListener("click", () => {
    close();
    $("init-file").focus();
  });
  app.changed.push(show);

  /** What of a job is decided here; throws where an inpainting model has nothing to do. */
  return async () => {
    if (!start) {
      if (app.model.inpaints) throw new Error("An inpainting model repaints a part of an image: start from an image, and paint over that part");
      return {};
    }
    const given = { init: start.file, strength: number("strength") };
    if (!app.model.inpaints) return given;
    if (!painted) throw new Error("Paint over what is to be repainted, or choose a mask: an image that is white there");
    return { ...given, mask: await filled("black", "destination-over").convertToBlob() };
  };
}
