// The loss by step: a dot each, and their running mean as a line.
import { svg } from "./dom.js";

const PAD = { left: 56, right: 10, top: 8, bottom: 40 };

export class Plot {
  /** @param {HTMLElement} box */
  constructor(box) {
    this.box = box;
    this.losses = [];
    this.steps = 1;
    this.pending = false;
    new ResizeObserver(() => this.redraw()).observe(box);
  }

  clear(steps) {
    Object.assign(this, { losses: [], steps });
    this.redraw();
  }

  add(step, loss, steps) {
    this.steps = steps;
    this.losses.push([step, loss]);
    this.redraw();
  }

  /** At most four times a second: a loss is no animation. */
  redraw() {
    if (this.pending) return;
    this.pending = true;
    setTimeout(() => requestAnimationFrame(() => {
      this.pending = false;
      this.#draw();
    }), this.losses.length > 1 ? 250 : 0);
  }

  #draw() {
    const { box } = this;
    const [width, height] = [box.clientWidth, box.clientHeight];
    if (!width) return;
    const losses = thinned(this.losses, width);
    // The tallest may leave the frame: one spike must not flatten the rest.
    const sorted = losses.map(([, loss]) => loss).sort((a, b) => a - b);
    const high = (sorted[Math.floor((sorted.length - 1) * 0.98)] ?? 0.4) * 1.08;
    const tick = nice(high / 4);
    const most = tick * Math.ceil(high / tick);
    const last = Math.max(this.steps, this.losses.at(-1)?.[0] ?? 1, 1);
    const x = (step) => PAD.left + ((width - PAD.left - PAD.right) * step) / last;
    const y = (loss) => height - PAD.bottom - (height - PAD.top - PAD.bottom) * Math.min(1, loss / most);
    const parts = [];
    for (let value = 0; value <= most * 1.001; value += tick) {
      parts.push(svg("path", { class: "grid", d: `M${PAD.left} ${y(value)}H${width - PAD.right}` }),
        svg("text", { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(3)))));
    }
    const every = nice(last / (width < 420 ? 3 : 5));
    for (let step = 0; step <= last; step += every) {
      parts.push(svg("text", { x: x(step), y: height - PAD.bottom + 18, "text-anchor": "middle" }, String(Math.round(step))));
    }
    parts.push(svg("text", { x: (width + PAD.left - PAD.right) / 2, y: height - 4, "text-anchor": "middle" }, "step"),
      svg("text", { x: 12, y: (height - PAD.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - PAD.bottom) / 2})` }, "loss"));
    parts.push(svg("path", { class: "raw", d: losses.map(([step, loss]) => `M${x(step).toFixed(1)} ${y(loss).toFixed(1)}h0`).join("") }));
    const means = thinned(smoothed(this.losses), width);
    if (means.length > 1) {
      parts.push(svg("path", { class: "smooth", d: `M${means.map(([step, mean]) => `${x(step).toFixed(1)} ${y(mean).toFixed(1)}`).join("L")}` }));
    }
    const [now, mean] = means.at(-1) ?? [];
    if (mean !== undefined) parts.push(svg("circle", { class: "head", cx: x(now), cy: y(mean), r: 4.5 }));
    box.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts));
    box.dataset.points = String(this.losses.length);
    if (mean !== undefined) box.setAttribute("aria-label", `Loss by step: ${mean.toPrecision(2)} on average after ${now + 1} of ${this.steps} steps`);
  }
}

/** A running mean that is not drawn to where it begins. */
function smoothed(losses) {
  let [sum, weight] = [0, 0];
  return losses.map(([step, loss]) => {
    sum = 0.95 * sum + loss;
    weight = 0.95 * weight + 1;
    return [step, sum / weight];
  });
}

/** At most two points a pixel. */
function thinned(points, width) {
  const every = Math.ceil(points.length / (2 * width));
  return every < 2 ? points : points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

/** The next 1, 2, 2.5 or 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= value * 0.999) ?? 1;
}
