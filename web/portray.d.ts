// Types of portray.js.

export type Weights = "auto" | "f32" | "f16" | "q8";

export interface Info { adapter: string; software: boolean; maxBindingBytes: number; maxBufferBytes: number }

export interface ModelInfo {
  name: string; family: string;
  /** Pixels of a side that it was made for, and of a latent's pixel. */
  side: number; factor: number;
  parameters: number; bytes: number; prediction: "epsilon" | "v";
  /** What it samples with where nothing is asked for. */
  steps: number; guidance: number; sampler: string;
}

export interface LoraInfo { name: string; layout: string; rank: number; layers: number; unmatched: string[] }

/** What a job takes; bytes of the adapter's memory at their highest. */
export interface Plan { peakBytes: number; dispatches: number; flops: number; rows: { name: string; bytes: number }[]; text: string }

export interface GenerateJob {
  prompt: string; negative?: string; steps?: number; guidance?: number;
  sampler?: "ddim" | "ddpm" | "pndm" | "euler" | "euler-a" | "dpm++2m" | "unipc" | "lcm";
  spacing?: "leading" | "linspace" | "trailing"; karras?: boolean; seed?: number; rng?: "torch" | "philox";
  count?: number; width?: number; height?: number; loras?: { name: string; scale: number }[];
  init?: Blob; strength?: number;
  /** Events of what the picture will be after every step; default true. */
  previews?: boolean;
  /** With `worker: false`: pictures also come as textures of `engine.device` (rgba8unorm); destroy them after use. */
  texture?: boolean;
}

/** Names, defaults and meanings are those of `portray train`. */
export interface TrainJob {
  images: { name: string; blob: Blob }[]; prompt: string; classPrompt?: string; classCount?: number; priorWeight?: number;
  /** What the LoRA will be called. */
  name?: string;
  steps?: number; rank?: number; alpha?: number; lr?: number; textLr?: number; seed?: number; resolution?: number;
  targets?: "attention" | "all"; textEncoder?: boolean; samplePrompts?: string[]; sampleEvery?: number; saveEvery?: number;
  checkpointing?: "auto" | "on" | "off"; batch?: number; accumulate?: number; schedule?: "constant" | "cosine"; warmup?: number;
  weightDecay?: number; maxGradNorm?: number; minSnr?: number; offsetNoise?: number; optimizer?: "adamw" | "adamw8bit";
  fusedUpdate?: boolean; flip?: boolean; crop?: "center" | "random"; buckets?: boolean;
}

type Common =
  | { type: "phase" | "note" | "warning"; text: string }
  | { type: "progress"; unit: string; done: number; total: number };

export type GenerateEvent = Common
  | { type: "preview"; index: number; step: number; steps: number; image: ImageBitmap }
  | { type: "picture"; index: number; seed: number; prompt: string; parameters: string; width: number; height: number; image: ImageBitmap; png: Blob; texture?: GPUTexture }
  | { type: "done" };

export type TrainEvent = Common
  /** `step` counts from 0; losses before the class pictures' weight. */
  | { type: "step"; step: number; steps: number; loss: number; instance: number; prior?: number; grad_norm: number; lr: number }
  | { type: "sample"; step: number; index: number; prompt: string; image: ImageBitmap; png: Blob }
  | { type: "checkpoint" | "paused"; step: number }
  /** The storage is full: the training ends, its LoRA follows. */
  | { type: "storage"; message: string }
  | { type: "done"; step: number; lora: LoraInfo; file: Blob };

/** Events by `for await`; leaving that early stops the job. */
export interface Job<E> extends AsyncIterable<E> {
  stop(): void;
  /** Resolves when nothing of it runs any more. */
  readonly ended: Promise<void>;
}

export interface TrainingJob extends Job<TrainEvent> {
  id: string;
  /** Saves, then ends with `paused`. */
  pause(): void;
  /** Ends now, with the LoRA as it is. */
  finish(): void;
}

export interface Run { id: string; name: string; prompt: string; step: number; steps: number; state: "paused" | "running" | "running elsewhere"; updated: number }

export class PortrayError extends Error {
  kind: "usage" | "file" | "limit" | "device" | "interrupted" | "storage" | "unsupported";
}

export class Portray {
  /** @throws PortrayError where there is no WebGPU, or for a `device`: none that exists can be taken. */
  static create(options?: { worker?: boolean }): Promise<Portray>;
  readonly info: Info;
  /** With `worker: false` only. */
  readonly device?: GPUDevice;
  /** The device is lost and the engine of no more use: create another. */
  onlost: ((message: string) => void) | null;
  /** The bundled model; one file or a folder's; or the address of one. */
  load(model?: File | File[] | string, options?: {
    dtype?: Weights; prediction?: "epsilon" | "v"; signal?: AbortSignal;
    onprogress?: (progress: { done: number; total: number; text: string }) => void;
  }): Promise<ModelInfo>;
  addLora(file: Blob, name: string): Promise<LoraInfo>;
  removeLora(name: string): Promise<void>;
  loras(): LoraInfo[];
  plan(kind: "generate", job: GenerateJob): Promise<Plan>;
  plan(kind: "train", job: Partial<TrainJob>): Promise<Plan>;
  /** A picture as a training at `resolution` sees it. */
  preparePicture(file: Blob, resolution?: number): Promise<{ width: number; height: number; image: ImageBitmap }>;
  generate(job: GenerateJob): Job<GenerateEvent>;
  train(job: TrainJob): TrainingJob;
  /** Trainings in this browser's storage that are not done. */
  runs(): Promise<Run[]>;
  resume(id: string): TrainingJob;
  forget(id: string): Promise<void>;
  /** A LoRA as a file of another layout. */
  convert(lora: string, format: "diffusers" | "peft" | "kohya"): Promise<Blob>;
  destroy(): void;
}
