// The images of the subject, shown as the model will see them.
import { $, canvasOf, complain, dropZone, el, fresh, hush, iconButton, number } from "./dom.js";

export function startPhotos(app, changed) {
  /** @type {{file: File, thumb: HTMLElement}[]} */
  let photos = [];

  async function add(files) {
    hush($("train-error"));
    if (!app.model) return complain($("train-error"), "There is no model yet, and it decides how images are cropped: one moment, or load one under Models");
    const wrong = [];
    for (const file of files) {
      const photo = { file, thumb: fresh(el("div.thumb", { role: "listitem", "data-testid": "thumb" })) };
      const remove = () => {
        photos = photos.filter((other) => other !== photo);
        show();
        $("photos").focus();
      };
      photo.remove = iconButton("close", `Remove ${file.name}`, remove, { "data-testid": "thumb-remove" });
      try {
        await prepare(photo);
        photos.push(photo);
      } catch (error) {
        wrong.push(`${file.name}: ${error.message}`);
      }
      show();
    }
    if (wrong.length) complain($("train-error"), wrong.join("; "));
  }

  async function prepare(photo) {
    if (!app.engine) throw new Error("the engine is gone: start it again first");
    const { image } = await app.engine.preparePicture(photo.file, number("resolution"));
    photo.thumb.replaceChildren(el("div.mount", {}, canvasOf(image, photo.file.name, 256)), photo.remove);
    image.close();
  }

  /** Another model or resolution crops otherwise. */
  async function again() {
    if (!app.model) return;
    for (const photo of photos) await prepare(photo).catch((error) => complain($("train-error"), error));
  }

  function show() {
    $("thumbs").replaceChildren(...photos.map(({ thumb }) => thumb));
    const n = photos.length;
    $("photo-hint").textContent = n === 0 ? "Three to ten of one thing: from several sides, on several backgrounds. They are cropped to squares."
      : n < 3 ? `${n === 1 ? "One image" : "Two images"} so far; three to ten teach better.`
        : n > 10 ? `${n} images: more than ten are rarely better.` : `${n} images, as the model will see them.`;
    changed();
  }

  dropZone($("train-form"), $("photos"), add, $("photo-drop"));
  $("resolution").addEventListener("change", again);
  let side = null;
  app.changed.push(() => {
    if (!app.model || app.model.pixels === side) return;
    side = app.model.pixels;
    again();
  });
  queueMicrotask(show);
  return { files: () => photos.map(({ file }) => file) };
}
