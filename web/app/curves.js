// Evaluations of a training by step: score, likeness, prompt fidelity and drift as lines, the best score as a ring.
import { svg } from "./dom.js";

const PAD = { left: 40, right: 10, top: 8, bottom: 24 };
/** What is drawn, with the lines' classes. */
const LINES = [["likeness", "likeness"], ["promptFidelity", "prompt"], ["drift", "drift"], ["score", "score"]];

export class Curves {
  /** @param {HTMLElement} figure the box with the element `.lines` for the drawing and `.said` for its last values. */
  constructor(figure) {
    this.figure = figure;
    this.box = figure.querySelector(".lines");
    this.evaluations = [];
    new ResizeObserver(() => this.#draw()).observe(this.box);
  }

  clear() {
    this.evaluations = [];
    this.figure.hidden = true;
  }

  /** @param {{ step: number, loss: number, drift: number, likeness?: number, promptFidelity?: number, score?: number, best?: number }} evaluation */
  add(evaluation) {
    this.evaluations = [...this.evaluations.filter(({ step }) => step < evaluation.step), evaluation];
    this.figure.hidden = false;
    const { step, loss, heldOut, drift, likeness, promptFidelity, score, best } = evaluation;
    const prompt = promptFidelity === undefined ? "" : `prompt ${promptFidelity.toFixed(2)}, `;
    const scored = score === undefined ? `drift ${drift.toFixed(2)}` : `score ${score.toFixed(2)}: likeness ${likeness.toFixed(2)}, ${prompt}drift ${drift.toFixed(2)}`;
    const text = `After step ${step}: ${scored}; loss ${loss.toFixed(4)} on ${heldOut ? "photos kept out" : "the training photos"}.${best ? ` Best at step ${best}.` : ""}`;
    this.figure.querySelector(".said").textContent = text;
    this.figure.querySelector(".clip").hidden = !this.evaluations.some((evaluation) => evaluation.promptFidelity !== undefined);
    this.box.setAttribute("aria-label", text);
    this.#draw();
  }

  #draw() {
    const { box, evaluations } = this;
    const [width, height] = [box.clientWidth, box.clientHeight];
    if (!width || !evaluations.length) return;
    const values = evaluations.flatMap((evaluation) => LINES.map(([field]) => evaluation[field] ?? 0));
    const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
    const last = Math.max(1, evaluations.at(-1).step);
    const x = (step) => PAD.left + ((width - PAD.left - PAD.right) * step) / last;
    const y = (value) => height - PAD.bottom - ((height - PAD.top - PAD.bottom) * (value - low)) / (high - low);
    const parts = [0, 0.5, 1].flatMap((value) => [
      svg("path", { class: "grid", d: `M${PAD.left} ${y(value)}H${width - PAD.right}` }),
      svg("text", { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value))]);
    parts.push(svg("text", { x: x(last), y: height - 6, "text-anchor": "end" }, `step ${last}`));
    for (const [field, line] of LINES) {
      const points = evaluations.filter((evaluation) => evaluation[field] !== undefined);
      const path = points.map((evaluation) => `${x(evaluation.step).toFixed(1)} ${y(evaluation[field]).toFixed(1)}`).join("L");
      if (path) parts.push(svg("path", { class: line, d: `M${path}` }));
    }
    const best = evaluations.find(({ step }) => step === evaluations.at(-1).best);
    if (best) parts.push(svg("circle", { class: "best", cx: x(best.step), cy: y(best.score), r: 5 }));
    box.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts));
    box.dataset.points = String(evaluations.length);
  }
}
