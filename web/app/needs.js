// What a model at an address takes, before it is downloaded; with models that are small enough for a tab.
import { $, announce, complain, el, hush, passFocus, size } from "./dom.js";

/** Published as safetensors by those who trained them, on servers that let other pages read them. */
const SMALL = [
  ["BK-SDM-tiny", "https://huggingface.co/nota-ai/bk-sdm-tiny/resolve/main"],
  ["Segmind-Vega", "https://huggingface.co/segmind/Segmind-Vega/resolve/main"],
];

export function startNeeds(app) {
  const box = $("model-needs");
  /** The look that is awaited. */
  let looking = null;

  async function show() {
    const address = $("model-url");
    if (!app.engine || !address.reportValidity()) return;
    hush($("model-error"));
    if (app.training) return complain($("model-error"), "A training holds the engine: pause it, or let it end, and look then");
    const url = address.value.trim();
    looking?.abort();
    const mine = new AbortController();
    looking = mine;
    box.hidden = false;
    box.replaceChildren(el("p", {}, "Reading what it is…"));
    try {
      const needs = await app.engine.requirements(url, { signal: mine.signal });
      if (looking === mine) told(url, needs);
    } catch (error) {
      if (looking !== mine) return;
      box.hidden = true;
      if (error.kind !== "interrupted" && app.engine) complain($("model-error"), error);
    }
  }

  function told(url, { name, bytes, missing, room, types }) {
    const load = (dtype) => {
      $("dtype").value = dtype;
      passFocus($("model-title"), ...box.querySelectorAll("button"));
      box.hidden = true;
      app.load(url);
    };
    const way = ({ dtype, peakBytes, fits }) => el("div", { role: "listitem", "data-testid": "need" },
      el("div", {}, el("b", {}, dtype), el("small", {}, `one image takes ${size(peakBytes)} of graphics memory${fits ? "" : ", which this adapter cannot give now"}`)),
      fits && el("button.quiet", { type: "button", "aria-label": `Load ${name} as ${dtype}`, "data-testid": `need-${dtype}`, onclick: () => load(dtype) }, "Load"));
    const download = missing === 0 ? "all of it is in this browser" : `${size(missing)} to download${missing < bytes ? ` of ${size(bytes)}` : ""}`;
    const short = missing > room ? `, more than the ${size(room)} that this browser has room for` : "";
    const fitting = types.filter(({ fits }) => fits).map(({ dtype }) => dtype);
    const sum = fitting.length ? "Weights can be held as:" : "It does not fit, however its weights are held.";
    box.replaceChildren(el("p", {}, el("b", {}, name), `: ${download}${short}. ${sum}`), el("div", { role: "list" }, ...types.map(way)));
    announce(`${name}: ${download}. ${fitting.length ? `It fits as ${fitting.join(", ")}` : "It does not fit"}`);
  }

  $("model-small").append(...SMALL.map(([name, url]) => el("button.quiet", { type: "button", "data-testid": `small-${name}`, onclick: () => {
    $("model-url").value = url;
    show();
  } }, name)));
  $("model-weigh").addEventListener("click", show);
  $("model-url").addEventListener("input", () => {
    looking?.abort();
    looking = null;
    box.hidden = true;
  });
}
