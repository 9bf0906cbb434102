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
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** One of the symbols at the top of index.html. */
export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** A button that is an icon; its label is its tooltip too. */
export function iconButton(name, label, onclick, properties = {}) {
  return el("button.icon", { type: "button", "aria-label": label, title: label, onclick, ...properties }, icon(name));
}

/** Lets `element` come in gently, once: not again whenever its panel is shown. */
export function fresh(element) {
  element.classList.add("fresh");
  element.addEventListener("animationend", ({ target }) => target === element && element.classList.remove("fresh"));
  return element;
}

/**
 * Shows what went wrong in `box`; a way out may come with it as `[label, action]`.
 * @param {string} [name] of a file or folder: a message that begins with it keeps it as it is
 */
export function complain(box, error, way, name) {
  const text = typeof error === "string" ? error : error?.message ?? String(error);
  const named = /^\S+\.\w+:/.test(text) || (name && text.startsWith(name));
  const said = (named ? text : text.charAt(0).toUpperCase() + text.slice(1)) + (/[.!?)]$/.test(text) ? "" : ".");
  const before = document.activeElement;
  // The button goes with the message: the focus goes back to where it was, or to the content.
  const leave = () => {
    hush(box);
    before.focus({ preventScroll: true });
    if (document.activeElement === document.body) $("main").focus({ preventScroll: true });
  };
  const button = way && el("button", { type: "button", "data-testid": "error-way", onclick: () => { leave(); way[1](); } }, way[0]);
  box.replaceChildren(el("span", {}, said), ...(button ? [button] : []), iconButton("close", "Dismiss", leave));
  box.hidden = false;
}

export function hush(box) {
  box.hidden = true;
  box.replaceChildren();
}

/** Gives the focus to `to` where one of `gone` has it, which is about to be hidden: who works with keys keeps their place. */
export function passFocus(to, ...gone) {
  if (gone.includes(document.activeElement)) to.focus({ preventScroll: true });
}

/** For those who listen instead of looking. */
export function announce(text) {
  $("announce").textContent = text;
}

export function setBar(bar, share) {
  const done = Math.min(1, Math.max(0, share));
  bar.setAttribute("aria-valuenow", String(Math.round(100 * done)));
  bar.style.setProperty("--done", String(done));
}

/** A canvas of an ImageBitmap, smoothly enlarged to about `least` pixels so that small images do not look like bricks. */
export function canvasOf(image, label, least = 512) {
  const canvas = el("canvas", { role: "img", "aria-label": label });
  draw(canvas, image, least);
  return canvas;
}

export function draw(canvas, image, least = 512) {
  const factor = Math.max(1, Math.round(least / Math.max(image.width, image.height)));
  const [width, height] = [image.width * factor, image.height * factor];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
}

/** Files dropped anywhere on `target` or chosen with `input` go to `take`; `mark` shows that they are welcome. */
export function dropZone(target, input, take, mark = target) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) take(files);
  });
  overZone(target, mark);
  target.addEventListener("dragover", (event) => event.preventDefault());
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
}

/** Marks `mark` while files hang over `target`. */
export function overZone(target, mark = target) {
  let depth = 0;
  const show = () => mark.classList.toggle("over", depth > 0);
  target.addEventListener("dragenter", () => { depth += 1; show(); });
  target.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); show(); });
  target.addEventListener("drop", () => { depth = 0; show(); });
}

/** `text` with the words of `words` marked: they stand for somebody's subject. */
export function marked(text, words) {
  return text.split(/(\s+)/).map((part) => (words.has(part.replace(/[.,;:!?]+$/, "")) ? el("mark", {}, part) : part));
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Asks the browser to keep what this page stores when room gets short; it decides by itself, or asks. */
export function lasting() {
  navigator.storage?.persist?.().catch(() => {});
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function size(bytes) {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** The number in an input, or undefined where it is empty. */
export const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
