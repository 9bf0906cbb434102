//! Arguments of `portray demo`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Built-in subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// A purple cat, as "a mscds cat"
    #[default]
    Cat,
    /// A poodle, as "a sks dog"
    Dog,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Built-in subject to learn
    #[arg(long, value_enum, default_value_t, conflicts_with = "images")]
    pub subject: Subject,
    /// Folder with images of your own subject; needs --prompt and --class-prompt
    #[arg(long, value_name = "DIR", requires_all = ["prompt", "class_prompt"])]
    pub images: Option<PathBuf>,
    /// Caption of your images, with a rare word for the subject: "a sks dog"
    #[arg(long, value_name = "TEXT", requires = "images")]
    pub prompt: Option<String>,
    /// The subject's class: "a dog"
    #[arg(long, value_name = "TEXT", requires = "images")]
    pub class_prompt: Option<String>,
    /// Folder for the LoRA, sheet.png and report.md
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub out: PathBuf,
    /// Overwrite files of an earlier demo in --out
    #[arg(long)]
    pub force: bool,
    /// Also train without prior preservation and judge both; exit code 1 if the result falls short
    #[arg(long)]
    pub check: bool,
    /// Compare choices instead: with and without prior preservation, few and many class images, three words for the
    /// subject, a second subject; each on several seeds, into --out/study. Run again, it goes on where it was stopped
    #[arg(long, conflicts_with = "check")]
    pub study: bool,
    /// Seeds of each choice that --study compares, 1 or more
    #[arg(long, value_name = "N", default_value = "4", requires = "study", allow_negative_numbers = true, value_parser = portray::low_level::pipeline::parse_count)]
    pub seeds: usize,
    /// Optimizer steps of a training
    #[arg(long, value_name = "N", default_value = "200", allow_negative_numbers = true, value_parser = portray::low_level::pipeline::parse_count)]
    pub steps: usize,
    /// Sampler steps of every image
    #[arg(long, value_name = "N", default_value = "10", allow_negative_numbers = true, value_parser = sampler_steps())]
    pub sampling_steps: usize,
    /// Storage type of the frozen weights while a LoRA is trained; images are made with those of auto
    #[arg(long, value_enum, default_value_t)]
    pub training_dtype: portray::WeightType,
    /// Seed of all randomness
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Range of sampler steps: at most the timesteps of the built-in model's noise schedule.
fn sampler_steps() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=1000)
}
