//! Recorded batches: a training run compared with another implementation's, number by number.

use std::path::Path;

use crate::base::layout;
use crate::error::{Error, Result, message, option};
use crate::io::SafeTensors;
use crate::pipeline::inpaint::beside;

use super::dataset::Draw;

/// A file of batches (`train --replay`).
pub struct Replay {
    file: SafeTensors,
    micro_steps: usize,
    batch: usize,
    prior: bool,
    masked: bool,
    latent: [usize; 3],
}

/// What the UNet is conditioned on.
#[derive(Clone, Debug, PartialEq)]
pub enum Conditioning {
    /// Hidden states `[prompts, tokens, width]`, and how many tokens.
    Context(Vec<f32>, usize),
    /// Token ids `[prompts, tokens]`, for a text encoder that is trained, and how many tokens.
    Ids(Vec<u32>, usize),
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
        let replay = Replay { file, micro_steps, batch, prior, masked, latent: [h, w, channels] };
        replay.check()?;
        Ok(replay)
    }

    /// Checks what is not seen from the first micro-batch.
    fn check(&self) -> Result<()> {
        let [h, w, c] = self.latent;
        let (latent, mask, steps) = ([self.batch, c, h, w], [self.batch, 1, h, w], [self.batch]);
        let mut expected = vec![("latents", &latent[..]), ("noise", &latent), ("timesteps", &steps)];
        if self.masked {
            expected.extend([("mask", &mask[..]), ("masked_latents", &latent)]);
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
        for name in ["ids.prior", "context.prior"] {
            if has(name) && !self.prior {
                // Left out in silence, this would be another run than the one recorded.
                return Err(Error::file(self.file.name(), format!("has '{name}' but no tensor '0.prior.latents'")));
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

    /// Latent height, width and channels.
    pub fn latent(&self) -> [usize; 3] {
        self.latent
    }

    fn parts(&self) -> &'static [&'static str] {
        if self.prior { &["instance", "prior"] } else { &["instance"] }
    }

    /// Hidden states or ids of the prompts.
    pub fn conditioning(&self) -> Result<Conditioning> {
        let ids = self.file.contains("ids.instance");
        let (mut values, mut all_ids, mut shape) = (Vec::new(), Vec::new(), None);
        let mut tokens = 0;
        for part in self.parts() {
            let tensor = self.file.get(&format!("{}.{part}", if ids { "ids" } else { "context" }))?;
            tokens = match (ids, &*tensor.shape) {
                (true, &[1, tokens]) | (false, &[1, tokens, _]) if tensor.elements() > 0 => tokens,
                (true, other) => return Err(tensor.error(format!("is {other:?}: expected [1, tokens]"))),
                (false, other) => return Err(tensor.error(format!("is {other:?}: expected [1, tokens, width]"))),
            };
            let expected = shape.get_or_insert_with(|| tensor.shape.to_vec());
            if *tensor.shape != **expected {
                return Err(tensor.error(format!("is {:?}: expected {expected:?}, as the instances'", tensor.shape)));
            }
            if ids {
                for id in tensor.to_i64()? {
                    let id =
                        u32::try_from(id).map_err(|_| tensor.error(format!("holds {id}, which is no token id")))?;
                    all_ids.push(id);
                }
            } else {
                values.extend(tensor.to_finite_f32()?);
            }
        }
        Ok(if ids { Conditioning::Ids(all_ids, tokens) } else { Conditioning::Context(values, tokens) })
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
    use crate::io::{Source, Tensor, write_safetensors};

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
        assert_eq!(replay.conditioning().unwrap(), Conditioning::Context(context, 2));
        assert!(replay.draw(2).unwrap_err().to_string().contains("holds 2 micro-batches"));
    }

    #[test]
    fn reads_token_ids_and_runs_without_prior() {
        let mut only: Vec<_> = tensors().into_iter().filter(|t| t.name.contains("instance")).collect();
        assert_eq!(open(&only).unwrap().samples(), [1, 0]);
        only.retain(|t| t.name != "context.instance");
        only.push(Tensor::i64("ids.instance", &[1, 3], &[49406, 320, 49407]));
        let replay = open(&only).unwrap();
        assert_eq!(replay.conditioning().unwrap(), Conditioning::Ids(vec![49406, 320, 49407], 3));
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
