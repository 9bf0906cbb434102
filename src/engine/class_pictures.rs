//! Class pictures for prior preservation: made by the untouched model, kept in the user's cache.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::diffusion::SamplerKind;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::io;
use crate::job::{GenerateJob, ModelOptions, SamplingOptions};

use super::Engine;

/// Sampler steps of a class picture.
const STEPS: usize = 50;
/// Guidance of a class picture.
const GUIDANCE: f64 = 7.5;

/// The user's cache folder for this program.
pub fn cache_folder() -> Result<PathBuf> {
    let base = io::files::cache().ok_or_else(|| Error::Usage("no cache folder: set XDG_CACHE_HOME or HOME".into()))?;
    Ok(base.join("portray"))
}

/// Where the class pictures of this model, prompt, size and seed lie.
pub fn class_folder(fingerprint: &str, prompt: &str, size: [usize; 2], seed: u64) -> Result<PathBuf> {
    let key = format!("{fingerprint}\n{prompt}\nddpm {STEPS} {GUIDANCE}\n{}x{}\n{seed}", size[0], size[1]);
    let digest: String = Sha256::digest(key.as_bytes()).iter().take(12).map(|b| format!("{b:02x}")).collect();
    Ok(cache_folder()?.join("class").join(digest))
}

fn cached(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index:04}.png"))
}

/// The job that makes them.
pub(super) fn class_job(model: &ModelOptions, prompt: &str, count: usize, size: [usize; 2], seed: u64) -> GenerateJob {
    let sampling = SamplingOptions {
        steps: Some(STEPS),
        guidance: Some(GUIDANCE),
        sampler: Some(SamplerKind::Ddpm),
        seed,
        width: Some(size[0]),
        height: Some(size[1]),
        ..SamplingOptions::default()
    };
    GenerateJob {
        prompts: vec![prompt.to_string()],
        model: model.clone(),
        sampling,
        count,
        strength: 1.0,
        ..GenerateJob::default()
    }
}

impl Engine {
    /// `count` pictures of `prompt` by the untouched model, seeds `seed + i`, from the cache where they are there.
    #[allow(clippy::too_many_arguments, reason = "what decides the pictures, and where they are told of")]
    pub(crate) async fn class_pictures(
        &self,
        model: &ModelOptions,
        fingerprint: &str,
        prompt: &str,
        count: usize,
        size: [usize; 2],
        seed: u64,
        listener: Listener<'_>,
    ) -> Result<Vec<io::Picture>> {
        let folder = class_folder(fingerprint, prompt, size, seed)?;
        // A damaged picture is made again.
        let have = (0..count).take_while(|&i| io::Picture::open(cached(&folder, i)).is_ok()).count();
        if have < count {
            listener(Event::Phase(format!("making {} class pictures of \"{prompt}\"", count - have)));
            let job = class_job(model, prompt, count - have, size, seed.wrapping_add(have as u64));
            let mut forward = |event: Event| match event {
                Event::Progress { .. } | Event::Warning(_) => listener(event),
                _ => listener(Event::Progress { unit: "step", done: 0, total: 0 }),
            };
            let made = Box::pin(self.generate(&job, &mut forward)).await?;
            for (i, p) in made.pictures.into_iter().enumerate() {
                let picture = io::Picture { width: p.width, height: p.height, rgb: p.rgb };
                io::write_png(cached(&folder, have + i), &picture, &[("parameters", &p.parameters)])?;
            }
        }
        (0..count).map(|i| io::Picture::open(cached(&folder, i))).collect()
    }
}
