// What web/engine.js does around the WASM: files, trainings and what of them lasts. A stand-in is the WASM (mock/wasm.js).

import assert from "node:assert/strict";
import { test } from "node:test";

import { setQuota, site } from "./harness.mjs";
import { opened } from "./opened.mjs";

/** A quota that leaves no room for a byte more. */
const FULL = { allow: [/quota/i] };

test("a training ends with a LoRA that is kept until it is removed", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const { types, last } = await told((tell, control) => engine.train("1", job, tell, control));
    const found = { types, step: last.step, kept: last.kept, name: last.lora.name, text: await last.file.text(), runs: await store.list("runs"), memory: wasm.below("/runs") };
    await told((tell, control) => engine.train("2", job, tell, control));
    await again();
    found.later = (await load()).loras.map((lora) => lora.name);
    found.stored = await store.list("loras");
    found.convert = await (await engine.convert("кот", "peft")).text();
    await engine.removeLora("кот");
    found.left = await store.list("loras");
    return found;
  });
  assert.deepEqual(found, {
    types: "step step step checkpoint step step step checkpoint step step step done", step: 9, kept: true, name: "кот", text: "lora of 10 after 9", runs: [], memory: [],
    later: ["кот-2", "кот"], stored: ["кот-2.safetensors", "кот.safetensors"], convert: "peft of lora of 10 after 9", left: ["кот-2.safetensors"],
  });
});

test("a pause is kept, and goes on in another engine", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const paused = await told((tell, control) => engine.train("1", job, tell, control), at(3));
    await again();
    await load();
    const runs = (await engine.runs()).map(({ id, step, state }) => [id, step, state]);
    const done = await told((tell, control) => engine.resume("1", tell, control));
    return { paused: paused.last, runs, done: [done.types, done.last.step], left: await engine.runs() };
  });
  assert.equal(found.paused.type, "paused");
  assert.equal(found.paused.kept, true);
  const { step } = found.paused;
  assert.deepEqual(found.runs, [["1", step, "paused"]]);
  assert.match(found.done[0], /^step .*done$/);
  assert.equal(found.done[0].match(/step/g).length, 9 - step);
  assert.deepEqual(found.left, []);
});

test("a pause that finds no room gives the LoRA instead", async (t) => {
  const at = await opened(t, FULL);
  await at.evaluate(() => {
    globalThis.full = new Promise((resolve) => { globalThis.fill = resolve; });
    globalThis.reached = new Promise((resolve) => { globalThis.reach = resolve; });
    const stop = at(3);
    const heard = knobs.before;
    knobs.before = async (type, step) => {
      await heard(type, step);
      if (step !== 4) return;
      reach();
      await full;
    };
    globalThis.running = told((tell, control) => engine.train("1", job, tell, control), stop);
  });
  await at.evaluate(() => reached);
  await setQuota(at.page, 1);
  const found = await at.evaluate(async () => {
    fill();
    const { types, last, texts } = await running;
    return { types, kept: last.kept, text: await last.file.text(), texts, loras: engine.loras.list().map((lora) => lora.name) };
  });
  assert.match(found.types, /storage done$/);
  assert.doesNotMatch(found.types, /paused/);
  assert.match(found.text, /^lora of 10 after 6$/);
  assert.match(found.texts[0], /full/);
  assert.deepEqual(found.loras, ["кот"]);
});

test("class images that find no room stop nothing", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    knobs.classPictures = 3;
    const write = store.constructor.prototype.write;
    engine.storage.write = function (path, ...rest) {
      if (!path.startsWith("cache/")) return write.call(this, path, ...rest);
      return Promise.reject(new (class extends Error {})("no room"));
    };
    const refused = await told((tell, control) => engine.train("1", job, tell, control));
    delete engine.storage.write;
    await told((tell, control) => engine.train("2", job, tell, control));
    const kept = [await engine.cacheBytes(), wasm.below("/cache")];
    await engine.clearCache();
    return { types: refused.types, texts: refused.texts, kept, left: await engine.cacheBytes() };
  });
  assert.match(found.types, /^warning progress progress progress step .*done$/);
  assert.equal(found.texts.length, 1);
  assert.deepEqual([found.kept, found.left], [[3000, []], 0]);
});

test("finishing before the first step waits for it", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    knobs.classPictures = 2;
    const { types, last } = await told((tell, control) => {
      control.finish();
      return engine.train("1", job, tell, control);
    });
    return [types, last.step];
  });
  assert.deepEqual(found, ["progress progress step done", 1]);
});

test("where nothing is kept, a pause lasts as long as the engine, and says so", async (t) => {
  const at = await opened(t, { unkept: true });
  const found = await at.evaluate(async () => {
    const paused = await told((tell, control) => engine.train("1", job, tell, control), at(3));
    const runs = (await engine.runs()).map(({ id, state }) => [id, state]);
    const done = await told((tell, control) => engine.resume("1", tell, control));
    return { texts: paused.texts, paused: [paused.last.type, paused.last.kept], runs, done: [done.last.type, done.last.kept, done.last.step], left: [await engine.runs(), wasm.below("/runs")] };
  });
  assert.match(found.texts[0], /lasts only as long as this tab/);
  assert.deepEqual(found.paused, ["paused", false]);
  assert.deepEqual(found.runs, [["1", "paused"]]);
  assert.deepEqual(found.done, ["done", false, 9]);
  assert.deepEqual(found.left, [[], []]);
});

test("what never began leaves nothing, and a training keeps its vision models", async (t) => {
  const at = await opened(t);
  const judged = await at.evaluate(async () => {
    const folder = (name, type) => [Object.defineProperty(new File([JSON.stringify({ class: type })], "config.json"), "webkitRelativePath", { value: `${name}/config.json` })];
    const { info } = await engine.addVisionModel(folder("dino", "ViTModel"));
    const again = (await engine.addVisionModel(folder("dino", "ViTModel"))).models.length;
    const other = (await engine.addVisionModel(folder("dino", "Dinov2Model"))).info;
    const refused = [await kind(engine.addVisionModel(folder("clip", "CLIPVisionModel"))), await kind(engine.addVisionModel([])), await kind(told((tell, control) => engine.train("0", { ...job, vision: "none" }, tell, control)))];
    const files = wasm.below("/vision").length;
    const stop = at(3);
    let held;
    const paused = await told((tell, control) => engine.train("0", { ...job, vision: "dino" }, tell, control), (event, control) => {
      if (event.type === "step" && event.step === 1) held = kind((async () => engine.removeVisionModel("dino"))());
      stop(event, control);
    });
    knobs.before = async () => {};
    engine.removeVisionModel("dino");
    const resume = () => told((tell, control) => engine.resume("0", tell, control));
    const gone = await kind(resume());
    await engine.addVisionModel(folder("dino", "ViTModel"));
    return { info, again, other, refused, files, paused: paused.last.type, held: await held, gone, done: (await resume()).last.type, asked: knobs.judges };
  });
  assert.deepEqual(judged.info, { name: "dino", option: "vision", class: "ViTModel", bytes: 8 });
  assert.deepEqual([judged.again, judged.other.name, judged.files], [1, "dino-2", 2]);
  assert.deepEqual(judged.refused.map(([kind]) => kind), ["file", "file", "usage"]);
  assert.match(judged.refused[2][1], /no vision model called none/);
  assert.deepEqual([judged.paused, judged.done], ["paused", "done"]);
  assert.match(judged.held[1], /dino judges a training that runs/);
  assert.match(judged.gone[1], /judged by the vision model dino: add that one first/);
  assert.match(judged.asked.join(" "), /^\/vision\/[0-9a-f]{16}\/dino \/vision\/[0-9a-f]{16}\/dino$/);
  const found = await at.evaluate(async () => {
    knobs.refusal = "--lr 0: must be above 0";
    const refused = await kind(told((tell, control) => engine.train("1", job, tell, control)));
    knobs.refusal = null;
    knobs.room = false;
    const large = await kind(told((tell, control) => engine.train("2", job, tell, control)));
    knobs.room = true;
    const left = [await store.list("runs"), wasm.below("/runs"), [...(await store.held())]];
    // What a tab left that ended while it kept the images.
    await store.write("runs/3/images/0-x.png", new Uint8Array(1));
    await store.write("runs/4/images/0-x.png", new Uint8Array(1));
    const release = await store.lock("4");
    await again();
    const swept = await store.list("runs");
    release();
    return { refused, large, left, swept };
  });
  assert.deepEqual(found.refused, ["usage", "--lr 0: must be above 0"]);
  assert.equal(found.large[0], "limit");
  assert.deepEqual(found.left, [[], [], []]);
  assert.deepEqual(found.swept, ["4/images/0-x.png"]);
});

test("a training goes on with the model of its first steps, as that was held", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const models = ["one", "two"].map((text) => new File([text], "a.safetensors"));
    await engine.load(models[0], { dtype: "q8" }, () => {});
    await told((tell, control) => engine.train("1", job, tell, control), at(3));
    const resume = () => told((tell, control) => engine.resume("1", tell, control));
    await load();
    const other = await kind(resume());
    await load(models[1]);
    const same = await kind(resume());
    // A refusal gives the training back.
    const held = [...(await store.held())];
    await again();
    await load(models[0]);
    const train = engine.engine.train;
    let dtype;
    engine.engine.train = function (text, ...rest) {
      dtype = JSON.parse(text).model.dtype;
      return train.call(this, text, ...rest);
    };
    return { other, same, held, done: (await resume()).last.type, dtype };
  });
  assert.match(found.other[1], /started with the model a\.safetensors/);
  assert.match(found.same[1], /another model of the name a\.safetensors/);
  assert.deepEqual([found.held, found.done, found.dtype], [[], "done", "q8"]);
});

test("one training, one tab, and no other may delete it", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const first = engine;
    let [going, end] = [];
    await told((tell, control) => first.train("1", job, tell, control), at(3));
    const began = new Promise((resolve) => { going = resolve; });
    const held = new Promise((resolve) => { end = resolve; });
    knobs.before = (type, step) => (step === 7 ? held : undefined);
    const running = told((tell, control) => first.resume("1", tell, control), () => going());
    await began;
    await again();
    await load();
    const refused = [await kind(told((tell, control) => engine.resume("1", tell, control))), await kind(engine.forget("1"))];
    const { state } = (await engine.runs())[0];
    end();
    await running;
    return { refused: refused.map(([kind]) => kind), state };
  });
  assert.deepEqual(found, { refused: ["usage", "usage"], state: "running elsewhere" });
});

test("a model that fails to load leaves the one before", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const first = (await load(new File(["one"], "a.safetensors"))).info;
    const failures = [];
    for (const file of [new File(["other"], "wrong.safetensors"), new File(["new"], "a.safetensors")]) {
      knobs.room = file.name !== "a.safetensors";
      failures.push((await kind(load(file)))[0]);
    }
    knobs.room = true;
    const left = wasm.below("/models");
    const text = new TextDecoder().decode(wasm.file(left[0]));
    engine.plan("generate", { prompt: "x" });
    // The same again, and two whose names differ in letters that ASCII has not.
    await load(new File(["one"], "a.safetensors"));
    knobs.models = { ...knobs.models, "кот.safetensors": 1, "пёс.safetensors": 2 };
    const names = [];
    for (const name of ["кот.safetensors", "пёс.safetensors"]) names.push((await load(new File(["same"], name))).info.name);
    return { name: first.name, failures, left: left.length, text, names, last: wasm.below("/models").length };
  });
  assert.deepEqual(found, { name: "a.safetensors", failures: ["file", "limit"], left: 1, text: "one", names: ["кот.safetensors", "пёс.safetensors"], last: 1 });
});

test("a LoRA outlives a model that it does not fit", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const names = ({ loras, others }) => [loras.map((lora) => lora.name), others.map((lora) => lora.name)];
    const added = await engine.addLora(lora("lora of 10"), "x");
    const wrong = (await kind(engine.addLora(lora("lora of 20"), "x")))[0];
    const still = engine.loras.list().length;
    const away = names(await load(new File(["one"], "a.safetensors")));
    const back = names(await load());
    // One that is kept is replaced by none of its name.
    await told((tell, control) => engine.train("1", { ...job, name: "x" }, tell, control));
    const named = [(await engine.addLora(lora("lora of 10"), "x")).info.name, (await engine.addLora(lora("lora of 10 again"), "x-2")).info.name];
    return { first: names(added), wrong, still, away, back, named, files: wasm.below("/loras").length, gone: names(await engine.removeLora("x")) };
  });
  assert.deepEqual(found, { first: [["x"], []], wrong: "file", still: 1, away: [[], ["x"]], back: [["x"], []], named: ["x", "x-2-2"], files: 3, gone: [["x-2", "x-2-2"], []] });
});

test("the bundled model's missing files are asked for again, and others do without", async (t) => {
  const at = await opened(t, { allow: [/status.*503/] });
  at.server.files.get("/model/unet/config.json").failures = [503];
  const found = await at.evaluate(async () => {
    wasm.remove("/bundled");
    const found = { refused: await kind(load()) };
    found.other = (await load(new File(["one"], "a.safetensors"))).info.name;
    found.again = (await load()).info.name;
    return found;
  });
  assert.match(found.refused[1], /bundled model's unet\/config\.json.*503/);
  assert.deepEqual([found.other, found.again], ["a.safetensors", "bundled"]);
});

test("a model of an address is kept, listed, opened without its server, and deleted", async (t) => {
  const at = await opened(t, { allow: [/status.*404/, /ERR_|Failed to load/] });
  const { server } = at;
  const weights = Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from("{}"), Buffer.alloc(100)]);
  const names = ["model_index.json", "unet/config.json", ...["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"].map((name) => `${name}.safetensors`)];
  for (const name of names) server.files.set(`/hub/me/folder/resolve/main/${name}`, { bytes: name.endsWith("json") ? Buffer.from("{}") : weights, etag: '"1"' });
  const url = server.url("/hub/me/folder/resolve/main?download=true");
  const found = await at.evaluate(async (url) => {
    const { patience } = await import("/request.js");
    Object.assign(patience, { stall: 700, pause: 20 });
    const { info } = await load(url);
    return { name: info.name, models: await engine.keptModels(), staged: wasm.below("/models/new") };
  }, url);
  assert.equal(found.name, "folder");
  assert.deepEqual(found.staged, []);
  const [{ key, bytes, ...rest }] = found.models;
  assert.ok(bytes > 3 * weights.length);
  assert.deepEqual(rest, { name: "folder", url, whole: true, loaded: true });
  assert.ok(server.log.filter((entry) => entry.path.startsWith("/hub/")).every((entry) => entry.path.startsWith("/hub/me/folder/resolve/main/")));
  for (const name of names) server.files.delete(`/hub/me/folder/resolve/main/${name}`);
  const later = await at.evaluate(async ([url, key]) => {
    await again();
    const { info } = await load(url);
    const refused = (await kind(engine.forgetModel(key)))[0];
    await load();
    await engine.forgetModel(key);
    return { name: info.name, refused, left: [await engine.keptModels(), await store.list("models"), await store.list("downloads")] };
  }, [url, key]);
  assert.deepEqual(later, { name: "folder", refused: "usage", left: [[], [], []] });
});

test("addresses that lead nowhere are told", async (t) => {
  const other = await site(t);
  const at = await opened(t, { origins: [other.origin], allow: [/ERR_|Failed to load|status 404|CORS/] });
  other.files.set("/m/model_index.json", { bytes: Buffer.from("{}") });
  const found = await at.evaluate(async ([here, other]) => {
    const { patience } = await import("/request.js");
    Object.assign(patience, { stall: 700, pause: 20 });
    const told = [];
    for (const url of ["http://models.example/x", "ftp://models.example/x", "http://[", `${here}nothing/`, `${other}/m/`]) told.push((await kind(load(url)))[1]);
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 50);
    Object.assign(patience, { stall: 60_000, pause: 60_000 });
    told.push((await kind(load(`${other}/m/`, abort.signal)))[0]);
    return told;
  }, [at.server.url("/"), other.origin]);
  for (const [i, expected] of [/by https:\/\/ only/, /by https:\/\/ only/, /is no address/, /404.*diffusers layout/, /CORS/, /AbortError/].entries()) assert.match(found[i], expected);
});

test("weights stay on the adapter where it holds them all, until something else needs the room", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const asked = async (work) => {
      knobs.memory.length = 0;
      await work();
      return knobs.memory.join(" ");
    };
    const pictures = () => told((tell, control) => engine.generate({ prompt: "a cat" }, tell, control));
    const train = () => told((tell, control) => engine.train("1", job, tell, control));
    const found = [await asked(pictures), await asked(pictures), await asked(train), await asked(pictures)];
    knobs.room = 1.2e9;
    await load();
    return [...found, await asked(pictures), await asked(pictures), (knobs.room = 1e8, await kind(pictures()))[0]];
  });
  assert.deepEqual(found, [
    "release trial kept", "kept", "release trial", "release trial kept",
    // Not all of them at once: as much as one part takes at a time.
    "release trial release trial passing", "release trial release trial passing", "limit",
  ]);
});

test("a plan of images needs none of them", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => [engine.plan("train", job).peakBytes, (await engine.preparePicture(new Blob(["x"]))).width]);
  assert.deepEqual(found, [1e9, 8]);
});

test("errors come with the page's labels of options, and without folders of its own", async (t) => {
  const at = await opened(t);
  const found = await at.evaluate(async () => {
    const { plain } = await import("/files.js");
    engine = await Realm.create(() => {}, { lr: "Learning rate", classPrompt: "the class" });
    knobs.refusal = "no";
    await load();
    const refused = await told((tell, control) => engine.train("1", job, tell, control)).catch(plain);
    return { labels: knobs.labels, refused, aborted: plain(new DOMException("x", "AbortError")).kind };
  });
  assert.deepEqual(found, { labels: { lr: "Learning rate", class_prompt: "the class" }, refused: { kind: "usage", message: "no", field: "lr" }, aborted: "interrupted" });
});
