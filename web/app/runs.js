// Trainings that a reload, a crash or a pause has left in this browser's storage.
import { $, complain, el, hush, marked, setBar } from "./dom.js";

export function startRuns(app, { busy, hidden, resume }) {
  let asked = 0;

  async function show() {
    const mine = ++asked;
    // While one runs, the others wait unseen.
    const runs = app.engine && app.model && !busy() ? await app.engine.runs().catch(() => []) : [];
    if (mine !== asked) return;
    const left = runs.filter((run) => run.state !== "running" && run.id !== hidden());
    $("runs").hidden = left.length === 0;
    $("runs").replaceChildren(...left.map(row));
    remind(left.find((run) => run.state === "paused"));
  }

  /** Who comes back to the other panels hears of it too. */
  function remind(run) {
    const line = $("unfinished");
    line.hidden = !run || !$("panel-train").hidden;
    if (!run) return hush(line);
    const go = el("button.link", { type: "button", onclick: () => app.show("train", true) }, "Go on with it");
    line.replaceChildren("The training of “", ...marked(run.prompt, app.words), `” stopped at step ${run.step} of ${run.steps}. `, go);
  }

  function row(run) {
    const elsewhere = run.state === "running elsewhere";
    const share = run.steps ? run.step / run.steps : 0;
    const bar = el("div.bar", { role: "progressbar", "aria-label": `Progress of ${run.prompt}`, "aria-valuemin": "0", "aria-valuemax": "100" }, el("i"));
    setBar(bar, share);
    const state = elsewhere ? "running in another tab" : `stopped at step ${run.step} of ${run.steps}, ${ago(run.updated)}`;
    const forget = async () => {
      try {
        await app.engine.forget(run.id);
      } catch (error) {
        complain($("train-error"), error);
      }
      await show();
      $("tab-train").focus();
    };
    const buttons = elsewhere ? [] : [
      el("button.primary", { type: "button", "aria-label": `Resume ${run.prompt}`, "data-testid": "resume", onclick: () => resume(run) }, "Resume"),
      el("button.quiet", { type: "button", "aria-label": `Delete ${run.prompt}`, "data-testid": "forget", onclick: forget }, "Delete"),
    ];
    return el(`div.run${elsewhere ? ".elsewhere" : ""}`, { role: "listitem", "data-testid": "run", "data-id": run.id, "data-state": run.state },
      el("div", {}, ...marked(run.prompt, app.words), el("small", {}, state)), !elsewhere && bar, ...buttons);
  }

  document.addEventListener("panel", () => show());
  // Another tab may have ended its training meanwhile.
  document.addEventListener("visibilitychange", () => !document.hidden && show());
  app.changed.push(show);
  return { show };
}

/** "5 minutes ago". */
function ago(time) {
  const minutes = Math.round((time - Date.now()) / 60_000);
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  if (minutes > -1) return "just now";
  if (minutes > -90) return format.format(minutes, "minute");
  if (minutes > -60 * 36) return format.format(Math.round(minutes / 60), "hour");
  return format.format(Math.round(minutes / 1440), "day");
}
