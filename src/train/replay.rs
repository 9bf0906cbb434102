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
mod tests;
