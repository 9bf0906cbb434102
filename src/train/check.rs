//! What is refused of the options of `train` before anything is opened: numbers that make no sense, options that contradict
//! each other.

use crate::error::Result;
use crate::pipeline::check::{check_counts, check_numbers, wrong};

use super::options::{Method, TrainOptions};

impl TrainOptions {
    pub(super) fn check(&self) -> Result<()> {
        if self.replay.is_none() && self.images.is_none() {
            return wrong("train needs pictures: give --images DIR".into());
        }
        self.check_options()?;
        self.check_places()
    }

    /// What it takes to plan the job.
    pub(super) fn check_options(&self) -> Result<()> {
        if self.method == Method::Full && (self.text_encoder || self.init_lora.is_some()) {
            return wrong(
                "--method full trains the UNet's weights: it takes no --text-encoder and no --init-lora".into(),
            );
        }
        if self.class_images.is_some() && self.class_prompt.is_none() {
            return wrong("--class-images needs --class-prompt: what the pictures of the class show".into());
        }
        if self.replay.is_some() && !self.sample_prompts.is_empty() {
            return wrong("--replay takes no --sample-prompt: it is for comparing numbers".into());
        }
        check_counts(&[
            ("--steps", self.steps),
            ("--batch", Some(self.batch)),
            ("--accumulate", Some(self.accumulate)),
            ("--rank", Some(self.rank)),
            ("--class-count", self.class_count),
            ("--sample-every", Some(self.sample_every)),
            ("--save-every", self.save_every),
            ("--resolution", self.resolution),
        ])?;
        let above = [
            ("--lr", Some(self.rate())),
            ("--text-lr", self.text_lr),
            ("--min-snr", self.min_snr),
            ("--alpha", self.alpha),
            ("--max-grad-norm", Some(self.max_grad_norm)),
        ];
        check_numbers(&above, false)?;
        let from_zero = [
            ("--prior-weight", Some(self.prior_weight)),
            ("--weight-decay", Some(self.weight_decay)),
            ("--offset-noise", Some(self.offset_noise)),
        ];
        check_numbers(&from_zero, true)?;
        let draws = self.steps.unwrap_or(1) as u64 * self.accumulate as u64;
        if draws > u64::from(u32::MAX) {
            return wrong(format!("--steps with --accumulate: {draws} micro-batches, {} are the most", u32::MAX));
        }
        if self.fused_update && self.accumulate > 1 {
            return wrong(format!("--fused-update keeps no gradients: it takes no --accumulate {}", self.accumulate));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::pipeline::check::MOST;

    fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn training() -> TrainOptions {
        TrainOptions { images: Some("photos".into()), out: "none/such".into(), ..TrainOptions::default() }
    }

    #[test]
    fn counts_are_one_or_more() {
        assert!(training().check().is_ok());
        type Set = fn(&mut TrainOptions, usize);
        let counts: [(&str, Set); 8] = [
            ("--steps", |job, n| job.steps = Some(n)),
            ("--batch", |job, n| job.batch = n),
            ("--accumulate", |job, n| job.accumulate = n),
            ("--rank", |job, n| job.rank = n),
            ("--class-count", |job, n| job.class_count = Some(n)),
            ("--sample-every", |job, n| job.sample_every = n),
            ("--save-every", |job, n| job.save_every = Some(n)),
            ("--resolution", |job, n| job.resolution = Some(n)),
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
        assert!(said(job.check()).contains("--accumulate"));
    }

    #[test]
    fn numbers_are_numbers() {
        type Set = fn(&mut TrainOptions, f64);
        let numbers: [(&str, Set, bool); 8] = [
            ("--lr", |job, v| job.lr = Some(v), false),
            ("--text-lr", |job, v| job.text_lr = Some(v), false),
            ("--min-snr", |job, v| job.min_snr = Some(v), false),
            ("--alpha", |job, v| job.alpha = Some(v), false),
            ("--max-grad-norm", |job, v| job.max_grad_norm = v, false),
            ("--prior-weight", |job, v| job.prior_weight = v, true),
            ("--weight-decay", |job, v| job.weight_decay = v, true),
            ("--offset-noise", |job, v| job.offset_noise = v, true),
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
            assert!(said(crate::plan_generate(&job, &caps)).contains(&format!("{side}")));
            let job = TrainOptions { resolution: Some(side), ..TrainOptions::default() };
            assert!(said(crate::plan_train(&job, &caps)).contains(&format!("--resolution {side}")));
        }
    }
}
