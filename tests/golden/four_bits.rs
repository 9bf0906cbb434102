//! How far weights in blocks of four and of eight bits move a UNet's predictions.

use portray::low_level::io::SafeTensors;
use portray::low_level::io::safetensors::Tensor;
use portray::low_level::ops::oracle::Random;
use portray::low_level::tools::{ForwardInputs, ForwardPart, forward};
use portray::{ModelOptions, WeightType};

use crate::common::{engine, golden};

/// A sample, a timestep and a prompt's states for each of `COUNT` predictions.
fn inputs(folder: &tempfile::TempDir, side: usize, width: usize) -> SafeTensors {
    const COUNT: usize = 4;
    let mut random = Random::new(17);
    let mut normal = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
    let (sample, context) = (normal(COUNT * 4 * side * side), normal(COUNT * 7 * width));
    let tensors = [
        Tensor::f32("sample", &[COUNT, 4, side, side], &sample),
        Tensor::f32("timestep", &[COUNT], &[950.0, 700.0, 300.0, 20.0]),
        Tensor::f32("context", &[COUNT, 7, width], &context),
    ];
    let path = folder.path().join("inputs.safetensors");
    portray::low_level::io::write_safetensors(&path, &tensors, &Default::default()).unwrap();
    SafeTensors::open(&path).unwrap()
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// `--nocapture` shows the figures.
#[test]
fn four_bits_are_at_most_fifteen_times_as_far_off_as_eight() {
    let folder = tempfile::tempdir().unwrap();
    for (name, side, width) in [("the bundled model", 16, 96), ("sd15", 16, 36), ("sd2", 16, 40)] {
        let path = (name != "the bundled model").then(|| golden(name));
        let inputs = inputs(&folder, side, width);
        let out = |dtype: WeightType| {
            let model = ModelOptions { model: path.clone(), dtype, ..Default::default() };
            let made = pollster::block_on(forward(
                engine(),
                ForwardPart::Unet,
                ForwardInputs { model: &model, loras: &[], tensors: Some(&inputs), prompts: &[] },
            ));
            made.unwrap_or_else(|e| panic!("{name}: {e}")).remove(0).2
        };
        let right = out(WeightType::F32);
        let off = |dtype: WeightType| {
            let misses = out(dtype).into_iter().zip(&right).map(|(a, b)| f64::from(a) - f64::from(*b));
            rms(misses) / rms(right.iter().map(|x| f64::from(*x)))
        };
        let (eight, four) = (off(WeightType::Q8), off(WeightType::Q4));
        println!("{name}: relative RMS error of the UNet: q8 {eight:.2e}, q4 {four:.2e}, {:.1} times", four / eight);
        assert!(eight > 0.0 && four > eight, "q4 weights are read as such");
        assert!(four < 15.0 * eight, "{name}: {four} in q4, {eight} in q8");
    }
}
