//! SDXL and its distilled relatives.

use portray::base::DType;
use portray::gpu::{AdapterClass, Caps, Variants};
use portray::graph::{Graph, Plan, PlanOptions};
use portray::models::{Added, Conditioning, Context, Taps, TextEncoder, TextEncoderConfig};
use portray::nn::{LoraSpec, Mode, Role, Scope, Settings, Targets};
use portray::ops;
use serde_json::{Value, json};

use super::{TEXT_1, UNET_1, count, settings, text, unet};

const UNET_XL: &str = r#"{"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816}"#;
const UNET_BK_TINY: &str = r#"{"down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], "mid_block_type": null,
    "block_out_channels": [320, 640, 1280], "layers_per_block": 1, "cross_attention_dim": 768}"#;
const TEXT_XL: &str = r#"{"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
    "num_hidden_layers": 32, "hidden_act": "gelu", "architectures": ["CLIPTextModelWithProjection"],
    "projection_dim": 1280}"#;
/// SDXL's UNet with the depths of SSD-1B and Segmind-Vega: fewer blocks, and one residual block in the middle.
fn distilled(down: Value, up: Value) -> String {
    let mut config: Value = serde_json::from_str(UNET_XL).unwrap();
    config["transformer_layers_per_block"] = down;
    config["reverse_transformer_layers_per_block"] = up;
    config["mid_block_type"] = json!("UNetMidBlock2D");
    config.to_string()
}

fn ssd_1b() -> String {
    distilled(json!([0, [2, 2], [4, 4]]), json!([[4, 4, 10], [2, 1, 1], 1]))
}

fn vega() -> String {
    distilled(json!([0, [1, 1], [2, 2]]), json!([[2, 2, 2], [1, 1, 1], 1]))
}

#[test]
fn parameter_counts_are_the_published_ones() {
    for mode in [Mode::Inference, Mode::Training] {
        assert_eq!(count(&unet(UNET_XL, settings(mode, None)).0, false), 2_567_463_684);
        assert_eq!(count(&unet(&ssd_1b(), settings(mode, None)).0, false), 1_331_334_404);
        assert_eq!(count(&unet(&vega(), settings(mode, None)).0, false), 745_225_604);
        assert_eq!(count(&unet(UNET_BK_TINY, settings(mode, None)).0, false), 323_384_964);
        assert_eq!(count(&text(TEXT_XL, settings(mode, None)), false), 694_659_840);
    }
}

/// One prediction for a latent of `side` pixels, with weights in f32.
fn prediction(config: &str, side: usize) -> Graph {
    let (_, model) = unet(config, Settings::default());
    let mut g = Graph::new();
    let sample = g.input("sample", [1, side, side, 4], DType::F32);
    let timestep = g.input("timestep", [1], DType::F32);
    let hidden = g.input("hidden", [1, 77, model.config.cross_attention_dim.get(0)], DType::F32);
    let added = model.config.added().map(|added| Added {
        pooled: g.input("pooled", [1, added.pooled], DType::F32),
        time_ids: g.input("time_ids", [1, 6], DType::F32),
    });
    let out =
        model.forward(&mut g, sample, timestep, Conditioning { context: Context::Hidden(hidden), added }).unwrap();
    g.output(out);
    g
}

/// Billions of operations of a prediction, counted as PyTorch's tools count them, at WebGPU's default limits: no weight in
/// f32 exceeds a binding.
#[test]
fn predictions_cost_what_is_published() {
    for (name, config, side, billions) in [
        ("Stable Diffusion 1", UNET_1.to_owned(), 64, 803.0),
        ("SDXL", UNET_XL.to_owned(), 128, 6761.0),
        ("SDXL", UNET_XL.to_owned(), 64, 1589.0),
        ("SSD-1B", ssd_1b(), 128, 4208.0),
        ("Vega", vega(), 128, 2822.0),
        ("BK-SDM-tiny", UNET_BK_TINY.to_owned(), 64, 485.0),
    ] {
        let g = prediction(&config, side);
        let caps = Caps::webgpu_defaults(AdapterClass::Gpu);
        let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
        let flops = plan.total_flops() as f64 / 1e9;
        let largest = plan.stored.iter().max_by_key(|(_, bytes)| **bytes).unwrap();
        println!("{name} at {}: {flops:.0} GFLOP, {billions} published; {largest:?}", 8 * side);
        assert!((flops / billions - 1.0).abs() < 0.02, "{name}: {flops}");
    }
}

/// The token table of SDXL's second encoder is 253 MB in f32, and 126.5 MB in f16.
#[test]
fn large_text_encoders_bind_little() {
    for dtype in [DType::F32, DType::F16, DType::Q8] {
        let scope = Scope::new("text_encoder_2", Settings { dtype, ..Settings::default() });
        let encoder = TextEncoder::new(&scope, TextEncoderConfig::parse("text", TEXT_XL).unwrap()).unwrap();
        let mut g = Graph::new();
        let ids = g.input("ids", [2, 77], DType::U32);
        let ends = g.input("ends", [2, 1, 77], DType::F32);
        let encoded = encoder.encode(&mut g, ids, Taps { skip: Some(1), ends: Some(ends) }).unwrap();
        let pooled = encoded.pooled.unwrap();
        assert_eq!((&**g.shape(encoded.hidden), &**g.shape(pooled)), (&[2, 77, 1280][..], &[2, 1280][..]));
        g.output(encoded.hidden);
        g.output(pooled);
        assert_eq!(scope.params_in(&g), scope.params());
        let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
        let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
        assert!(plan.stored.values().all(|&bytes| bytes <= caps.max_buffer_bytes), "{dtype:?}");
    }
}

/// SDXL takes the states before the first encoder's last layer, which then is not needed, nor is the final norm.
#[test]
fn layers_behind_the_tapped_states_are_not_recorded() {
    let lora = LoraSpec { rank: 4, alpha: 4.0, targets: Targets::Attention };
    for mode in [Mode::Inference, Mode::Training] {
        let lora = (mode == Mode::Training).then(|| lora.clone());
        let scope = Scope::new("text_encoder", Settings { mode, lora, ..Settings::default() });
        let encoder = TextEncoder::new(&scope, TextEncoderConfig::parse("text", TEXT_1).unwrap()).unwrap();
        let mut g = Graph::new();
        let ids = g.input("ids", [1, 77], DType::U32);
        encoder.encode(&mut g, ids, Taps { skip: Some(1), ends: None }).unwrap();
        let needed = scope.params_in(&g);
        let weights = needed.iter().filter(|p| p.role != Role::Adapter);
        assert_eq!(weights.map(|p| p.elements()).sum::<usize>(), 115_971_072);
        let left: Vec<_> = scope.params().into_iter().filter(|p| !needed.contains(p)).collect();
        assert!(left.iter().all(|p| p.key.contains("layers.11.") || p.key.contains("final_layer_norm")));
        assert_eq!(left.iter().filter(|p| p.role == Role::Adapter).count(), if mode == Mode::Training { 8 } else { 0 });
        let all = encoder.encode(&mut g, ids, Taps { skip: Some(0), ends: None }).unwrap().hidden;
        assert_eq!(encoder.normalize(&mut g, all).map(|t| g.shape(t).len()).unwrap(), 3);
        let error = |taps: Taps, g: &mut Graph| encoder.encode(g, ids, taps).unwrap_err().to_string();
        assert!(error(Taps { skip: Some(13), ends: None }, &mut g).contains("13 of 12 layers"));
        let ends = g.input("ends", [1, 1, 77], DType::F32);
        assert!(error(Taps { skip: None, ends: Some(ends) }, &mut g).contains("text_projection"));
    }
}

/// A transformer of ten blocks is not held whole while it is differentiated; one block is, as before.
#[test]
fn deep_transformers_are_recomputed_block_by_block() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let bytes = |depths: Value| {
        let mut config: Value = serde_json::from_str(UNET_XL).unwrap();
        config["transformer_layers_per_block"] = depths;
        let (scope, model) = unet(&config.to_string(), settings(Mode::Training, Some(Targets::Attention)));
        let mut g = Graph::new();
        let sample = g.input("sample", [1, 128, 128, 4], DType::F32);
        let timestep = g.input("timestep", [1], DType::F32);
        let context = Context::Hidden(g.input("hidden", [1, 77, 2048], DType::F32));
        let pooled = g.input("pooled", [1, 1280], DType::F32);
        let added = Some(Added { pooled, time_ids: g.input("time_ids", [1, 6], DType::F32) });
        let out = model.forward(&mut g, sample, timestep, Conditioning { context, added }).unwrap();
        let loss = ops::dot(&mut g, out, out).unwrap();
        let adapters: Vec<_> = scope.params().into_iter().filter(|p| p.role == Role::Adapter).collect();
        let wrt: Vec<_> = adapters.iter().map(|p| p.get(&mut g).unwrap()).collect();
        let mut seen = None;
        // Each gradient is summed up at once, as a fused update uses it: what is left is what activations take.
        ops::grad_each(&mut g, loss, &wrt, true, &mut |g, _, gradient| {
            let square = ops::dot(g, gradient, gradient)?;
            seen = Some(match seen {
                Some(before) => ops::add(g, before, square)?,
                None => square,
            });
            Ok(())
        })
        .unwrap();
        g.output(seen.unwrap());
        let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).unwrap();
        plan.working_bytes()
    };
    let [shallow, deep] = [json!([1, 1, 1]), json!([1, 2, 10])].map(bytes);
    println!(
        "1024 x 1024: {:.2} GB of activations, {:.2} GB with single blocks",
        deep as f64 / 1e9,
        shallow as f64 / 1e9
    );
    assert!(deep < shallow + 150_000_000, "{deep} for depths of up to 10, {shallow} for depths of 1");
}
