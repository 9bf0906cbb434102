//! The models that people have, from their configurations alone: how many parameters they hold, how many of them a LoRA
//! adds, and how many kernels their jobs have compiled.

mod xl;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portray::low_level::base::DType;
use portray::low_level::generate::plan_generate;
use portray::low_level::gpu::{AdapterClass, Caps, Variants};
use portray::low_level::graph::{Graph, Plan, PlanOptions};
use portray::low_level::models::{Context, MapSizes, TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::low_level::nn::{LoraSpec, Mode, Role, Scope, Settings, Targets};
use portray::low_level::train::plan_train;
use portray::low_level::train::{Recomputed, Setup, TrainPlan};
use portray::{GenerateOptions, ModelOptions, Optimizer, TrainOptions};
use serde_json::{Value, json};

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
    Settings { dtype: DType::F16, mode, lora, ..Settings::default() }
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

/// One step of Stable Diffusion 2 with its prompt's keys and values at hand: what an image costs in dispatches.
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
    // On software drivers a skip connection's half is a dispatch of its own, and where they compile slowly self-attention's
    // queries and a GEGLU are, too: that is fewer kernels.
    for (class, subgroup, most) in
        [(AdapterClass::Cpu, 8, 404), (AdapterClass::Cpu, 0, 414), (AdapterClass::Gpu, 0, 400)]
    {
        let caps = Caps { subgroup, ..Caps::webgpu_defaults(class) };
        let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
        let mut kernels = std::collections::BTreeMap::new();
        plan.kernels().for_each(|k| *kernels.entry(k.template.name).or_insert(0) += 1);
        println!("{class:?}: {kernels:?}");
        let reductions = kernels.get("gemm_reduce").copied().unwrap_or(0);
        let dispatches = plan.dispatch_count() - reductions;
        println!("{class:?}, subgroups of {subgroup}: {dispatches} dispatches");
        assert!(dispatches <= most, "{class:?}, subgroups of {subgroup}: {dispatches} dispatches");
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

    // One image of 768 pixels and one of its class.
    let lora = LoraSpec { rank: 4, alpha: 4.0, targets: Targets::Attention };
    let setup = Setup {
        unet: UnetConfig::parse("unet/config.json", UNET_2).unwrap(),
        texts: Vec::new(),
        lora: Some(lora),
        text_lora: None,
        storage: Settings { dtype: DType::F16, ..Settings::default() },
        samples: [1, 1],
        latent: [96, 96, 4],
        more_sizes: Vec::new(),
        captions: false,
        tokens: 77,
        checkpoint: Recomputed::Blocks,
        accumulate: 1,
        optimizer: Optimizer::AdamW,
        fused: false,
        weight_decay: 1e-2,
        max_grad_norm: 1.0,
    };
    let plan = TrainPlan::new(&setup, &caps, &Variants::default()).unwrap();
    println!("LoRA at 768, 1 + 1: {:.2} GB beside weights", plan.first.working_bytes() as f64 / 1e9);
}

/// Adapters whose kernels differ.
#[derive(Clone, Copy, Debug)]
enum Adapter {
    Lavapipe,
    /// Also as Chromium's WebGPU has it.
    SwiftShader,
    Card,
}

use Adapter::{Card, Lavapipe, SwiftShader};

impl Adapter {
    fn caps(self) -> Caps {
        let class = if matches!(self, Card) { AdapterClass::Gpu } else { AdapterClass::Cpu };
        // As wide as Mesa's with AVX2.
        let subgroup = if matches!(self, Lavapipe) { 8 } else { 0 };
        Caps { subgroup, ..Caps::webgpu_defaults(class) }
    }
}

/// What a job may have compiled at most: kernels that differ, and bytes of their WGSL. Where kernels become fewer or
/// shorter, the test prints the numbers to write here.
struct Most {
    model: &'static str,
    on: Adapter,
    generate: (usize, u64),
    train: (usize, u64),
}

const MOST: &[Most] = &[
    Most { model: "bundled", on: Lavapipe, generate: (23, 343_338), train: (53, 688_624) },
    Most { model: "bundled", on: SwiftShader, generate: (34, 461_856), train: (68, 882_416) },
    Most { model: "bundled", on: Card, generate: (41, 443_747), train: (73, 755_747) },
    Most { model: "sd15", on: Lavapipe, generate: (30, 423_470), train: (61, 786_678) },
    Most { model: "sd15", on: SwiftShader, generate: (42, 610_604), train: (80, 1_046_872) },
    Most { model: "sd15", on: Card, generate: (60, 753_570), train: (107, 1_374_216) },
    Most { model: "sd2-base", on: Lavapipe, generate: (28, 362_052), train: (54, 641_016) },
    Most { model: "sd2-base", on: SwiftShader, generate: (37, 513_165), train: (72, 923_486) },
    Most { model: "sd2-base", on: Card, generate: (57, 686_658), train: (100, 1_238_822) },
    Most { model: "sd21", on: Lavapipe, generate: (32, 427_950), train: (55, 641_687) },
    Most { model: "sd21", on: SwiftShader, generate: (39, 518_868), train: (74, 946_216) },
    Most { model: "sd21", on: Card, generate: (57, 649_562), train: (92, 1_096_651) },
];

/// A model of full size whose weights are holes in its files: what is planned reads their shapes alone.
fn hollow(model: &str, folder: &Path) -> Option<PathBuf> {
    if model == "bundled" {
        return None;
    }
    let (template, tokenizer) = match model {
        "sd15" => (include_str!("../../src/family/sd1.json"), "sd15"),
        _ => (include_str!("../../src/family/sd2.json"), "sd2"),
    };
    let mut configs: Value = serde_json::from_str(template).unwrap();
    if model == "sd21" {
        configs["scheduler"]["prediction_type"] = json!("v_prediction");
        configs["unet"]["sample_size"] = json!(96);
    }
    let folder = folder.join(model);
    let put = |path: &str, text: &[u8]| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    put("model_index.json", configs["model_index"].to_string().as_bytes());
    put("scheduler/scheduler_config.json", configs["scheduler"].to_string().as_bytes());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    for entry in std::fs::read_dir(golden.join(tokenizer).join("tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        put(&format!("tokenizer/{}", path.file_name().unwrap().to_str().unwrap()), &std::fs::read(&path).unwrap());
    }
    for (part, file) in
        [("text_encoder", "model"), ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")]
    {
        let config = configs[part].to_string();
        put(&format!("{part}/config.json"), config.as_bytes());
        let scope = Scope::new(part, settings(Mode::Training, None));
        match part {
            "text_encoder" => drop(TextEncoder::new(&scope, TextEncoderConfig::parse(part, &config).unwrap()).unwrap()),
            "unet" => drop(UNet::new(&scope, UnetConfig::parse(part, &config).unwrap()).unwrap()),
            _ => drop(Vae::new(&scope, VaeConfig::parse(part, &config).unwrap()).unwrap()),
        }
        let (mut header, mut end) = (BTreeMap::new(), 0);
        for source in scope.params().into_iter().flat_map(|param| param.sources) {
            let begin = end;
            end += 2 * source.shape.iter().product::<usize>();
            let name = source.key.split_once('.').unwrap().1.to_owned();
            header.insert(name, json!({"dtype": "F16", "shape": source.shape, "data_offsets": [begin, end]}));
        }
        let header = serde_json::to_vec(&header).unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let path = put(&format!("{part}/{file}.safetensors"), &bytes);
        std::fs::File::options().write(true).open(path).unwrap().set_len((bytes.len() + end) as u64).unwrap();
    }
    Some(folder)
}

/// Kernels and their bytes of an image, and of a LoRA that is trained with class images which are there.
fn kernels(model: Option<PathBuf>, on: Adapter) -> [(usize, u64); 2] {
    let caps = on.caps();
    let model = || ModelOptions { model: model.clone(), ..ModelOptions::default() };
    let picture = GenerateOptions { prompts: vec!["a cat".into()], model: model(), ..GenerateOptions::default() };
    let subjects = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects");
    let training = TrainOptions {
        images: Some(subjects.join("cat")),
        prompt: Some("a sks cat".into()),
        class_images: Some(subjects.join("dog")),
        class_prompt: Some("a cat".into()),
        model: model(),
        ..TrainOptions::default()
    };
    [plan_generate(&picture, &caps), plan_train(&training, &caps)].map(|plan| {
        let plan = plan.unwrap();
        (plan.kernels, plan.kernel_bytes)
    })
}

/// What is more than it may be.
fn excess(most: &Most, [generate, train]: [(usize, u64); 2]) -> Vec<String> {
    let jobs = [("generate", generate, most.generate), ("train", train, most.train)];
    let more = jobs.into_iter().filter(|(_, is, may)| is.0 > may.0 || is.1 > may.1);
    let name = format!("{} {:?}", most.model, most.on);
    more.map(|(job, is, may)| format!("{name}: {job} has {is:?} kernels and bytes compiled, at most {may:?}")).collect()
}

#[test]
fn jobs_have_few_and_short_kernels_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for most in MOST {
        let [generate, train] = kernels(hollow(most.model, folder.path()), most.on);
        let (model, on) = (most.model, most.on);
        println!("    Most {{ model: {model:?}, on: {on:?}, generate: {generate:?}, train: {train:?} }},");
        wrong.extend(excess(most, [generate, train]));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn more_or_longer_kernels_are_seen() {
    let most = Most { model: "m", on: Card, generate: (3, 900), train: (4, 1000) };
    assert!(excess(&most, [(3, 900), (4, 1000)]).is_empty());
    assert_eq!(excess(&most, [(4, 900), (4, 1000)]).len(), 1);
    assert_eq!(excess(&most, [(3, 901), (1, 1001)]).len(), 2);
}
