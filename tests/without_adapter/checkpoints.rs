//! Gradient checkpointing: segments, and segments inside segments, give the gradients of a graph without them, in less
//! memory.

use std::collections::HashMap;

use portray::Result;
use portray::low_level::base::{Array, DType};
use portray::low_level::gpu::{AdapterClass, Caps, Variants};
use portray::low_level::graph::{Graph, Plan, PlanOptions, Tensor, eval};
use portray::low_level::ops::oracle::Random;
use portray::low_level::ops::{self, Activation};

/// Levels of segments that are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Levels {
    None,
    Outer,
    /// Blocks inside, and a segment in each of them.
    All,
}

fn segment<T>(g: &mut Graph, when: bool, f: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
    if when { g.segment("segment", f) } else { f(g) }
}

/// Product, SiLU, product, and the input: what the block gives, and what it makes on the way.
fn block(g: &mut Graph, x: Tensor, [a, b]: [Tensor; 2], levels: Levels) -> Result<[Tensor; 2]> {
    segment(g, levels == Levels::All, |g| {
        let h = ops::linear(g, x, a, Default::default())?;
        let active = segment(g, levels == Levels::All, |g| {
            let h = ops::scale(g, h, 0.7)?;
            ops::unary(g, h, Activation::Silu)
        })?;
        let h = ops::linear(g, active, b, Default::default())?;
        Ok([ops::add(g, h, x)?, active])
    })
}

/// A graph with a loss, and the gradients by its three weights.
struct Recorded {
    g: Graph,
    loss: Tensor,
    given: Vec<Tensor>,
    grads: Vec<Tensor>,
}

/// Two transformers' worth of blocks: they share weights, and between them lies what reads a block's inside.
fn record(levels: Levels, checkpoint: bool) -> Result<Recorded> {
    let mut g = Graph::new();
    let x = g.input("x", [5, 4], DType::F32);
    let weights: Vec<Tensor> = (0..3).map(|i| g.stored(&format!("w{i}"), [4, 4], DType::F32)).collect::<Result<_>>()?;
    let mut h = x;
    for outer in 0..2 {
        h = segment(&mut g, levels != Levels::None, |g| {
            let start = ops::linear(g, h, weights[outer], Default::default())?;
            let [first, inside] = block(g, start, [weights[0], weights[1]], levels)?;
            let [second, _] = block(g, first, [weights[1], weights[2]], levels)?;
            let [third, _] = block(g, second, [weights[2], weights[2]], levels)?;
            let end = ops::linear(g, third, weights[1], Default::default())?;
            let sum = ops::add(g, end, inside)?;
            ops::add(g, sum, h)
        })?;
    }
    let loss = ops::dot(&mut g, h, h)?;
    let grads = ops::grad(&mut g, loss, &weights, checkpoint)?;
    let given = [x].into_iter().chain(weights).collect();
    Ok(Recorded { g, loss, given, grads })
}

fn values(recorded: &Recorded, operands: &[Array]) -> HashMap<Tensor, Array> {
    eval(&recorded.g, recorded.given.iter().copied().zip(operands.iter().cloned()).collect()).expect("values")
}

#[test]
fn segments_in_segments_give_the_same_gradients() {
    let mut random = Random::new(17);
    let operands: Vec<Array> =
        [[5, 4], [4, 4], [4, 4], [4, 4]].map(|shape| random.operand(&ops::Given::normal(shape))).into();
    let operands: Vec<Array> = operands.iter().map(|a| a.map(|x| 0.4 * x)).collect();
    let plain = record(Levels::None, false).expect("a graph");
    let expected = values(&plain, &operands);
    for levels in [Levels::Outer, Levels::All] {
        let recorded = record(levels, true).expect("a graph");
        let got = values(&recorded, &operands);
        for (a, b) in recorded.grads.iter().zip(&plain.grads) {
            assert_eq!(got[a].data, expected[b].data, "{levels:?}");
        }
    }
    for (i, gradient) in plain.grads.iter().enumerate() {
        for element in 0..16 {
            let loss = |step: f64| {
                let mut moved = operands.clone();
                moved[i + 1].data[element] += step;
                values(&plain, &moved)[&plain.loss].data[0]
            };
            let numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            let rule = expected[gradient].data[element];
            assert!((numeric - rule).abs() < 1e-6 * rule.abs().max(1.0), "w{i} {element}: {rule}, {numeric}");
        }
    }
}

/// Bytes and dispatches of the gradient of four times six blocks of five activations, with segments around blocks and
/// around six of them.
fn cost(outer: bool, inner: bool) -> (u64, usize) {
    let mut g = Graph::new();
    let x = g.input("x", [256, 64], DType::F32);
    let w = g.stored("w", [64, 64], DType::F32).expect("w");
    let mut h = ops::linear(&mut g, x, w, Default::default()).expect("linear");
    for _ in 0..4 {
        let six = |g: &mut Graph| {
            (0..6).try_fold(h, |h, _| {
                segment(g, inner, |g| (0..5).try_fold(h, |h, _| ops::unary(g, h, Activation::Silu)))
            })
        };
        h = segment(&mut g, outer, six).expect("segment");
    }
    let loss = ops::dot(&mut g, h, h).expect("dot");
    let grads = ops::grad(&mut g, loss, &[w], true).expect("grad");
    g.output(grads[0]);
    let caps = Caps::webgpu_defaults(AdapterClass::Cpu);
    let plan = Plan::new(&g, &caps, &Variants::default(), &PlanOptions::default()).expect("plan");
    (plan.arena.iter().sum(), plan.dispatch_count())
}

#[test]
fn segments_in_segments_take_less_memory_and_more_work() {
    let [none, outer, inner, both] =
        [(false, false), (true, false), (false, true), (true, true)].map(|(o, i)| cost(o, i));
    println!("bytes and dispatches: {none:?}, outer {outer:?}, inner {inner:?}, both {both:?}");
    assert!(outer.0 * 2 < none.0 && inner.0 * 2 < none.0);
    assert!(both.0 * 10 < outer.0 * 6 && both.0 * 10 < inner.0 * 8);
    assert!(none.1 < outer.1 && outer.1 < both.1);
}
