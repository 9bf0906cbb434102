// The engine's Worker: calls come in as { call, method, args }, events and results go out.
import { Realm, memoryBytes, plainly } from "./engine.js";

let realm = null;
/** Jobs that run, by call: `asked` is what the listener answers next. */
const controls = new Map();

const plain = (error) => ({ message: plainly(error?.message ?? String(error)), kind: error?.kind ?? (error?.name === "AbortError" ? "interrupted" : error instanceof WebAssembly.RuntimeError ? "device" : "usage") });

const methods = {
  async create() {
    realm = await Realm.create((message) => postMessage({ lost: message }));
    return realm.info;
  },
  load: (call, source, options) => {
    const abort = new AbortController();
    controls.set(call, { abort });
    return realm.load(source, options, (progress) => postMessage({ call, progress }), abort.signal);
  },
  addLora: (_, blob, name) => realm.addLora(blob, name),
  removeLora: (_, name) => realm.removeLora(name),
  convert: (_, name, format) => realm.convert(name, format),
  plan: (_, kind, job) => realm.plan(kind, job),
  preparePicture: (_, blob, resolution) => realm.preparePicture(blob, resolution),
  runs: () => realm.runs(),
  forget: (_, id) => realm.forget(id),
  memory: () => memoryBytes(),
  // For tests of what the page does then.
  loseDevice: () => realm.device.destroy(),
  generate: (call, job) => job_(call, (tell, control) => realm.generate(job, tell, control)),
  train: (call, id, job) => job_(call, (tell, control) => realm.train(id, job, tell, control)),
  resume: (call, id) => job_(call, (tell, control) => realm.resume(id, tell, control)),
};

function job_(call, run) {
  const control = { asked: null };
  controls.set(call, control);
  return run((event, transfer) => postMessage({ call, event }, { transfer }), control);
}

onmessage = async ({ data: { call, method, args, ask } }) => {
  if (ask) {
    const control = controls.get(call);
    if (control?.abort) control.abort.abort();
    else if (control) control.asked = ask;
    return;
  }
  try {
    const result = await methods[method](call, ...args);
    postMessage({ call, result }, { transfer: result?.image ? [result.image] : [] });
  } catch (error) {
    postMessage({ call, error: plain(error) });
  } finally {
    controls.delete(call);
  }
};
