//! `portray generate`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portray::error::option;
use portray::low_level::io::files::Lock;
use portray::low_level::io::place::{check_apart, check_no_input};
use portray::low_level::io::{Place, Placed, Tensor, write_safetensors};
use portray::{Error, Event, GenerateOptions, Generated, Latents, Picture, Result};

use super::args::{GenerateArgs, Global};
use super::files::Destination;
use super::report::Reporter;
use super::words::said;
use super::{stop, terminal};

/// Makes the images and writes each as soon as it is there.
pub fn run(global: &Global, args: GenerateArgs) -> Result<()> {
    let (job, results) = Results::new(global, args)?;
    stop::listen();
    let engine = super::device::open(global)?;
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
    force: bool,
    /// Images of a prompt.
    count: usize,
    json: bool,
    /// Of the first result that is not where it was to go.
    misplaced: RefCell<Option<Error>>,
    /// Against other runs that write the same files.
    _locks: Vec<Lock>,
}

impl Results {
    /// The job of `args`, and where its results go.
    ///
    /// # Errors
    /// For places that cannot be written, hold something already, are one, are what the job reads, or are another run's.
    pub fn new(global: &Global, args: GenerateArgs) -> Result<(GenerateOptions, Results)> {
        let GenerateArgs { mut job, output } = args;
        let destination = Destination::new(output.out.as_deref(), job.prompts.len(), job.count)?;
        destination.check(job.prompts.len(), job.count, job.sampling.seed, output.force)?;
        let mut read: Vec<(&'static str, &Path)> =
            job.loras.iter().map(|lora| ("loras", lora.path.as_path())).collect();
        read.extend(job.model.model.as_deref().map(|path| ("model", path)));
        read.extend(job.model.vae.as_deref().map(|path| ("vae", path)));
        read.extend(job.model.unet.as_deref().map(|path| ("unet", path)));
        let mut files = Vec::new();
        if let Destination::File(path) = &destination {
            check_no_input(("out", path), &read)?;
            files.push(Place::file(path, output.force));
        }
        if let Some(path) = &output.latents_out {
            if path.as_os_str().is_empty() {
                return Err(Error::usage("latents_out", option("latents_out") + ": the path is empty"));
            }
            for i in 0..job.prompts.len() * job.count {
                let picture = destination.path(i / job.count, job.sampling.seed.wrapping_add((i % job.count) as u64));
                check_apart(&[("out", &picture), ("latents_out", path)])?;
            }
            let place = Place::file(path, output.force);
            place.check()?;
            if let Destination::Folder { folder, .. } = &destination
                && !folder.as_os_str().is_empty()
                && portray::low_level::io::files::same(folder, path)
            {
                check_apart(&[("out", folder), ("latents_out", path)])?;
            }
            read.extend(job.init.as_deref().map(|path| ("init", path)));
            read.extend(job.mask.as_deref().map(|path| ("mask", path)));
            check_no_input(("latents_out", path), &read)?;
            files.push(place);
            job.keep_latents = true;
        }
        if let Err(e) = check_space(&job, &destination, files.last().filter(|_| job.keep_latents)) {
            // How small a PNG is, and how large a model's latents are, is seen when they are made.
            terminal::warn(global.json, &format!("{}; by an estimate", said(&e)));
        }
        let mut locks = Vec::new();
        for place in &files {
            locks.extend(place.lock(|text| terminal::warn(global.json, &text))?);
        }
        let count = job.count.max(1);
        let (latents, force, json) = (output.latents_out, output.force, global.json);
        Ok((job, Results { destination, latents, force, count, json, misplaced: RefCell::new(None), _locks: locks }))
    }

    /// The file of an image.
    pub fn path(&self, picture: &Picture) -> PathBuf {
        self.destination.path(picture.index / self.count, picture.seed)
    }

    /// Writes an image.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn picture(&self, picture: &Picture) -> Result<()> {
        let place = Place::file(self.path(picture), self.force);
        self.told(place.put(|at| picture.write_png(at))?).map(drop)
    }

    /// Names the file that a result is in, and keeps why it is not the one that was asked for.
    fn told(&self, placed: Placed) -> Result<PathBuf> {
        let path = placed.path.clone();
        self.tell(&path);
        if let Err(e) = placed.path() {
            terminal::warn(self.json, &said(&e));
            self.misplaced.borrow_mut().get_or_insert(e);
        }
        Ok(path)
    }

    /// Writes an image that was not asked for at first, over nothing: where there is a file of its name, its seed is added.
    ///
    /// # Errors
    /// When it cannot be written.
    #[cfg(feature = "window")]
    pub fn add(&self, picture: &Picture) -> Result<PathBuf> {
        let mut path = self.path(picture);
        if path.exists() {
            path = super::files::beside(&path, &format!("-{}.png", picture.seed));
        }
        self.told(Place::file(path, false).put(|at| picture.write_png(at))?)
    }

    /// Writes the latents that were asked for; the end of the results.
    ///
    /// # Errors
    /// When they cannot be written, or a result is not where it was to go.
    pub fn latents(&self, made: &Generated) -> Result<()> {
        if let (Some(path), Some(latents)) = (&self.latents, &made.latents) {
            self.told(Place::file(path, self.force).put(|at| write_latents(at, latents))?)?;
        }
        self.misplaced.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Names a file that was written.
    pub fn tell(&self, path: &Path) {
        terminal::tell_saved(self.json, path);
    }
}

/// Asks whether there is room for images whose size is given, and for their latents.
fn check_space(job: &GenerateOptions, to: &Destination, latents: Option<&Place>) -> Result<()> {
    let (Some(width), Some(height)) = (job.sampling.width, job.sampling.height) else { return Ok(()) };
    let (pixels, pictures) = (width.saturating_mul(height) as u64, (job.prompts.len() * job.count) as u64);
    // Of photos, PNG keeps about half.
    let name = to.folder().join("pictures");
    Place::file(name, true).check_space(pixels.saturating_mul(3 * pictures) / 2, "what is made")?;
    let Some(place) = latents else { return Ok(()) };
    let numbers = (pixels / 64).saturating_mul(4 * pictures * (job.sampling.steps.unwrap_or(0) as u64 + 1));
    place.check_space(numbers.saturating_mul(4), "the result")
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
