// Vision models that judge a training: one for likeness, and a CLIP for the prompt.
import { $, announce, complain, el, hush, iconButton, size } from "./dom.js";

const SEES = { vision: "likeness to your images", clip: "likeness to what the class is" };

export function startJudges(app, changed) {
  /** By the option of a training: what it is, and its files, for an engine that takes the place of a lost one. */
  const judges = new Map();

  async function add(files) {
    hush($("judge-error"));
    try {
      if (!app.engine) throw new Error("The engine is gone: start it again first");
      const info = await app.engine.addVisionModel(files);
      const before = judges.get(info.option);
      judges.set(info.option, { info, files });
      // One that judges a training just now stays until it is removed.
      if (before && before.info.name !== info.name) await app.engine.removeVisionModel(before.info.name).catch(() => {});
      announce(`${info.name} is added`);
    } catch (error) {
      complain($("judge-error"), error, null, files[0].webkitRelativePath.split("/")[0]);
    }
    changed();
  }

  async function remove(option) {
    hush($("judge-error"));
    try {
      await app.engine?.removeVisionModel(judges.get(option).info.name);
      judges.delete(option);
    } catch (error) {
      complain($("judge-error"), error);
    }
    changed();
    $("judge-folder").focus();
  }

  /** Why the model of `option` would have nothing to do. */
  function idle(option) {
    if (!$("evaluate-every").value && !$("stop-plateau").checked) return "not used: “Evaluated every” is empty";
    return option === "clip" && !$("prior").checked ? "not used: it compares with the class, which “Prior preservation” names" : null;
  }

  function show() {
    $("judges").replaceChildren(...[...judges].map(([option, { info }]) => el("div.lora.other", { role: "listitem", "data-testid": "judge" },
      el("div", {}, el("b", { title: info.name }, info.name), el("small", {}, idle(option) ?? `${SEES[option]}, ${size(info.bytes)}`)),
      iconButton("close", `Remove ${info.name}`, () => remove(option), { "data-testid": "judge-remove" }))));
    $("judges-hint").textContent = judges.size === 0 ? "Colours alone. A vision model also sees shapes: a folder with DINO or DINOv2 for likeness, one with CLIP for the prompt."
      : !judges.has("vision") ? "Likeness by colours alone: a DINO or DINOv2 also sees shapes." : "A CLIP would judge the prompt too.";
    $("judges-hint").hidden = judges.size === 2;
  }

  /** Gives a new engine what the last one had. */
  app.restoreJudges = async () => {
    for (const judge of judges.values()) {
      if (app.engine?.visionModels().some(({ name }) => name === judge.info.name)) continue;
      judge.info = (await app.engine?.addVisionModel(judge.files).catch(() => null)) ?? judge.info;
    }
  };

  $("judge-folder").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = "";
    if (files.length) add(files);
  });
  /** What of a job is decided here. */
  const asked = () => Object.fromEntries([...judges].filter(([option]) => !idle(option)).map(([option, { info }]) => [option, info.name]));
  return { show, asked };
}
