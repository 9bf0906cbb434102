//! The weights that a job reads: each is looked for, with its shape and a type that is read, before anything is computed.

use crate::error::Result;
use crate::io;
use crate::models::{Denoiser, Vae};
use crate::nn::{Param, Scope, Settings};

use super::Model;

/// What of a model a job reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    pub text: bool,
    pub unet: bool,
    pub encoder: bool,
    pub decoder: bool,
}

impl Reads {
    /// Nothing before a job says what it reads.
    pub(crate) const NOTHING: Reads = Reads { text: false, unet: false, encoder: false, decoder: false };
    /// Every part.
    pub(crate) const ALL: Reads = Reads { text: true, unet: true, encoder: true, decoder: true };
}

impl Model {
    /// The UNet, and its weights.
    pub(crate) fn denoiser(&self, settings: Settings) -> Result<(Box<dyn Denoiser>, Vec<Param>)> {
        let scope = Scope::new(io::PartId::UNET.name(), settings);
        Ok((self.unet.denoiser(&scope)?, scope.params()))
    }

    /// The autoencoder's first half, and its weights.
    pub(crate) fn encoder_part(&self, settings: Settings) -> Result<(Vae, Vec<Param>)> {
        let scope = Scope::new(io::PartId::VAE.name(), settings);
        Ok((Vae::encoder(&scope, self.vae.clone())?, scope.params()))
    }

    /// The autoencoder's second half, and its weights.
    pub(crate) fn decoder_part(&self, settings: Settings) -> Result<(Vae, Vec<Param>)> {
        let scope = Scope::new(io::PartId::VAE.name(), settings);
        Ok((Vae::decoder(&scope, self.vae.clone())?, scope.params()))
    }

    /// Looks for every weight of every part; gives what the files hold beside them, in words.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) naming a tensor that is missing, of another shape or of a type that is not read.
    pub fn check_weights(&self) -> Result<Vec<String>> {
        self.check_reads(Reads::ALL)
    }

    /// As [`Model::check_weights`], of what a job reads.
    pub(crate) fn check_reads(&self, reads: Reads) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let settings = Settings::default;
        if reads.text {
            for (index, text) in self.texts.iter().enumerate() {
                let (read, all) = (self.text_params(index, settings())?, self.text_part(index, settings())?.1.params());
                notes.extend(self.check_part(text.place.part, &read, &all)?);
            }
        }
        if reads.unet {
            notes.extend(self.check_part(io::PartId::UNET, &self.denoiser(settings())?.1, &[])?);
        }
        if reads.encoder || reads.decoder {
            let [encoder, decoder] = [self.encoder_part(settings())?.1, self.decoder_part(settings())?.1];
            for (read, half, other) in [(reads.encoder, &encoder, &decoder), (reads.decoder, &decoder, &encoder)] {
                if read {
                    self.check_part(io::PartId::VAE, half, other)?;
                }
            }
        }
        Ok(notes)
    }

    /// Looks for `params` of `part`, beside which it may hold `others`.
    fn check_part(&self, part: io::PartId, params: &[Param], others: &[Param]) -> Result<Option<String>> {
        let name = |key: &'_ str| key.split_once('.').map_or(key.to_owned(), |(_, name)| name.to_owned());
        let sources = |params: &[Param]| {
            let sources = params.iter().flat_map(|param| param.sources.clone());
            sources.map(|source| (name(&source.key), source.shape)).collect::<Vec<_>>()
        };
        let (wanted, others) = (sources(params), sources(others));
        let wanted: Vec<(&str, &[usize])> = wanted.iter().map(|(n, shape)| (n.as_str(), shape.as_slice())).collect();
        let others: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
        let weights = self.checkpoint.part(part)?;
        let unread = weights.check(&wanted, &others)?;
        Ok(unread.first().map(|first| {
            let (count, place) = (unread.len(), weights.location());
            format!("{place}: {count} of its tensors are none of the model's, and not read, such as '{first}'")
        }))
    }

    /// Looks up the tokens of `prompts`, so that what is wrong with them is said before anything is computed.
    ///
    /// # Errors
    /// As [`Model::tokens`].
    pub(crate) fn check_prompts<'p>(&self, prompts: impl IntoIterator<Item = &'p String>) -> Result<()> {
        let mut silent = |_| crate::event::Flow::Continue;
        prompts.into_iter().try_for_each(|prompt| self.tokens(prompt, &mut silent).map(drop))
    }
}
