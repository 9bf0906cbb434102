//! Recorded batches: a training run compared with another implementation's, number by number.

use std::path::Path;

use crate::base::layout;
use crate::error::{Error, Result, message, option};
use crate::io::{SafeTensors, Tensor};
use crate::pipeline::inpaint::beside;

use super::dataset::Draw;

/// A file of batches (`train --replay`).
pub struct Replay {
    file: SafeTensors,
    micro_steps: usize,
    batch: usize,
    prior: bool,
    masked: bool,
    sized: bool,
    latent: [usize; 3],
}

/// What the UNet is conditioned on.
#[derive(Clone, Debug, PartialEq)]
pub enum Conditioning {
    /// What text encoders made of the prompts.
    Context {
        /// Hidden states `[prompts, tokens, width]`.
        hidden: Vec<f32>,
        /// Tokens of a prompt.
        tokens: usize,
        /// Pooled embeddings `[prompts, width]`; empty for a model that reads none.
        pooled: Vec<f32>,
    },
    /// Prompts, for text encoders that are trained.
    Ids {
        /// Token ids `[prompts, tokens]` by text encoder.
        ids: Vec<Vec<u32>>,
        /// Tokens of a prompt.
        tokens: usize,
    },
}

impl Replay {
    /// Opens `path` and checks that every micro-batch and prompt is there, whole and of one shape.
    ///
    /// # Errors
    /// [`Error::File`] naming file, tensor and what it should be.
    pub fn open(path: &Path) -> Result<Replay> {
        Replay::from_file(SafeTensors::open(path)?)
    }

    fn from_file(file: SafeTensors) -> Result<Replay> {
        let first = file.find("0.instance.latents").ok_or_else(|| {
            let names = "'I.instance.latents|noise|timesteps' for every micro-batch I from 0";
            Error::file(file.name(), format!("has no tensor '0.instance.latents': a replay holds {names}"))
        })?;
        let &[batch, channels, h, w] = first.shape.as_ref() else {
            return Err(first.error(format!("is {:?}: expected [batch, channels, h, w]", first.shape)));
        };
        if batch * channels * h * w == 0 {
            return Err(first.error("is empty"));
        }
        let micro_steps = count_micro_steps(&file)?;
        let prior = file.contains("0.prior.latents");
        let masked = file.contains("0.instance.mask") || file.contains("0.instance.masked_latents");
        let sized = file.contains("0.instance.time_ids");
        let replay = Replay { file, micro_steps, batch, prior, masked, sized, latent: [h, w, channels] };
        replay.check()?;
        Ok(replay)
    }

    /// Checks what is not seen from the first micro-batch.
    fn check(&self) -> Result<()> {
        let [h, w, c] = self.latent;
        let (latent, mask) = ([self.batch, c, h, w], [self.batch, 1, h, w]);
        let (steps, sizes) = ([self.batch], [self.batch, 6]);
        let mut expected = vec![("latents", &latent[..]), ("noise", &latent), ("timesteps", &steps)];
        if self.masked {
            expected.extend([("mask", &mask[..]), ("masked_latents", &latent)]);
        }
        if self.sized {
            expected.push(("time_ids", &sizes));
        }
        for i in 0..self.micro_steps {
            for part in self.parts() {
                for &(name, shape) in &expected {
                    let tensor = self.file.get(&format!("{i}.{part}.{name}"))?;
                    if *tensor.shape != *shape {
                        let message = format!("is {:?}: expected {shape:?}, as the first micro-batch is", tensor.shape);
                        return Err(tensor.error(message));
                    }
                }
            }
        }
        let has = |name| self.file.contains(name);
        if has("ids.instance") == has("context.instance") {
            let message = "must hold either 'context.instance' or, to train the text encoder, 'ids.instance'";
            return Err(Error::file(self.file.name(), message));
        }
        // Left out in silence, any of these would be another run than the one recorded.
        for name in ["ids.prior", "ids_2.prior", "context.prior", "pooled.prior"] {
            if has(name) && !self.prior {
                return Err(Error::file(self.file.name(), format!("has '{name}' but no tensor '0.prior.latents'")));
            }
        }
        for (name, with) in [("pooled.instance", "context.instance"), ("ids_2.instance", "ids.instance")] {
            if has(name) && !has(with) {
                return Err(Error::file(self.file.name(), format!("has '{name}' but no tensor '{with}'")));
            }
        }
        self.conditioning().map(drop)
    }

    /// Micro-batches in the file.
    pub fn micro_steps(&self) -> usize {
        self.micro_steps
    }

    /// Samples of each kind a micro-batch.
    pub fn samples(&self) -> [usize; 2] {
        [self.batch, if self.prior { self.batch } else { 0 }]
    }

    /// Whether the batches hold masks and masked latents, which an inpainting model reads.
    pub fn masked(&self) -> bool {
        self.masked
    }

    /// Refuses a file that lacks what a model reads beside the prompts' hidden states, or holds what it does not read:
    /// `pooled` is the width of its pooled embedding, `None` for a model without one, which takes no size ids either;
    /// `encoders` is the number of its text encoders.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensors.
    pub fn check_added(&self, pooled: Option<usize>, encoders: usize) -> Result<()> {
        let fault = |message: String| Err(Error::file(self.file.name(), message));
        let missing = |name: &str, what: &str| {
            let names: Vec<String> =
                self.parts().iter().map(|part| format!("'{}'", name.replace("PART", part))).collect();
            format!("has no tensor {}: {what}, which the model reads", names.join(" and "))
        };
        match (pooled, self.sized) {
            (Some(_), false) => return fault(missing("I.PART.time_ids", "six sizes of each image")),
            (None, true) => return fault("has '0.instance.time_ids': the model reads no sizes of images".into()),
            _ => {}
        }
        match self.conditioning()? {
            Conditioning::Context { pooled: values, .. } => {
                let have = values.len() / self.parts().len();
                match (pooled, have) {
                    (None, 0) => Ok(()),
                    (None, _) => fault("has 'pooled.instance': the model reads no pooled embedding".into()),
                    (Some(_), 0) => fault(missing("pooled.PART", "pooled embeddings")),
                    (Some(width), have) if width != have => {
                        fault(format!("pooled.instance is {have} wide: the model takes {width}"))
                    }
                    _ => Ok(()),
                }
            }
            Conditioning::Ids { ids, .. } => match (ids.len(), encoders) {
                (have, needed) if have == needed => Ok(()),
                (1, _) => fault(missing("ids_2.PART", "token ids of the second text encoder")),
                _ => fault("has 'ids_2.instance': the model has one text encoder".into()),
            },
        }
    }

    /// Latent height, width and channels.
    pub fn latent(&self) -> [usize; 3] {
        self.latent
    }

    fn parts(&self) -> &'static [&'static str] {
        if self.prior { &["instance", "prior"] } else { &["instance"] }
    }

    /// Hidden states and pooled embeddings of the prompts, or their ids.
    pub fn conditioning(&self) -> Result<Conditioning> {
        if !self.file.contains("ids.instance") {
            let (hidden, tokens) = self.prompts("context", true, |tensor| tensor.to_finite_f32())?;
            let pooled = match self.file.contains("pooled.instance") {
                true => self.prompts("pooled", false, |tensor| tensor.to_finite_f32())?.0,
                false => Vec::new(),
            };
            return Ok(Conditioning::Context { hidden, tokens, pooled });
        }
        let ids = |tensor: &Tensor<'_>| -> Result<Vec<u32>> {
            let id = |id| u32::try_from(id).map_err(|_| tensor.error(format!("holds {id}, which is no token id")));
            tensor.to_i64()?.into_iter().map(id).collect()
        };
        let (first, tokens) = self.prompts("ids", false, ids)?;
        let mut all = vec![first];
        if self.file.contains("ids_2.instance") {
            let (second, own) = self.prompts("ids_2", false, ids)?;
            if own != tokens {
                let message = format!("ids_2.instance has {own} tokens a prompt: expected {tokens}, as ids.instance");
                return Err(Error::file(self.file.name(), message));
            }
            all.push(second);
        }
        Ok(Conditioning::Ids { ids: all, tokens })
    }

    /// Values of the tensors `NAME.instance` and `NAME.prior`, all `[1, count]`, or `[1, count, width]` where they are
    /// `wide`, one behind the other; and the count.
    fn prompts<T>(
        &self,
        name: &str,
        wide: bool,
        read: impl Fn(&Tensor<'_>) -> Result<Vec<T>>,
    ) -> Result<(Vec<T>, usize)> {
        let (mut values, mut shape, mut count) = (Vec::new(), None, 0);
        for part in self.parts() {
            let tensor = self.file.get(&format!("{name}.{part}"))?;
            count = match (wide, &*tensor.shape) {
                (false, &[1, count]) | (true, &[1, count, _]) if tensor.elements() > 0 => count,
                (_, other) => {
                    let count = if name == "pooled" { "width" } else { "tokens" };
                    let width = if wide { ", width" } else { "" };
                    return Err(tensor.error(format!("is {other:?}: expected [1, {count}{width}]")));
                }
            };
            let expected = shape.get_or_insert_with(|| tensor.shape.to_vec());
            if *tensor.shape != **expected {
                return Err(tensor.error(format!("is {:?}: expected {expected:?}, as the instances'", tensor.shape)));
            }
            values.extend(read(&tensor)?);
        }
        Ok((values, count))
    }

    /// Micro-batch `i`.
    ///
    /// # Errors
    /// [`Error::File`] when there is no such micro-batch, a value is not finite, or a timestep is not one of 1000.
    pub fn draw(&self, i: usize) -> Result<Draw> {
        if i >= self.micro_steps {
            let fault = format!("holds {} micro-batches, number {i} was asked for: lower ", self.micro_steps);
            return Err(Error::file(self.file.name(), message![fault, option("steps")]));
        }
        let [h, w, c] = self.latent;
        let mut draw = Draw {
            size: 0,
            // The file's prompts are written once: every sample of a kind has the same.
            prompts: Vec::new(),
            latents: Vec::new(),
            noise: Vec::new(),
            extra: Vec::new(),
            time_ids: Vec::new(),
            timesteps: Vec::new(),
            instances: self.batch,
        };
        for part in self.parts() {
            for (name, into) in [("latents", &mut draw.latents), ("noise", &mut draw.noise)] {
                let values = self.file.get(&format!("{i}.{part}.{name}"))?.to_finite_f32()?;
                into.extend(layout::to_channels_last(&values, [self.batch, c, h, w]));
            }
            if self.masked {
                let values = |name: &str| self.file.get(&format!("{i}.{part}.{name}"))?.to_finite_f32();
                let latents = layout::to_channels_last(&values("masked_latents")?, [self.batch, c, h, w]);
                draw.extra.extend(beside(&values("mask")?, &latents, c));
            }
            if self.sized {
                draw.time_ids.extend(self.file.get(&format!("{i}.{part}.time_ids"))?.to_finite_f32()?);
            }
            let tensor = self.file.get(&format!("{i}.{part}.timesteps"))?;
            let steps = tensor.to_i64()?;
            if let Some(t) = steps.iter().find(|t| !(0..1000).contains(*t)) {
                return Err(tensor.error(format!("holds {t}: timesteps go from 0 to 999")));
            }
            draw.timesteps.extend(steps.into_iter().map(|t| t as usize));
        }
        Ok(draw)
    }
}

/// One more than the largest number that begins a name, so that a missing micro-batch is noticed.
fn count_micro_steps(file: &SafeTensors) -> Result<usize> {
    let mut count = 0;
    for name in file.names() {
        let Some((number, rest)) = name.split_once('.') else { continue };
        let of_a_batch = rest.starts_with("instance.") || rest.starts_with("prior.");
        if let (true, Ok(i)) = (of_a_batch, number.parse::<usize>()) {
            // Every micro-batch has three tensors at least, so that a larger number leaves gaps.
            if i >= file.names().len() {
                return Err(Error::file(file.name(), format!("tensor '{name}': micro-batches are numbered from 0")));
            }
            count = count.max(i + 1);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::io::{Source, write_safetensors};

    /// A replay of two micro-batches of one sample, 2 channels, 1x2 latents.
    fn tensors() -> Vec<Tensor<'static>> {
        let mut out = vec![
            Tensor::f32("context.instance", &[1, 2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            Tensor::f32("context.prior", &[1, 2, 3], &[6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
        ];
        for i in 0..2 {
            for (part, values, t) in
                [("instance", &[1.0, 2.0, 3.0, 4.0], &[10i64]), ("prior", &[5.0, 6.0, 7.0, 8.0], &[20])]
            {
                out.push(Tensor::f32(format!("{i}.{part}.latents"), &[1, 2, 1, 2], values));
                out.push(Tensor::f32(format!("{i}.{part}.noise"), &[1, 2, 1, 2], values));
                out.push(Tensor::i64(format!("{i}.{part}.timesteps"), &[1], t));
            }
        }
        out
    }

    fn open(tensors: &[Tensor<'_>]) -> Result<Replay> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay.safetensors");
        write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        Replay::from_file(SafeTensors::from_source(Source::from_bytes("replay.safetensors", bytes))?)
    }

    fn replaced(name: &str, with: Option<Tensor<'static>>) -> Vec<Tensor<'static>> {
        tensors().into_iter().filter(|t| t.name != name).chain(with).collect()
    }

    fn fault(tensors: &[Tensor<'_>]) -> String {
        let message = match open(tensors) {
            Ok(replay) => replay.draw(1).unwrap_err().to_string(),
            Err(e) => e.to_string(),
        };
        assert!(message.starts_with("replay.safetensors: "), "{message}");
        message
    }

    #[test]
    fn reads_instance_then_prior_channels_last() {
        let replay = open(&tensors()).unwrap();
        assert_eq!((replay.micro_steps(), replay.samples(), replay.latent()), (2, [1, 1], [1, 2, 2]));
        let draw = replay.draw(1).unwrap();
        assert_eq!(draw.latents, [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
        assert_eq!((draw.noise.len(), draw.timesteps, draw.instances), (8, vec![10, 20], 1));
        let context: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let expected = Conditioning::Context { hidden: context, tokens: 2, pooled: Vec::new() };
        assert_eq!(replay.conditioning().unwrap(), expected);
        assert!(replay.check_added(None, 1).is_ok());
        assert!(replay.draw(2).unwrap_err().to_string().contains("holds 2 micro-batches"));
    }

    #[test]
    fn reads_token_ids_and_runs_without_prior() {
        let mut only: Vec<_> = tensors().into_iter().filter(|t| t.name.contains("instance")).collect();
        assert_eq!(open(&only).unwrap().samples(), [1, 0]);
        only.retain(|t| t.name != "context.instance");
        only.push(Tensor::i64("ids.instance", &[1, 3], &[49406, 320, 49407]));
        let replay = open(&only).unwrap();
        let expected = Conditioning::Ids { ids: vec![vec![49406, 320, 49407]], tokens: 3 };
        assert_eq!(replay.conditioning().unwrap(), expected);
        assert!(replay.check_added(None, 1).is_ok());
        // Another model's ids.
        assert!(replay.check_added(None, 2).unwrap_err().to_string().contains("'ids_2.instance'"));
        only.push(Tensor::i64("ids_2.instance", &[1, 3], &[49406, 320, 0]));
        let replay = open(&only).unwrap();
        let expected = Conditioning::Ids { ids: vec![vec![49406, 320, 49407], vec![49406, 320, 0]], tokens: 3 };
        assert_eq!(replay.conditioning().unwrap(), expected);
        assert!(replay.check_added(None, 2).is_ok());
        assert!(replay.check_added(None, 1).unwrap_err().to_string().contains("one text encoder"));
        *only.last_mut().unwrap() = Tensor::i64("ids_2.instance", &[1, 2], &[49406, 0]);
        assert!(open(&only).is_err_and(|e| e.to_string().contains("2 tokens a prompt")));
        assert_eq!(replay.draw(0).unwrap().timesteps, [10]);
    }

    #[test]
    fn masks_and_masked_latents_are_read_together() {
        let mut with = tensors();
        for (i, part) in [(0, "instance"), (0, "prior"), (1, "instance"), (1, "prior")] {
            with.push(Tensor::f32(format!("{i}.{part}.mask"), &[1, 1, 1, 2], &[1.0, 0.0]));
            with.push(Tensor::f32(format!("{i}.{part}.masked_latents"), &[1, 2, 1, 2], &[0.1, 0.2, 0.3, 0.4]));
        }
        let replay = open(&with).unwrap();
        assert!(replay.masked() && !open(&tensors()).unwrap().masked());
        let sample = [1.0, 0.1, 0.3, 0.0, 0.2, 0.4];
        assert_eq!(replay.draw(0).unwrap().extra, [sample, sample].concat());
        with.retain(|t| t.name != "1.prior.masked_latents");
        assert!(fault(&with).contains("no tensor '1.prior.masked_latents'"));
        with.retain(|t| t.name != "0.instance.mask");
        assert!(fault(&with).contains("no tensor '0.instance.mask'"));
    }

    #[test]
    fn sizes_and_pooled_embeddings_are_read_and_asked_for() {
        let mut with = tensors();
        let fault = |tensors: &[Tensor<'_>], pooled| match open(tensors) {
            Ok(replay) => replay.check_added(pooled, 2).unwrap_err().to_string(),
            Err(e) => e.to_string(),
        };
        let message = fault(&with, Some(2));
        assert!(message.contains("'I.instance.time_ids' and 'I.prior.time_ids'"), "{message}");
        let ids: Vec<[f32; 6]> = (0..4).map(|i| [0, 1, 2, 3, 4, 5].map(|k| (10 * i + k) as f32)).collect();
        for (values, (i, part)) in ids.iter().zip([(0, "instance"), (0, "prior"), (1, "instance"), (1, "prior")]) {
            with.push(Tensor::f32(format!("{i}.{part}.time_ids"), &[1, 6], values));
        }
        assert!(fault(&with, None).contains("reads no sizes"));
        let message = fault(&with, Some(2));
        assert!(message.contains("'pooled.instance' and 'pooled.prior'"), "{message}");
        with.push(Tensor::f32("pooled.instance", &[1, 2], &[0.5, 0.25]));
        assert!(fault(&with, Some(2)).contains("no tensor 'pooled.prior'"));
        with.push(Tensor::f32("pooled.prior", &[1, 2], &[1.0, 2.0]));
        let replay = open(&with).unwrap();
        assert!(replay.check_added(Some(2), 2).is_ok());
        assert!(fault(&with, Some(3)).contains("2 wide: the model takes 3"));
        assert_eq!(replay.draw(1).unwrap().time_ids, ids[2..].concat());
        let Conditioning::Context { pooled, .. } = replay.conditioning().unwrap() else { panic!("hidden states") };
        assert_eq!(pooled, [0.5, 0.25, 1.0, 2.0]);
        with.retain(|t| t.name != "1.prior.time_ids");
        assert!(fault(&with, Some(2)).contains("no tensor '1.prior.time_ids'"));
        let plain = [tensors(), vec![Tensor::f32("pooled.instance", &[1, 2], &[0.5, 0.25])]].concat();
        assert!(fault(&plain, None).contains("no tensor 'pooled.prior'"));
        let only: Vec<_> = plain.into_iter().filter(|t| t.name.contains("instance")).collect();
        assert!(fault(&only, None).contains("no pooled embedding"));
    }

    #[test]
    fn faults_are_named() {
        assert!(fault(&[]).contains("'0.instance.latents'"));
        assert!(fault(&replaced("context.instance", None)).contains("'context.instance'"));
        assert!(fault(&replaced("0.instance.latents", None)).contains("'0.instance.latents'"));
        assert!(fault(&replaced("1.prior.noise", None)).contains("no tensor '1.prior.noise'"));
        assert!(fault(&replaced("context.prior", None)).contains("'context.prior'"));
        let wrong = Tensor::f32("1.prior.noise", &[1, 2, 2, 1], &[0.0; 4]);
        assert!(fault(&replaced("1.prior.noise", Some(wrong))).contains("expected [1, 2, 1, 2]"));
        let nan = Tensor::f32("1.prior.noise", &[1, 2, 1, 2], &[0.0, f32::NAN, 0.0, 0.0]);
        assert!(fault(&replaced("1.prior.noise", Some(nan))).contains("NaN"));
        let negative = Tensor::i64("1.prior.timesteps", &[1], &[-1]);
        assert!(fault(&replaced("1.prior.timesteps", Some(negative))).contains("holds -1"));
        let float = Tensor::f32("1.prior.timesteps", &[1], &[0.5]);
        assert!(fault(&replaced("1.prior.timesteps", Some(float))).contains("whole numbers"));
        let far = Tensor::f32("99999999999.instance.noise", &[1], &[0.0]);
        assert!(fault(&replaced("", Some(far))).contains("numbered from 0"));
        let narrow = Tensor::f32("context.prior", &[1, 2, 2], &[0.0; 4]);
        assert!(fault(&replaced("context.prior", Some(narrow))).contains("expected [1, 2, 3]"));
        let ids = Tensor::i64("ids.instance", &[1, 3], &[0; 3]);
        assert!(fault(&replaced("", Some(ids))).contains("either"));
    }
}
