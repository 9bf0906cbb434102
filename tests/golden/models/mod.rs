//! Text encoder, UNet and VAE against values that PyTorch and diffusers computed (`tests/fixtures/golden`).
//!
//! `PORTRAY_BACKEND=reference` runs every op's f64 reference in place of the kernels, which needs no GPU.

mod gradients;
mod harness;
mod range;

use std::collections::BTreeMap;

use self::harness::{Golden, KINDS, Loras, MODES, run_plan, settings};
use portray::low_level::base::DType;
use portray::low_level::gpu::Store;
use portray::low_level::graph::Graph;
use portray::low_level::io::checkpoints::PartId;
use portray::low_level::models::{
    Context, Denoiser as _, MapSizes, TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig,
};
use portray::low_level::nn::{Mode, Role, Scope, Settings, Targets};

#[test]
fn text_encoder_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let expected = golden.f32("text.hidden").1;
        for mode in MODES {
            let got = golden.text(settings(DType::F32, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f32"), "text.hidden", &got, &expected, 1e-4);
        }
        let got = golden.text(settings(DType::F16, Mode::Inference, None), &Loras::default());
        golden.compare("f16 weights", "text.hidden", &got, &expected, 1e-2);
    }
}

#[test]
fn unet_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let expected = golden.picture("unet.out").1;
        for mode in MODES {
            let got = golden.unet(settings(DType::F32, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f32"), "unet.out", &got, &expected, 1e-4);
            let got = golden.unet(settings(DType::F16, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f16 weights"), "unet.out", &got, &expected, 1e-2);
        }
    }
}

#[test]
fn vae_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let (shape, mean) = golden.picture("vae.mean");
        let logvar = golden.picture("vae.logvar").1;
        let latent = shape[3];
        let decoded = golden.picture("vae.decoded").1;
        let inference = || settings(DType::F32, Mode::Inference, None);
        // Bands as narrow as they get, of every map or of the large ones.
        let (all, large) = (MapSizes { whole: 0, band: 0 }, MapSizes { whole: 60_000, band: 0 });
        for (what, settings, tolerance, maps) in [
            ("Inference f32", inference(), 1e-4, MapSizes::default()),
            ("in bands", inference(), 1e-4, all),
            ("large maps in bands", inference(), 1e-4, large),
            ("Training f32", settings(DType::F32, Mode::Training, None), 1e-4, MapSizes::default()),
            ("f16 weights", settings(DType::F16, Mode::Inference, None), 1e-2, MapSizes::default()),
        ] {
            let moments = golden.vae(settings.clone(), "vae.image", maps);
            let half = |from: usize| moments.chunks(2 * latent).flat_map(move |m| m[from..from + latent].to_vec());
            golden.compare(what, "vae.mean", &half(0).collect::<Vec<_>>(), &mean, tolerance);
            let got: Vec<f32> = half(latent).map(|x| x.clamp(-30.0, 20.0)).collect();
            golden.compare(what, "vae.logvar", &got, &logvar, tolerance);
            golden.compare(what, "vae.decoded", &golden.vae(settings, "vae.latent", maps), &decoded, tolerance);
        }
    }
}

/// Adapters that run beside the weights, in both modes, and the same merged into them.
fn lora_ways(golden: &Golden, file: &str, targets: Targets, rank: usize, scale: f64) -> Vec<(String, Settings, Loras)> {
    let factors = golden.factors(file);
    let spec = Some((rank, scale * rank as f64, targets));
    let mut ways = Vec::new();
    for mode in MODES {
        let beside = Loras { beside: factors.clone(), ..Loras::default() };
        ways.push((format!("{mode:?}, adapters"), settings(DType::F32, mode, spec.clone()), beside));
        let merged = Loras { merged: factors.clone(), scale, ..Loras::default() };
        ways.push((format!("{mode:?}, merged"), settings(DType::F32, mode, None), merged));
    }
    ways
}

#[test]
fn lora_of_the_attentions_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for (name, scale) in [("lora.unet.out", 1.0), ("lora-half.unet.out", 0.5)] {
            let expected = golden.picture(name).1;
            for (what, settings, loras) in lora_ways(&golden, "", Targets::Attention, 3, scale) {
                golden.compare(&what, name, &golden.unet(settings, &loras), &expected, 1e-4);
            }
        }
    }
}

#[test]
fn lora_of_every_layer_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let (unet, text) = (golden.picture("lora-all.unet.out").1, golden.f32("lora-all.text.hidden").1);
        for (what, settings, loras) in lora_ways(&golden, "-all", Targets::All, 2, 1.0) {
            golden.compare(&what, "lora-all.unet.out", &golden.unet(settings.clone(), &loras), &unet, 1e-4);
            golden.compare(&what, "lora-all.text.hidden", &golden.text(settings, &loras), &text, 1e-4);
        }
    }
}

/// The layers that `--targets` names are exactly those that PEFT adapted.
#[test]
fn targets_are_those_of_the_reference() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for (file, rank, targets) in [("", 3, Targets::Attention), ("-all", 2, Targets::All)] {
            let settings = settings(DType::F32, Mode::Training, Some((rank, rank as f64, targets)));
            let unet = Scope::new("unet", settings.clone());
            let (path, config) = golden.config(PartId::UNET);
            UNet::new(&unet, UnetConfig::parse(&path, &config).unwrap()).unwrap();
            let mut params = unet.params();
            if file == "-all" {
                let text = Scope::new("text_encoder", settings);
                let (path, config) = golden.config(PartId::TEXT_ENCODER);
                TextEncoder::new(&text, TextEncoderConfig::parse(&path, &config).unwrap()).unwrap();
                params.extend(text.params());
            }
            let adapters = params.into_iter().filter(|p| p.role == Role::Adapter);
            let ours: BTreeMap<String, Vec<usize>> = adapters.map(|p| (p.key, p.sources[0].shape.clone())).collect();
            let theirs = golden.factors(file).into_iter().map(|(key, t)| (key, t.shape)).collect();
            assert_eq!(ours, theirs, "{kind}{file}");
        }
    }
}

/// Both modes ask for the same checkpoint tensors, and for all of them.
#[test]
fn parameters_are_those_of_the_checkpoint() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for part in [PartId::TEXT_ENCODER, PartId::UNET, PartId::VAE] {
            for mode in MODES {
                let scope = Scope::new(part.name(), settings(DType::F32, mode, None));
                let (path, config) = golden.config(part);
                match part {
                    PartId::UNET => drop(UNet::new(&scope, UnetConfig::parse(&path, &config).unwrap()).unwrap()),
                    PartId::VAE => drop(Vae::new(&scope, VaeConfig::parse(&path, &config).unwrap()).unwrap()),
                    _ => drop(TextEncoder::new(&scope, TextEncoderConfig::parse(&path, &config).unwrap()).unwrap()),
                }
                let params = scope.params();
                let ours: BTreeMap<String, Vec<usize>> =
                    params.iter().flat_map(|p| &p.sources).map(|s| (s.key.clone(), s.shape.clone())).collect();
                let theirs: BTreeMap<String, Vec<usize>> = golden
                    .model
                    .part(part)
                    .unwrap()
                    .iter()
                    .map(|t| (format!("{}.{}", part.name(), t.name), t.shape.to_vec()))
                    .collect();
                assert_eq!(ours, theirs, "{kind} {part} {mode:?}");
                let modules: BTreeMap<String, Vec<usize>> = scope.modules().into_iter().collect();
                let expected = golden.model.part(part).unwrap().modules();
                let expected: BTreeMap<String, Vec<usize>> =
                    expected.into_iter().map(|(path, shape)| (format!("{}.{path}", part.name()), shape)).collect();
                assert_eq!(modules, expected, "{kind} {part} {mode:?}");
            }
        }
    }
}

/// Keys and values computed once and left in the store serve a plan of their own.
#[test]
fn a_context_in_the_store_serves_the_unet() {
    let golden = Golden::open("sd2");
    let (scope, model) = golden.unet_model(Settings::default());
    let ((shape, sample), (_, hidden)) = (golden.picture("unet.sample"), golden.f32("unet.context"));
    let steps = golden.values.get("unet.timestep").unwrap().to_i64().unwrap();
    let gpu = crate::common::engine().gpu();
    let mut store = Store::new(gpu);
    golden.load(&mut store, &scope.params(), &Loras::default(), &|_, _, _| Ok(())).unwrap();
    store.allocate("context", &model.context_tensors(3, 77)).unwrap();
    let mut first = Graph::new();
    let context = first.input("context", [3, 77, 40], DType::F32);
    model.store_context(&mut first, context).unwrap();
    let mut second = Graph::new();
    let inputs = vec![
        (second.input("sample", shape, DType::F32), sample),
        (second.input("timestep", [3], DType::F32), steps.iter().map(|&t| t as f32).collect()),
    ];
    let keys = model.stored_context(&mut second, 3, 77).unwrap();
    let out = model.forward(&mut second, inputs[0].0, inputs[1].0, Context::KeyValues(&keys)).unwrap();
    second.output(out);
    let got = pollster::block_on(async {
        run_plan(gpu, &first, &store, &[(context, hidden)]).await?;
        run_plan(gpu, &second, &store, &inputs).await?.read(out).await
    });
    golden.compare("context in the store", "unet.out", &got.unwrap(), &golden.picture("unet.out").1, 1e-4);
}
