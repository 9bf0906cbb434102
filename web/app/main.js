// The page: opens the engine, switches panels and themes, and says what is wrong with the whole.
import { Portray } from "../portray.js";
import { $, announce, complain, hush } from "./dom.js";
import { startGenerate } from "./generate.js";
import { startKept } from "./kept.js";
import { LABELS } from "./labels.js";
import { startModel } from "./model.js";
import { startNeeds } from "./needs.js";
import { startTrain } from "./train.js";

/** What the parts share. */
const app = {
  engine: null,
  model: null,
  /** A training holds the device. */
  training: false,
  /** Words that stand for somebody's subject, to be marked in prompts. */
  words: new Set(JSON.parse(remembered("words") ?? "[]")),
  /** LoRA files by name, for an engine that takes the place of a lost one. */
  files: new Map(),
  /** Called when the engine and its model are there, or gone. */
  changed: [],
  ready(model) {
    app.model = model;
    app.changed.forEach((hear) => hear());
  },
  learn(word) {
    app.words.add(word);
    remember("words", JSON.stringify([...app.words]));
  },
  show: showPanel,
};

/** Storage may be closed to a page; what it would keep is then forgotten. */
function remembered(key) {
  try {
    return localStorage.getItem(`portray-${key}`);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`portray-${key}`, value);
  } catch { /* as above */ }
}

function startTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { root.dataset.theme = remembered("theme") ?? (system.matches ? "dark" : "light"); };
  follow();
  system.addEventListener("change", follow);
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    remember("theme", root.dataset.theme);
    announce(`${dark ? "Light" : "Dark"} colours`);
  });
}

const PANELS = ["generate", "train", "models"];

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
    $(`tab-${panel}`).addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: PANELS.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      showPanel(PANELS[(to + PANELS.length) % PANELS.length], true);
    });
  }
  $("to-train").addEventListener("click", (event) => {
    event.preventDefault();
    showPanel("train", true);
  });
  // A file that misses its place must not replace the page.
  for (const type of ["dragover", "drop"]) {
    addEventListener(type, (event) => {
      if (!event.target.closest?.("input[type=file]")) event.preventDefault();
    });
  }
}

function gone(name) {
  app.engine = null;
  $("model-name").textContent = name;
  $("model-dot").className = "dot gone";
  app.ready(null);
}

/** Opens the engine; after a lost device another one, with the model and the LoRAs that were there. */
async function open() {
  hush($("page-error"));
  $("model-name").textContent = "Starting…";
  $("model-dot").className = "dot";
  try {
    app.engine = await Portray.create({ labels: LABELS });
  } catch (error) {
    gone("No engine");
    complain($("page-error"), error, ["Try again", open]);
    return;
  }
  const engine = app.engine;
  engine.onlost = (message) => {
    if (app.engine !== engine) return;
    gone("Engine lost");
    complain($("page-error"), `${message.replace(/\.$/, "")}. Start again to go on: the model and your LoRAs come back, and a training goes on from where it was last saved.`,
      ["Start again", () => { engine.destroy(); open(); }]);
  };
  const software = engine.info.software;
  $("notice").hidden = !software;
  $("notice").textContent = software ? "No graphics hardware answers in this browser, so a software renderer does the work. Everything works, slowly." : "";
  await app.reload();
}

startTheme();
startTabs();
startModel(app);
startGenerate(app);
startTrain(app);
startKept(app);
startNeeds(app);
app.ready(null);
await open();
