//! Fields of `report.json`.

use crate::evaluate::make::Role;
use crate::evaluate::measures::{Estimate, Figures};
use crate::evaluate::prompts::Prompt;

/// Version of the fields of [`Report`]; a change of their meaning raises it.
pub const SCHEMA: u32 = 1;

/// Figures of an evaluation with the images that they are of. Serializes to `report.json`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Version of these fields.
    pub schema: u32,
    /// Version of the program.
    pub portray: &'static str,
    /// Whether all images were made; `false` if the evaluation was interrupted.
    pub complete: bool,
    /// Model that was evaluated.
    pub model: String,
    /// Model before a full fine-tune, if it is another.
    pub base: Option<String>,
    /// Prompt with the identifier.
    pub prompt: String,
    /// Prompt of the class.
    pub class_prompt: Option<String>,
    /// Prompts that show the subject.
    pub prompts: Vec<Prompt>,
    /// Prompts that show something else.
    pub unrelated_prompts: Vec<String>,
    /// Images of each prompt.
    pub seeds: usize,
    /// First seed.
    pub seed: u64,
    /// Width and height of the images in pixels.
    pub size: [usize; 2],
    /// Sampler, steps and guidance. For people.
    pub sampling: String,
    /// What judged the images.
    pub judges: Judges,
    /// Remarks. For people.
    pub notes: Vec<String>,
    /// Files of the photos.
    pub photos: Vec<String>,
    /// Likeness of the photos among themselves; empty for a single photo.
    pub among_photos: Figures,
    /// Likeness of the two photos that are most alike.
    pub closest_photos: Option<f64>,
    /// The base model, then each LoRA at each scale, or the fine-tuned model.
    pub columns: Vec<Column>,
}

/// Measures behind the figures.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Judges {
    /// `colour`, or the name of the vision model behind DINO, PRES, DIV and DRIFT.
    pub likeness: String,
    /// Name of the CLIP model behind CLIP_I and CLIP_T.
    pub clip: Option<String>,
    /// What the measures cannot see. For people.
    pub blind_to: Option<String>,
}

/// One of the models that are compared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Column {
    /// Name in tables.
    pub name: String,
    /// LoRA file.
    pub lora: Option<String>,
    /// Scale of the LoRA.
    pub scale: Option<f64>,
    /// Images that the figures are over: all, or, of an interrupted evaluation, those that every column has; 0 of a column
    /// that is left out.
    pub counted: usize,
    /// Figures over all prompts.
    pub figures: Figures,
    /// Likeness above that of the base model's image of the same prompt and seed.
    pub gain: Option<Estimate>,
    /// Images that are nearer to a photo than any two photos are to each other.
    pub copies: usize,
    /// Judgements in words. For people.
    pub verdicts: Vec<String>,
    /// Figures of each prompt that shows the subject.
    pub prompts: Vec<PromptFigures>,
    /// Images in the order in which they were made.
    pub images: Vec<Image>,
}

/// Figures of a prompt.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PromptFigures {
    /// Index of the prompt.
    pub prompt: usize,
    /// Figures of its images alone.
    pub figures: Figures,
}

/// An image that was judged.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Image {
    /// Subject of its prompt.
    pub role: Role,
    /// Index of its prompt among those of its role.
    pub prompt: usize,
    /// Its seed.
    pub seed: u64,
    /// File in the folder of the report.
    pub file: String,
    /// Mean likeness to the photos.
    pub likeness: f64,
    /// Mean likeness to the photos by CLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_likeness: Option<f64>,
    /// Likeness to the prompt without the identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_fidelity: Option<f64>,
    /// Photo that it is most like.
    pub nearest: Option<Nearest>,
    /// Whether it is nearer to that photo than any two photos are to each other.
    pub copies: bool,
    /// Image of the base model with the same prompt and seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Twin>,
}

/// Photo that an image is most like.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Nearest {
    /// Index of the photo.
    pub photo: usize,
    /// Likeness to it.
    pub likeness: f64,
}

/// The base model's image of the same prompt and seed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Twin {
    /// File in the folder of the report.
    pub file: String,
    /// Its mean likeness to the photos.
    pub likeness: f64,
    /// 1 - cosine of the two images.
    pub change: f64,
}
