//! What is refused of the options of `generate` before anything is opened.

use crate::error::{Error, Message, Result, message, option};
use crate::pipeline::Model;
use crate::pipeline::check::{check_counts, check_loras, without_effect};
use crate::pipeline::reads::Reads;

use super::options::{GenerateOptions, MOST_PICTURES};

impl GenerateOptions {
    /// Parts of the model that the job reads.
    pub(crate) fn reads(&self) -> Reads {
        Reads { encoder: self.init.is_some(), ..Reads::ALL }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let pictures = self.prompts.len().saturating_mul(self.count);
        if pictures == 0 {
            let problem = message!["nothing to make: give a prompt and a ", option("count"), " of 1 or more"];
            return Err(Error::usage("prompts", problem));
        }
        if pictures > MOST_PICTURES {
            return Err(Error::value("count", self.count, format!("{MOST_PICTURES} images are the most of one job")));
        }
        if self.batch == 0 {
            return Err(Error::value("batch", 0, "must be 1 or more"));
        }
        check_loras(&self.loras)?;
        let sampling = &self.sampling;
        check_counts(&[("steps", sampling.steps)])?;
        if let Some(guidance) = sampling.guidance.filter(|&g| !(g as f32).is_finite()) {
            let problem = "must be a number that f32 holds, such as 7.5";
            return Err(Error::value("guidance", format!("{guidance:?}"), problem));
        }
        if let Some(strength) = self.strength.filter(|&s| self.init.is_some() && !(s > 0.0 && s <= 1.0)) {
            return Err(Error::value("strength", format!("{strength:?}"), "must be above 0 and at most 1"));
        }
        if self.mask.is_some() && self.init.is_none() {
            let needed = message![option("init"), ": the image whose white part is repainted"];
            return Err(Error::usage("init", message![option("mask"), " needs ", needed]));
        }
        Ok(())
    }
}

impl GenerateOptions {
    /// Sentences on options that do nothing in this job.
    pub(crate) fn idle_options(&self, model: &Model) -> Vec<Message> {
        let why = "with a model that reads no sizes of images".into();
        let sizes = without_effect(why, &self.sampling.idle_sizes(model.pooled_width().is_some()));
        self.idle_alone().into_iter().chain(sizes).collect()
    }

    /// Sentences on options that do nothing beside the others, whatever the model.
    fn idle_alone(&self) -> Vec<Message> {
        let given = self.strength.is_some();
        let why = message!["without ", option("init")];
        let strength = self.init.is_none().then(|| without_effect(why, &[("strength", given)]));
        let merge = self.loras.is_empty().then(|| {
            let why = message!["without ", option("loras")];
            without_effect(why, &[("merge", self.merge)])
        });
        strength.into_iter().chain(merge).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::check::said;

    fn pictures() -> GenerateOptions {
        GenerateOptions { prompts: vec!["a cat".into()], ..GenerateOptions::default() }
    }

    #[test]
    fn pictures_are_countable_and_of_a_size() {
        assert!(pictures().check().is_ok());
        for count in [0, MOST_PICTURES + 1, usize::MAX] {
            assert!(said(GenerateOptions { count, ..pictures() }.check()).contains("count"));
        }
        for scale in [f64::NAN, 1e300] {
            let loras = vec![crate::pipeline::LoraArg { path: "x".into(), scale }];
            assert!(said(GenerateOptions { loras, ..pictures() }.check()).contains("lora"));
        }
        let mut job = pictures();
        job.sampling.steps = Some(0);
        assert!(said(job.check()).contains("steps 0"));
        let mut job = pictures();
        job.sampling.guidance = Some(f64::NAN);
        assert!(said(job.check()).contains("guidance NaN"));
        // Not three hundred digits of it.
        job.sampling.guidance = Some(1e300);
        assert!(said(job.check()).contains("guidance 1e300:"));
        job.sampling.guidance = Some(-1.0);
        assert!(job.check().is_ok(), "no negative pass runs");
        let job = GenerateOptions { init: Some("x.png".into()), strength: Some(f64::NAN), ..pictures() };
        assert!(said(job.check()).contains("strength NaN"));
        let job = GenerateOptions { mask: Some("m.png".into()), ..pictures() };
        assert!(said(job.check()).contains("mask needs init"));
    }

    #[test]
    fn a_strength_without_a_start_image_is_named() {
        let job = GenerateOptions { strength: Some(0.3), ..GenerateOptions::default() };
        assert!(job.idle_alone()[0].to_string().contains("strength"));
        assert!(GenerateOptions { init: Some("x.png".into()), ..job }.idle_alone().is_empty());
        let job = GenerateOptions { merge: true, ..GenerateOptions::default() };
        assert!(job.idle_alone()[0].to_string().contains("merge"));
    }
}
