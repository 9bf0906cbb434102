// A training as it goes: loss, samples, time left; and the LoRA in the end.
import { $, announce, canvasOf, complain, duration, el, fresh, hush, marked, passFocus, save, setBar } from "./dom.js";
import { Curves } from "./curves.js";
import { Plot } from "./plot.js";
import { startRuns } from "./runs.js";
import { compiling } from "./labels.js";

const FORMATS = [["diffusers", "diffusers, ComfyUI"], ["peft", "PEFT"], ["kohya", "A1111, kohya’s scripts"]];
const TITLE = document.title;

export function startTraining(app, changed) {
  const plot = new Plot($("plot"));
  const curves = new Curves($("evaluations"));
  let job = null;
  /** The training on show: `{ id, prompt, steps }`. */
  let current = null;
  /** Pausing or finishing is asked once. A button that were disabled would lose the focus: it only says so. */
  let asked = false;
  /** Where a training's words are read now: on its own panel, or above every other. */
  const box = () => $($("panel-train").hidden ? "page-error" : "train-error");
  const runs = startRuns(app, {
    busy: () => job !== null,
    /** A paused training is resumed in its own view. */
    hidden: () => ($("training").hidden ? null : current?.id),
    resume: (run) => run_(app.engine.resume(run.id), run),
  });

  /** @param {import("../portray.js").TrainingJob} started */
  async function run_(started, { prompt, steps, sampleEvery }) {
    const goesOn = current?.id === started.id && !$("training").hidden;
    job = started;
    current = { id: started.id, prompt, steps };
    hush($("train-error"));
    if (!goesOn) {
      plot.clear(steps ?? 1);
      curves.clear();
      $("samples").replaceChildren();
      $("samples-empty").hidden = false;
      $("samples-empty").textContent = sampleEvery ? `The first one comes after step ${Math.min(sampleEvery, steps)}.` : "One comes now and then, as it learns.";
    }
    show(true);
    $("training-title").replaceChildren("Learning “", ...marked(prompt, app.words), "”");
    $("training-status").textContent = app.model ? "Starting…" : "Waits for a model";
    $("training-title").focus();
    announce(`Training ${prompt} has started`);
    const clock = { began: performance.now(), each: null, last: null, stepped: false };
    let end = null;
    try {
      for await (const said of job) {
        tell(said, clock);
        if (said.type === "done" || said.type === "paused") end = said;
      }
    } catch (error) {
      end = { type: "failed", error };
    }
    job = null;
    ended(end, clock);
  }

  function show(running) {
    const open = running || current !== null;
    app.training = running;
    $("train-dot").hidden = !running;
    $("training").hidden = !open;
    $("train-form").hidden = open;
    $("training-done").hidden = true;
    if (!running) passFocus($(open ? "training-title" : "tab-train"), $("pause"), $("finish"), $("training-title"));
    Object.assign($("pause"), { textContent: "Pause", className: "quiet", ariaDisabled: null, hidden: !running });
    $("pause").dataset.testid = "pause";
    // Before its first step there is nothing to finish with.
    Object.assign($("finish"), { ariaDisabled: "true", hidden: !running });
    asked = false;
    $("again").hidden = running;
    changed();
    runs.show();
  }

  function tell(said, clock) {
    const status = $("training-status");
    const bar = $("training-bar");
    if (said.type === "phase") {
      status.textContent = `${said.name.charAt(0).toUpperCase()}${said.name.slice(1)}…`;
      announce(said.name);
      clock.phase = said.name;
      clock.last = null;
    }
    if (said.type === "warning") complain(box(), said.text);
    if (said.type === "progress" && said.total) {
      setBar(bar, said.done / said.total);
      const phase = clock.phase ? `${clock.phase.charAt(0).toUpperCase()}${clock.phase.slice(1)}: ` : "";
      status.textContent = `${phase}${said.unit} ${said.done} of ${said.total}`;
    }
    // Kernels of validation samples take no time worth a word.
    if (said.type === "compiling" && !clock.stepped) {
      setBar(bar, said.done / said.total);
      status.textContent = compiling(said);
    }
    if (said.type === "step") step(said, clock);
    if (said.type === "evaluation") {
      curves.add(said);
      clock.last = null;
    }
    if (said.type === "sample") {
      $("samples-empty").hidden = true;
      const canvas = canvasOf(said.image, `${said.prompt}, after step ${said.step}`, 384);
      said.image.close();
      $("samples").prepend(fresh(el("div.sample", { role: "listitem", "data-testid": "sample", "data-step": said.step }, el("div.mount", {}, canvas), el("p", {}, `step ${said.step}`))));
      announce(`A sample after step ${said.step}`);
      clock.last = null;
    }
    if (said.type === "storage") complain(box(), `${said.message.replace(/\.$/, "")}. Training ended here; the LoRA is ready: download it now`);
  }

  function step({ step, steps, loss }, clock) {
    if (!asked) $("finish").ariaDisabled = null;
    const now = performance.now();
    // Samples and saving are no steps: only neighbours are timed.
    if (clock.last !== null) {
      const took = (now - clock.last) / 1000;
      clock.each = clock.each === null ? took : clock.each + (took - clock.each) * 0.1;
    }
    clock.last = now;
    clock.stepped = true;
    current.steps = steps;
    const left = clock.each === null ? "" : `, about ${duration(clock.each * (steps - step - 1))} left`;
    $("training-status").textContent = `Step ${step + 1} of ${steps}, loss ${loss.toFixed(3)}${step + 1 < steps ? left : ""}`;
    setBar($("training-bar"), (step + 1) / steps);
    plot.add(step, loss, steps);
    document.title = `${step + 1}/${steps} · ${TITLE}`;
  }

  function ended(end, clock) {
    document.title = TITLE;
    const { prompt } = current;
    show(false);
    const status = $("training-status");
    if (end?.type === "done") {
      const took = duration((performance.now() - clock.began) / 1000);
      status.textContent = `Done: ${end.step} steps in ${took}.`;
      $("training-title").replaceChildren("Learned “", ...marked(prompt, app.words), "”");
      app.files.set(end.lora.name, end.file);
      app.showLoras();
      finished(end, prompt);
      announce("The LoRA is ready");
    } else if (end?.type === "paused") {
      const saved = end.kept ? "It is saved: resume it here, or any time after a reload." : "Resume it here: this browser keeps no files for this page, so it goes with this tab.";
      status.textContent = `Paused after ${end.step} steps. ${saved}`;
      Object.assign($("pause"), { textContent: "Resume", className: "primary", hidden: false });
      $("pause").dataset.testid = "resume";
      $("pause").focus();
      announce("Paused");
    } else {
      // Of a lost device the whole page speaks.
      if (end?.error && app.engine) complain(box(), end.error);
      current = null;
      show(false);
    }
  }

  function finished({ lora, file, kept, best }, prompt) {
    // An engine that took the place of a lost one may not have it yet.
    const converted = async (format) => {
      const known = [...app.engine.loras(), ...app.engine.otherLoras()].some(({ name }) => name === lora.name);
      return app.engine.convert(known ? lora.name : (await app.engine.addLora(file, lora.name)).name, format);
    };
    const download = async (format) => {
      hush($("train-error"));
      try {
        // As it is, it has the layout of diffusers.
        const blob = format === "diffusers" ? file : await converted(format);
        save(blob, `${lora.name}-${format}.safetensors`);
      } catch (error) {
        complain($("train-error"), app.engine ? error : "The engine is gone: start it again for this layout, or take the one for diffusers");
      }
    };
    const tryIt = () => {
      $("prompt").value = `${prompt} wearing a crown`;
      $("compare").checked = true;
      app.showLoras();
      app.show("generate");
      $("prompt").focus();
    };
    const buttons = FORMATS.map(([format, label]) => el("button.quiet", { type: "button", "data-testid": `download-${format}`, onclick: () => download(format) }, format, el("small", {}, label)));
    if (best) buttons.push(el("button.quiet", { type: "button", "data-testid": "download-best", onclick: () => save(best.file, `${lora.name}-best.safetensors`) }, "best", el("small", {}, `as of step ${best.step}`)));
    $("training-done").replaceChildren(
      el("div", {}, el("h3", {}, "Your LoRA is ready"), el("p.hint", {}, `It is called ${lora.name} and waits under Generate. ${kept ? "This browser keeps it until you remove it there." : "Download it now: this browser does not keep it."}`)),
      el("div.takes", {}, el("small", {}, "Download for"), ...buttons),
      el("button.primary", { type: "button", "data-testid": "try", onclick: tryIt }, "Try it"));
    $("training-done").hidden = false;
  }

  $("pause").addEventListener("click", () => {
    if (asked) return;
    if (job) {
      asked = true;
      $("finish").ariaDisabled = "true";
      $("pause").ariaDisabled = "true";
      $("pause").textContent = "Pausing…";
      job.pause();
    } else if (current && app.model) run_(app.engine.resume(current.id), current);
  });
  $("finish").addEventListener("click", () => {
    if ($("finish").ariaDisabled) return;
    asked = true;
    $("finish").ariaDisabled = $("pause").ariaDisabled = "true";
    $("training-status").textContent = "Finishing…";
    job?.finish();
  });
  $("again").addEventListener("click", () => {
    current = null;
    show(false);
    $("tab-train").focus();
  });
  return { run: run_, busy: () => job !== null };
}
