// The model: what is loaded, and how to load another.
import { $, complain, el, hush, setBar } from "./dom.js";

const gigabytes = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);
const count = (n) => (n < 1e9 ? `${(n / 1e6).toFixed(1)} million` : `${(n / 1e9).toFixed(2)} billion`);

export function startModel(app) {
  const panel = $("model-panel");
  const toggle = (open = panel.hidden) => {
    panel.hidden = !open;
    $("model-open").setAttribute("aria-expanded", String(open));
  };
  $("model-open").addEventListener("click", () => toggle());
  panel.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    toggle(false);
    $("model-open").focus();
  });

  /** What was asked for last, for when the device is lost. */
  let source;
  let abort = null;

  async function load(asked) {
    if (!app.engine) return;
    hush($("model-error"));
    abort?.abort();
    abort = new AbortController();
    const { signal } = abort;
    const progress = $("model-progress");
    const bar = progress.querySelector(".bar");
    const onprogress = ({ done, total, text }) => {
      progress.hidden = false;
      const sizes = total > 1e5 ? ` ${gigabytes(done)} of ${gigabytes(total)}` : "";
      progress.querySelector(".text").textContent = text + sizes;
      setBar(bar, total ? done / total : 0);
    };
    $("model-name").textContent = "Loading…";
    app.ready(null);
    try {
      const dtype = $("dtype").value;
      const model = await app.engine.load(asked, { dtype: dtype === "auto" ? undefined : dtype, onprogress, signal });
      source = asked;
      shown(model);
      app.ready(model);
    } catch (error) {
      if (error.kind !== "interrupted") {
        toggle(true);
        complain($("model-error"), error);
      }
      // What was loaded before is loaded still.
      if (app.last) {
        shown(app.last);
        app.ready(app.last);
      } else if (asked !== undefined && app.engine) {
        await load(undefined);
      } else {
        $("model-name").textContent = "No model";
      }
    } finally {
      progress.hidden = true;
    }
  }

  function shown(model) {
    app.last = model;
    const bundled = model.name === "bundled";
    $("model-name").textContent = bundled ? "Miniature model" : model.name;
    $("model-dot").className = "dot ready";
    const fact = (name, value) => el("div", {}, el("span", {}, name), value);
    $("model-facts").replaceChildren(
      fact("Model", bundled ? "bundled miniature, drawn like emoji" : model.name),
      fact("Family", model.family),
      fact("Made for", `${model.side} × ${model.side} pixels`),
      fact("Parameters", count(model.parameters)),
      fact("Size", gigabytes(model.bytes)),
      fact("Predicts", model.prediction === "v" ? "velocity" : "noise"),
    );
  }

  app.reload = () => {
    app.last = null;
    return load(source);
  };
  $("model-cancel").addEventListener("click", () => abort?.abort());
  $("model-bundled").addEventListener("click", () => load(undefined));
  $("dtype").addEventListener("change", () => load(source));
  $("model-file").addEventListener("change", ({ target }) => target.files[0] && load(target.files[0]));
  $("model-folder").addEventListener("change", ({ target }) => target.files.length && load([...target.files]));
  $("model-url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("model-url").value.trim()) load($("model-url").value.trim());
  });
}
