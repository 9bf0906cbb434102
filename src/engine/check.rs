//! What is refused of a job before anything is opened: numbers that make no sense, options that contradict each other.

use crate::error::{Error, Result};
use crate::job::{GenerateJob, MOST_PICTURES, Method, TrainJob};

/// The longest side of a picture in pixels: what WebGPU promises of a texture.
pub(super) const LONGEST_SIDE: usize = 8192;
/// The most that a count of a training may be; far above what fits anywhere.
const MOST: usize = 1_000_000;

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::Usage(text))
}

/// Each of `counts` that is given is at least one, and none is beyond reason.
fn check_counts(counts: &[(&str, Option<usize>)]) -> Result<()> {
    match counts.iter().find(|(_, n)| n.is_some_and(|n| !(1..=MOST).contains(&n))) {
        Some((name, Some(0))) => wrong(format!("{name} 0: must be 1 or more")),
        Some((name, n)) => wrong(format!("{name} {}: must be {MOST} or less", n.unwrap_or(0))),
        None => Ok(()),
    }
}

/// Each of `numbers` that is given is one that f32 holds, and above 0, or at least 0.
fn check_numbers(numbers: &[(&str, Option<f64>)], zero: bool) -> Result<()> {
    let fits = |v: f64| (v as f32).is_finite() && (v > 0.0 || (zero && v == 0.0));
    match numbers.iter().find_map(|(name, v)| v.filter(|v| !fits(*v)).map(|v| (name, v))) {
        Some((name, v)) if v > 1.0 => wrong(format!("{name} {v:?}: is more than f32 holds")),
        Some((name, v)) if zero => wrong(format!("{name} {v}: must be 0 or more")),
        Some((name, v)) => wrong(format!("{name} {v}: must be above 0")),
        None => Ok(()),
    }
}

impl GenerateJob {
    pub(super) fn check(&self) -> Result<()> {
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
        if self.init.is_some() && !(self.strength > 0.0 && self.strength <= 1.0) {
            return wrong(format!("--strength {:?}: must be above 0 and at most 1", self.strength));
        }
        Ok(())
    }
}

impl TrainJob {
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
    use crate::engine::{plan_generate, plan_train};
    use crate::gpu::Caps;

    fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn training() -> TrainJob {
        TrainJob { images: Some("photos".into()), out: "none/such".into(), ..TrainJob::default() }
    }

    #[test]
    fn counts_are_one_or_more() {
        assert!(training().check().is_ok());
        type Set = fn(&mut TrainJob, usize);
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
        let job = TrainJob { steps: Some(MOST), accumulate: MOST, ..training() };
        assert!(said(job.check()).contains("--accumulate"));
    }

    #[test]
    fn numbers_are_numbers() {
        type Set = fn(&mut TrainJob, f64);
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

    fn pictures() -> GenerateJob {
        GenerateJob { prompts: vec!["a cat".into()], ..GenerateJob::default() }
    }

    #[test]
    fn pictures_are_countable_and_of_a_size() {
        assert!(pictures().check().is_ok());
        for count in [0, MOST_PICTURES + 1, usize::MAX] {
            assert!(said(GenerateJob { count, ..pictures() }.check()).contains("--count"));
        }
        for scale in [f64::NAN, 1e300] {
            let loras = vec![crate::job::LoraArg { path: "x".into(), scale }];
            assert!(said(GenerateJob { loras, ..pictures() }.check()).contains("--lora"));
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
        let job = GenerateJob { init: Some("x.png".into()), strength: f64::NAN, ..pictures() };
        assert!(said(job.check()).contains("--strength NaN"));
    }

    #[cfg(feature = "bundled")]
    #[test]
    fn no_size_is_beyond_a_texture() {
        let caps = Caps::webgpu_defaults(crate::gpu::AdapterClass::Cpu);
        for side in [LONGEST_SIDE + 8, 1 << 40, usize::MAX / 8 * 8] {
            let mut job = pictures();
            (job.sampling.width, job.sampling.height) = (Some(side), Some(side));
            assert!(said(plan_generate(&job, &caps)).contains(&format!("{side}")));
            let job = TrainJob { resolution: Some(side), ..TrainJob::default() };
            assert!(said(plan_train(&job, &caps)).contains(&format!("--resolution {side}")));
        }
    }
}
