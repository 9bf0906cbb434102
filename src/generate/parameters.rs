//! Text that goes into an image's file: everything that determines the image.

use crate::base::rng::RngKind;
use crate::io;
use crate::io::image::title;
use crate::pipeline::WeightType;
use crate::pipeline::prompt::without_tags;

use super::making::Making;

impl Making<'_> {
    /// The text that goes into an image's file.
    pub(super) fn parameters(&self, prompt: &str, seed: u64) -> String {
        let Making { model, job, recipe, size: [width, height], start_names, .. } = self;
        let model_name = job.model.model.as_deref().map_or_else(|| model.checkpoint.name().to_string(), title);
        let sampling = &job.sampling;
        let mut more = start_names.clone();
        for (name, path) in [("UNet", &job.model.unet), ("VAE", &job.model.vae)] {
            more.extend(path.as_deref().map(|path| (name, title(path))));
        }
        more.extend(sampling.spacing.map(|spacing| ("Timestep spacing", format!("{spacing:?}").to_lowercase())));
        more.extend(
            job.model.prediction.map(|prediction| ("Prediction type", format!("{prediction:?}").to_lowercase())),
        );
        if model.merges && !model.loras.is_empty() {
            more.push(("LoRA", "merged".into()));
        }
        if sampling.rng != RngKind::default() {
            more.push(("RNG", "philox".into()));
        }
        if recipe.rescale > 0.0 {
            more.push(("Guidance rescale", recipe.rescale.to_string()));
        }
        // Other programs count the last layer as 1, and what the model leaves out anyway.
        let usual = model.texts.first().and_then(|text| text.place.skip).unwrap_or(0);
        more.extend(sampling.clip_skip.map(|skip| ("Clip skip", (skip + usual + 1).to_string())));
        more.extend(sampling.original_size.map(|size| ("Original size", size.to_string())));
        more.extend(sampling.crop.map(|crop| ("Crop", crop.to_string())));
        more.extend(sampling.target_size.map(|size| ("Target size", size.to_string())));
        if job.model.dtype != WeightType::Auto {
            more.push(("Weights", format!("{:?}", job.model.dtype).to_lowercase()));
        }
        io::Parameters {
            prompt: without_tags(prompt).0,
            negative: if recipe.guided() { without_tags(&sampling.negative).0 } else { String::new() },
            steps: recipe.steps,
            sampler: recipe.trajectory.kind.name().to_string(),
            guidance: recipe.guidance,
            seed,
            size: (*width, *height),
            model: model_name,
            loras: job.loras.iter().map(|l| (title(&l.path), l.scale)).collect(),
            strength: job.init.as_ref().map(|_| job.start_strength(model).unwrap_or(1.0)),
            karras: sampling.karras,
            more,
        }
        .to_string()
    }
}
