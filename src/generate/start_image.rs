//! The image that a `generate` job starts from, the mask of what is repainted of it, and the size that it gives to the job's
//! images.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, message, option};
use crate::event::{Event, Listener};
use crate::io::image::{Crop, Decoded, Fit, Mask, covering, size, title};
use crate::io::{Picture, Source};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::check::LONGEST_SIDE;
use crate::pipeline::{Masked, Model, Posterior};

use super::GenerateOptions;

/// How far the aspects of a start image and its mask may be apart: sizes are rounded when images are scaled.
const ASPECT: f64 = 0.02;

/// Strength of image to image where none is asked for.
const STRENGTH: f64 = 0.7;

/// How many times the pixels that a model was made for a start image may have before that is remarked on.
const LARGE: usize = 4;

impl GenerateOptions {
    /// Width and height of the job's images: those that are asked for; else, from a start image, its own, rounded down to
    /// whole pixels of a latent; else the model's. Of one side that is asked for, the other follows the start image's aspect.
    ///
    /// # Errors
    /// [`Error::File`] for a start image that cannot be read, [`Error::Usage`] for a size that the model cannot take.
    pub(super) fn picture_size(&self, model: &Model, listener: Listener<'_>) -> Result<[usize; 2]> {
        let (width, height) = (self.sampling.width, self.sampling.height);
        let Some(path) = &self.init else { return model.size(width, height) };
        let own = size(path)?;
        let factor = model.factor();
        let down = |side: usize| side / factor * factor;
        let follow = |given: usize, own: usize, other: usize| {
            ((given as f64 * other as f64 / own as f64 / factor as f64).round() as usize).max(1) * factor
        };
        let wanted = match (width, height) {
            (Some(_), Some(_)) => return self.tell_crop(own, model.size(width, height)?, listener),
            (Some(width), None) => [width, follow(width, own[0], own[1])],
            (None, Some(height)) => [follow(height, own[1], own[0]), height],
            (None, None) => own.map(down),
        };
        let [w, h] = own;
        if wanted.iter().any(|&side| side == 0 || side > LONGEST_SIDE) {
            let fault = format!(" is {w}x{h}, and a side is {factor} to {LONGEST_SIDE} pixels: give ");
            let sides = message![option("width"), " and ", option("height")];
            return Err(Error::usage("init", message![option("init"), " ", crate::error::path(path), fault, sides]));
        }
        let native = model.native_side();
        if width.is_none() && height.is_none() && wanted[0] * wanted[1] > LARGE * native * native {
            let [w, h] = wanted;
            let own = format!(" gives its own size, {w}x{h}, and the model was made for {native}x{native}: ");
            let sides = message![option("width"), " and ", option("height"), " make it smaller"];
            listener(Event::Warning(message![option("init"), own, sides]));
        }
        let size = model.size(Some(wanted[0]), Some(wanted[1]))?;
        if self.fit() == Fit::Stretch { Ok(size) } else { self.tell_crop(own, size, listener) }
    }

    /// Says what is cut off the start image of `own` pixels for `to`.
    fn tell_crop(&self, own: [usize; 2], to: [usize; 2], listener: Listener<'_>) -> Result<[usize; 2]> {
        let [full_width, full_height] = covering(own, to);
        let [w, h] = own;
        let cut = [(full_width, to[0], "left and right"), (full_height, to[1], "above and below")];
        if let Some((full, kept, sides)) = cut.into_iter().find(|(full, kept, _)| full > kept) {
            let percent = ((full - kept) as f64 / full as f64 * 100.0).round().max(1.0);
            let [width, height] = to;
            let cut = format!(" of {w}x{h} is cut to the aspect of {width}x{height}");
            let left_out = format!(": {percent} % of it is left out, {sides}");
            listener(Event::Warning(message![option("init"), cut, left_out]));
        }
        Ok(to)
    }

    /// How the start image comes to the size: its own is rounded down with nothing cut off, as diffusers does it.
    fn fit(&self) -> Fit {
        match (self.sampling.width, self.sampling.height) {
            (None, None) => Fit::Stretch,
            _ => Fit::Cover(Crop::CENTER),
        }
    }

    /// The start image at `size`.
    pub(super) fn start_picture(&self, size: [usize; 2]) -> Result<Option<Picture>> {
        let open = |path| Decoded::open(path)?.resized(size, self.fit());
        self.init.as_ref().map(open).transpose()
    }

    /// The mask at `size`, cut as the start image is.
    pub(super) fn start_mask(&self, size: [usize; 2]) -> Result<Option<Mask>> {
        self.mask.as_ref().map(|path| Mask::open(path, size, self.fit())).transpose()
    }

    /// Refuses a mask where the model cannot use one, an inpainting model without one, and a mask of another aspect than the
    /// start image's.
    ///
    /// # Errors
    /// [`Error::Usage`] for any of these, [`Error::File`] for an image that cannot be read.
    pub(crate) fn check_mask(&self, model: &Model) -> Result<()> {
        let name = model.checkpoint.name();
        match (&self.mask, model.inpaints()) {
            (None, true) => {
                let given = message![option("init"), ", and ", option("mask"), " which is white where it is repainted"];
                Err(Error::usage("mask", message![format!("{name} is an inpainting model: give "), given]))
            }
            (Some(_), false) => {
                let channels = 2 * model.vae.latent_channels + 1;
                let fault =
                    format!(": {name} is not an inpainting model, whose UNet reads {channels} channels: leave ");
                let remedy = message![option("mask"), " out, or give such a ", option("model")];
                Err(Error::usage("mask", message![option("mask"), fault, remedy]))
            }
            (Some(mask), true) => {
                let Some(init) = &self.init else { return Ok(()) };
                let ([w, h], [mask_w, mask_h]) = (size(init)?, size(mask)?);
                let aspects = (mask_w * h) as f64 / (w * mask_h) as f64;
                if (aspects - 1.0).abs() <= ASPECT {
                    return Ok(());
                }
                let start = message![option("init"), " ", crate::error::path(init), format!(" is {w}x{h}")];
                let mask = message![option("mask"), " ", crate::error::path(mask), format!(" is {mask_w}x{mask_h}")];
                let remedy = ": a mask has the aspect of its image, best its size";
                Err(Error::usage("mask", message![mask, " and ", start, remedy]))
            }
            (None, false) => Ok(()),
        }
    }

    /// How much of the start image is replaced; `None` where the job starts from noise alone, as inpainting does unless it is
    /// told otherwise.
    pub(super) fn start_strength(&self, model: &Model) -> Option<f64> {
        let default = if model.inpaints() { 1.0 } else { STRENGTH };
        let strength = self.init.as_ref().map(|_| self.strength.unwrap_or(default));
        strength.filter(|strength| !model.inpaints() || *strength < 1.0)
    }

    /// Name and digest of the start image and of the mask, for the file of what is made of them.
    pub(super) fn start_names(&self) -> Vec<(&'static str, String)> {
        let fields = [(&self.init, ["Init image", "Init image hash"]), (&self.mask, ["Mask image", "Mask image hash"])];
        let named = |(path, [name, hash]): (&Option<PathBuf>, [&'static str; 2])| {
            let (title, digest) = file_name(path.as_ref()?)?;
            Some([(name, title), (hash, digest)])
        };
        fields.into_iter().filter_map(named).flatten().collect()
    }
}

/// The name of the file at `path` and the first digits of its SHA-256: images from others are others.
fn file_name(path: &Path) -> Option<(String, String)> {
    let source = Source::open(path).ok()?;
    let digest = Sha256::digest(source.bytes().ok()?);
    Some((title(path), digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()))
}

/// What the autoencoder makes of the start image and its mask.
#[derive(Default)]
pub(super) struct Encoded {
    /// The image that image to image starts from.
    pub image: Option<Posterior>,
    /// What an inpainting model sees of it.
    pub masked: Option<Masked>,
}

impl Encoded {
    /// Encodes them for images of `size`, width and height in pixels.
    pub async fn new(
        vae: &VaeSession,
        model: &Model,
        job: &GenerateOptions,
        (init, mask): (Option<Picture>, Option<Mask>),
        size: [usize; 2],
    ) -> Result<Encoded> {
        let pixels = init.map(|picture| picture.to_unit(false));
        let image = match pixels.as_ref().filter(|_| job.start_strength(model).is_some()) {
            Some(pixels) => Some(vae.encode(pixels, model).await?),
            None => None,
        };
        let masked = match (model.inpaints(), mask, pixels) {
            (true, Some(mask), Some(pixels)) => Some(vae.encode_masked(pixels, &mask, model).await?),
            (true, ..) => Some(vae.encode_nothing(size, model).await?),
            (false, ..) => None,
        };
        Ok(Encoded { image, masked })
    }
}
