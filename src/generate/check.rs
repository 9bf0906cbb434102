//! What is refused of the options of `generate` before anything is opened.

use crate::error::Result;
use crate::pipeline::check::{check_counts, without_effect, wrong};
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
            return wrong("nothing to make: give a prompt and a --count of 1 or more".into());
        }
        if pictures > MOST_PICTURES {
            return wrong(format!("--count {}: {MOST_PICTURES} pictures are the most of one job", self.count));
        }
        if let Some(lora) = self.loras.iter().find(|lora| !(lora.scale as f32).is_finite()) {
            let path = lora.path.display();
            return wrong(format!(
                "--lora {path}={:?}: the scale must be a number that f32 holds, such as 0.8",
                lora.scale
            ));
        }
        let sampling = &self.sampling;
        check_counts(&[("--steps", sampling.steps)])?;
        if let Some(guidance) = sampling.guidance.filter(|&g| !(g as f32).is_finite()) {
            return wrong(format!("--guidance {guidance:?}: must be a number that f32 holds, such as 7.5"));
        }
        if let Some(strength) = self.strength.filter(|&s| self.init.is_some() && !(s > 0.0 && s <= 1.0)) {
            return wrong(format!("--strength {strength:?}: must be above 0 and at most 1"));
        }
        if self.mask.is_some() && self.init.is_none() {
            return wrong("--mask needs --init: the picture of which its white part is made anew".into());
        }
        Ok(())
    }
}

impl GenerateOptions {
    /// Sentences on options that do nothing in this job.
    pub(crate) fn idle_options(&self) -> Vec<String> {
        let given = self.strength.is_some();
        let strength = self.init.is_none().then(|| without_effect("without --init", &[("--strength", given)]));
        strength.flatten().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn pictures() -> GenerateOptions {
        GenerateOptions { prompts: vec!["a cat".into()], ..GenerateOptions::default() }
    }

    #[test]
    fn pictures_are_countable_and_of_a_size() {
        assert!(pictures().check().is_ok());
        for count in [0, MOST_PICTURES + 1, usize::MAX] {
            assert!(said(GenerateOptions { count, ..pictures() }.check()).contains("--count"));
        }
        for scale in [f64::NAN, 1e300] {
            let loras = vec![crate::pipeline::LoraArg { path: "x".into(), scale }];
            assert!(said(GenerateOptions { loras, ..pictures() }.check()).contains("--lora"));
        }
        let mut job = pictures();
        job.sampling.steps = Some(0);
        assert!(said(job.check()).contains("--steps 0"));
        let mut job = pictures();
        job.sampling.guidance = Some(f64::NAN);
        assert!(said(job.check()).contains("--guidance NaN"));
        // Not three hundred digits of it.
        job.sampling.guidance = Some(1e300);
        assert!(said(job.check()).contains("--guidance 1e300:"));
        job.sampling.guidance = Some(-1.0);
        assert!(job.check().is_ok(), "no negative pass runs");
        let job = GenerateOptions { init: Some("x.png".into()), strength: Some(f64::NAN), ..pictures() };
        assert!(said(job.check()).contains("--strength NaN"));
        let job = GenerateOptions { mask: Some("m.png".into()), ..pictures() };
        assert!(said(job.check()).contains("--mask needs --init"));
    }

    #[test]
    fn a_strength_without_a_start_image_is_named() {
        let job = GenerateOptions { strength: Some(0.3), ..GenerateOptions::default() };
        assert!(job.idle_options()[0].contains("--strength"));
        assert!(GenerateOptions { init: Some("x.png".into()), ..job }.idle_options().is_empty());
    }
}
