// The engine's Worker: calls come in as { call, method, args }, events and results go out.
import { Realm, memoryBytes } from "./engine.js";
import { plain } from "./files.js";

let realm = null;
/** What ends each call that runs: `stop`, and of jobs `finish`. */
const controls = new Map();

const methods = {
  async create(_, labels) {
    realm = await Realm.create((message) => postMessage({ lost: message }), labels);
    return realm.info;
  },
  load: (call, source, options) => realm.load(source, options, (progress) => postMessage({ call, progress }), stoppable(call)),
  requirements: (call, source) => realm.requirements(source, stoppable(call)),
  memory: () => memoryBytes(),
  // For tests of what the page does then.
  loseDevice: () => realm.device.destroy(),
  generate: (call, job) => job_(call, (tell, control) => realm.generate(job, tell, control)),
  train: (call, id, job) => job_(call, (tell, control) => realm.train(id, job, tell, control)),
  resume: (call, id) => job_(call, (tell, control) => realm.resume(id, tell, control)),
};
for (const method of ["addLora", "removeLora", "addVisionModel", "removeVisionModel", "convert", "plan", "preparePicture", "runs", "forget", "keptModels", "forgetModel", "cacheBytes", "clearCache"]) {
  methods[method] = (_, ...args) => realm[method](...args);
}

function stoppable(call) {
  const abort = new AbortController();
  controls.set(call, { stop: () => abort.abort() });
  return abort.signal;
}

function job_(call, run) {
  const control = realm.control();
  controls.set(call, control);
  return run((event, transfer) => postMessage({ call, event }, { transfer }), control);
}

/** A trap of the WASM: its instance is of no more use, and the promises that wait for it never settle. */
function trapped(error) {
  if (!(error instanceof WebAssembly.RuntimeError)) return false;
  postMessage({ crashed: globalThis.portrayPanic ?? error.message });
  return true;
}
addEventListener("error", (event) => trapped(event.error) && event.preventDefault());
addEventListener("unhandledrejection", (event) => trapped(event.reason) && event.preventDefault());

onmessage = async ({ data: { call, method, args, ask } }) => {
  if (ask) return controls.get(call)?.[ask]();
  try {
    const result = await methods[method](call, ...args);
    postMessage({ call, result }, { transfer: result?.image ? [result.image] : [] });
  } catch (error) {
    if (!trapped(error)) postMessage({ call, error: plain(error) });
  } finally {
    controls.delete(call);
  }
};
