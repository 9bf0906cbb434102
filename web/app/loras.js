// LoRAs of the next pictures, each with its scale.
import { $, complain, dropZone, el, hush } from "./dom.js";

export function startLoras(app) {
  /** name -> scale */
  const scales = new Map();

  async function add(files) {
    hush($("lora-error"));
    for (const file of files) {
      try {
        await app.engine?.addLora(file, file.name.replace(/\.safetensors$/, ""));
      } catch (error) {
        complain($("lora-error"), error);
      }
    }
    show();
  }

  function show() {
    const loras = app.engine?.loras() ?? [];
    for (const name of [...scales.keys()]) if (!loras.some((lora) => lora.name === name)) scales.delete(name);
    $("loras").replaceChildren(...loras.map(row));
    $("compare-row").hidden = loras.length === 0;
  }

  function row(lora) {
    if (!scales.has(lora.name)) scales.set(lora.name, 1);
    const output = el("output", {}, scales.get(lora.name).toFixed(2));
    const slider = el("input", { type: "range", min: 0, max: 2, step: 0.05, value: scales.get(lora.name), "aria-label": `Scale of ${lora.name}` });
    slider.addEventListener("input", () => {
      scales.set(lora.name, Number(slider.value));
      output.textContent = Number(slider.value).toFixed(2);
    });
    const remove = async () => {
      await app.engine?.removeLora(lora.name);
      show();
      $("lora-file").focus();
    };
    const unmatched = lora.unmatched.length ? `, ${lora.unmatched.length} keys match nothing` : "";
    return el("div.lora", {}, el("b", {}, lora.name),
      el("button.icon", { type: "button", "aria-label": `Remove ${lora.name}`, onclick: remove }, "×"),
      el("label.scale", {}, el("span.sr", {}, "Scale"), slider, output),
      el("small", {}, `rank ${lora.rank}, ${lora.layers} layers${unmatched}`));
  }

  dropZone($("lora-drop"), add);
  app.changed.push(show);
  app.showLoras = show;
  return () => [...scales].map(([name, scale]) => ({ name, scale }));
}
