//! Options of a training that its other options leave without effect: said once, by name, so that nobody waits for what they
//! do.

use crate::error::{Message, message, option};
use crate::pipeline::check::without_effect;

use super::options::{Method, TrainOptions};

impl TrainOptions {
    /// Sentences on options that do nothing in this job.
    pub(super) fn idle_options(&self) -> Vec<Message> {
        let usual = TrainOptions::default();
        let full = [
            ("rank", self.rank != usual.rank),
            ("alpha", self.alpha.is_some()),
            ("targets", self.targets != usual.targets),
            ("format", self.format != usual.format),
        ];
        let class = [
            ("class_images", self.class_images.is_some()),
            ("class_count", self.class_count != usual.class_count),
            ("prior_weight", self.prior_weight != usual.prior_weight),
        ];
        let pictures = [
            ("images", self.images.is_some()),
            ("prompt", self.prompt.is_some()),
            ("class_prompt", self.class_prompt.is_some()),
            ("batch", self.batch != usual.batch),
            ("resolution", self.resolution.is_some()),
            ("crop", self.crop != usual.crop),
            ("buckets", self.buckets),
            ("bucket_step", self.bucket_step.is_some()),
            ("flip", self.flip),
            ("offset_noise", self.offset_noise != usual.offset_noise),
        ];
        let without = |name: &'static str| message!["without ", option(name)];
        let unless = |off: bool, why: Message, options: &[(&'static str, bool)]| {
            if off { without_effect(why, options) } else { None }
        };
        [
            unless(
                self.method == Method::Full,
                option("method") + " full trains whole weights and writes a model",
                &full,
            ),
            unless(!self.text_encoder, without("text_encoder"), &[("text_lr", self.text_lr.is_some())]),
            unless(self.class_prompt.is_none() && self.replay.is_none(), without("class_prompt"), &class),
            unless(
                self.replay.is_some(),
                option("replay") + " has batches of its own",
                &[&pictures[..], &class[..2]].concat(),
            ),
            unless(
                self.sample_prompts.is_empty(),
                without("sample_prompts"),
                &[("sample_every", self.sample_every != usual.sample_every)],
            ),
        ]
        .into_iter()
        .chain([unless(
            self.replay.is_some(),
            message![option("replay"), " is not evaluated"],
            &[("stop", self.stop != usual.stop)],
        )])
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::LoraFormat;

    #[test]
    fn what_does_nothing_is_named() {
        assert_eq!(TrainOptions::default().idle_options(), Vec::new());
        let full = TrainOptions { method: Method::Full, rank: 8, format: LoraFormat::Kohya, ..TrainOptions::default() };
        let [said] = &full.idle_options()[..] else { panic!("one sentence") };
        let said = said.to_string();
        assert!(said.contains("method full") && said.ends_with(": rank, format"), "{said}");
        let lora = TrainOptions { rank: 8, format: LoraFormat::Kohya, ..TrainOptions::default() };
        assert!(lora.idle_options().is_empty());
        let job = TrainOptions { text_lr: Some(1e-4), prior_weight: 0.5, sample_every: 3, ..TrainOptions::default() };
        let said = crate::error::Message::join(job.idle_options(), "\n").to_string();
        for option in ["text_lr", "prior_weight", "sample_every"] {
            assert!(said.contains(option), "{said}");
        }
        let job = TrainOptions { replay: Some("r".into()), flip: true, ..TrainOptions::default() };
        assert!(job.idle_options()[0].to_string().ends_with(": flip"));
    }
}
