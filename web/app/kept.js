// What this browser keeps beside trainings and LoRAs: downloaded models, parts of them, and class images.
import { $, announce, complain, el, hush, size } from "./dom.js";

export function startKept(app) {
  let asked = 0;

  async function show() {
    if ($("panel-models").hidden) return;
    const mine = ++asked;
    const { engine } = app;
    const [models, cached] = engine ? await Promise.all([engine.models(), engine.cacheBytes()]).catch(() => [[], 0]) : [[], 0];
    if (mine !== asked) return;
    const rows = models.map((model) => row(model.name, facts(model), !model.loaded && (() => engine.forgetModel(model.key)), !model.loaded && model.url));
    if (cached > 0) rows.push(row("Class images", `${size(cached)}, made again where a training needs them`, () => engine.clearCache()));
    $("kept").hidden = rows.length === 0;
    $("kept-list").replaceChildren(...rows);
  }

  const facts = (model) => [size(model.bytes), !model.whole && "a part: load its address again to go on", model.loaded && "loaded"].filter(Boolean).join(", ");

  function row(name, about, drop, url) {
    const remove = async () => {
      hush($("model-error"));
      try {
        await drop();
        announce(`${name} is deleted`);
      } catch (error) {
        complain($("model-error"), error);
      }
      await show();
      $("model-title").focus({ preventScroll: true });
    };
    return el("div", { role: "listitem", "data-testid": "kept-row" },
      el("div", {}, el("b", {}, name), el("small", {}, about)),
      url && el("button.quiet", { type: "button", "aria-label": `Load ${name}`, "data-testid": "kept-load", onclick: () => app.load(url) }, "Load"),
      drop && el("button.quiet", { type: "button", "aria-label": `Delete ${name}`, "data-testid": "kept-delete", onclick: remove }, "Delete"));
  }

  document.addEventListener("panel", show);
  app.changed.push(show);
}
