//! Layers of a four-bit model that stay in eight bits.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::base::DType;
use crate::error::{Error, Result};
use crate::nn::{Mode, Settings, weights};

use super::Model;
use super::adapters::part_of;

/// Largest loss of a layer in four bits, relative to its RMS. A normal distribution loses 0.072; what loses more has
/// values far outside of it, on which much depends. The bar is 0.080: large layers are measured by samples.
const MOST: f64 = 0.078;

impl Model {
    /// Layers, by path from the part on, that lose too much in four bits; none for another `dtype`. Measured once, at the
    /// first call.
    pub(crate) fn eight_bits(&self, dtype: DType) -> Arc<BTreeSet<String>> {
        if dtype != DType::Q4 {
            return Arc::default();
        }
        self.eight_bits.get_or_init(|| Arc::new(self.losing_most())).clone()
    }

    fn losing_most(&self) -> BTreeSet<String> {
        let settings = || Settings { mode: Mode::Training, ..Settings::default() };
        let params = [self.text_part(settings()).map(|p| p.1), self.unet_part(settings()).map(|p| p.1)];
        let layers = params.into_iter().flatten().flatten();
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| self.plain_rows(key, shape, rows);
        // What cannot be read is an error of loading, which says why.
        let lossy = layers.filter(|layer| weights::four_bit_loss(layer, &fetch).ok().flatten().is_some_and(|x| !(x <= MOST)));
        let kept: BTreeSet<String> = lossy.map(|layer| layer.key.trim_end_matches(".weight").to_owned()).collect();
        log::debug!(target: "portray::open", "in eight bits: {kept:?}");
        kept
    }

    /// Rows of the tensor `key` as its file holds them.
    fn plain_rows(&self, key: &str, shape: &[usize], rows: Range<usize>) -> Result<Vec<f32>> {
        let (part, name) = part_of(key).ok_or_else(|| Error::file(self.checkpoint.name(), format!("has no {key}")))?;
        let tensor = self.checkpoint.part(part).get_shaped(name, shape)?;
        let some = tensor.rows(rows.start, rows.len());
        some.ok_or_else(|| tensor.error(format!("has no rows {rows:?}")))?.to_f32()
    }
}
