//! An op from outside the crate: its kernel, its reference, its gradient, used in a graph and checked.
//! `cargo run --release --example custom_op`

use std::collections::HashMap;

use portray::low_level::base::{Array, DType, Shape};
use portray::low_level::gpu::{Pool, Store, Template, Variants};
use portray::low_level::graph::{Graph, Launch, Op, Plan, PlanOptions, Session, Tensor, TensorInfo, Vjp, eval};
use portray::low_level::ops::oracle::{Random, close};
use portray::low_level::ops::{Case, Epilogue, Given, dot, grad, linear};
use portray::{Engine, EngineOptions, Result};

/// `x + sin(x)^2`, elementwise (Snake, Ziyin et al. 2020, arXiv 2006.08195); with a second operand, `dout` times its
/// derivative.
#[derive(Clone, Debug)]
struct Snake;

/// Bindings and uniforms are generated from what `launch` says: `x_at`, `out_put`, `p.elements`.
const SNAKE: Template = Template::new(
    "snake",
    "
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.elements { return; }
    let x = x_at(i);
    //% if backward
    out_put(i, dout_at(i) * (1.0 + sin(2.0 * x)));
    //% else
    out_put(i, x + sin(x) * sin(x));
    //% endif
}
",
);

impl Op for Snake {
    fn name(&self) -> &'static str {
        "snake"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let elements = l.output(0).shape.elements();
        let backward = l.input_count() == 2;
        let (x, dout, out) = (l.input_slot(0), l.input_slot(l.input_count() - 1), l.output_slot(0));
        let kernel = l.kernel(SNAKE).value("backward", backward).read("x", x);
        let kernel = if backward { kernel.read("dout", dout) } else { kernel };
        kernel.write("out", out).u32("elements", elements).linear(elements.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        match inputs {
            [x, dout] => {
                let data = x.data.iter().zip(&dout.data).map(|(x, d)| d * (1.0 + (2.0 * x).sin()));
                vec![Array::new(x.shape.clone(), data.collect())]
            }
            _ => vec![inputs[0].map(|x| x + x.sin().powi(2))],
        }
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, dout) = (v.inputs[0], v.grad()?);
        Ok(vec![Some(v.g.push1(Snake, &[x, dout])?)])
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default()))?;
    let (gpu, variants) = (engine.gpu(), Variants::default());

    // The kernels against their reference, between sentinel words, as the crate's own ops are tested.
    for case in
        [Case::new(Snake, [Given::normal([7, 37])]), Case::new(Snake, [Given::normal([7, 37]), Given::normal([7, 37])])]
    {
        pollster::block_on(case.run(gpu, gpu.caps(), &variants, 0))??;
    }

    // Within a graph, beside the crate's own: the gradient of |snake(x w^T)|^2 by w.
    let mut g = Graph::new();
    let x = g.input("x", [5, 12], DType::F32);
    let w = g.stored("w", [3, 12], DType::F32)?;
    let hidden = linear(&mut g, x, w, Epilogue::default())?;
    let y = g.push1(Snake, &[hidden])?;
    let loss = dot(&mut g, y, y)?;
    let gradient = grad(&mut g, loss, &[w], false)?[0];
    g.output(gradient);

    let mut random = Random::new(1);
    let values = [random.operand(&Given::normal([5, 12])), random.operand(&Given::normal([3, 12]))];
    let mut store = Store::new(gpu);
    store.allocate("weights", &[("w".into(), DType::F32.bytes(36))])?;
    store.write("w", &values[1].to_f32().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
    let plan = Plan::new(&g, gpu.caps(), &variants, &PlanOptions::default())?;
    let session = pollster::block_on(Session::new(gpu, plan, &mut Pool::default(), &store))?;
    session.write(x, &values[0].to_f32())?;
    pollster::block_on(session.run())?;
    let found = pollster::block_on(session.read(gradient))?;

    // The same graph in f64 on the host, and finite differences of its loss.
    let at = |w_: &Array| eval(&g, HashMap::from([(x, values[0].clone()), (w, w_.clone())]));
    close(&found, &at(&values[1])?[&gradient].data, 1e-4)?;
    let mut numeric = Vec::new();
    for i in 0..36 {
        let moved = |by: f64| {
            let mut w = values[1].clone();
            w.data[i] += by;
            at(&w).map(|values| values[&loss].data[0])
        };
        numeric.push((moved(1e-5)? - moved(-1e-5)?) / 2e-5);
    }
    close(&found, &numeric, 1e-4)?;
    println!("snake: kernels, gradient and graph agree with their f64 references on {}", gpu.info().name);
    Ok(())
}
