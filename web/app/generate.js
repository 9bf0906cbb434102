// Pictures: the form, the preview, the gallery.
import { $, canvasOf, complain, draw, el, hush, number, save, setBar } from "./dom.js";
import { startLoras } from "./loras.js";

export function startGenerate(app) {
  const loras = startLoras(app);
  let job = null;
  let shots = 0;

  app.changed.push(() => {
    $("generate").disabled = !app.model || job !== null;
    if (!app.model) return;
    const { side, factor, steps, guidance } = app.model;
    for (const id of ["width", "height"]) {
      Object.assign($(id), { step: factor, min: factor, placeholder: String(side) });
    }
    $("steps").placeholder = String(steps);
    $("guidance").placeholder = String(guidance);
  });

  $("dice").addEventListener("click", () => { $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]); });
  $("stop").addEventListener("click", () => job?.stop());

  function asked() {
    return { prompt: $("prompt").value.trim(), negative: $("negative").value.trim() || undefined, steps: number("steps"),
      guidance: number("guidance"), sampler: $("sampler").value || undefined, seed: number("seed") ?? 0,
      count: number("count") ?? 1, width: number("width"), height: number("height"), loras: loras() };
  }

  $("generate-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!app.engine || job) return;
    hush($("generate-error"));
    const options = asked();
    const compare = $("compare").checked && options.loras.length > 0;
    busy(true);
    const made = new Map();
    try {
      for (const part of compare ? [options, { ...options, loras: [] }] : [options]) {
        const label = compare ? (part.loras.length ? "with" : "without") : null;
        job = app.engine.generate(part);
        let stopped = true;
        for await (const said of job) {
          if (said.type === "picture") place(made, said, label, options);
          if (said.type === "done") stopped = false;
          tell(said, options.count);
        }
        if (stopped) break;
      }
    } catch (error) {
      complain($("generate-error"), error);
    } finally {
      job = null;
      busy(false);
    }
  });

  function busy(is) {
    $("generate").disabled = is || !app.model;
    $("stop").hidden = !is;
    $("live").hidden = !is;
    $("gallery-empty").hidden = is || shots > 0;
    if (is) {
      $("status").textContent = "Waiting for the engine";
      setBar($("live").querySelector(".bar"), 0);
      $("preview").hidden = true;
    }
  }

  function tell(said, pictures) {
    if (said.type === "phase") $("status").textContent = said.text;
    if (said.type === "warning") $("status").textContent = said.text;
    if (said.type === "preview") {
      $("preview").hidden = false;
      draw($("preview"), said.image);
      said.image.close();
      $("status").textContent = `Step ${said.step} of ${said.steps}${pictures > 1 ? `, picture ${said.index + 1} of ${pictures}` : ""}`;
      setBar($("live").querySelector(".bar"), (said.index * said.steps + said.step) / (said.steps * pictures));
    }
  }

  /** Puts a picture into the gallery: alone, or beside its twin of the same seed. */
  function place(made, said, label, options) {
    const frame = el("figure.frame", { "data-testid": "picture" }, canvasOf(said.image, `${said.prompt}, seed ${said.seed}${label ? `, ${label} the LoRA` : ""}`), label && el("span", {}, label));
    const twin = made.get(said.seed);
    const name = `portray-${said.seed}${label === "without" ? "-without" : ""}.png`;
    const download = el("a", { href: "#", onclick: (event) => { event.preventDefault(); save(said.png, name); } }, label ? `Download ${label}` : "Download");
    if (twin) {
      twin.querySelector(".frames").append(frame);
      twin.querySelector(".row a").after(download);
      return;
    }
    const again = el("button.link", { type: "button", onclick: () => use(said, options) }, "Use this seed");
    const facts = said.parameters.split("\n").pop().replace(/, Version: .*/, "").replace(/, Model: [^,]*/, "");
    const shot = el(`article.shot${label ? ".pair" : ""}`, { role: "listitem" }, el("div.frames", {}, frame), el("p", {}, said.prompt), el("small", { title: said.parameters }, facts), el("div.row", {}, download, again));
    made.set(said.seed, shot);
    $("gallery").prepend(shot);
    shots += 1;
  }

  function use(said, options) {
    $("seed").value = String(said.seed);
    $("prompt").value = options.prompt;
    $("count").value = "1";
    $("prompt").focus();
  }
}
