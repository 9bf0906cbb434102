// Training: photos, words, and the run as it goes.
import { $, canvasOf, complain, dropZone, duration, el, hush, number, save, setBar } from "./dom.js";
import { Plot } from "./plot.js";

const FORMATS = [["diffusers", "diffusers, ComfyUI"], ["kohya", "A1111 (kohya)"], ["peft", "PEFT"]];

export function startTrain(app) {
  /** @type {{file: File, thumb: HTMLElement}[]} */
  let photos = [];
  let job = null;
  const plot = new Plot($("plot"));

  const prompts = () => {
    const [word, kind] = [$("identifier").value.trim(), $("class").value.trim()];
    return { prompt: `a ${word} ${kind}`, classPrompt: `a ${kind}` };
  };

  function changed() {
    const { prompt, classPrompt } = prompts();
    const known = $("class").value.trim() !== "";
    $("prompts").replaceChildren(...(known ? ["Your photos show ", el("b", {}, `“${prompt}”`), ...($("prior").checked ? [", others ", el("b", {}, `“${classPrompt}”`)] : []), "."] : ["Say what it is in one word: dog, vase, teddy bear."]));
    $("sample-prompt").placeholder = known ? `${prompt} in the snow` : "";
    $("class-count-field").hidden = !$("prior").checked;
    $("train").disabled = !app.model || job !== null || photos.length === 0 || !known;
    if (app.model) Object.assign($("resolution"), { placeholder: String(app.model.side), step: app.model.factor });
    $("thumbs").replaceChildren(...photos.map(({ thumb }) => thumb));
    plot.redraw();
  }

  async function add(files) {
    hush($("train-error"));
    for (const file of files) {
      try {
        const seen = await app.engine.preparePicture(file, number("resolution"));
        const photo = { file };
        const remove = () => {
          photos = photos.filter((other) => other !== photo);
          changed();
          $("photos").focus();
        };
        photo.thumb = el("div.thumb", { role: "listitem", "data-testid": "thumb" }, canvasOf(seen.image, file.name, 192), el("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: remove }, "×"));
        photos.push(photo);
      } catch (error) {
        complain($("train-error"), `${file.name}: ${error.message.replace(/^\/prepare: /, "")}`);
      }
      changed();
    }
  }

  $("train-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!app.engine || job) return;
    const prior = $("prior").checked;
    const words = prompts();
    run(app.engine.train({
      images: photos.map(({ file }) => ({ name: file.name, blob: file })), prompt: words.prompt, name: $("class").value.trim(),
      classPrompt: prior ? words.classPrompt : undefined, classCount: prior ? number("class-count") : undefined,
      steps: number("train-steps"), rank: number("rank"), lr: number("lr"), seed: number("train-seed"), resolution: number("resolution"),
      targets: $("targets").value, checkpointing: $("checkpointing").value, textEncoder: $("text-encoder").checked,
      samplePrompts: [$("sample-prompt").value.trim() || `${words.prompt} in the snow`], sampleEvery: number("sample-every"), saveEvery: number("save-every"),
    }), words.prompt);
  });

  async function run(started, prompt) {
    job = started;
    hush($("train-error"));
    $("train-empty").hidden = true;
    $("training").hidden = false;
    $("training-done").hidden = true;
    $("samples").replaceChildren();
    $("training-title").textContent = `Learning ${prompt}`;
    plot.clear(number("train-steps"));
    for (const id of ["pause", "finish"]) Object.assign($(id), { hidden: false, disabled: false });
    changed();
    const clock = { began: performance.now(), first: null };
    try {
      for await (const said of job) tell(said, clock, prompt);
    } catch (error) {
      complain($("train-error"), error);
      $("training-status").textContent = "Stopped by an error; what was saved is kept.";
    } finally {
      job = null;
      for (const id of ["pause", "finish"]) $(id).hidden = true;
      changed();
      offer();
    }
  }

  function tell(said, clock, prompt) {
    const status = $("training-status");
    const bar = $("training-bar");
    if (said.type === "phase") {
      status.textContent = said.text;
      if (said.text !== "training") setBar(bar, 0);
    }
    if (said.type === "warning") status.textContent = said.text;
    if (said.type === "progress" && said.total) {
      setBar(bar, said.done / said.total);
      status.textContent = `${status.textContent.split(":")[0]}: ${said.unit} ${said.done} of ${said.total}`;
    }
    if (said.type === "step") {
      clock.first ??= { step: said.step, at: performance.now() };
      const each = (performance.now() - clock.first.at) / 1000 / (said.step - clock.first.step || 1);
      const left = said.step > clock.first.step ? `, ${duration(each * (said.steps - said.step - 1))} left` : "";
      status.textContent = `Step ${said.step + 1} of ${said.steps}, loss ${said.loss.toFixed(3)}${left}`;
      setBar(bar, (said.step + 1) / said.steps);
      plot.steps = said.steps;
      plot.add(said.step, said.loss);
    }
    if (said.type === "sample") {
      const canvas = canvasOf(said.image, `${said.prompt} after step ${said.step}`, 256);
      $("samples").append(el("figure", { role: "listitem", "data-testid": "sample" }, canvas, el("figcaption", {}, `step ${said.step}`)));
    }
    if (said.type === "paused") status.textContent = `Paused after step ${said.step}. It is saved: resume it when you like, here or after a reload.`;
    if (said.type === "storage") complain($("train-error"), `${said.message} Training ended here, and the LoRA is below: download it now.`);
    if (said.type === "done") finished(said, prompt, clock);
  }

  function finished({ lora, step }, prompt, clock) {
    const took = duration((performance.now() - clock.began) / 1000);
    $("training-status").textContent = `Done: ${step} steps in ${took}.`;
    const download = async (format) => {
      try {
        save(await app.engine.convert(lora.name, format), `${lora.name}-${format}.safetensors`);
      } catch (error) {
        complain($("train-error"), error);
      }
    };
    const tryIt = () => {
      $("prompt").value = `${prompt} wearing a crown`;
      $("compare").checked = true;
      app.showLoras();
      app.show("generate", true);
    };
    const buttons = FORMATS.map(([format, label]) => el("button.quiet", { type: "button", "data-testid": `download-${format}`, onclick: () => download(format) }, label));
    $("training-done").replaceChildren(el("h2", {}, "Your LoRA is ready"), el("div.row", {}, el("button.primary", { type: "button", "data-testid": "try", onclick: tryIt }, "Try it")),
      el("p.hint", {}, "Or take it with you, for"), el("div.row", {}, ...buttons));
    $("training-done").hidden = false;
    app.showLoras();
  }

  /** Trainings that a reload, a crash or a pause has left. */
  async function offer() {
    if (!app.engine || !app.model) return;
    const runs = (await app.engine.runs().catch(() => [])).filter((run) => run.state !== "running");
    $("runs").hidden = runs.length === 0;
    $("runs").replaceChildren(...runs.map((run) => {
      const elsewhere = run.state === "running elsewhere";
      const forget = async () => {
        await app.engine.forget(run.id).catch((error) => complain($("train-error"), error));
        offer();
      };
      const buttons = elsewhere ? [] : [
        el("button.primary", { type: "button", "data-testid": "resume", disabled: job !== null, onclick: () => run_(run) }, "Resume"),
        el("button.quiet", { type: "button", "aria-label": `Delete ${run.prompt}`, "data-testid": "forget", onclick: forget }, "Delete"),
      ];
      const state = elsewhere ? "running in another tab" : `step ${run.step} of ${run.steps}, ${new Date(run.updated).toLocaleString()}`;
      return el("div.run", { "data-testid": "run" }, el("div", {}, el("b", {}, run.prompt), el("small", {}, state)), ...buttons);
    }));
  }

  function run_({ id, prompt }) {
    $("runs").hidden = true;
    run(app.engine.resume(id), prompt);
  }

  $("pause").addEventListener("click", () => { $("pause").disabled = true; job?.pause(); });
  $("finish").addEventListener("click", () => { $("finish").disabled = true; job?.finish(); });
  for (const id of ["identifier", "class", "prior"]) $(id).addEventListener("input", changed);
  dropZone($("photo-drop"), add);
  document.addEventListener("panel", ({ detail }) => detail === "train" && (plot.redraw(), offer()));
  app.changed.push(changed, offer);
}
