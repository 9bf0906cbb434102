//! The models that people have, from their configurations alone: how many parameters they hold, and how many of them a
//! LoRA adds.

use portray::base::DType;
use portray::gpu::{AdapterClass, Caps, Variants};
use portray::graph::{Graph, Plan, PlanOptions};
use portray::models::{Context, MapSizes, TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::nn::{LoraSpec, Mode, Role, Scope, Settings, Targets};
use portray::train::{Optimizer, Setup, TrainPlan};

const UNET_1: &str = r#"{"cross_attention_dim": 768}"#;
const UNET_2: &str =
    r#"{"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true}"#;
const TEXT_1: &str = r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}"#;
const TEXT_2: &str = r#"{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 23, "hidden_act": "gelu"}"#;
const VAE: &str = r#"{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;

fn settings(mode: Mode, lora: Option<Targets>) -> Settings {
    let lora = lora.map(|targets| LoraSpec { rank: 4, alpha: 4.0, targets });
    Settings { dtype: DType::F16, mode, lora }
}

fn unet(config: &str, settings: Settings) -> (Scope, UNet) {
    let scope = Scope::new("unet", settings);
    let model = UNet::new(&scope, UnetConfig::parse("unet/config.json", config).unwrap()).unwrap();
    (scope, model)
}

fn text(config: &str, settings: Settings) -> Scope {
    let scope = Scope::new("text_encoder", settings);
    TextEncoder::new(&scope, TextEncoderConfig::parse("text_encoder/config.json", config).unwrap()).unwrap();
    scope
}

fn count(scope: &Scope, adapters: bool) -> usize {
    scope.params().iter().filter(|p| (p.role == Role::Adapter) == adapters).map(|p| p.elements()).sum()
}

#[test]
fn parameter_counts_are_the_published_ones() {
    for mode in [Mode::Inference, Mode::Training] {
        assert_eq!(count(&unet(UNET_1, settings(mode, None)).0, false), 859_520_964);
        assert_eq!(count(&unet(UNET_2, settings(mode, None)).0, false), 865_910_724);
        assert_eq!(count(&text(TEXT_1, settings(mode, None)), false), 123_060_480);
        assert_eq!(count(&text(TEXT_2, settings(mode, None)), false), 340_387_840);
        let vae = Scope::new("vae", settings(mode, None));
        Vae::new(&vae, VaeConfig::parse("vae/config.json", VAE).unwrap()).unwrap();
        assert_eq!(count(&vae, false), 83_653_863);
    }
}

fn vae_graph(side: usize, decode: bool, maps: MapSizes) -> Graph {
    let scope = Scope::new("vae", settings(Mode::Inference, None));
    let vae = Vae::new(&scope, VaeConfig::parse("vae/config.json", VAE).unwrap()).unwrap().with_maps(maps);
    let mut g = Graph::new();
    let out = if decode {
        let latent = g.input("latent", [1, side / 8, side / 8, 4], DType::F32);
        vae.decode(&mut g, latent).unwrap()
    } else {
        let image = g.input("image", [1, side, side, 3], DType::F32);
        vae.encode(&mut g, image).unwrap()
    };
    g.output(out);
    g
}

/// What the autoencoder's halves hold beside their weights, at WebGPU's default limits.
fn vae_bytes(side: usize, decode: bool) -> u64 {
    let g = vae_graph(side, decode, MapSizes::default());
    let bytes = |class| {
        let caps = Caps::webgpu_defaults(class);
        let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
        let (bytes, flops) = (plan.arena.iter().sum::<u64>(), plan.total_flops() as f64 / 1e9);
        let way = if decode { "decode" } else { "encode" };
        println!("{way} {side}: {:.0} MB, {} dispatches, {flops:.0} GFLOP", bytes as f64 / 1e6, plan.dispatch_count());
        bytes
    };
    bytes(AdapterClass::Cpu).max(bytes(AdapterClass::Gpu))
}

/// Bands make some layers twice or thrice.
#[test]
fn bands_cost_little_work() {
    let flops = |decode: bool, maps: MapSizes| {
        let g = vae_graph(512, decode, maps);
        let roomy = Caps { max_binding_bytes: 1 << 31, ..Caps::webgpu_defaults(AdapterClass::Gpu) };
        Plan::new(&g, &roomy, &Variants::default(), &PlanOptions::default()).unwrap().total_flops() as f64
    };
    for (way, decode, most) in [("decode", true, 1.4), ("encode", false, 1.2)] {
        let whole = MapSizes { whole: usize::MAX, ..MapSizes::default() };
        let ratio = flops(decode, MapSizes::default()) / flops(decode, whole);
        println!("{way} 512: {ratio:.3} times the work of whole maps");
        assert!(ratio > 1.0 && ratio < most, "{ratio}");
    }
}

#[test]
fn the_autoencoder_fits_webgpu_s_default_limits() {
    for decode in [true, false] {
        assert!(vae_bytes(512, decode) <= 250_000_000);
        assert!(vae_bytes(1024, decode) <= 1_000_000_000);
        assert!(vae_bytes(2048, decode) <= 4_000_000_000);
    }
}

#[test]
fn lora_counts_are_the_published_ones() {
    let attention = || settings(Mode::Training, Some(Targets::Attention));
    let adapters = |scope: &Scope| scope.params().iter().filter(|p| p.role == Role::Adapter).count();
    for (config, parameters) in [(UNET_1, 797_184), (UNET_2, 829_952)] {
        let (scope, _) = unet(config, attention());
        assert_eq!((adapters(&scope), count(&scope, true)), (256, parameters));
    }
    for (config, modules, parameters) in [(TEXT_1, 48, 294_912), (TEXT_2, 92, 753_664)] {
        let scope = text(config, attention());
        assert_eq!((adapters(&scope), count(&scope, true)), (2 * modules, parameters));
    }
}

#[test]
fn sizes_need_not_be_multiples_of_anything() {
    let (_, model) = unet(UNET_1, settings(Mode::Inference, None));
    let mut g = Graph::new();
    let sample = g.input("sample", [1, 57, 43, 4], DType::F32);
    let time = g.input("timestep", [1], DType::F32);
    let context = model.stored_context(&mut g, 1, 77).unwrap();
    let out = model.forward(&mut g, sample, time, Context::KeyValues(&context)).unwrap();
    assert_eq!(**g.shape(out), [1, 57, 43, 4]);
}

#[test]
fn what_does_not_fit_is_named() {
    let (_, model) = unet(UNET_1, settings(Mode::Inference, None));
    let mut g = Graph::new();
    let sample = g.input("sample", [1, 8, 8, 3], DType::F32);
    let time = g.input("timestep", [1], DType::F32);
    let error = model.forward(&mut g, sample, time, Context::KeyValues(&[])).unwrap_err().to_string();
    assert!(error.contains("unet") && error.contains("[1, 8, 8, 3]"), "{error}");
    let sample = g.input("sample", [1, 8, 8, 4], DType::F32);
    assert!(model.forward(&mut g, sample, time, Context::KeyValues(&[])).is_err());
    let hidden = g.input("hidden", [1, 77, 1024], DType::F32);
    let error = model.forward(&mut g, sample, time, Context::Hidden(hidden)).unwrap_err().to_string();
    assert!(error.contains("[1, 77, 1024]"), "{error}");
}

/// One step of Stable Diffusion 2 with its prompt's keys and values at hand: what a picture costs in dispatches.
#[test]
fn a_step_takes_few_dispatches() {
    let (_, unet) = unet(UNET_2, settings(Mode::Inference, None));
    let mut g = Graph::new();
    let sample = g.input("sample", [2, 64, 64, 4], DType::F32);
    let timestep = g.input("timestep", [2], DType::F32);
    let keys = unet.stored_context(&mut g, 2, 77).unwrap();
    let out = unet.forward(&mut g, sample, timestep, Context::KeyValues(&keys)).unwrap();
    assert_eq!(**g.shape(out), [2, 64, 64, 4]);
    g.output(out);
    for class in [AdapterClass::Cpu, AdapterClass::Gpu] {
        let plan = Plan::new(&g, &Caps::webgpu_defaults(class), &Variants::default(), &PlanOptions::default()).unwrap();
        let mut kernels = std::collections::BTreeMap::new();
        plan.kernels().for_each(|k| *kernels.entry(k.template.name).or_insert(0) += 1);
        println!("{class:?}: {kernels:?}");
        let reductions = kernels.get("gemm_reduce").copied().unwrap_or(0);
        assert!(plan.dispatch_count() - reductions <= 400, "{} dispatches", plan.dispatch_count() - reductions);
    }
}

/// At WebGPU's default limits, 128 MiB a binding.
#[test]
fn large_pictures_and_trainings_bind_little() {
    let (_, unet) = unet(UNET_2, settings(Mode::Inference, None));
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let mut g = Graph::new();
    let sample = g.input("sample", [2, 128, 128, 4], DType::F32);
    let timestep = g.input("timestep", [2], DType::F32);
    let keys = unet.stored_context(&mut g, 2, 77).unwrap();
    let out = unet.forward(&mut g, sample, timestep, Context::KeyValues(&keys)).unwrap();
    g.output(out);
    let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
    println!("guided 1024: {:.2} GB beside weights", plan.working_bytes() as f64 / 1e9);
    // What a binding holds is what decides.
    let tight = Caps { max_binding_bytes: 64 << 20, ..caps.clone() };
    assert!(Plan::new(&g, &tight, &Variants::default(), &PlanOptions::default()).is_err());

    // One picture of 768 pixels and one of its class.
    let lora = LoraSpec { rank: 4, alpha: 4.0, targets: Targets::Attention };
    let setup = Setup {
        unet: UnetConfig::parse("unet/config.json", UNET_2).unwrap(),
        text: None,
        lora: Some(lora),
        text_lora: None,
        dtype: DType::F16,
        samples: [1, 1],
        latent: [96, 96, 4],
        more_sizes: Vec::new(),
        captions: false,
        tokens: 77,
        checkpoint: true,
        accumulate: 1,
        optimizer: Optimizer::AdamW,
        fused: false,
        weight_decay: 1e-2,
        max_grad_norm: 1.0,
    };
    let plan = TrainPlan::new(&setup, &caps, &Variants::default()).unwrap();
    println!("LoRA at 768, 1 + 1: {:.2} GB beside weights", plan.first.working_bytes() as f64 / 1e9);
}
