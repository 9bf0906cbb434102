// What the engine says, in the words of a page: its messages name options of the command line, and folders of its own.

/** Options by what the page's fields are called. */
const FIELDS = {
  lr: "Learning rate", "text-lr": "the text encoder's learning rate", resolution: "Resolution", rank: "Rank", steps: "Steps",
  targets: "Layers", checkpointing: "Gradient checkpointing", "text-encoder": "Train the text encoder too", seed: "Seed",
  "class-prompt": "the class", "class-count": "Class pictures", "sample-every": "A sample every", "save-every": "Saved every",
  "sample-prompt": "Show as it learns", images: "pictures", prompt: "Prompt", negative: "Leave out", guidance: "Guidance",
  sampler: "Sampler", count: "Pictures", width: "Width", height: "Height", dtype: "Weights held as", model: "the model",
  init: "the picture to start from", mask: "the mask", strength: "Strength", lora: "LoRA",
};
/** Sentences that make sense in a terminal only. */
const SENTENCES = [
  [/start again without --resume/g, "begin a new training"],
  [/give the same options or begin a new training/g, "load the model as it was then, or begin a new training"],
  [/(, go on with|: go on with it by|, go on from it with) --resume/g, ""],
  [/,? or add --force to [a-z ]+/g, ""],
  [/; where that is wrong: --prediction \w+/g, ""],
  [/\bgive --images DIR/g, "add some"],
];

/** @param {string} message */
export function plainly(message) {
  let text = message.replaceAll(/(?<![\w./-])\/?(models\/[^/\s]+|loras\/\d+|converted|runs\/[\w-]+)\//g, "");
  text = text.replace(/^\/(prepare|init|mask): /, "").replace(/^options: (.*) at line \d+ column \d+$/, "$1");
  for (const [from, to] of SENTENCES) text = text.replaceAll(from, to);
  // The names of values in the command line's help, such as DIR, go with the option.
  return text.replaceAll(/(?<![\w-])--([a-z][a-z0-9-]*)( [A-Z]+\b(?!:))?/g, (_, name) => FIELDS[name] ?? name.replaceAll("-", " "));
}

/** What a page says while the driver compiles: `{ done, total }` kernels. */
export const compiling = ({ done, total }) => `Compiling ${done} of ${total} kernels`;

/** What an error is to who called: one of the kinds of a PortrayError, and its message. */
export function plain(error) {
  const kind = error?.kind ?? (error?.name === "AbortError" ? "interrupted" : "usage");
  return { kind, message: plainly(error?.message ?? String(error)) };
}
