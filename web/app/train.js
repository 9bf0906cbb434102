// What a training needs: images, words, and how long.
import { $, el, hush, lasting, marked, number, size } from "./dom.js";
import { startJudges } from "./judges.js";
import { startPhotos } from "./photos.js";
import { startTraining } from "./training.js";

/** What is usual: the miniature learns faster than a model of full size. */
const USUAL = { bundled: { lr: "0.001", "class-count": "16" }, other: { lr: "0.0001", "class-count": "100" } };

export function startTrain(app) {
  const photos = startPhotos(app, changed);
  const judges = startJudges(app, changed);
  const training = startTraining(app, changed);
  let planning = 0;

  const words = () => {
    const [word, kind] = [$("identifier").value.trim(), $("class").value.trim()];
    return { word, kind, prompt: `a ${word} ${kind}`, classPrompt: `a ${kind}` };
  };

  function changed() {
    const { word, kind, prompt, classPrompt } = words();
    const [known, prior, pictures] = [word !== "" && kind !== "", $("prior").checked, photos.files().length];
    const line = (name, ...said) => el("div", {}, el("dt", {}, name), el("dd", {}, ...said));
    $("prompts").replaceChildren(
      line("Your images show", ...(known ? ["“", ...marked(prompt, new Set([word])), "”"] : ["…"])),
      ...(prior ? [line("All others stay", known ? `“${classPrompt}”` : "…")] : []));
    $("sample-prompt").placeholder = known ? `${prompt} in the snow` : "";
    $("class-count-field").hidden = !prior;
    judges.show();
    const lacks = [pictures === 0 && "images", !kind && "a word for what it is", !word && "its own word"].filter(Boolean);
    $("train").disabled = !app.model || training.busy() || lacks.length > 0;
    if (!app.model) hint("There is no model yet.");
    else if (lacks.length) hint(`Still needed: ${lacks.join(" and ")}.`);
    else plan();
  }

  function hint(text) {
    planning += 1;
    $("train-hint").textContent = text;
  }

  /** Says what memory this training takes, once nobody types any more. */
  async function plan() {
    hint("");
    const mine = planning;
    await new Promise((resolve) => setTimeout(resolve, 500));
    if (mine !== planning || !app.model || training.busy()) return;
    try {
      const { images, ...job } = asked();
      const { peakBytes } = await app.engine.plan("train", job);
      if (mine === planning) $("train-hint").textContent = `Takes about ${size(peakBytes)} of graphics memory.`;
    } catch { /* the training itself says what is wrong */ }
  }

  function asked() {
    const { kind, prompt, classPrompt } = words();
    const prior = $("prior").checked;
    return { images: photos.files().map((file) => ({ name: file.name, blob: file })), prompt, name: kind,
      classPrompt: prior ? classPrompt : undefined, classCount: prior ? number("class-count") : undefined,
      steps: number("train-steps"), rank: number("rank"), lr: number("lr"), seed: number("train-seed"), resolution: number("resolution"),
      targets: $("targets").value, checkpointing: $("checkpointing").value, textEncoder: $("text-encoder").checked,
      samplePrompts: [$("sample-prompt").value.trim() || `${prompt} in the snow`], sampleEvery: number("sample-every"), saveEvery: number("save-every"),
      evaluateEvery: number("evaluate-every"), ...judges.asked(), stop: $("stop-plateau").checked ? "plateau" : undefined };
  }

  $("train-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!app.model || training.busy()) return;
    hush($("train-error"));
    app.learn(words().word);
    const job = asked();
    lasting();
    training.run(app.engine.train(job), job);
  });

  let kind = null;
  app.changed.push(() => {
    if (app.model) {
      Object.assign($("resolution"), { placeholder: String(app.model.pixels), step: app.model.factor, min: app.model.factor });
      const now = app.model.name === "bundled" ? "bundled" : "other";
      // Values of one's own are left alone.
      for (const [id, value] of Object.entries(USUAL[now])) if (kind !== now && $(id).value === USUAL[kind ?? "bundled"][id]) $(id).value = value;
      kind = now;
    }
    changed();
  });
  $("train-form").addEventListener("input", changed);
  // What is folded away cannot be complained about.
  $("train-more").addEventListener("invalid", () => { $("train-more").open = true; }, true);
}
