//! An autoencoder whose decoder's activations exceed the largest half, as SDXL's do (`tests/fixtures/make_range.py`): from
//! any storage of its weights it gives the image that PyTorch gives in f32.

use std::collections::HashMap;
use std::path::Path;

use portray::low_level::base::{Array, DType, block8, layout};
use portray::low_level::gpu::Store;
use portray::low_level::graph::{Graph, Tensor};
use portray::low_level::io::SafeTensors;
use portray::low_level::models::{MapSizes, Vae, VaeConfig};
use portray::low_level::nn::loading;
use portray::low_level::nn::weights::{self, HostTensor};
use portray::low_level::nn::{Param, Scope, Settings};
use portray::low_level::ops::oracle::close;

use super::harness::run_plan;

/// Largest finite half.
const LARGEST_HALF: f64 = 65504.0;

/// A whole number from -127 to 127, as the script makes it.
fn number(key: &str, i: usize) -> f32 {
    let mix = |x: u32, byte: u8| (x ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let mut x = key.bytes().fold(0x811C_9DC5, mix).wrapping_add((i as u32).wrapping_mul(0x9E37_79B9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    ((x ^ (x >> 16)) % 255) as f32 - 127.0
}

/// Weights of the checkpoint tensor `key`, in PyTorch's layout.
fn weight(key: &str, shape: &[usize]) -> Vec<f32> {
    let window: usize = shape.iter().skip(2).product();
    let inputs: usize = shape.iter().skip(1).product();
    let exponent = match (shape.len(), inputs) {
        (1, _) => 9,
        _ if key.ends_with("conv2.weight") => 2,
        (_, ..16) => 7,
        (_, ..128) => 9,
        _ => 11,
    };
    let scale = f32::powi(2.0, -exponent);
    let value = |i: usize| {
        let b = number(key, i);
        let first = shape.len() > 1 && (i / window % shape[1]).is_multiple_of(block8::VALUES);
        let b = if first { 127f32.copysign(if b < 0.0 { -1.0 } else { 1.0 }) } else { b };
        match (key.contains("norm") && key.ends_with("weight"), key.contains("norm2")) {
            (true, true) => (b * scale + 1.0) * 512.0,
            (true, false) => b * scale + 1.0,
            (false, _) => b * scale,
        }
    };
    (0..shape.iter().product()).map(value).collect()
}

/// The decoder's graph over weights in `dtype`.
struct Decoder {
    g: Graph,
    params: Vec<Param>,
    latent: Tensor,
    out: Tensor,
}

fn decoder(dtype: DType, shape: &[usize], maps: MapSizes) -> Decoder {
    let config = include_str!("../../fixtures/range/config.json");
    let scope = Scope::new("vae", Settings { dtype, ..Settings::default() });
    let vae = Vae::decoder(&scope, VaeConfig::parse("vae/config.json", config).unwrap()).unwrap().with_maps(maps);
    let mut g = Graph::new();
    let latent = g.input("latent", shape, DType::F32);
    let out = vae.decode(&mut g, latent).unwrap();
    g.output(out);
    Decoder { g, params: scope.params(), latent, out }
}

/// Results of all nodes on the host, each rounded by `store`: the largest that is stored, and the image.
fn evaluate(decoder: &Decoder, latent: &[f32], store: &dyn Fn(f64) -> f64) -> (f64, Vec<f32>) {
    let Decoder { g, params, .. } = decoder;
    let mut values: HashMap<Tensor, Array> = HashMap::new();
    for param in params {
        let of = |key: &str, shape: &[usize]| weight(key.split_once('.').unwrap().1, shape);
        let tensors =
            param.sources.iter().map(|s| HostTensor { shape: s.shape.clone(), values: of(&s.key, &s.shape).into() });
        let bytes = weights::pack(param, &tensors.collect::<Vec<_>>()).unwrap();
        let tensor = g.stored_tensors().find(|(key, _)| *key == param.key).unwrap().1;
        values.insert(tensor, Array::from_f32(param.shape.clone(), &bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)));
    }
    values.insert(decoder.latent, Array::from_f32(g.shape(decoder.latent).clone(), latent));
    let mut largest = 0.0f64;
    for node in g.nodes() {
        let inputs: Vec<&Array> = node.inputs.iter().map(|t| &values[t]).collect();
        for (t, result) in node.outputs.iter().zip(node.op.reference(&inputs)) {
            largest = result.data.iter().fold(largest, |most, x| most.max(x.abs()));
            values.insert(*t, result.map(store));
        }
    }
    (largest, values[&decoder.out].to_f32())
}

#[test]
fn activations_beyond_halves_give_pytorch_s_image() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/range/values.safetensors");
    let values = SafeTensors::open(fixtures).unwrap();
    let picture = |name: &str| {
        let tensor = values.get(name).unwrap();
        let [n, c, h, w] = tensor.shape[..] else { panic!("{name} is {:?}", tensor.shape) };
        (vec![n, h, w, c], layout::to_channels_last(&tensor.to_f32().unwrap(), [n, c, h, w]))
    };
    let ((shape, latent), expected) = (picture("vae.latent"), picture("vae.decoded").1);
    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();

    let bands = MapSizes { whole: 0, band: 0 };
    for (dtype, maps) in [
        (DType::F32, MapSizes::default()),
        (DType::F16, MapSizes::default()),
        (DType::F16, bands),
        (DType::Q8, MapSizes::default()),
    ] {
        let Decoder { g, params, latent: input, out } = decoder(dtype, &shape, maps);
        assert!(params.iter().any(|p| p.dtype == dtype), "no weight is stored in {dtype:?}");
        let gpu = crate::common::engine().gpu();
        let got = pollster::block_on(async {
            let mut store = Store::new(gpu);
            let rows = |key: &str, shape: &[usize], rows: std::ops::Range<usize>| {
                let columns: usize = shape.iter().skip(1).product();
                Ok(weight(key.split_once('.').unwrap().1, shape)[rows.start * columns..rows.end * columns].to_vec())
            };
            loading::load(&mut store, "range", &params, &rows).await?;
            run_plan(gpu, &g, &store, &[(input, latent.clone())]).await?.read(out).await
        });
        close(&got.unwrap(), &expected, 1e-4).unwrap_or_else(|e| panic!("{dtype:?} weights, {maps:?}: {e}"));
    }

    // The reference in PyTorch's place, and then with every result stored as a half.
    let whole = decoder(DType::F32, &shape, MapSizes::default());
    let (largest, got) = evaluate(&whole, &latent, &|x| x);
    println!("largest activation {largest:.0}");
    assert!(largest > 2.0 * LARGEST_HALF, "{largest}");
    close(&got, &expected, 1e-4).unwrap();
    let (_, halves) = evaluate(&whole, &latent, &|x| half::f16::from_f64(x).to_f64());
    assert!(close(&halves, &expected, 1e-1).is_err() && halves.iter().any(|x| !x.is_finite()), "{halves:?}");
}
