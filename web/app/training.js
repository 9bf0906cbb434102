// A training as it goes: loss, samples, time left; and the LoRA in the end.
import { $, announce, canvasOf, complain, duration, el, fresh, hush, marked, passFocus, save, setBar } from "./dom.js";
import { Plot } from "./plot.js";
import { startRuns } from "./runs.js";

const FORMATS = [["diffusers", "diffusers, ComfyUI"], ["peft", "PEFT"], ["kohya", "A1111, kohya’s scripts"]];
const TITLE = document.title;

export function startTraining(app, changed) {
  const plot = new Plot($("plot"));
  let job = null;
  /** The training on show: `{ id, prompt, steps }`. */
  let current = null;
  const runs = startRuns(app, {
    busy: () => job !== null,
    /** A paused training is resumed in its own view. */
    hidden: () => ($("training").hidden ? null : current?.id),
    resume: (run) => run_(app.engine.resume(run.id), run),
  });

  /** @param {import("../portray.js").TrainingJob} started */
  async function run_(started, { prompt, steps }) {
    const goesOn = current?.id === started.id && !$("training").hidden;
    job = started;
    current = { id: started.id, prompt, steps };
    hush($("train-error"));
    if (!goesOn) {
      plot.clear(steps ?? 1);
      $("samples").replaceChildren();
      $("samples-empty").hidden = false;
      $("samples-empty").textContent = "The first one comes soon.";
    }
    show(true);
    $("training-title").replaceChildren("Learning “", ...marked(prompt, app.words), "”");
    $("training-status").textContent = app.model ? "Starting…" : "Waits for a model";
    $("training-title").focus();
    announce(`Training ${prompt} has started`);
    const clock = { began: performance.now(), each: null, last: null };
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
    Object.assign($("finish"), { ariaDisabled: null, hidden: !running });
    $("again").hidden = running;
    changed();
    runs.show();
  }

  function tell(said, clock) {
    const status = $("training-status");
    const bar = $("training-bar");
    if (said.type === "phase") {
      status.textContent = `${said.text.charAt(0).toUpperCase()}${said.text.slice(1)}…`;
      announce(said.text);
      clock.phase = said.text;
      clock.last = null;
    }
    if (said.type === "warning") complain($("train-error"), said.text);
    if (said.type === "progress" && said.total) {
      setBar(bar, said.done / said.total);
      const phase = clock.phase ? `${clock.phase.charAt(0).toUpperCase()}${clock.phase.slice(1)}: ` : "";
      status.textContent = `${phase}${said.unit} ${said.done} of ${said.total}`;
    }
    if (said.type === "step") step(said, clock);
    if (said.type === "sample") {
      $("samples-empty").hidden = true;
      const canvas = canvasOf(said.image, `${said.prompt}, after step ${said.step}`, 384);
      said.image.close();
      $("samples").prepend(fresh(el("div.sample", { role: "listitem", "data-testid": "sample", "data-step": said.step }, el("div.mount", {}, canvas), el("p", {}, `step ${said.step}`))));
      announce(`A sample after step ${said.step}`);
      clock.last = null;
    }
    if (said.type === "storage") complain($("train-error"), `${said.message.replace(/\.$/, "")}. Training ended here; the LoRA is ready: download it now`);
  }

  function step({ step, steps, loss }, clock) {
    const now = performance.now();
    // Samples and saving are no steps: only neighbours are timed.
    if (clock.last !== null) {
      const took = (now - clock.last) / 1000;
      clock.each = clock.each === null ? took : clock.each + (took - clock.each) * 0.1;
    }
    clock.last = now;
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
      status.textContent = `Paused after ${end.step} steps. It is saved: resume it here, or any time after a reload.`;
      Object.assign($("pause"), { textContent: "Resume", className: "primary", hidden: false });
      $("pause").dataset.testid = "resume";
      $("pause").focus();
      announce("Paused");
    } else {
      // Of a lost device the whole page speaks.
      if (end?.error && app.engine) complain($("train-error"), end.error);
      current = null;
      show(false);
    }
  }

  function finished({ lora, file }, prompt) {
    const download = async (format) => {
      hush($("train-error"));
      try {
        const blob = app.engine ? await app.engine.convert(lora.name, format) : file;
        save(blob, `${lora.name}-${format}.safetensors`);
      } catch (error) {
        complain($("train-error"), error);
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
    $("training-done").replaceChildren(
      el("div", {}, el("h3", {}, "Your LoRA is ready"), el("p.hint", {}, `It is called ${lora.name} and waits under Generate. Download it to keep it.`)),
      el("div.takes", {}, el("small", {}, "Download for"), ...buttons),
      el("button.primary", { type: "button", "data-testid": "try", onclick: tryIt }, "Try it"));
    $("training-done").hidden = false;
  }

  // What was asked is asked once; a button that were disabled would lose the focus.
  const asked = () => $("pause").ariaDisabled || $("finish").ariaDisabled;
  $("pause").addEventListener("click", () => {
    if (asked()) return;
    if (job) {
      $("pause").ariaDisabled = "true";
      $("pause").textContent = "Pausing…";
      job.pause();
    } else if (current && app.model) run_(app.engine.resume(current.id), current);
  });
  $("finish").addEventListener("click", () => {
    if (asked()) return;
    $("finish").ariaDisabled = "true";
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
