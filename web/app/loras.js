// LoRAs of the next pictures, each with its scale.
import { $, announce, complain, dropZone, el, hush, iconButton } from "./dom.js";

export function startLoras(app) {
  /** name -> scale */
  const scales = new Map();

  async function add(files) {
    hush($("lora-error"));
    for (const file of files) {
      const name = file.name.replace(/\.safetensors$/i, "");
      try {
        if (!app.model) throw new Error("There is no model to add a LoRA to yet");
        await app.engine.addLora(file, name);
        app.files.set(name, file);
        announce(`${name} is added`);
      } catch (error) {
        complain($("lora-error"), `${file.name}: ${error.message}`);
      }
    }
    show();
  }

  function show() {
    const loras = app.engine?.loras() ?? [];
    // What a new engine gets again keeps its scale.
    for (const name of [...scales.keys()]) if (!app.files.has(name)) scales.delete(name);
    $("loras").replaceChildren(...loras.map(row));
    $("compare-row").hidden = loras.length === 0;
  }

  function row(lora) {
    if (!scales.has(lora.name)) scales.set(lora.name, 1);
    const output = el("output", {}, scales.get(lora.name).toFixed(2));
    const slider = el("input", { type: "range", min: 0, max: 2, step: 0.05, value: scales.get(lora.name), "aria-label": `Scale of ${lora.name}`, "data-testid": "lora-scale" });
    slider.addEventListener("input", () => {
      scales.set(lora.name, Number(slider.value));
      output.textContent = Number(slider.value).toFixed(2);
    });
    const remove = async () => {
      try {
        await app.engine?.removeLora(lora.name);
        app.files.delete(lora.name);
      } catch (error) {
        complain($("lora-error"), error);
      }
      show();
      $("lora-file").focus();
    };
    const unmatched = lora.unmatched.length ? `, ${lora.unmatched.length} keys match nothing` : "";
    return el("div.lora", { role: "listitem", "data-testid": "lora" },
      el("div", {}, el("b", { title: lora.name }, lora.name), el("small", {}, `rank ${lora.rank}${unmatched}`)),
      el("div.scale", {}, slider, output),
      iconButton("close", `Remove ${lora.name}`, remove, { "data-testid": "lora-remove" }));
  }

  /** Gives a new engine what the last one had. */
  app.restoreLoras = async () => {
    const have = new Set(app.engine.loras().map((lora) => lora.name));
    for (const [name, file] of app.files) {
      if (have.has(name)) continue;
      try {
        await app.engine.addLora(file, name);
      } catch {
        app.files.delete(name);
      }
    }
    show();
  };

  dropZone($("panel-generate"), $("lora-file"), add, $("lora-drop"));
  app.changed.push(show);
  app.showLoras = show;
  return () => (app.engine?.loras() ?? []).map(({ name }) => ({ name, scale: scales.get(name) ?? 1 }));
}
