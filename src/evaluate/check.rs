//! What is refused of the options of `evaluate` before anything is opened.

use std::path::{Path, PathBuf};

use crate::error::{Error, Message, Result, message, option};
use crate::generate::{GenerateOptions, MOST_PICTURES};
use crate::io::place::check_no_input;
use crate::io::{Place, files};
use crate::pipeline::check::has_strange_scale;
use crate::pipeline::prompt::WELL_KNOWN;
use crate::pipeline::{LoraArg, ModelOptions, SamplingOptions};

use super::options::EvaluateOptions;

/// Results beside the images.
pub(super) const REPORTS: [&str; 2] = ["report.json", "report.html"];
/// Folder of the images in the results' folder.
pub(super) const IMAGES: &str = "images";

/// Words of a prompt in lower case, without articles and the punctuation around them.
fn words(prompt: &str) -> Vec<String> {
    let bare = |word: &str| match word.trim_matches(|c: char| !c.is_alphanumeric()) {
        // A word of signs alone is one too.
        "" => word.to_owned(),
        bare => bare.to_lowercase(),
    };
    prompt.split_whitespace().map(bare).filter(|word| !["a", "an", "the"].contains(&word.as_str())).collect()
}

/// Refuses a LoRA that is given twice at one scale.
fn check_doubles(loras: &[LoraArg]) -> Result<()> {
    let is_double = |i: usize| {
        let lora = &loras[i];
        loras[..i].iter().any(|other| other.scale == lora.scale && files::same(&other.path, &lora.path))
    };
    match (0..loras.len()).find(|&i| is_double(i)) {
        Some(i) => {
            let value = format!("{}={}", loras[i].path.display(), loras[i].scale);
            Err(Error::value("loras", value, "is given twice: a LoRA at one scale is one column, so give it once"))
        }
        None => Ok(()),
    }
}

impl EvaluateOptions {
    /// Refuses what cannot be evaluated, and places that cannot be written.
    pub(super) fn check(&self) -> Result<()> {
        if self.photos.is_none() {
            let what = message![option("photos"), ": the folder with photos of the subject"];
            return Err(Error::usage("photos", message!["evaluate needs ", what]));
        }
        let given = [("prompt", self.prompt.as_deref()), ("class_prompt", self.class_prompt.as_deref())];
        for (name, text) in given {
            if text.is_some_and(|text| text.trim().is_empty()) {
                return Err(Error::usage(name, message![option(name), " is empty"]));
            }
        }
        if self.prompt.is_none() {
            let what = message![option("prompt"), ": a prompt with the subject's identifier, such as \"a sks dog\""];
            return Err(Error::usage("prompt", message!["evaluate needs ", what]));
        }
        if self.loras.is_empty() && self.base.is_none() && self.model.unet.is_none() {
            let what = message![option("loras"), ", or the model before its fine-tune as ", option("base")];
            return Err(Error::usage("loras", message!["nothing to compare: give ", what]));
        }
        if !(1..=MOST_PICTURES).contains(&self.seeds) {
            return Err(Error::value("seeds", self.seeds, format!("must be 1 to {MOST_PICTURES}")));
        }
        if let Some(lora) = self.loras.iter().find(|lora| lora.scales.is_empty()) {
            return Err(Error::value("loras", lora.path.display(), "has no scale: give one or more, such as 1"));
        }
        if let Some(path) = self.loras.iter().map(|lora| &lora.path).find(|path| has_strange_scale(path)) {
            let problem = "the scales behind '=' must be finite numbers, separated by commas, such as 0.6,0.8,1.0";
            return Err(Error::value("loras", path.display(), problem));
        }
        let loras: Vec<LoraArg> = self.loras.iter().flat_map(|lora| lora.each()).collect();
        check_doubles(&loras)?;
        GenerateOptions { loras, ..self.generation(vec!["x".into()], 1, 0, None) }.check()?;
        self.check_place()
    }

    /// Warns of prompts that cannot tell the subject from its class.
    pub(super) fn doubts(&self) -> Vec<Message> {
        let (Some(prompt), Some(class)) = (&self.prompt, &self.class_prompt) else { return Vec::new() };
        let (own, of_class) = (words(prompt), words(class));
        let names = || option("prompt") + format!(" \"{}\"", prompt.trim());
        if own.iter().all(|word| of_class.contains(word)) {
            return vec![match of_class.iter().find(|word| !own.contains(word)) {
                Some(word) => {
                    let swapped = message![", while this has \"", word.as_str(), "\": are the two swapped?"];
                    message![names(), " has no word that ", option("class_prompt"), " lacks", swapped]
                }
                None => {
                    let meaning = ": images of the subject and of its class are the same then";
                    message![names(), " says the same as ", option("class_prompt"), meaning]
                }
            }];
        }
        let usual = WELL_KNOWN.into_iter().find(|usual| of_class.iter().any(|word| word == usual));
        let problem =
            |word| format!(" holds \"{word}\", by which subjects are called: name the class alone, such as \"a dog\"");
        usual.map(|word| option("class_prompt") + problem(word)).into_iter().collect()
    }

    /// Refuses a folder for the results that holds something, unless it may be written over.
    fn check_place(&self) -> Result<()> {
        if self.out.as_os_str().is_empty() {
            return Err(Error::usage("out", option("out") + ": the path is empty"));
        }
        if files::is_file(&self.out) {
            return Err(Error::file(&self.out, "is a file: name a folder for the report and its images"));
        }
        let inputs: Vec<(&'static str, &Path)> =
            [("photos", &self.photos), ("vision", &self.vision), ("clip", &self.clip)]
                .into_iter()
                .chain([("base", &self.base), ("model", &self.model.model)])
                .filter_map(|(name, path)| Some((name, path.as_deref()?)))
                .collect();
        check_no_input(("out", &self.out), &inputs)?;
        let taken = !self.force && files::entries(&self.out).is_ok_and(|entries| !entries.is_empty());
        if taken {
            let remedy = message!["name another folder, or add ", option("force"), " to write into it"];
            return Err(Error::file(&self.out, message!["holds files already: ", remedy]));
        }
        for name in REPORTS {
            Place::file(self.out.join(name), self.force).check_path()?;
        }
        files::try_folder(&self.out)
    }

    /// The job that makes `count` images of each of `prompts` from `seed` on.
    pub(super) fn generation(
        &self,
        prompts: Vec<String>,
        count: usize,
        seed: u64,
        size: Option<[usize; 2]>,
    ) -> GenerateOptions {
        let own = [self.sampling.width, self.sampling.height];
        let [width, height] = size.map_or(own, |size| size.map(Some));
        GenerateOptions {
            prompts,
            model: self.model.clone(),
            sampling: SamplingOptions { seed, width, height, ..self.sampling.clone() },
            count,
            batch: self.batch,
            ..GenerateOptions::default()
        }
    }

    /// The model to compare with; `None` for the evaluated one without its LoRAs.
    pub(super) fn base_options(&self) -> Option<ModelOptions> {
        let own: Option<PathBuf> = self.base.clone();
        match (own, self.model.unet.is_some() && self.loras.is_empty()) {
            (Some(base), _) => Some(ModelOptions { model: Some(base), vae: None, unet: None, ..self.model.clone() }),
            // A UNet in place of the model's own is what is evaluated.
            (None, true) => Some(ModelOptions { unet: None, ..self.model.clone() }),
            (None, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::ScaledLora;
    use crate::pipeline::check::said;

    fn job() -> EvaluateOptions {
        let out = std::env::temp_dir().join("portray-evaluation-that-is-not-there");
        EvaluateOptions {
            photos: Some("photos".into()),
            prompt: Some("a sks dog".into()),
            loras: vec![ScaledLora::new("a.safetensors")],
            out,
            ..EvaluateOptions::default()
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(job().check().is_ok());
        let without = [
            (EvaluateOptions { photos: None, ..job() }, "photos"),
            (EvaluateOptions { prompt: None, ..job() }, "prompt"),
            (EvaluateOptions { prompt: Some(" ".into()), ..job() }, "prompt is empty"),
            (EvaluateOptions { class_prompt: Some("".into()), ..job() }, "class_prompt is empty"),
            (EvaluateOptions { loras: Vec::new(), ..job() }, "nothing to compare: give loras"),
            (EvaluateOptions { seeds: 0, ..job() }, "seeds 0"),
            (EvaluateOptions { seeds: 10_001, ..job() }, "seeds 10001"),
            (EvaluateOptions { loras: vec![ScaledLora::new("a=1e300")], ..job() }, "loras a=1e300"),
            (EvaluateOptions { out: "".into(), ..job() }, "out: the path is empty"),
            (
                EvaluateOptions { loras: vec![ScaledLora::new("a=0.5,1"), ScaledLora::new("a")], ..job() },
                "a=1: is given twice",
            ),
        ];
        for (options, named) in without {
            let said = said(options.check());
            assert!(said.contains(named), "{said}");
        }
        assert!(EvaluateOptions { loras: Vec::new(), base: Some("b".into()), ..job() }.check().is_ok());
        let several = vec![ScaledLora::new("a=0.5,1"), ScaledLora::new("b=0.5")];
        assert!(EvaluateOptions { loras: several, class_prompt: Some("a dog".into()), ..job() }.check().is_ok());
    }

    #[test]
    fn prompts_that_mislead_are_warned_of() {
        let doubts = |prompt: &str, class: &str| {
            let job = EvaluateOptions { prompt: Some(prompt.into()), class_prompt: Some(class.into()), ..job() };
            job.doubts().iter().map(Message::to_string).collect::<Vec<_>>().join("; ")
        };
        assert!(doubts("a sks dog", "A SKS dog!").contains("says the same as class_prompt"));
        assert!(doubts("a dog", "a sks dog").contains("while this has \"sks\": are the two swapped?"));
        assert!(doubts("a sks dog", "a ohwx animal").contains("holds \"ohwx\""));
        for prompt in ["a sks dog", "a * dog", "a 🐶 dog", "(sks) dog"] {
            assert_eq!(doubts(prompt, "a dog"), "");
        }
    }

    #[test]
    fn a_folder_with_files_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let here = EvaluateOptions { out: folder.path().into(), ..job() };
        assert!(here.check().is_ok(), "an empty folder");
        std::fs::write(folder.path().join("mine.txt"), "x").unwrap();
        let error = here.check().unwrap_err().to_string();
        assert!(error.contains("holds files already") && error.contains("force"), "{error}");
        assert!(EvaluateOptions { force: true, ..here.clone() }.check().is_ok());
        let file = EvaluateOptions { out: folder.path().join("mine.txt"), ..job() };
        assert!(file.check().unwrap_err().to_string().contains("is a file"));
    }

    #[test]
    fn the_base_is_the_model_before() {
        let unet = ModelOptions { unet: Some("u".into()), model: Some("m".into()), ..ModelOptions::default() };
        let full = EvaluateOptions { model: unet.clone(), loras: Vec::new(), ..job() };
        assert_eq!(full.base_options(), Some(ModelOptions { unet: None, ..unet.clone() }));
        assert_eq!(EvaluateOptions { model: unet.clone(), ..job() }.base_options(), None);
        let tuned = EvaluateOptions { model: unet, base: Some("b".into()), ..job() };
        assert_eq!(tuned.base_options(), Some(ModelOptions { model: Some("b".into()), ..ModelOptions::default() }));
    }
}
