//! `portray generate`.

use std::collections::BTreeMap;
use std::path::Path;

use portray::Result;
use portray::engine::Latents;
use portray::event::{Event, Picture};
use portray::io::{Tensor, write_safetensors};
use portray::job::GenerateJob;
use serde_json::json;

use super::args::{GenerateArgs, Global};
use super::files::{self, Destination};
use super::report::Reporter;
use super::{stop, terminal};

/// Makes the pictures and writes each as soon as it is there.
pub fn run(global: &Global, args: GenerateArgs) -> Result<()> {
    let GenerateArgs { mut job, output } = args;
    let destination = Destination::new(output.out.as_deref(), job.prompts.len(), job.count)?;
    for prompt in 0..job.prompts.len() {
        for i in 0..job.count as u64 {
            files::check_file(&destination.path(prompt, job.sampling.seed.wrapping_add(i)), output.force)?;
        }
    }
    if let Some(path) = &output.latents_out {
        files::check_file(path, output.force)?;
        job.keep_latents = true;
    }
    stop::listen();
    let engine = super::open(global)?;
    let mut reporter = Reporter::new(global);
    let mut written = 0;
    let result = pollster::block_on(engine.generate(&job, &mut |event| {
        if let Event::Picture(picture) = &event {
            let saved = save(&job, &destination, picture, reporter.json());
            written += usize::from(saved.is_ok());
            reporter.hold(saved);
            return reporter.hear(&event);
        }
        reporter.hear(&event)
    }));
    let made = reporter.finish(result)?;
    debug_assert_eq!(written, made.pictures.len());
    if let (Some(path), Some(latents)) = (&output.latents_out, &made.latents) {
        write_latents(path, latents)?;
        if global.json {
            terminal::data(json!({"event": "saved", "path": path}))?;
        } else {
            terminal::data(path.display())?;
        }
    }
    Ok(())
}

fn save(job: &GenerateJob, destination: &Destination, picture: &Picture, json: bool) -> Result<()> {
    let path = destination.path(picture.index / job.count.max(1), picture.seed);
    files::write_picture(&path, picture)?;
    if json { terminal::data(json!({"event": "saved", "path": path})) } else { terminal::data(path.display()) }
}

/// `latents` [N,4,h,w] as diffusers gives them with `output_type="latent"`, `steps` [S,N,4,h,w], `timesteps` [S].
fn write_latents(path: &Path, latents: &Latents) -> Result<()> {
    let steps_shape: Vec<usize> = std::iter::once(latents.steps.len()).chain(latents.shape.iter().copied()).collect();
    let steps = latents.steps.concat();
    let timesteps: Vec<f32> = latents.timesteps.iter().map(|&t| t as f32).collect();
    let tensors = [
        Tensor::f32("latents", &latents.shape, &latents.last),
        Tensor::f32("steps", &steps_shape, &steps),
        Tensor::f32("timesteps", &[timesteps.len()], &timesteps),
    ];
    write_safetensors(path, &tensors, &BTreeMap::new())
}
