//! The planner: nothing alive overlaps, memory is reused, and what WebGPU would refuse is refused with a reason.

use portray::base::DType;
use portray::gpu::{AdapterClass, Caps, Variants};
use portray::graph::{Graph, Plan, PlanOptions};
use portray::ops::{self, Activation};

fn plan(g: &Graph, caps: &Caps) -> portray::Result<Plan> {
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

#[test]
fn a_state_that_is_read_after_its_update_is_refused() {
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let mut g = Graph::new();
    let state = g.stored("state", [4], DType::F32).expect("state");
    let next = ops::unary(&mut g, state, Activation::Silu).expect("unary");
    let late = ops::add(&mut g, state, next).expect("add");
    g.output(late);
    g.assign(state, next).expect("assign");
    assert!(plan(&g, &caps).is_err());
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
