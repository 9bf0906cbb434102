// Images: the form, and the image as it forms.
import { $, announce, complain, draw, el, hush, number, passFocus, setBar } from "./dom.js";
import { startGallery } from "./gallery.js";
import { startLoras } from "./loras.js";
import { compiling } from "./labels.js";
import { startStart } from "./start.js";

const TRIES = ["a dog wearing a crown", "a panda at night", "a line drawing of a fox", "a cat in the snow"];
const random = () => crypto.getRandomValues(new Uint32Array(1))[0];

export function startGenerate(app) {
  const loras = startLoras(app);
  const gallery = startGallery(app, use);
  const started = startStart(app);
  let job = null;
  let stopped = false;
  /** Between a press of Generate and its job. */
  let asking = false;
  /** Ends the waiting for a job that has not begun. */
  let giveUp = () => {};

  app.changed.push(() => {
    $("generate").disabled = !app.model || job !== null;
    for (const button of $("tries").children) button.disabled = !app.model;
    if (!app.model) return;
    const { pixels, factor, steps, guidance, sampler } = app.model;
    for (const id of ["width", "height"]) Object.assign($(id), { step: factor, min: factor, placeholder: String(pixels) });
    $("steps").placeholder = String(steps);
    $("guidance").placeholder = String(guidance);
    $("sampler").options[0].textContent = `model default (${sampler})`;
  });

  $("tries").append(...TRIES.map((text) => el("button", { type: "button", onclick: () => {
    $("prompt").value = text;
    $("generate-form").requestSubmit();
  } }, text)));
  $("dice").addEventListener("click", () => {
    $("seed").value = String(random());
    announce(`Seed ${$("seed").value}`);
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("generate-form").requestSubmit();
  });
  $("stop").addEventListener("click", () => {
    if (stopped) return;
    stopped = true;
    $("stop").setAttribute("aria-disabled", "true");
    $("status").textContent = "Stopping…";
    job?.stop();
    giveUp();
  });

  function asked() {
    return { prompt: $("prompt").value.trim(), negative: $("negative").value.trim() || undefined, steps: number("steps"),
      guidance: number("guidance"), sampler: $("sampler").value || undefined, seed: number("seed") ?? random(),
      count: number("count") ?? 1, width: number("width"), height: number("height"), loras: loras() };
  }

  $("generate-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!app.model || job || asking) return;
    hush($("generate-error"));
    let options;
    asking = true;
    try {
      options = { ...asked(), ...(await started()) };
    } catch (error) {
      return complain($("generate-error"), error);
    } finally {
      asking = false;
    }
    const compare = $("compare").checked && options.loras.length > 0;
    const parts = compare ? [options, { ...options, loras: [] }] : [options];
    const session = gallery.session(options, compare);
    stopped = false;
    busy(true, options);
    try {
      for (const [part, job_] of parts.entries()) {
        job = app.engine.generate(job_);
        for await (const said of begun(job)) {
          if (said.type === "picture") session.add(said, part);
          if (said.type === "warning") session.warn(said.text);
          tell(said, options.count, part, parts.length);
        }
        if (stopped) break;
      }
      announce(stopped ? "Stopped" : options.count > 1 || compare ? "The images are done" : "The image is done");
    } catch (error) {
      // Of a lost device the whole page speaks.
      if (app.engine) complain($("generate-error"), error);
    } finally {
      job = null;
      session.end();
      busy(false);
    }
  });

  /** The events of `job`. A stop before the first one is not waited for: a training may hold the device for an hour. */
  async function* begun(job) {
    const events = job[Symbol.asyncIterator]();
    const left = new Promise((resolve) => { giveUp = () => resolve({ done: true }); });
    try {
      for (let next = await Promise.race([events.next(), left]); !next.done; next = await events.next()) {
        giveUp = () => {};
        yield next.value;
      }
    } finally {
      giveUp = () => {};
      // Where nobody waits any more, it ends by itself when its turn comes.
      events.return().catch(() => {});
    }
  }

  function busy(is, options) {
    $("generate").disabled = is || !app.model;
    $("generate").hidden = is;
    passFocus($("generate"), $("stop"));
    $("stop").hidden = !is;
    $("stop").removeAttribute("aria-disabled");
    $("live").hidden = !is;
    $("gallery-empty").hidden = is || gallery.size() > 0;
    if (!is) return;
    const { pixels } = app.model;
    Object.assign($("preview"), { width: options.width ?? pixels, height: options.height ?? pixels, hidden: true });
    $("status").textContent = app.training ? "Waits until the training is done or paused" : "Starting…";
    setBar($("live").querySelector(".bar"), 0);
    announce("Generating");
    if ($("live").getBoundingClientRect().top > innerHeight - 120) $("live").scrollIntoView({ block: "nearest" });
    $("stop").focus({ preventScroll: true });
  }

  function tell(said, pictures, part, parts) {
    if (stopped) return void said.image?.close();
    if (said.type === "phase") $("status").textContent = said.name.charAt(0).toUpperCase() + said.name.slice(1);
    if (said.type === "compiling" && $("preview").hidden) $("status").textContent = compiling(said);
    if (said.type !== "preview") return;
    draw($("preview"), said.image);
    $("preview").hidden = false;
    said.image.close();
    const all = pictures * parts;
    const at = part * pictures + said.index;
    $("status").textContent = `Step ${said.step} of ${said.steps}${all > 1 ? `, image ${at + 1} of ${all}` : ""}`;
    setBar($("live").querySelector(".bar"), (at + said.step / said.steps) / all);
  }

  /** Takes over what an image of the gallery was made with. */
  function use(seed, options) {
    $("seed").value = String(seed);
    $("prompt").value = options.prompt;
    $("negative").value = options.negative ?? "";
    $("count").value = "1";
    $("generate-form").scrollIntoView({ block: "nearest" });
    $("prompt").focus();
    announce(`Seed ${seed} is set`);
  }
}
