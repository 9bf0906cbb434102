//! Layers of a four-bit model that stay in eight bits: those that cost a result most, and those that four bits do not fit.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::base::DType;
use crate::error::{Error, Result};
use crate::nn::{Mode, Param, Settings, weights};

use super::Model;
use super::adapters::part_of;

/// Layers that lose most for their size. All of the bundled model's UNet in four bits is 11.7 times as far off as in eight,
/// 7.9 times with these in eight bits, 13 % of its values (weights rounded in PyTorch, eight predictions). The token table
/// moves a prediction more than all other layers of the text encoder.
/// `cargo test --release --features window --test golden four_bits -- --nocapture` prints the errors of both types.
const KEPT: [&str; 9] = [
    "token_embedding",
    "time_emb_proj",
    "linear_1",
    "linear_2",
    "proj_in",
    "proj_out",
    "conv_shortcut",
    "downsamplers.0.conv",
    "conv_out",
];

/// Largest loss of a layer in four bits, relative to its RMS. Normal values lose 0.072; a layer that loses more has
/// values far outside, on which much depends. The bar is 0.080: large layers are measured by samples.
const MOST: f64 = 0.078;

impl Model {
    /// Layers, by path from the part on, that stay in eight bits where weights are stored as `dtype`: none but for four bits.
    /// Measured once, at the first call.
    pub(crate) fn eight_bits(&self, dtype: DType) -> Arc<BTreeSet<String>> {
        if dtype != DType::Q4 {
            return Arc::default();
        }
        self.eight_bits.get_or_init(|| Arc::new(self.losing_most())).clone()
    }

    fn losing_most(&self) -> BTreeSet<String> {
        let settings = || Settings { dtype: DType::Q4, mode: Mode::Training, ..Settings::default() };
        let texts = (0..self.texts.len()).map(|index| self.text_params(index, settings()));
        let parts = texts.chain([self.denoiser(settings()).map(|part| part.1)]);
        let layers = parts.into_iter().flatten().flatten().filter(|param| param.dtype == DType::Q4);
        let named = layers.map(|param| (param.key.trim_end_matches(".weight").to_owned(), param));
        let stay = named.filter(|(path, param)| is_kept(path) || self.loses(param) > MOST);
        let kept: BTreeSet<String> = stay.map(|(path, _)| path).collect();
        log::debug!(target: "portray::open", "stay in eight bits: {kept:?}");
        kept
    }

    /// What `param` loses in four bits; infinite where that is no number. Zero where it cannot be read: loading says why.
    fn loses(&self, param: &Param) -> f64 {
        let fetch = |key: &str, shape: &[usize], rows: Range<usize>| self.plain_rows(key, shape, rows);
        weights::four_bit_loss(param, &fetch).map_or(0.0, |loss| if loss.is_nan() { f64::INFINITY } else { loss })
    }

    /// Rows of the tensor `key` as its file holds them.
    fn plain_rows(&self, key: &str, shape: &[usize], rows: Range<usize>) -> Result<Vec<f32>> {
        let (part, name) = part_of(key).ok_or_else(|| Error::file(self.checkpoint.name(), format!("has no {key}")))?;
        let tensor = self.checkpoint.part(part)?.get_shaped(name, shape)?;
        let some = tensor.rows(rows.start, rows.len());
        some.ok_or_else(|| tensor.error(format!("has no rows {rows:?}")))?.to_f32()
    }
}

fn is_kept(path: &str) -> bool {
    KEPT.iter().any(|name| path.strip_suffix(name).is_some_and(|scope| scope.ends_with('.')))
}

#[cfg(all(test, feature = "bundled"))]
mod tests {
    use super::*;
    use crate::base::block4;
    use crate::event::Flow;
    use crate::io::{SafeTensors, safetensors::Tensor, write_safetensors};
    use crate::pipeline::{ModelOptions, WeightType};

    #[test]
    fn no_layer_in_four_bits_loses_more_than_the_bar() {
        let options = ModelOptions { dtype: WeightType::Q4, ..Default::default() };
        let model = Model::open(&options, &[], &mut |_| Flow::Continue).unwrap();
        let settings = Settings { dtype: DType::Q4, eight_bits: model.eight_bits(DType::Q4), ..Settings::default() };
        let (mut four, mut eight) = (0, 0);
        for param in [model.text_params(0, settings.clone()).unwrap(), model.denoiser(settings).unwrap().1].concat() {
            eight += usize::from(param.dtype == DType::Q8);
            if param.dtype != DType::Q4 {
                continue;
            }
            four += 1;
            for from in &param.sources {
                let values = model.plain_rows(&from.key, &from.shape, 0..from.shape[0]).unwrap();
                let stored = match from.shape[..] {
                    [out, input, kh, kw] => crate::base::layout::to_channels_last(&values, [out, input, kh, kw]),
                    _ => values,
                };
                let loss = block4::loss(&stored);
                assert!(loss > 0.03 && loss <= 0.08, "{}: {loss}", from.key);
            }
        }
        assert!(four > 50 && eight > 20, "{four} layers in four bits, {eight} in eight");
    }

    #[test]
    fn a_layer_with_values_far_outside_stays_in_eight_bits() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/sd2");
        let folder = tempfile::tempdir().unwrap();
        let file = "unet/diffusion_pytorch_model.safetensors";
        for name in std::fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().file_name()) {
            let (from, to) = (golden.join(&name), folder.path().join(&name));
            if from.is_dir() {
                std::fs::create_dir(&to).unwrap();
                for entry in std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap()) {
                    std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
        let open = || {
            let options = ModelOptions { model: Some(folder.path().into()), ..Default::default() };
            Model::open(&options, &[], &mut |_| Flow::Continue).unwrap().eight_bits(DType::Q4)
        };
        let before = open();
        let weights = SafeTensors::open(golden.join(file)).unwrap();
        let wide = |t: &Tensor| t.shape.len() == 4 && t.shape[1].is_multiple_of(64) && t.name.ends_with("conv1.weight");
        let spoiled = weights.iter().find(wide).expect("a convolution of 64 channels");
        let mut values = spoiled.to_f32().unwrap();
        values.iter_mut().step_by(97).for_each(|x| *x *= 8.0);
        let rest = weights.iter().filter(|t| t.name != spoiled.name);
        let tensors: Vec<Tensor> = rest.chain([Tensor::f32(spoiled.name.as_ref(), &spoiled.shape, &values)]).collect();
        write_safetensors(folder.path().join(file), &tensors, &Default::default()).unwrap();
        let more: Vec<String> = open().difference(&before).cloned().collect();
        assert_eq!(more, [format!("unet.{}", spoiled.name.trim_end_matches(".weight"))]);
    }
}
