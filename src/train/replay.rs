//! Recorded batches: a training run compared with another implementation's, number by number.

use std::path::Path;

use super::dataset::Draw;
use crate::base::layout;
use crate::error::{Error, Result};
use crate::io::SafeTensors;

/// A file of batches (`train --replay`).
pub struct Replay {
    file: SafeTensors,
    micro_steps: usize,
    batch: usize,
    prior: bool,
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
    /// Opens `path` and looks at its first batch.
    pub fn open(path: &Path) -> Result<Replay> {
        let file = SafeTensors::open(path)?;
        let first = file.get("0.instance.latents")?;
        let &[batch, channels, h, w] = first.shape.as_ref() else {
            return Err(first.error(format!("is {:?}: expected [batch, channels, h, w]", first.shape)));
        };
        if batch * channels * h * w == 0 {
            return Err(first.error("is empty"));
        }
        let micro_steps = (0..).take_while(|i| file.contains(&format!("{i}.instance.latents"))).count();
        let prior = file.contains("0.prior.latents");
        Ok(Replay { file, micro_steps, batch, prior, latent: [h, w, channels] })
    }

    /// Micro-batches in the file.
    pub fn micro_steps(&self) -> usize {
        self.micro_steps
    }

    /// Samples of each kind a micro-batch.
    pub fn samples(&self) -> [usize; 2] {
        [self.batch, if self.prior { self.batch } else { 0 }]
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
        let (mut values, mut all_ids, mut tokens) = (Vec::new(), Vec::new(), 0);
        for part in self.parts() {
            if ids {
                let row = self.file.get(&format!("ids.{part}"))?.to_i64()?;
                tokens = row.len();
                for id in row {
                    let id = u32::try_from(id)
                        .map_err(|_| Error::file(self.file.name(), format!("ids.{part} holds {id}")))?;
                    all_ids.push(id);
                }
            } else {
                let tensor = self.file.get(&format!("context.{part}"))?;
                tokens = match *tensor.shape {
                    [1, tokens, _] => tokens,
                    _ => return Err(tensor.error(format!("is {:?}: expected [1, tokens, width]", tensor.shape))),
                };
                values.extend(tensor.to_f32()?);
            }
        }
        Ok(if ids { Conditioning::Ids(all_ids, tokens) } else { Conditioning::Context(values, tokens) })
    }

    /// Micro-batch `i`.
    pub fn draw(&self, i: usize) -> Result<Draw> {
        let [h, w, c] = self.latent;
        let mut draw = Draw { latents: Vec::new(), noise: Vec::new(), timesteps: Vec::new(), instances: self.batch };
        for part in self.parts() {
            for (name, into) in [("latents", &mut draw.latents), ("noise", &mut draw.noise)] {
                let tensor = self.file.get(&format!("{i}.{part}.{name}"))?;
                if *tensor.shape != [self.batch, c, h, w] {
                    return Err(tensor.error(format!("is {:?}: expected {:?}", tensor.shape, [self.batch, c, h, w])));
                }
                into.extend(layout::to_channels_last(&tensor.to_f32()?, [self.batch, c, h, w]));
            }
            let tensor = self.file.get(&format!("{i}.{part}.timesteps"))?;
            let steps = tensor.to_i64()?;
            if steps.len() != self.batch || steps.iter().any(|t| !(0..1000).contains(t)) {
                return Err(tensor.error(format!("{steps:?}: expected {} timesteps of 0 to 999", self.batch)));
            }
            draw.timesteps.extend(steps.into_iter().map(|t| t as usize));
        }
        Ok(draw)
    }
}
