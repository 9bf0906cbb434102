//! SDXL and its distilled relatives.

use std::collections::HashMap;

use portray::low_level::base::{Array, DType};
use portray::low_level::gpu::{AdapterClass, Caps, Variants};
use portray::low_level::graph::{Graph, Plan, PlanOptions, Tensor, eval};
use portray::low_level::models::{Added, Conditioning, Context, Encoded, Taps, TextEncoder, TextEncoderConfig};
use portray::low_level::nn::{LoraSpec, Mode, Role, Scope, Settings, Targets};
use portray::low_level::ops::{self, Given, oracle::Random};
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
        // Blocks without attention have an entry of any form.
        for (down, up) in [(json!(1), json!(1)), (json!([0, 0]), json!([0, 0, 0])), (json!([1, 1]), json!([1, 1, 1]))] {
            let spelled = distilled(json!([down, [2, 2], [4, 4]]), json!([[4, 4, 10], [2, 1, 1], up]));
            assert_eq!(count(&unet(&spelled, settings(mode, None)).0, false), 1_331_334_404, "{spelled}");
        }
        assert_eq!(count(&unet(UNET_BK_TINY, settings(mode, None)).0, false), 323_384_964);
        assert_eq!(count(&text(TEXT_XL, settings(mode, None)), false), 694_659_840);
    }
}

#[test]
fn lora_counts_are_the_published_ones() {
    let attention = || settings(Mode::Training, Some(Targets::Attention));
    let text_2 = Scope::new("text_encoder_2", attention());
    TextEncoder::new(&text_2, TextEncoderConfig::parse("text", TEXT_XL).unwrap()).unwrap();
    for (scope, modules, parameters) in [(unet(UNET_XL, attention()).0, 560, 5_806_080), (text_2, 128, 1_310_720)] {
        let adapters = scope.params().iter().filter(|p| p.role == Role::Adapter).count();
        assert_eq!((adapters, count(&scope, true)), (2 * modules, parameters));
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

/// With nested segments, a transformer of ten blocks is not held whole while it is differentiated; one block is.
#[test]
fn deep_transformers_are_recomputed_block_by_block() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let bytes = |depths: Value| {
        let mut config: Value = serde_json::from_str(UNET_XL).unwrap();
        config["transformer_layers_per_block"] = depths;
        let nested = Settings { nested_segments: true, ..settings(Mode::Training, Some(Targets::Attention)) };
        let (scope, model) = unet(&config.to_string(), nested);
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

/// The slope of a loss along all trained values at once: through pooled prompts, tapped states, added embeddings, and
/// recomputed blocks of a UNet with depths of its own on the way up.
#[test]
fn gradients_reach_both_conditionings() {
    let unet_config = r#"{"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "block_out_channels": [8, 16],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
        "transformer_layers_per_block": [1, [2]], "reverse_transformer_layers_per_block": [[2, 1], 1],
        "mid_block_type": "UNetMidBlock2D", "attention_head_dim": 2, "cross_attention_dim": 12,
        "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 30}"#;
    let text_config = r#"{"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 3,
        "vocab_size": 9, "max_position_embeddings": 5, "architectures": ["CLIPTextModelWithProjection"],
        "projection_dim": 6, "hidden_act": "gelu"}"#;
    let training = |lora| Settings { mode: Mode::Training, lora, ..Settings::default() };
    let (unet_scope, unet) = unet(unet_config, training(None));
    let lora = LoraSpec { rank: 2, alpha: 2.0, targets: Targets::Attention };
    let text_scope = Scope::new("text_encoder", training(Some(lora)));
    let encoder = TextEncoder::new(&text_scope, TextEncoderConfig::parse("text", text_config).unwrap()).unwrap();
    let mut g = Graph::new();
    let ids = g.input("ids", [2, 5], DType::U32);
    let ends = g.input("ends", [2, 1, 5], DType::F32);
    let Encoded { hidden, pooled } = encoder.encode(&mut g, ids, Taps { skip: Some(1), ends: Some(ends) }).unwrap();
    let sample = g.input("sample", [2, 4, 4, 4], DType::F32);
    let timestep = g.input("timestep", [2], DType::F32);
    let time_ids = g.input("time_ids", [2, 6], DType::F32);
    let added = Some(Added { pooled: pooled.unwrap(), time_ids });
    let conditioning = Conditioning { context: Context::Hidden(hidden), added };
    let out = unet.forward(&mut g, sample, timestep, conditioning).unwrap();
    let loss = ops::dot(&mut g, out, out).unwrap();
    let mut trained: Vec<_> = text_scope.params_in(&g).into_iter().filter(|p| p.role == Role::Adapter).collect();
    assert_eq!(trained.len(), 24);
    trained.extend(unet_scope.params());
    let wrt: Vec<_> = trained.iter().map(|p| p.get(&mut g).unwrap()).collect();
    let grads = ops::grad(&mut g, loss, &wrt, true).unwrap();

    let mut random = Random::new(5);
    let mut normal = |t: Tensor, scale: f64| random.operand(&Given::normal(g.shape(t).clone())).map(|x| scale * x);
    let mut given: HashMap<Tensor, Array> = g.stored_tensors().map(|(_, t)| (t, normal(t, 0.3))).collect();
    let moves: Vec<Array> = wrt.iter().map(|&t| normal(t, 1.0)).collect();
    given.insert(sample, normal(sample, 1.0));
    given.insert(ids, Array::new([2, 5], vec![0.0, 3.0, 8.0, 8.0, 8.0, 0.0, 4.0, 1.0, 2.0, 8.0]));
    given.insert(ends, Array::new([2, 1, 5], vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]));
    given.insert(timestep, Array::new([2], vec![7.0, 900.0]));
    given.insert(time_ids, Array::new([2, 6], (0..12).map(|i| f64::from(i * i)).collect()));
    let values = eval(&g, given.clone()).unwrap();
    let dot = |a: &Array, b: &Array| a.data.iter().zip(&b.data).map(|(x, y)| x * y).sum::<f64>();
    let slope: f64 = grads.iter().zip(&moves).map(|(t, moved)| dot(&values[t], moved)).sum();
    let after = |step: f64| {
        let mut given = given.clone();
        for (t, moved) in wrt.iter().zip(&moves) {
            let tensor = given.get_mut(t).unwrap();
            tensor.data.iter_mut().zip(&moved.data).for_each(|(x, m)| *x += step * m);
        }
        eval(&g, given).unwrap()[&loss].data[0]
    };
    let numeric = (after(1e-6) - after(-1e-6)) / 2e-6;
    assert!((slope - numeric).abs() < 1e-5 * numeric.abs() && numeric.abs() > 1e-3, "{slope}, {numeric}");
    // Text adapters alone have a slope too: neither conditioning cuts it off.
    assert!(grads[..24].iter().any(|t| values[t].data.iter().any(|x| x.abs() > 1e-6)));
}
