//! What is refused of the options of `train` before anything is opened: numbers that make no sense, options that contradict
//! each other.

use crate::error::{Error, Result, message, option};
use crate::pipeline::check::{check_counts, check_numbers};

use super::options::{Method, TrainOptions};

impl TrainOptions {
    pub(super) fn check(&self) -> Result<()> {
        if self.replay.is_none() && self.images.is_none() {
            return Err(Error::usage("images", message!["train needs images: give ", option("images")]));
        }
        self.check_options()?;
        self.check_places()
    }

    /// What it takes to plan the job.
    pub(super) fn check_options(&self) -> Result<()> {
        if self.method == Method::Full && (self.text_encoder || self.init_lora.is_some()) {
            let fault = " full trains the UNet's weights: it takes no ";
            let others = message![option("text_encoder"), " and no ", option("init_lora")];
            return Err(Error::usage("method", message![option("method"), fault, others]));
        }
        if self.class_images.is_some() && self.class_prompt.is_none() {
            let needed = message![option("class_prompt"), ": what the images of the class show"];
            return Err(Error::usage("class_prompt", message![option("class_images"), " needs ", needed]));
        }
        if self.replay.is_some() && !self.sample_prompts.is_empty() {
            let others = message![option("sample_prompts"), ": it is for comparing numbers"];
            return Err(Error::usage("sample_prompts", message![option("replay"), " takes no ", others]));
        }
        self.check_evaluations()?;
        self.check_buckets()?;
        check_counts(&[
            ("steps", self.steps),
            ("batch", Some(self.batch)),
            ("accumulate", Some(self.accumulate)),
            ("rank", Some(self.rank)),
            ("class_count", self.class_count),
            ("sample_every", Some(self.sample_every)),
            ("save_every", self.save_every),
            ("evaluate_every", self.evaluate_every),
            ("resolution", self.resolution),
        ])?;
        let above = [
            ("lr", Some(self.rate())),
            ("text_lr", self.text_lr),
            ("min_snr", self.min_snr),
            ("alpha", self.alpha),
            ("max_grad_norm", Some(self.max_grad_norm)),
        ];
        check_numbers(&above, false)?;
        let from_zero = [
            ("prior_weight", Some(self.prior_weight)),
            ("weight_decay", Some(self.weight_decay)),
            ("offset_noise", Some(self.offset_noise)),
        ];
        check_numbers(&from_zero, true)?;
        let draws = self.steps.unwrap_or(1) as u64 * self.accumulate as u64;
        if draws > u64::from(u32::MAX) {
            let fault = format!(": {draws} micro-batches, {} are the most", u32::MAX);
            return Err(Error::usage("steps", message![option("steps"), " with ", option("accumulate"), fault]));
        }
        if self.fused_update && self.accumulate > 1 {
            let fault =
                message![" keeps no gradients: it takes no ", option("accumulate"), format!(" {}", self.accumulate)];
            return Err(Error::usage("fused_update", option("fused_update") + fault));
        }
        Ok(())
    }

    /// Refuses options of evaluations that contradict the others.
    fn check_evaluations(&self) -> Result<()> {
        let judges = [("vision", self.vision.is_some()), ("clip", self.clip.is_some())];
        let beside = [("evaluate_every", self.evaluate_every.is_some())].into_iter().chain(judges);
        if let Some((name, _)) = beside.into_iter().find(|(_, given)| *given && self.replay.is_some()) {
            let others = message![option(name), ": it is for comparing numbers"];
            return Err(Error::usage(name, message![option("replay"), " takes no ", others]));
        }
        if let Some((name, _)) = judges.iter().find(|(_, given)| *given && self.evaluates_every().is_none()) {
            let needed = message![option("evaluate_every"), ": how often it judges images"];
            return Err(Error::usage(name, message![option(*name), " needs ", needed]));
        }
        if self.clip.is_some() && self.class_prompt.is_none() {
            let needed = message![option("class_prompt"), ": what CLIP compares images of the subject with"];
            return Err(Error::usage("class_prompt", message![option("clip"), " needs ", needed]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::check::MOST;
    use crate::pipeline::check::said;

    fn training() -> TrainOptions {
        TrainOptions { images: Some("photos".into()), out: "none/such".into(), ..TrainOptions::default() }
    }

    #[test]
    fn counts_are_one_or_more() {
        assert!(training().check().is_ok());
        type Set = fn(&mut TrainOptions, usize);
        let counts: [(&str, Set); 8] = [
            ("steps", |job, n| job.steps = Some(n)),
            ("batch", |job, n| job.batch = n),
            ("accumulate", |job, n| job.accumulate = n),
            ("rank", |job, n| job.rank = n),
            ("class_count", |job, n| job.class_count = Some(n)),
            ("sample_every", |job, n| job.sample_every = n),
            ("save_every", |job, n| job.save_every = Some(n)),
            ("resolution", |job, n| job.resolution = Some(n)),
        ];
        for (name, set) in counts {
            for (n, bound) in [(0, "1 or more"), (usize::MAX, "1000000 or less")] {
                let mut job = training();
                set(&mut job, n);
                let message = said(job.check());
                assert!(message.starts_with(&format!("{name} {n}: ")) && message.contains(bound), "{message}");
            }
        }
        let job = TrainOptions { steps: Some(MOST), accumulate: MOST, ..training() };
        assert!(said(job.check()).contains("accumulate"));
    }

    #[test]
    fn numbers_are_numbers() {
        type Set = fn(&mut TrainOptions, f64);
        let numbers: [(&str, Set, bool); 8] = [
            ("lr", |job, v| job.lr = Some(v), false),
            ("text_lr", |job, v| job.text_lr = Some(v), false),
            ("min_snr", |job, v| job.min_snr = Some(v), false),
            ("alpha", |job, v| job.alpha = Some(v), false),
            ("max_grad_norm", |job, v| job.max_grad_norm = v, false),
            ("prior_weight", |job, v| job.prior_weight = v, true),
            ("weight_decay", |job, v| job.weight_decay = v, true),
            ("offset_noise", |job, v| job.offset_noise = v, true),
        ];
        for (name, set, zero) in numbers {
            for v in [f64::NAN, f64::INFINITY, -1.0, 1e300, 0.0] {
                let mut job = training();
                set(&mut job, v);
                if v == 0.0 && zero {
                    assert!(job.check().is_ok(), "{name}");
                } else {
                    assert!(said(job.check()).starts_with(name));
                }
            }
        }
    }

    #[cfg(feature = "bundled")]
    #[test]
    fn no_size_is_beyond_a_texture() {
        use crate::gpu::{AdapterClass, Caps};
        use crate::pipeline::check::LONGEST_SIDE;
        let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
        for side in [LONGEST_SIDE + 8, 1 << 40, usize::MAX / 8 * 8] {
            let mut job = crate::GenerateOptions { prompts: vec!["a cat".into()], ..Default::default() };
            (job.sampling.width, job.sampling.height) = (Some(side), Some(side));
            assert!(said(crate::generate::plan_generate(&job, &caps)).contains(&format!("{side}")));
            let job = TrainOptions { resolution: Some(side), ..TrainOptions::default() };
            assert!(said(crate::train::plan_train(&job, &caps)).contains(&format!("resolution {side}")));
        }
    }
}
