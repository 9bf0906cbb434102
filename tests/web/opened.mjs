// A Realm (web/engine.js) around the stand-in for the WASM, for tests of what it does.

import { mocked, realm, site } from "./harness.mjs";

/** A worker of a bare page, with `engine` (a Realm), `knobs`, and `job` for trainings. */
export async function opened(t, options = {}) {
  const server = await mocked(options.server ?? options.beside?.server ?? (await site(t)));
  const at = await realm(t, "worker", { ...options, server });
  await at.evaluate(async (unkept) => {
    if (unkept) StorageManager.prototype.getDirectory = () => Promise.reject(new DOMException("no", "SecurityError"));
    const { Realm } = await import("/engine.js");
    const { Storage } = await import("/storage.js");
    Object.assign(globalThis, { Realm, wasm: await import("/pkg/portray.js") });
    globalThis.knobs = wasm.knobs;
    globalThis.again = async () => { globalThis.engine = await Realm.create(() => {}); };
    globalThis.store = unkept ? null : await Storage.open();
    globalThis.job = { images: [{ name: "кот.png", blob: new Blob(["cat"]) }], prompt: "a sks cat", name: "кот", steps: 9, saveEvery: 3 };
    globalThis.load = (source, signal) => engine.load(source, {}, () => {}, signal);
    globalThis.lora = (text) => new Blob([text]);
    globalThis.kind = (promise) => promise.then(() => null, (error) => [error.kind ?? error.name, error.message]);
    /** For `told`: asks for `what` at a step, and the training waits until that was heard. */
    globalThis.at = (step, what = "stop") => {
      let heard;
      const waits = new Promise((resolve) => { heard = resolve; });
      knobs.before = (_, now) => (now === step + 1 ? waits : undefined);
      return (event, control) => {
        if (event.type !== "step" || event.step !== step) return;
        control[what]();
        heard();
      };
    };
    /** Does `begin(tell, control)`; gives the events' types, and the last one. `on` may ask for something at an event. */
    globalThis.told = async (begin, on = () => {}) => {
      const control = engine.control();
      const said = [];
      await begin((event) => { said.push(event); on(event, control); }, control);
      return { types: said.map((event) => event.type).join(" "), last: said.at(-1), texts: said.filter((event) => event.text ?? event.message).map((event) => event.text ?? event.message) };
    };
    await again();
    await load();
  }, options.unkept ?? false);
  return at;
}
