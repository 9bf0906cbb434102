//! Where a training writes to: everything that could stand in the way of its results is asked before its first step.

use std::path::{Path, PathBuf};

use crate::base::DType;
use crate::error::{Error, Result, message, option};
use crate::io;
use crate::io::{Checkpoint, PartId, Place, Weights, files};
use crate::pipeline::events::EventSink;
use crate::pipeline::model::open_checkpoint;
use crate::train::{State, TrainPlan};

use super::state::{STATE_FILE, state_folder};
use super::{Method, TrainOptions};

/// Bytes of a result beside its numbers: names, shapes, configuration.
const HEADER: u64 = 64 << 10;

/// Returns the folder of the validation samples of a training that writes `out`: `OUT-samples`, without the `.safetensors` of a
/// file.
pub fn samples_folder(out: &Path) -> PathBuf {
    let known = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let mut name = if known { out.file_stem() } else { out.file_name() }.unwrap_or_default().to_os_string();
    name.push("-samples");
    out.with_file_name(name)
}

/// Returns the path of validation sample number `index` (from 0) of `step`: `step-000100-1.png` in `folder` for number 0.
pub fn sample_file(folder: &Path, step: usize, index: usize) -> PathBuf {
    folder.join(format!("step-{step:06}-{}.png", index + 1))
}

/// Returns the path of the best checkpoint of a training that writes `out`: `NAME.best.safetensors` of
/// `NAME.safetensors`; of a folder, the folder `NAME.best`.
pub fn best_path(out: &Path) -> PathBuf {
    let extension = out.extension().filter(|e| e.eq_ignore_ascii_case("safetensors"));
    let mut name = extension.map_or(out.file_name(), |_| out.file_stem()).unwrap_or_default().to_os_string();
    name.push(".best");
    if let Some(extension) = extension {
        name.push(".");
        name.push(extension);
    }
    out.with_file_name(name)
}

impl TrainOptions {
    /// This job with its best checkpoint as the result, which takes the place of the one before.
    pub(super) fn of_best(&self) -> TrainOptions {
        TrainOptions { out: best_path(&self.out), force: true, ..self.clone() }
    }

    /// Asks whether the result, the state and the samples can be written, before anything is opened for it.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Usage`] naming what stands in the way: what is there already without `force`, an
    /// interrupted run's state without `resume` or `force`, a file where a folder belongs, what a folder holds that would be
    /// lost, what cannot be written, and an output that is an input.
    pub fn check_places(&self) -> Result<()> {
        let state = state_folder(&self.out);
        let interrupted = State::is_at(&state);
        if self.resume && files::is_taken(&self.out) && matches!(interrupted, Ok(false)) {
            let message =
                "is there already, and no checkpoint beside it: that run came to its end, or had none yet; without ";
            return Err(Error::file(&self.out, message![message, option("resume"), " it starts anew"]));
        }
        self.place(None)?.check()?;
        // What is wrong with a state that is to be gone on with is told where it is read.
        let file = state.join(STATE_FILE);
        let interrupted = if self.resume && files::is_file(&file) { true } else { interrupted? };
        if interrupted && !self.resume && !self.force {
            let message = message!["is the state of an interrupted run: go on with it by ", option("resume")];
            return Err(Error::file(state, message![message, ", or add ", option("force"), " to start anew"]));
        }
        Place::file(file, true).check()?;
        self.check_inputs()?;
        if self.evaluates_every().is_some() {
            TrainOptions { force: self.force || self.resume, ..self.of_best() }.place(None)?.check()?;
        }
        if self.sample_prompts.is_empty() { Ok(()) } else { self.check_samples() }
    }

    /// The place of the result; of a whole model that is open, or is opened to see what it is of.
    pub(super) fn place(&self, model: Option<&Checkpoint>) -> Result<Place> {
        let (out, replace) = (self.out.as_path(), self.force);
        if self.method == Method::Lora {
            // Of a model that is not open yet: any part that it may have.
            let has = |part: &PartId| model.is_none_or(|model| model.parts().any(|(own, _)| own == *part));
            let trained = |part: &PartId| *part == PartId::UNET || (self.text_encoder && has(part));
            let parts: Vec<PartId> = PartId::ADAPTED.into_iter().filter(trained).collect();
            return Ok(self.format.place(out, &parts, replace));
        }
        let files = match model {
            Some(model) => io::checkpoints::diffusers_folder_files(model)?,
            // Only what is there can be lost.
            None if files::is_folder(out) && replace => {
                io::checkpoints::diffusers_folder_files(&open_checkpoint(self.model.model.as_deref())?)?
            }
            None => Vec::new(),
        };
        Ok(Place::folder(out, files, replace))
    }

    /// Refuses outputs that are inputs; the result may take the place of what it is made from.
    fn check_inputs(&self) -> Result<()> {
        let samples = samples_folder(&self.out);
        let given = |name: &'static str, path: &Option<PathBuf>| path.clone().map(|path| (name, path));
        let folders: Vec<_> =
            [given("images", &self.images), given("class_images", &self.class_images)].into_iter().flatten().collect();
        for (name, folder) in &folders {
            for output in [&samples, &state_folder(&self.out)] {
                if files::same(output, folder) {
                    let shown = output.display();
                    let fault = format!(": its {shown} is what ");
                    let remedy = message![" reads: name another ", option("out")];
                    return Err(Error::usage("out", message![option("out"), fault, option(*name), remedy]));
                }
            }
        }
        let mut read: Vec<_> = folders.into_iter().chain(given("replay", &self.replay)).collect();
        if self.method == Method::Lora {
            read.extend(given("model", &self.model.model));
            read.extend(given("vae", &self.model.vae));
            read.extend(given("unet", &self.model.unet));
        }
        let read: Vec<(&'static str, &Path)> = read.iter().map(|(name, path)| (*name, path.as_path())).collect();
        io::place::check_no_input(("out", &self.out), &read)
    }

    /// Asks whether validation samples can be written.
    fn check_samples(&self) -> Result<()> {
        let folder = samples_folder(&self.out);
        // A whole folder and a file of one name would share their samples.
        let mut twin = self.out.as_os_str().to_os_string();
        twin.push(".safetensors");
        let twin = match self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            true => self.out.with_extension(""),
            false => PathBuf::from(twin),
        };
        let entries = files::entries(&folder).unwrap_or_default();
        if (files::is_taken(&folder) && !files::is_folder(&folder))
            || (!entries.is_empty() && !self.force && !self.resume)
        {
            return Err(Error::file(
                &folder,
                message![
                    "exists already: name another ",
                    option("out"),
                    ", or add ",
                    option("force"),
                    " to write samples there"
                ],
            ));
        }
        if !entries.is_empty() && !self.resume && files::is_taken(&twin) {
            let twin = twin.display();
            let message = message![format!("holds the samples of {twin}: name another "), option("out")];
            return Err(Error::file(&folder, message));
        }
        Place::file(sample_file(&folder, 999_999_999, self.sample_prompts.len()), true).check()
    }

    /// Asks whether there is room for the result of `plan`, and for checkpoints where they are asked for.
    ///
    /// # Errors
    /// [`Error::File`] with what is needed and what is free.
    pub(super) fn check_space(&self, model: &Checkpoint, plan: &TrainPlan, events: &mut EventSink<'_>) -> Result<()> {
        let place = self.place(Some(model))?;
        let result = HEADER
            + match self.method {
                Method::Lora => DType::F32.bytes(plan.trainable()),
                Method::Full => model.parts().map(|(part, weights)| stored_bytes(part, weights)).sum(),
            };
        // The best checkpoint is as large.
        let result = if self.evaluates_every().is_some() { 2 * result } else { result };
        place.check_space(result, "the result")?;
        let state = plan.state_bytes() + HEADER;
        // A state that is there is replaced: for a moment there are two.
        let there = files::exists(state_folder(&self.out));
        let both = if there { result.max(state) } else { result + state };
        match place.check_space(both, "the result with the state of the run") {
            Err(e) if self.save_every.is_some() => Err(e),
            Err(e) => {
                events.warn(message![&e, "; interrupted, this run could perhaps not be gone on with"]);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Bytes of a part of a model as it is written: the UNet's trained numbers are F32.
fn stored_bytes(part: PartId, weights: &Weights) -> u64 {
    let bytes = |tensor: io::Tensor<'_>| match part {
        PartId::UNET => DType::F32.bytes(tensor.elements()),
        _ => (tensor.elements() * tensor.dtype.bytes()) as u64,
    };
    weights.iter().map(bytes).sum()
}

/// Asks whether `folder` can hold `count` class images of `size`, before the first is made.
pub(super) fn check_class_folder(folder: &Path, count: usize, size: [usize; 2]) -> Result<()> {
    let bytes = count as u64 * (size[0] * size[1] * 3 + 1024) as u64;
    let place = Place::file(folder.join("0000.png"), true);
    let asked = place.check().and_then(|()| place.check_space(bytes, "what is made"));
    asked.map_err(|e| {
        let variable = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_CACHE_HOME" };
        let remedy = format!("set {variable} to a folder that can be written, or give ");
        let kept = message!["class images are kept here: ", remedy, option("class_images")];
        Error::file(folder, message![kept, " (", &e, ")"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_checkpoint_lies_beside_the_result() {
        for (out, best) in [
            ("a/x.safetensors", "a/x.best.safetensors"),
            ("v1.5.SAFETENSORS", "v1.5.best.SAFETENSORS"),
            ("v1.5", "v1.5.best"),
            ("lora", "lora.best"),
        ] {
            assert_eq!(best_path(Path::new(out)), Path::new(best));
        }
    }

    #[test]
    fn samples_have_the_name_of_their_run() {
        for (out, samples) in [
            ("run-v1.5", "run-v1.5-samples"),
            ("a/run-v1.6", "a/run-v1.6-samples"),
            ("a.safetensors", "a-samples"),
            ("v1.5.SAFETENSORS", "v1.5-samples"),
            ("lora", "lora-samples"),
        ] {
            assert_eq!(samples_folder(Path::new(out)), Path::new(samples));
        }
    }
}
