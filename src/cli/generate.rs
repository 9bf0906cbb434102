//! `portray generate`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portray::Result;
use portray::engine::{Generated, Latents};
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
    let (job, results) = Results::new(global, args)?;
    stop::listen();
    let engine = super::open(global)?;
    let mut reporter = Reporter::new(global);
    let result = pollster::block_on(engine.generate(&job, &mut |event| {
        if let Event::Picture(picture) = &event {
            reporter.hold(results.picture(picture));
        }
        reporter.hear(&event)
    }));
    results.latents(&reporter.finish(result)?)
}

/// Where the results of a job go.
pub struct Results {
    destination: Destination,
    latents: Option<PathBuf>,
    /// Pictures of a prompt.
    count: usize,
    json: bool,
}

impl Results {
    /// The job of `args`, and where its results go.
    ///
    /// # Errors
    /// For places that cannot be written, or hold something already.
    pub fn new(global: &Global, args: GenerateArgs) -> Result<(GenerateJob, Results)> {
        let GenerateArgs { mut job, output } = args;
        let destination = Destination::new(output.out.as_deref(), job.prompts.len(), job.count)?;
        destination.check(job.prompts.len(), job.count, job.sampling.seed, output.force)?;
        if let Some(path) = &output.latents_out {
            files::check_file(path, output.force)?;
            job.keep_latents = true;
        }
        let count = job.count.max(1);
        Ok((job, Results { destination, latents: output.latents_out, count, json: global.json }))
    }

    /// The file of a picture.
    pub fn path(&self, picture: &Picture) -> PathBuf {
        self.destination.path(picture.index / self.count, picture.seed)
    }

    /// Writes a picture.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn picture(&self, picture: &Picture) -> Result<()> {
        let path = self.path(picture);
        files::write_picture(&path, picture)?;
        self.tell(&path);
        Ok(())
    }

    /// Writes a picture that was not asked for at first, over nothing: where there is a file of its name, its seed is added.
    ///
    /// # Errors
    /// When it cannot be written.
    #[cfg(feature = "window")]
    pub fn add(&self, picture: &Picture) -> Result<PathBuf> {
        let mut path = self.path(picture);
        if path.exists() {
            path = files::beside(&path, &format!("-{}.png", picture.seed));
        }
        files::check_file(&path, false)?;
        files::write_picture(&path, picture)?;
        self.tell(&path);
        Ok(path)
    }

    /// Writes the latents that were asked for.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn latents(&self, made: &Generated) -> Result<()> {
        if let (Some(path), Some(latents)) = (&self.latents, &made.latents) {
            write_latents(path, latents)?;
            self.tell(path);
        }
        Ok(())
    }

    /// Names a file that was written.
    pub fn tell(&self, path: &Path) {
        if self.json {
            terminal::tell(terminal::with_path(json!({"event": "saved"}), "path", path));
        } else {
            terminal::tell_path(path);
        }
    }
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
