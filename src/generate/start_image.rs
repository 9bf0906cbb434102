//! The picture that a `generate` job starts from, and the size that it gives to the job's pictures.

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, message, option};
use crate::event::{Event, Listener};
use crate::io::image::{Crop, Decoded, Fit, covering, size, title};
use crate::io::{Picture, Source};
use crate::pipeline::Model;
use crate::pipeline::check::LONGEST_SIDE;

use super::GenerateOptions;

/// How many times the pixels that a model was made for a start picture may have before that is remarked on.
const LARGE: usize = 4;

impl GenerateOptions {
    /// Width and height of the job's pictures: those that are asked for; else, from a start picture, its own, rounded down to
    /// whole pixels of a latent; else the model's. Of one side that is asked for, the other follows the start picture's aspect.
    ///
    /// # Errors
    /// [`Error::File`] for a start picture that cannot be read, [`Error::Usage`] for a size that the model cannot take.
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

    /// Says what is cut off the start picture of `own` pixels for `to`.
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

    /// How the start picture comes to the size: its own is rounded down with nothing cut off, as diffusers does it.
    fn fit(&self) -> Fit {
        match (self.sampling.width, self.sampling.height) {
            (None, None) => Fit::Stretch,
            _ => Fit::Cover(Crop::CENTER),
        }
    }

    /// The start picture at `size`.
    pub(super) fn start_picture(&self, size: [usize; 2]) -> Result<Option<Picture>> {
        let open = |path| Decoded::open(path)?.resized(size, self.fit());
        self.init.as_ref().map(open).transpose()
    }

    /// The start picture's name and the first digits of its file's SHA-256: pictures from others are others.
    pub(super) fn start_name(&self) -> Option<(String, String)> {
        let path = self.init.as_ref()?;
        let source = Source::open(path).ok()?;
        let digest = Sha256::digest(source.bytes().ok()?);
        Some((title(path), digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()))
    }
}
