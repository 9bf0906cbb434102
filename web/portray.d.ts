// Types of portray.js.

export type Weights = "auto" | "f32" | "f16" | "q8" | "q4";

export interface Info { adapter: string; software: boolean; maxBindingBytes: number; maxBufferBytes: number }

export interface ModelInfo {
  name: string; family: string;
  /** Name of its files, and how they are laid out. */
  model: string; layout: "diffusers folder" | "single-file checkpoint";
  /** Pixels of a side that it was made for, and of a latent's pixel. */
  pixels: number; factor: number;
  /** Whether it is an inpainting model, which `generate` gives `init` and `mask`. */
  inpaints: boolean;
  parameters: number; bytes: number;
  parts: Record<string, { parameters: number; bytes: number; types: Record<string, number> }>;
  scheduler: string; contextWidth: number; loraLayers: number;
  /** Null where its files do not say: the first image finds out. */
  prediction: "epsilon" | "v" | "sample" | null;
  /** What it samples with where nothing is asked for. */
  steps: number; guidance: number; sampler: string;
  cannotBeUsed: string | null; notes: string[]; fingerprint: string;
}

/** A LoRA beside the loaded model; `kinds` counts its layers: `{ LoRA: 96 }`. */
export interface LoraInfo {
  name: string; file: string; layout: string | null; kinds: Record<string, number>; rank: number; madeFor: string | null;
  unetLayers: number; textEncoderLayers: number; secondTextEncoderLayers: number; parameters: number; metadata: Record<string, string>;
  matched: string[]; unmatched: string[]; mismatched: string[];
}

/** A LoRA that the loaded model has no layers for. */
export interface OtherLora { name: string; why: string }

/** A vision model: the option of a training that takes it, its class (`ViTModel`), and the bytes of its weights on the adapter. */
export interface VisionInfo { name: string; option: "vision" | "clip"; class: string; bytes: number }

/** A model that was downloaded into this browser's storage, or the part of it that is there; its bytes in all. */
export interface KeptModel { key: string; name: string; bytes: number; whole: boolean; loaded: boolean; url?: string }

/** What a model takes, before it is downloaded or loaded. */
export interface Requirements {
  name: string;
  /** Bytes of its weights, and of those that are still to be downloaded. */
  bytes: number; missing: number;
  /** Bytes that this browser has room for; null for a model from disk. */
  room: number | null;
  /** By the type that its weights may be held as: memory of one image of its own size, and whether the adapter can give that now. */
  types: { dtype: Exclude<Weights, "auto">; peakBytes: number; fits: boolean }[];
}

/** What a job takes. */
export interface Plan {
  /** Bytes of the adapter's memory at their highest. */
  peakBytes: number;
  /** The same where the weights stay on the adapter for the next images, as they do where it can hold them. */
  keptBytes: number;
  dispatches: number; flops: number;
  /** Kernels that a first job has compiled, and how long their texts are together. */
  kernels: number; kernelBytes: number;
  rows: { what: string; bytes: number }[]; notes: string[];
}

export interface GenerateJob {
  prompt: string; negative?: string; steps?: number; guidance?: number;
  sampler?: "ddim" | "ddpm" | "pndm" | "euler" | "euler-a" | "heun" | "dpm++2m" | "unipc" | "lcm";
  spacing?: "leading" | "linspace" | "trailing"; karras?: boolean; seed?: number; rng?: "torch" | "philox";
  /** Share of the guided prediction that gets the prompt's own spread, 0 to 1. */
  guidanceRescale?: number;
  /** Text encoder layers left out at the end, beyond those that the model leaves out anyway. */
  clipSkip?: number;
  /** What SDXL is told of the image: sizes as "1024x768", the top and left edge of its part as "0,128". */
  originalSize?: string; crop?: string; targetSize?: string;
  /** `count` images of the prompt; `batch` of them are sampled together, 1 unless given. */
  count?: number; batch?: number; width?: number; height?: number; loras?: { name: string; scale: number }[];
  /** An image to start from: without width and height its own size, rounded down, is made. */
  init?: Blob;
  /** What an inpainting model repaints of `init`: white in this image, which has the same aspect. */
  mask?: Blob;
  /** How much of `init` is replaced; default 0.7, with `mask` 1. */
  strength?: number;
  /** Merge the LoRAs into the weights, instead of running beside them. */
  merge?: boolean;
  /** Events of what the image will be after every step; default true. */
  previews?: boolean;
  /** With `worker: false`: images also come as textures of `engine.device` (rgba8unorm); destroy them after use. */
  texture?: boolean;
}

/** Names, defaults and meanings are those of `portray train`. */
export interface TrainJob {
  images: { name: string; blob: Blob }[]; prompt: string; classPrompt?: string; classCount?: number; priorWeight?: number;
  /** What the LoRA will be called. */
  name?: string;
  steps?: number; rank?: number; alpha?: number; lr?: number; textLr?: number; seed?: number; resolution?: number;
  targets?: "attention" | "all"; textEncoder?: boolean; samplePrompts?: string[]; sampleEvery?: number; saveEvery?: number;
  evaluateEvery?: number; stop?: "never" | "plateau"; keepOut?: number;
  /** Names of vision models that evaluations judge by (`addVisionModel`): DINO or DINOv2, and a CLIP, which needs `classPrompt`. */
  vision?: string; clip?: string;
  checkpointing?: "auto" | "on" | "blocks" | "off"; batch?: number; accumulate?: number; schedule?: "constant" | "cosine"; warmup?: number;
  weightDecay?: number; maxGradNorm?: number; minSnr?: number; offsetNoise?: number; optimizer?: "adamw" | "adamw8bit";
  fusedUpdate?: boolean; flip?: boolean; crop?: "center" | "random"; buckets?: boolean; bucketStep?: "64" | "32" | "off";
}

type Common =
  /** `phase` stays the same in later versions, `name` is for people. */
  | { type: "phase"; phase: "detecting_prediction" | "encoding_prompts" | "encoding_images" | "making_class_images" | "loading_model" | "sampling" | "decoding" | "measuring_words" | "training" | "measuring"; name: string }
  | { type: "note" | "warning"; text: string }
  | { type: "progress"; unit: string; done: number; total: number }
  /** Kernels that the driver has compiled of those that this engine had not: a first job's take it some time. */
  | { type: "compiling"; done: number; total: number };

export type GenerateEvent = Common
  | { type: "preview"; index: number; step: number; steps: number; width: number; height: number; image: ImageBitmap }
  | { type: "picture"; index: number; seed: number; prompt: string; parameters: string; width: number; height: number; image: ImageBitmap; png: Blob; texture?: GPUTexture }
  | { type: "done" };

export type TrainEvent = Common
  /** `step` counts from 0; losses before the class images' weight. */
  | { type: "step"; step: number; steps: number; loss: number; instance: number; prior?: number; gradNorm: number; lr: number }
  | { type: "sample"; step: number; index: number; seed: number; prompt: string; parameters: string; width: number; height: number; image: ImageBitmap; png: Blob }
  /** After `step` steps. `likeness` and `score` come with the evaluations that make images. */
  | { type: "evaluation"; step: number; loss: number; heldOut: boolean; drift: number; likeness?: number; likenessError?: number; promptFidelity?: number; score?: number; best?: number }
  | { type: "checkpoint"; step: number }
  /** `kept`: in this browser's storage; else it lasts as long as this engine. */
  | { type: "paused"; step: number; kept: boolean }
  /** The storage is full: the training ends, its LoRA follows. */
  | { type: "storage"; message: string }
  /** `kept`: in this browser's storage, for every later engine, until `removeLora`. */
  | { type: "done"; step: number; lora: LoraInfo; kept: boolean; file: Blob; best?: { step: number; file: Blob } };

/** Events by `for await`; leaving that early stops the job. */
export interface Job<E> extends AsyncIterable<E> {
  /** Ends it at its next event; before it has begun, at once. */
  stop(): void;
  /** Resolves when nothing of it runs any more. */
  readonly ended: Promise<void>;
}

export interface TrainingJob extends Job<TrainEvent> {
  id: string;
  /** Saves, then ends with `paused`. */
  pause(): void;
  /** Ends with the update under way, or with the first one, and the LoRA as it is then. */
  finish(): void;
}

export interface Run { id: string; name: string; prompt: string; step: number; steps: number; state: "paused" | "running" | "running elsewhere"; updated: number }

export class PortrayError extends Error {
  constructor(kind: PortrayError["kind"], message: string, field?: string | null);
  /** The first eight are the engine's; `op` and `internal` are faults of its own. */
  kind: "usage" | "file" | "op" | "limit" | "device" | "diverged" | "interrupted" | "internal" | "storage" | "unsupported";
  /** The option that is wrong, such as `lr`, where a single one is. */
  field: string | null;
}

export class Portray {
  /** @throws PortrayError where there is no WebGPU, or for a `device`: none that exists can be taken. */
  static create(options?: {
    worker?: boolean;
    /** What your page calls options, for messages that name them: `{ lr: "Learning rate" }`. */
    labels?: Record<string, string>;
  }): Promise<Portray>;
  readonly info: Info;
  /** With `worker: false` only. */
  readonly device?: GPUDevice;
  /** The device is lost, or the engine crashed: it is of no more use, create another. */
  onlost: ((message: string) => void) | null;
  /** The bundled model; one file or a folder's; or the address of one. Where it fails, the model before stays loaded. */
  load(model?: File | File[] | string, options?: {
    dtype?: Weights; prediction?: "epsilon" | "v" | "sample"; signal?: AbortSignal;
    onprogress?: (progress: { done: number; total: number; text: string }) => void;
  }): Promise<ModelInfo>;
  /** What a model takes; of one at an address only the beginnings of its weights are read. Weights of the last images leave the adapter. */
  requirements(model?: File | File[] | string, options?: { signal?: AbortSignal }): Promise<Requirements>;
  /** In place of one of that name; where that is one that a training made, under another name. */
  addLora(file: Blob, name: string): Promise<LoraInfo>;
  removeLora(name: string): Promise<void>;
  /** Those added, and those that trainings made in this browser. */
  loras(): LoraInfo[];
  /** Those that are there for another model. */
  otherLoras(): OtherLora[];
  /**
   * A vision model from the files of its folder, for `vision` or `clip` of trainings: DINO, DINOv2, or a CLIP with its text
   * side. It lasts as long as this engine; a training that goes on later needs it again.
   */
  addVisionModel(files: File[]): Promise<VisionInfo>;
  /** One that judges a training is refused while that runs. */
  removeVisionModel(name: string): Promise<void>;
  visionModels(): VisionInfo[];
  models(): Promise<KeptModel[]>;
  /** Deletes a downloaded model that is not loaded. */
  forgetModel(key: string): Promise<void>;
  /** Bytes of class images that are kept for later trainings, and can be made again. */
  cacheBytes(): Promise<number>;
  clearCache(): Promise<void>;
  plan(kind: "generate", job: GenerateJob): Promise<Plan>;
  plan(kind: "train", job: Partial<TrainJob>): Promise<Plan>;
  /** An image as a training at `resolution` sees it. */
  preparePicture(file: Blob, resolution?: number): Promise<{ width: number; height: number; image: ImageBitmap }>;
  generate(job: GenerateJob): Job<GenerateEvent>;
  train(job: TrainJob): TrainingJob;
  /** Trainings that are not done: in this browser's storage, or without one in this engine. */
  runs(): Promise<Run[]>;
  resume(id: string): TrainingJob;
  forget(id: string): Promise<void>;
  /** A LoRA as a file of another layout. */
  convert(lora: string, format: "diffusers" | "peft" | "kohya"): Promise<Blob>;
  destroy(): void;
}
