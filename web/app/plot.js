// The loss by step: dots as they come, and their running mean as a line.

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.losses = [];
    this.drawn = false;
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  clear(steps) {
    Object.assign(this, { losses: [], steps });
    this.redraw();
  }

  add(step, loss) {
    this.losses.push([step, loss]);
    this.redraw();
  }

  /** At most once a frame. */
  redraw() {
    if (this.drawn) return;
    this.drawn = true;
    requestAnimationFrame(() => {
      this.drawn = false;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, losses } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [left, right, top, bottom] = [48, width - 8, 10, height - 26];
    // The tallest twentieth may leave the frame: one spike must not flatten the rest.
    const sorted = losses.map(([, loss]) => loss).sort((a, b) => a - b);
    const most = nice((sorted[Math.floor(sorted.length * 0.97)] ?? 1) * 1.1);
    const last = Math.max(this.steps ?? 1, losses.at(-1)?.[0] ?? 1);
    const x = (step) => left + ((right - left) * step) / Math.max(1, last);
    const y = (loss) => bottom - (bottom - top) * Math.min(1, loss / most);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour("--soft");
    context.strokeStyle = colour("--line");
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let i = 0; i <= 4; i++) {
      const value = (most * i) / 4;
      context.beginPath();
      context.moveTo(left, y(value));
      context.lineTo(right, y(value));
      context.stroke();
      context.fillText(value.toPrecision(2), left - 8, y(value));
    }
    context.textAlign = "center";
    for (let i = 0; i <= 4; i++) {
      context.textAlign = i === 4 ? "right" : "center";
      context.fillText(String(Math.round((last * i) / 4)), x((last * i) / 4), height - 10);
    }
    context.fillStyle = colour("--accent");
    context.globalAlpha = 0.45;
    for (const [step, loss] of losses) {
      context.beginPath();
      context.arc(x(step), y(loss), 2.2, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    context.beginPath();
    let mean = null;
    for (const [step, loss] of losses) {
      mean = mean === null ? loss : mean + (loss - mean) * 0.08;
      context.lineTo(x(step), y(mean));
    }
    context.stroke();
    if (mean !== null) canvas.setAttribute("aria-label", `Loss by step: ${mean.toPrecision(3)} on average lately, after ${losses.at(-1)[0] + 1} steps`);
  }
}

/** The next 1, 2 or 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= value) ?? 1;
}
