//! Command-line arguments. The library documents the options of jobs (`GenerateOptions`, `TrainOptions`).

mod demo;
mod refusals;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portray::{EvaluateOptions, GenerateOptions, LoraArg, LoraFormat, ModelOptions, TrainOptions, WeightType};

pub use demo::{DemoArgs, Subject};
pub use refusals::refusal;

mod identifier;

pub use identifier::IdentifierArgs;

/// Shown after `portray --help`.
const EXAMPLES: &str = "\
Examples:
  portray generate \"a cat on the beach\"
  portray train --images photos --prompt \"a sks dog\" --class-prompt \"a dog\" --out sks.safetensors
  portray generate \"a sks dog on the beach\" --lora sks.safetensors

'portray COMMAND --help' lists the options of a command.";

/// Teach an image model a new subject from a few photos, and generate images, on any GPU.
///
/// Portray runs Stable Diffusion 1.x, 2.x and XL through WebGPU. Without --model, it uses a miniature SD 2 that is built into
/// this program.
#[derive(Debug, Parser)]
#[command(name = "portray", version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Adapter (GPU) to use: an index or part of a name from `portray info`
    #[arg(long, global = true, value_name = "INDEX|NAME", help_heading = "Global options")]
    pub adapter: Option<String>,
    /// Write one JSON event per line to stdout instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Show no progress
    #[arg(long, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate images from prompts
    #[command(allow_negative_numbers = true)]
    Generate(Box<GenerateArgs>),
    /// Teach a model a subject from a few images
    #[command(allow_negative_numbers = true)]
    Train(Box<TrainArgs>),
    /// Compare words by which a training may call its subject
    #[command(allow_negative_numbers = true)]
    Identifier(Box<IdentifierArgs>),
    /// Judge LoRAs or a fine-tuned model: likeness, prompt fidelity, diversity, drift, copying
    #[command(allow_negative_numbers = true)]
    Evaluate(Box<EvaluateArgs>),
    /// Generate or train in a window (a build with the feature `window`)
    Watch(WatchArgs),
    /// Train the built-in model on built-in images and write a sheet of results
    Demo(DemoArgs),
    /// Report the memory, FLOPs and dispatches of a job, without a GPU
    Plan(PlanArgs),
    /// Describe a model, LoRA or tensor file
    Inspect(InspectArgs),
    /// Convert a LoRA from one layout to another
    Convert(ConvertArgs),
    /// Run one part of a model on given tensors, to compare with another implementation
    Forward(ForwardArgs),
    /// Embed images and texts with a vision model: DINO, DINOv2 or CLIP
    Embed(EmbedArgs),
    /// List adapters, their limits, and how each would be used
    Info(InfoArgs),
    /// Measure the adapter's peak rates, and how close each hot op and whole steps come to them
    Bench(BenchArgs),
}

#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub job: GenerateOptions,
    #[command(flatten)]
    pub output: GenerateOutput,
}

/// Where images go.
#[derive(Clone, Debug, Default, Args)]
pub struct GenerateOutput {
    /// A .png file for one image, else a folder [default: portray-SEED.png]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    pub force: bool,
    /// Write the latents of the last and of every step to this .safetensors file
    #[arg(long, value_name = "FILE")]
    pub latents_out: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    pub job: TrainOptions,
}

#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub job: EvaluateOptions,
    /// Compute the figures of the embeddings in this file instead, without a model; --out then gets report.json alone.
    /// Tensors, each of which may be absent: real [photos, D], made [images, D], class and class_base [class images, D],
    /// unrelated and unrelated_base [other images, D]; clip_real [photos, C], clip_made [images, C], clip_text [prompts, C];
    /// prompt [images]: whole numbers, the row of clip_text that an image was made from
    #[arg(long, value_name = "X.safetensors", conflicts_with_all = ["model", "base", "loras", "photos", "prompt", "vision", "clip"])]
    pub embeddings: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct WatchArgs {
    /// Close the window when the job is done
    #[arg(long, global = true)]
    pub close: bool,
    #[command(subcommand)]
    pub job: WatchJob,
}

/// Job to watch, with all its options.
#[derive(Clone, Debug, Subcommand)]
pub enum WatchJob {
    /// Run `portray generate` in a window, with the same options
    #[command(allow_negative_numbers = true)]
    Generate(Box<GenerateArgs>),
    /// Run `portray train` in a window, with the same options
    #[command(allow_negative_numbers = true)]
    Train(Box<TrainArgs>),
}

#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct PlanArgs {
    #[command(subcommand)]
    pub job: PlanJob,
}

/// Job to plan, with all its options.
#[derive(Debug, Subcommand)]
pub enum PlanJob {
    /// Plan `portray generate`, with the same options
    #[command(allow_negative_numbers = true)]
    Generate(Box<GenerateArgs>),
    /// Plan `portray train`, with the same options
    #[command(allow_negative_numbers = true)]
    Train(Box<TrainArgs>),
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model folder, a LoRA file or folder, or any .safetensors file
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// For a LoRA: report which of its keys match this model and which do not
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// LoRA file or folder to read
    #[arg(value_name = "LORA")]
    pub lora: PathBuf,
    /// Layout to write
    #[arg(long)]
    pub format: LoraFormat,
    /// File to write; for peft-folder, a folder
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Model that the LoRA is for: resolves layer names that kohya's layout leaves ambiguous, and is noted in the metadata
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    /// Overwrite --out
    #[arg(long)]
    pub force: bool,
}

/// Part of a model, with the tensors it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartArg {
    /// input_ids [B,77] (SDXL also input_ids_2; or --prompt) -> hidden (SDXL also pooled)
    Text,
    /// sample [B,4,h,w] (inpainting models: [B,9,h,w]), timestep [B], context [B,77,C] (SDXL also pooled [B,P],
    /// time_ids [B,6]) -> out
    #[value(alias = "denoiser")]
    Unet,
    /// image [B,3,H,W] in -1..1 -> mean, logvar
    VaeEncode,
    /// latent [B,4,h,w], not scaled -> image
    VaeDecode,
}

#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// Part to run
    #[arg(value_name = "PART")]
    pub part: PartArg,
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tensors to read, in PyTorch's layouts, batch first (I64, I32, F16 or F32)
    #[arg(long = "in", value_name = "X.safetensors", required_unless_present = "prompt")]
    pub input: Option<PathBuf>,
    /// Tensors to write (F32)
    #[arg(long, value_name = "Y.safetensors", required_unless_present = "check")]
    pub out: Option<PathBuf>,
    /// Compare each operation with its reference on the CPU, and name the first that computes wrongly; slow
    #[arg(long)]
    pub check: bool,
    /// For `text`: a prompt instead of input_ids; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// LoRA file or folder to apply, with an optional scale; may be given several times
    #[arg(long = "lora", value_name = "FILE[=SCALE]", value_parser = portray::low_level::pipeline::lora_parser())]
    pub loras: Vec<LoraArg>,
    /// Overwrite --out
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// Images, or folders of them, to embed: `images` [N,D], and as the model reads them `pixels` [N,3,H,W]
    #[arg(value_name = "IMAGE|DIR")]
    pub pictures: Vec<PathBuf>,
    /// Vision model: a folder of ViT (such as DINO), DINOv2 or CLIP, as transformers saves it or as it is published
    #[arg(long, value_name = "DIR")]
    pub vision: PathBuf,
    /// Texts to embed with a CLIP: `texts` [M,D]
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub text: Vec<String>,
    /// Tensors to embed: `pixels` [N,3,H,W], prepared for the model, and `input_ids` [M,T]
    #[arg(long = "in", value_name = "X.safetensors")]
    pub input: Option<PathBuf>,
    /// Tensors to write (F32)
    #[arg(long, value_name = "Y.safetensors")]
    pub out: PathBuf,
    /// Overwrite --out
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print the authors and licences of the works inside this program instead
    #[arg(long)]
    pub licenses: bool,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Write the WGSL of every kernel into this folder instead, for other compilers
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
    /// Write into a folder that already holds files
    #[arg(long, requires = "dump")]
    pub force: bool,
    /// Measure whole steps of this model instead: a folder in diffusers layout or a single .safetensors file
    #[arg(long, value_name = "DIR|FILE", conflicts_with = "dump")]
    pub model: Option<PathBuf>,
    /// Autoencoder in place of that model's own: a diffusers folder or a .safetensors file
    #[arg(long, value_name = "FILE|DIR", requires = "model")]
    pub vae: Option<PathBuf>,
    /// UNet in place of that model's own: a .safetensors file that holds one, or a diffusers folder
    #[arg(long, value_name = "FILE|DIR", requires = "model")]
    pub unet: Option<PathBuf>,
    /// Storage type of that model's large weights
    #[arg(long, value_enum, default_value_t, requires = "model")]
    pub dtype: WeightType,
}

#[cfg(test)]
mod tests;
