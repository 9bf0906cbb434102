// Small helpers for the page's own elements.

export const $ = (id) => document.getElementById(id);

/** An element: `el("p.hint", {title: "x"}, "text", child)`. */
export function el(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Shows what went wrong in `box`; a way out may come with it as `[label, action]`. */
export function complain(box, error, way) {
  const text = typeof error === "string" ? error : error?.message ?? String(error);
  const close = el("button", { type: "button", "aria-label": "Dismiss", onclick: () => hush(box) }, "×");
  const button = way && el("button", { type: "button", onclick: () => { hush(box); way[1](); } }, way[0]);
  box.replaceChildren(el("span", {}, text), ...(button ? [button] : []), close);
  box.hidden = false;
}

export function hush(box) {
  box.hidden = true;
  box.replaceChildren();
}

export function setBar(bar, share) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
  bar.setAttribute("aria-valuenow", String(percent));
  bar.style.setProperty("--done", `${percent}%`);
}

/** A canvas of an ImageBitmap, smoothly enlarged to about `least` pixels so that small pictures do not look like bricks. */
export function canvasOf(image, label, least = 512) {
  const canvas = el("canvas", { role: "img", "aria-label": label });
  draw(canvas, image, least);
  return canvas;
}

export function draw(canvas, image, least = 512) {
  const factor = Math.max(1, Math.round(least / Math.max(image.width, image.height)));
  canvas.width = image.width * factor;
  canvas.height = image.height * factor;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

/** Files dropped on `target` or chosen with the input in it go to `take`. */
export function dropZone(target, take) {
  const input = target.querySelector("input[type=file]");
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    take(files);
  });
  for (const type of ["dragenter", "dragover"]) {
    target.addEventListener(type, (event) => {
      event.preventDefault();
      target.classList.add("over");
    });
  }
  target.addEventListener("dragleave", () => target.classList.remove("over"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** The number in an input, or undefined where it is empty. */
export const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
