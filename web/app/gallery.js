// The images on the wall, and one of them large.
import { $, canvasOf, el, fresh, iconButton, marked, save } from "./dom.js";

/** What is worth reading beside an image, of the parameters that are in its file. */
function facts(parameters, options, said) {
  const found = new Map([...parameters.split("\n").pop().matchAll(/([A-Z][\w ]*): ("[^"]*"|[^,]*)/g)].map(([, key, value]) => [key, value.trim()]));
  const parts = [found.get("Sampler"), found.has("Steps") && `${found.get("Steps")} steps`, found.has("CFG scale") && `guidance ${found.get("CFG scale")}`,
    `seed ${said.seed}`, `${said.width} × ${said.height}`, ...options.loras.map(({ name, scale }) => `${name} ${scale.toFixed(2)}`)];
  return parts.filter(Boolean).join(" · ");
}

export function startGallery(app, use) {
  let shown = 0;
  const viewer = $("viewer");
  $("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());

  function enlarge(canvas, said) {
    const copy = el("canvas", { width: canvas.width, height: canvas.height, role: "img", "aria-label": canvas.getAttribute("aria-label") });
    copy.getContext("2d").drawImage(canvas, 0, 0);
    $("viewer-mount").replaceChildren(copy);
    $("viewer-text").textContent = said.parameters;
    viewer.showModal();
  }

  /** The images of one press of the button; with `compare` in pairs of one seed each. */
  function session(options, compare) {
    const cards = new Map();
    let warning = "";

    function frame(said, part) {
      const label = `${said.prompt}, seed ${said.seed}${compare ? (part === 0 ? ", with LoRA" : ", without LoRA") : ""}`;
      const canvas = canvasOf(said.image, label);
      said.image.close();
      const name = `portray-${said.seed}${part === 1 ? "-without" : ""}.png`;
      const download = iconButton("save", `Download PNG${compare ? (part === 0 ? ", with LoRA" : ", without LoRA") : ""}`, () => save(said.png, name), { "data-testid": "download" });
      const open = el("button", { type: "button", "aria-label": `Enlarge: ${label}`, onclick: () => enlarge(canvas, said) }, canvas);
      const box = el("div.frame", { "data-testid": "picture", "data-seed": said.seed, "data-part": compare ? ["with", "without"][part] : "" }, open, compare && el("span", {}, part === 0 ? "with" : "without", download));
      return { box, download };
    }

    return {
      add(said, part) {
        const { box, download } = frame(said, part);
        const card = cards.get(said.seed);
        if (card) return card.querySelector(".waiting").replaceWith(box);
        const waiting = compare && el("div.waiting", { "aria-label": "the one without comes next", role: "img" });
        const made = el(`div.card${compare ? ".pair" : ""}`, { role: "listitem", "data-testid": "card" },
          el("div.mount", {}, box, waiting),
          el("div.label", {},
            el("p.title", {}, ...marked(said.prompt, app.words)),
            el("p.facts-line", { title: said.parameters, "data-testid": "parameters" }, facts(said.parameters, options, said), warning && ` · ${warning}`),
            !compare && el("div.tools", {}, download),
            el("button.link", { type: "button", "aria-label": `Use this seed, ${said.seed}`, "data-testid": "use-seed", onclick: () => use(said.seed, options) }, "Use this seed")));
        fresh(made);
        cards.set(said.seed, made);
        $("gallery").prepend(made);
        shown += 1;
      },
      warn(text) {
        warning = text;
      },
      /** What a stop has left undone is not waited for. */
      end() {
        for (const card of cards.values()) {
          card.querySelector(".waiting")?.remove();
          if (compare && card.querySelectorAll(".frame").length < 2) card.classList.remove("pair");
        }
      },
    };
  }

  return { session, size: () => shown };
}
