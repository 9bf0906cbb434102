// The page: opens the engine, switches panels and themes, and says what is wrong with the whole.
import { Portray } from "../portray.js";
import { $, complain, el, hush } from "./dom.js";
import { startGenerate } from "./generate.js";
import { startModel } from "./model.js";
import { startTrain } from "./train.js";

/** What the parts share. */
const app = {
  engine: null,
  model: null,
  /** Called when the engine and its model are there, or gone. */
  changed: [],
  ready(model) {
    app.model = model;
    app.changed.forEach((hear) => hear());
  },
  show: showPanel,
};

function theme(name) {
  document.documentElement.dataset.theme = name;
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => localStorage.getItem("theme");
  theme(kept() ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => kept() ?? theme(dark.matches ? "dark" : "light"));
  $("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", next);
    theme(next);
    app.changed.forEach((hear) => hear());
  });
}

const PANELS = ["generate", "train"];

function showPanel(name, focus = false) {
  for (const panel of PANELS) {
    const tab = $(`tab-${panel}`);
    tab.setAttribute("aria-selected", String(panel === name));
    tab.tabIndex = panel === name ? 0 : -1;
    $(`panel-${panel}`).hidden = panel !== name;
  }
  if (focus) $(`tab-${name}`).focus();
  document.dispatchEvent(new CustomEvent("panel", { detail: name }));
}

function startTabs() {
  for (const [i, panel] of PANELS.entries()) {
    $(`tab-${panel}`).addEventListener("click", () => showPanel(panel));
    $(`tab-${panel}`).addEventListener("keydown", ({ key }) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: PANELS.length - 1 }[key];
      if (to !== undefined) showPanel(PANELS[(to + PANELS.length) % PANELS.length], true);
    });
  }
  $("to-train").addEventListener("click", (event) => {
    event.preventDefault();
    showPanel("train", true);
  });
}

/** Opens the engine; after a lost device, once more. */
async function open() {
  hush($("page-error"));
  $("model-name").textContent = "Starting…";
  try {
    app.engine = await Portray.create();
  } catch (error) {
    $("model-name").textContent = "No engine";
    $("model-dot").className = "dot gone";
    complain($("page-error"), error, error.kind === "unsupported" ? undefined : ["Try again", open]);
    return;
  }
  app.engine.onlost = (message) => {
    app.engine = null;
    app.ready(null);
    $("model-name").textContent = "Device lost";
    $("model-dot").className = "dot gone";
    complain($("page-error"), `${message}. What was saved of a training is still there.`, ["Start again", open]);
  };
  if (app.engine.info.software) {
    $("notice").replaceChildren(el("span", {}, "No graphics card answers here: a software renderer does the work, and everything takes its time."));
    $("notice").hidden = false;
  }
  await app.reload();
}

startTheme();
startTabs();
startModel(app);
startGenerate(app);
startTrain(app);
await open();
