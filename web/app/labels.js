// What this page calls the engine's options, for messages that name them, and words of its own.

export const LABELS = {
  lr: "Learning rate", textLr: "the text encoder's learning rate", resolution: "Resolution", rank: "Rank", steps: "Steps",
  targets: "Layers", checkpointing: "Gradient checkpointing", textEncoder: "Train the text encoder too", seed: "Seed",
  classPrompt: "the class", classCount: "Class images", sampleEvery: "A sample every", evaluateEvery: "Evaluated every", saveEvery: "Saved every",
  samplePrompts: "Show as it learns", images: "some under Images", prompt: "Prompt", prompts: "Prompt", negative: "Leave out",
  guidance: "Guidance", sampler: "Sampler", count: "Images", width: "Width", height: "Height", dtype: "Weights held as",
  model: "the model", init: "the image to start from", mask: "the mask", strength: "Strength", loras: "LoRA", vision: "Evaluated by", clip: "Evaluated by", keepOut: "images kept out", maxGradNorm: "the largest gradient norm",
};

/** What the page says while the driver compiles: `{ done, total }` kernels. */
export const compiling = ({ done, total }) => `Compiling ${done} of ${total} kernels`;
