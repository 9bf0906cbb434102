// The model: what is loaded, and how to load another.
import { $, announce, complain, el, hush, lasting, overZone, passFocus, setBar, size } from "./dom.js";

const count = (n) => (n < 1e9 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} million` : `${(n / 1e9).toFixed(2)} billion`);
const bundled = (model) => model.name === "bundled";

export function startModel(app) {
  /** What is loaded, to load it again when the device was lost; undefined is the bundled model. */
  let source;
  let dtype = "auto";
  /** What the engine has. */
  let held = null;
  let abort = null;

  /** Whether a model is there afterwards. */
  async function load(asked, as = $("dtype").value) {
    if (!app.engine) return false;
    hush($("model-error"));
    if (app.training && held) {
      $("dtype").value = dtype;
      complain($("model-error"), "A training holds the engine: pause it, or let it end, and load another model then");
      return false;
    }
    if (typeof asked === "string") lasting();
    abort?.abort();
    const mine = new AbortController();
    abort = mine;
    const progress = $("model-progress");
    const onprogress = ({ done, total, text }) => {
      if (abort !== mine) return;
      const share = total ? done / total : 0;
      const sizes = total > 1e5 ? `, ${size(done)} of ${size(total)}` : "";
      progress.querySelector(".text").textContent = text.charAt(0).toUpperCase() + text.slice(1) + sizes;
      setBar(progress.querySelector(".bar"), share);
      $("model-name").textContent = `Loading, ${Math.round(100 * share)} %`;
    };
    progress.hidden = false;
    onprogress({ done: 0, total: 0, text: "Loading" });
    $("model-name").textContent = "Loading…";
    $("model-dot").className = "dot";
    app.ready(null);
    try {
      const model = await app.engine.load(asked, { dtype: as === "auto" ? undefined : as, onprogress, signal: mine.signal });
      if (abort !== mine) return false;
      [source, dtype, held] = [asked, as, model];
      announce(`${title(model)} is loaded`);
      if (model.inpaints) complain($("model-error"), "This is an inpainting model: under Generate, start from an image and paint over what is to be repainted");
    } catch (error) {
      if (abort !== mine) return false;
      if (error.kind !== "interrupted" && app.engine) {
        if (asked === undefined && !held) complain($("page-error"), error, ["Try again", () => load(undefined, as)]);
        else {
          complain($("model-error"), error);
          app.show("models");
        }
      }
    }
    passFocus($("model-folder"), $("model-cancel"));
    progress.hidden = true;
    $("dtype").value = dtype;
    if (!app.engine) return false;
    // What was loaded before is loaded still.
    if (!held && asked !== undefined) return load(undefined, "auto");
    shown();
    if (held) await app.restoreLoras();
    await app.restoreJudges();
    app.ready(held);
    return held !== null;
  }

  const title = (model) => (bundled(model) ? "Miniature model" : model.name);

  function shown() {
    $("model-bundled").hidden = !held || bundled(held);
    if (!held) {
      $("model-name").textContent = "No model";
      return;
    }
    $("model-name").textContent = title(held);
    $("model-dot").className = "dot ready";
    $("model-title").textContent = bundled(held) ? "The miniature" : held.name;
    $("model-note").textContent = bundled(held)
      ? `It comes with the page so that something happens at once: ${held.pixels} × ${held.pixels} pixels, in the style of emoji. Good for trying everything out, not for posters. Load a real model for those.`
      : "";
    const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
    $("model-facts").replaceChildren(
      fact("Family", held.family),
      fact("Native size", `${held.pixels} × ${held.pixels} pixels`),
      fact("Parameters", count(held.parameters)),
      fact("Size on disk", size(held.bytes)),
      fact("Predicts", held.prediction === null ? "unknown until the first image" : held.prediction === "v" ? "velocity" : "noise"),
      fact("Its own settings", `${held.sampler}, ${held.steps} steps, guidance ${held.guidance}`),
      ...(dtype === "auto" ? [] : [fact("Weights held as", dtype)]),
    );
  }

  app.load = (asked) => load(asked);
  /** For a new engine: the same model again. */
  app.reload = () => {
    held = null;
    return load(source, dtype);
  };

  $("model-open").addEventListener("click", () => app.show("models", true));
  $("model-cancel").addEventListener("click", () => abort?.abort());
  $("model-bundled").addEventListener("click", () => load(undefined));
  $("dtype").addEventListener("change", () => load(source));
  for (const id of ["model-file", "model-folder"]) {
    $(id).addEventListener("change", ({ target }) => {
      const files = [...target.files];
      target.value = "";
      if (files.length) load(id === "model-file" ? files[0] : files);
    });
  }
  overZone($("model-drop"));
  // A folder goes into the input as it is, so that its files know their paths; a single file is taken from it.
  $("model-drop").addEventListener("drop", (event) => {
    const [item] = event.dataTransfer.items;
    if (item?.webkitGetAsEntry?.()?.isDirectory) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) load(file);
  });
  $("model-url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    load($("model-url").value.trim());
  });
}
