// Portray inside another page: open the engine, load a model, draw images as they form.
import { Portray } from "./portray.js";

const [form, prompt, status, canvas] = ["form", "prompt", "status", "picture"].map((id) => document.getElementById(id));
const say = (text) => { status.textContent = text; };

function show(image) {
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
}

try {
  const engine = await Portray.create();
  const model = await engine.load();
  say(`${model.name} model, ${model.pixels} × ${model.pixels} pixels`);
  form.querySelector("button").disabled = false;
  let job = null;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    job?.stop();
    try {
      job = engine.generate({ prompt: prompt.value, steps: 12, seed: Math.floor(Math.random() * 1e6) });
      for await (const said of job) {
        if (said.image) show(said.image);
        say(said.type === "preview" ? `step ${said.step} of ${said.steps}` : said.type === "picture" ? `seed ${said.seed}` : status.textContent);
      }
    } catch (error) {
      say(error.message);
    }
  });
} catch (error) {
  say(error.message);
}
