//! The planner: nothing alive overlaps, memory is reused, and what WebGPU would refuse is refused with a reason.

use portray::Result;
use portray::low_level::base::{Array, DType, Shape};
use portray::low_level::gpu::{AdapterClass, Caps, Variants};
use portray::low_level::graph::{Graph, Launch, Op, Plan, PlanOptions, Tensor, TensorInfo};
use portray::low_level::models::UnetConfig;
use portray::low_level::nn::{LoraSpec, Targets};
use portray::low_level::ops::{self, Activation};
use portray::low_level::train::plan_train;
use portray::low_level::train::{Optimizer, Recomputed, Setup, TrainPlan};
use portray::{Checkpointing, ModelOptions, PlanReport, TrainOptions, WeightType};

/// Adds its second operand to its first, in place.
#[derive(Debug)]
struct Count;

impl Op for Count {
    fn name(&self) -> &'static str {
        "count"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), inputs[0].dtype)])
    }

    fn launch(&self, _: &mut Launch) -> Result<()> {
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Array::new(inputs[0].shape.clone(), sum)]
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

fn count(g: &mut Graph, sum: Tensor, x: Tensor) -> Tensor {
    g.push1(Count, &[sum, x]).expect("count")
}

fn plan(g: &Graph, caps: &Caps) -> Result<Plan> {
    Plan::new(g, caps, &Variants::default(), &PlanOptions::default())
}

#[test]
fn a_chain_reuses_two_blocks() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let mut g = Graph::new();
    let mut x = g.input("x", [64, 256], DType::F32);
    for _ in 0..10 {
        x = ops::unary(&mut g, x, Activation::Silu).expect("unary");
    }
    g.output(x);
    let plan = plan(&g, &caps).expect("plan");
    assert_eq!(plan.dispatch_count(), 10);
    assert_eq!(plan.arena.iter().sum::<u64>(), 2 * 64 * 256 * 4);
}

#[test]
fn dead_nodes_do_not_run() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let mut g = Graph::new();
    let x = g.input("x", [8], DType::F32);
    let y = ops::unary(&mut g, x, Activation::Silu).expect("unary");
    ops::unary(&mut g, y, Activation::Gelu).expect("unary");
    g.output(y);
    assert_eq!(plan(&g, &caps).expect("plan").dispatch_count(), 1);
}

#[test]
fn what_exceeds_a_binding_is_refused_by_name() {
    let caps = Caps { max_binding_bytes: 1000, ..Caps::webgpu_defaults(AdapterClass::Cpu) };
    let mut g = Graph::new();
    let x = g.input("picture", [300], DType::F32);
    let y = ops::unary(&mut g, x, Activation::Silu).expect("unary");
    g.output(y);
    let message = plan(&g, &caps).err().expect("refused").to_string();
    assert!(message.contains("picture") && message.contains("1200") && message.contains("1000"), "{message}");
}

#[test]
fn overlapping_bindings_of_which_one_is_written_are_refused() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let mut g = Graph::new();
    let x = g.input("x", [64], DType::F32);
    let y = ops::unary(&mut g, x, Activation::Silu).expect("unary");
    g.output(y);
    let mut plan = plan(&g, &caps).expect("plan");
    assert!(plan.verify().is_ok());
    plan.overlap_for_test();
    let message = plan.verify().expect_err("an overlap must be seen").to_string();
    assert!(message.contains("overlap"), "{message}");
}

/// Refused with a message that has all of `words`.
fn refused(g: &Graph, words: &[&str]) {
    let message = plan(g, &Caps::webgpu_defaults(AdapterClass::Cpu)).err().expect("a refusal").to_string();
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn a_state_that_is_read_after_its_update_is_refused() {
    let mut g = Graph::new();
    let state = g.stored("state", [4], DType::F32).expect("state");
    let renamed = ops::reshape(&mut g, state, [2, 2]).expect("reshape");
    let next = ops::unary(&mut g, state, Activation::Silu).expect("unary");
    g.assign(state, next).expect("assign");
    assert!(plan(&g, &Caps::webgpu_defaults(AdapterClass::Cpu)).is_ok());
    // Its reader may be there, unless its result is wanted.
    let late = ops::add(&mut g, renamed, renamed).expect("add");
    assert!(plan(&g, &Caps::webgpu_defaults(AdapterClass::Cpu)).is_ok());
    g.output(late);
    refused(&g, &["weighted_sum: reads", "after unary has overwritten it"]);
}

/// A graph that counts `x` into the stored tensor `sum`, in place.
fn counter() -> (Graph, Tensor, Tensor, Tensor) {
    let mut g = Graph::new();
    let sum = g.stored("sum", [4], DType::F32).expect("sum");
    let x = g.input("x", [4], DType::F32);
    let counted = count(&mut g, sum, x);
    (g, sum, x, counted)
}

#[test]
fn what_is_updated_in_place_is_not_read_by_its_old_handle() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let (mut g, sum, x, counted) = counter();
    // The result is the new handle, and may be updated again.
    let twice = count(&mut g, counted, x);
    let out = ops::add(&mut g, twice, x).expect("add");
    g.output(out);
    assert!(plan(&g, &caps).is_ok());
    for stale in [sum, counted] {
        let (mut g, ..) = counter();
        count(&mut g, counted, x);
        let late = ops::add(&mut g, stale, x).expect("add");
        g.output(late);
        refused(&g, &["weighted_sum: reads", "after count has overwritten it"]);
    }
    let (mut g, sum, ..) = counter();
    g.output(sum);
    refused(&g, &["count: overwrites sum, which is an output"]);
    // A value that nobody holds any more, computed in the same run.
    let (mut g, sum, x, _) = counter();
    let y = ops::unary(&mut g, x, Activation::Silu).expect("unary");
    count(&mut g, y, x);
    g.output(y);
    let _ = sum;
    refused(&g, &["count: overwrites unary"]);
}

/// A product reads whole rows for each of its elements.
#[test]
fn what_reads_more_than_it_writes_cannot_write_where_it_reads() {
    let mut g = Graph::new();
    let state = g.stored("state", [4, 4], DType::F32).expect("state");
    let next = ops::linear(&mut g, state, state, Default::default()).expect("linear");
    g.assign(state, next).expect("assign");
    refused(&g, &["reads state while it overwrites it"]);
}

#[test]
fn a_checkpointed_segment_updates_nothing_in_place() {
    let build = |checkpoint: bool, late: bool| {
        let mut g = Graph::new();
        let x = g.input("x", [4], DType::F32);
        let w = g.stored("w", [4], DType::F32).expect("w");
        let sum = g.stored("sum", [4], DType::F32).expect("sum");
        let y = g
            .segment("block", |g| {
                let y = ops::add(g, w, sum)?;
                if !late {
                    count(g, sum, x);
                }
                ops::unary(g, y, Activation::Silu)
            })
            .expect("segment");
        if late {
            count(&mut g, sum, x);
        }
        let loss = ops::dot(&mut g, y, y).expect("dot");
        let grads = ops::grad(&mut g, loss, &[w], checkpoint)?;
        g.output(grads[0]);
        plan(&g, &Caps::webgpu_defaults(AdapterClass::Cpu))
    };
    assert!(build(false, false).is_ok() && build(false, true).is_ok());
    let message = build(true, false).err().expect("recorded twice").to_string();
    assert!(message.contains("count") && message.contains("segment"), "{message}");
    // What the segment reads is not what it was when it is recorded again.
    let message = build(true, true).err().expect("read again").to_string();
    assert!(message.contains("reads sum after count has overwritten it"), "{message}");
}

#[test]
fn checkpointing_lowers_the_peak_and_keeps_the_gradient() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let build = |checkpoint: bool| {
        let mut g = Graph::new();
        let x = g.input("x", [256, 64], DType::F32);
        let w = g.stored("w", [64, 64], DType::F32).expect("w");
        let mut h = ops::linear(&mut g, x, w, Default::default()).expect("linear");
        for i in 0..6 {
            h = g
                .segment(&format!("block {i}"), |g| {
                    let mut h = h;
                    for _ in 0..5 {
                        h = ops::unary(g, h, Activation::Silu)?;
                    }
                    Ok(h)
                })
                .expect("segment");
        }
        let loss = ops::dot(&mut g, h, h).expect("dot");
        let grads = ops::grad(&mut g, loss, &[w], checkpoint).expect("grad");
        g.output(grads[0]);
        plan(&g, &caps).expect("plan")
    };
    let (plain, checkpointed) = (build(false), build(true));
    assert!(checkpointed.arena.iter().sum::<u64>() * 2 < plain.arena.iter().sum::<u64>());
    assert!(checkpointed.dispatch_count() > plain.dispatch_count());
}

/// A model of SDXL's shape, which reads pooled prompts and sizes.
const ADDED: &str = r#"{"block_out_channels": [16, 32], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "attention_head_dim": [2, 4],
    "norm_num_groups": 8, "cross_attention_dim": 12, "use_linear_projection": true, "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 58}"#;

#[test]
fn a_training_has_plans_for_every_size() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let setup = |latent: [usize; 2], more: &[[usize; 2]], fused| Setup {
        unet: UnetConfig::parse("unet/config.json", ADDED).unwrap(),
        texts: Vec::new(),
        lora: Some(LoraSpec { rank: 2, alpha: 2.0, targets: Targets::All }),
        text_lora: None,
        storage: portray::low_level::nn::Settings::default(),
        samples: [2, 2],
        latent: [latent[0], latent[1], 4],
        more_sizes: more.to_vec(),
        captions: false,
        tokens: 7,
        checkpoint: Recomputed::None,
        accumulate: if fused { 1 } else { 2 },
        optimizer: Optimizer::AdamW,
        fused,
        weight_decay: 1e-2,
        max_grad_norm: 1.0,
    };
    let plan = |latent, more: &[[usize; 2]], fused| {
        TrainPlan::new(&setup(latent, more, fused), &caps, &Variants::default()).unwrap()
    };
    let sizes = [[8, 8], [4, 14], [14, 4]];
    for fused in [false, true] {
        let all = plan(sizes[0], &sizes[1..], fused);
        // Two passes a size; stored gradients are applied by one plan behind them all.
        assert_eq!(all.plans().count(), 2 * 3 + usize::from(!fused));
        for (size, mine) in sizes.iter().zip(all.plans().collect::<Vec<_>>().chunks(2)) {
            let alone = plan(*size, &[], fused);
            assert_eq!(mine[0].arena, alone.first.arena, "{size:?}");
            assert_eq!(mine[1].arena, alone.next.as_ref().unwrap().arena, "{size:?}");
        }
    }
}

/// SDXL's transformers have several blocks.
#[test]
fn as_little_is_recomputed_as_memory_allows() {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/xl/xl");
    let plan = |checkpointing, memory| -> PlanReport {
        let model = ModelOptions { model: Some(model.clone()), memory, ..Default::default() };
        // Enough for the UNet to hold more than the autoencoder and the text encoders do before it.
        let job = TrainOptions { model, checkpointing, resolution: Some(256), batch: 8, ..Default::default() };
        plan_train(&job, &Caps::webgpu_defaults(AdapterClass::Gpu)).unwrap()
    };
    let [off, blocks, on] = [Checkpointing::Off, Checkpointing::Blocks, Checkpointing::On].map(|way| plan(way, None));
    for (least, most) in [(&on, &blocks), (&blocks, &off)] {
        assert!(least.peak_bytes < most.peak_bytes && least.flops > most.flops, "{least:?} {most:?}");
        // What is allowed is just too little for the one that takes more.
        let auto = plan(Checkpointing::Auto, Some(most.peak_bytes - 1));
        assert_eq!((auto.peak_bytes, auto.flops), (least.peak_bytes, least.flops));
    }
    assert_eq!(plan(Checkpointing::Auto, None).flops, off.flops);
    // More than is enough for eight bits where nothing is said, and less than is for others.
    let [half, eight] = [WeightType::F16, WeightType::Q8].map(|dtype| {
        let model = ModelOptions { model: Some(model.clone()), dtype, ..Default::default() };
        let job = TrainOptions { model, resolution: Some(1792), ..Default::default() };
        plan_train(&job, &Caps::webgpu_defaults(AdapterClass::Gpu)).unwrap()
    });
    assert!((1_200_000_000..3_000_000_000).contains(&half.peak_bytes), "{half:?}");
    assert!(eight.peak_bytes < 1_200_000_000 && eight.flops > half.flops, "{eight:?}");
}
