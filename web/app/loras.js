// LoRAs of the next images, each with its scale.
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
        const added = await app.engine.addLora(file, name);
        app.files.set(added.name, file);
        announce(`${added.name} is added`);
      } catch (error) {
        complain($("lora-error"), `${file.name}: ${error.message}`);
      }
    }
    show();
  }

  function show() {
    const loras = app.engine?.loras() ?? [];
    const others = app.engine?.otherLoras() ?? [];
    // What a new engine gets again keeps its scale.
    const known = new Set([...loras, ...others].map((lora) => lora.name).concat([...app.files.keys()]));
    for (const name of [...scales.keys()]) if (!known.has(name)) scales.delete(name);
    $("loras").replaceChildren(...loras.map(row), ...others.map(other));
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
    const unmatched = lora.unmatched.length ? `, ${lora.unmatched.length} keys match nothing` : "";
    return el("div.lora", { role: "listitem", "data-testid": "lora" },
      el("div", {}, el("b", { title: lora.name }, lora.name), el("small", {}, `rank ${lora.rank}${unmatched}`)),
      el("div.scale", {}, slider, output),
      removal(lora.name));
  }

  /** One that the model has no layers for. */
  function other({ name, why }) {
    return el("div.lora.other", { role: "listitem", title: why, "data-testid": "lora-other" },
      el("div", {}, el("b", { title: name }, name), el("small", {}, "for another model")), removal(name));
  }

  function removal(name) {
    const remove = async () => {
      try {
        await app.engine?.removeLora(name);
        app.files.delete(name);
      } catch (error) {
        complain($("lora-error"), error);
      }
      show();
      $("lora-file").focus();
    };
    return iconButton("close", `Remove ${name}`, remove, { "data-testid": "lora-remove" });
  }

  /** Gives a new engine, or another model, what was there before. */
  app.restoreLoras = async () => {
    const have = new Set([...app.engine.loras(), ...app.engine.otherLoras()].map((lora) => lora.name));
    for (const [name, file] of app.files) {
      // What does not fit this model may fit the next one.
      if (!have.has(name)) await app.engine?.addLora(file, name).catch(() => {});
    }
    show();
  };

  dropZone($("panel-generate"), $("lora-file"), add, $("lora-drop"));
  app.changed.push(show);
  app.showLoras = show;
  return () => (app.engine?.loras() ?? []).map(({ name }) => ({ name, scale: scales.get(name) ?? 1 }));
}
