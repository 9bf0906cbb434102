//! A 768 x 768 x 768 product against the classic workgroup-memory kernel, in turns: `cargo bench --bench gemm`.
//!
//! The classic kernel is an op of this file's own, on the same graph and runtime; its values are checked first.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that unwraps has nothing to measure"
)]

use std::error::Error;
use std::time::Instant;

use portray::low_level::base::{Array, DType, Shape};
use portray::low_level::gpu::{DeviceOptions, Gpu, Pool, Store, Template, Variants};
use portray::low_level::graph::{Graph, Launch, Op, Plan, PlanOptions, Session, Tensor, TensorInfo};
use portray::low_level::ops;

const SIDE: usize = 768;
const PAIRS: usize = 10;

/// `x [m, k] . w [n, k]^T`
#[derive(Debug)]
struct ClassicGemm;

impl Op for ClassicGemm {
    fn name(&self) -> &'static str {
        "classic_gemm"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> portray::Result<Vec<(Shape, DType)>> {
        Ok(vec![([inputs[0].shape[0], inputs[1].shape[0]].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> portray::Result<()> {
        let (m, n, k) = (l.input(0).shape[0], l.input(1).shape[0], l.input(0).shape[1]);
        let (x, w, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        // SAFETY: its sizes are multiples of its tile, which the shapes below are.
        l.kernel(unsafe { Template::trusted("classic_gemm", include_str!("classic_gemm.wgsl")) })
            .read_as("x", x, true)
            .read_as("w", w, true)
            .write_as("out", out, true)
            .u32("n", n)
            .u32("k", k)
            .grid([n / 64, m / 64, 1])
    }

    fn reference(&self, _: &[&Array]) -> Vec<Array> {
        Vec::new()
    }

    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        2 * (outputs[0].shape.elements() * inputs[0].shape[1]) as u64
    }
}

type Record<'a> = &'a dyn Fn(&mut Graph, Tensor, Tensor) -> portray::Result<Tensor>;

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = pollster::block_on(Gpu::request(&DeviceOptions::default()))?;
    let (ours, our_result) = build(&gpu, &|g, x, w| ops::linear(g, x, w, Default::default()))?;
    let (classic, classic_result) = build(&gpu, &|g, x, w| Ok(g.push(ClassicGemm, &[x, w])?[0]))?;
    let time = async |session: &Session| -> portray::Result<f64> {
        let start = Instant::now();
        session.run().await?;
        gpu.wait().await?;
        Ok(start.elapsed().as_secs_f64())
    };
    pollster::block_on(time(&ours))?;
    pollster::block_on(time(&classic))?;
    let (a, b) = (pollster::block_on(ours.read(our_result))?, pollster::block_on(classic.read(classic_result))?);
    let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    if off.is_nan() || off > 1e-2 || a.len() != b.len() {
        return Err(format!("the two kernels disagree by {off}").into());
    }
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push((pollster::block_on(time(&ours))?, pollster::block_on(time(&classic))?));
    }
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[PAIRS / 2]
    };
    let rate = |seconds: f64| 2.0 * (SIDE as f64).powi(3) / seconds / 1e9;
    println!("{}: {SIDE} x {SIDE} x {SIDE}, medians of {PAIRS} pairs", gpu.info().name);
    println!("portray {:8.2} GFLOP/s", rate(median(&|p| p.0)));
    println!("classic {:8.2} GFLOP/s", rate(median(&|p| p.1)));
    println!("ratio   {:8.2}", median(&|p| p.1 / p.0));
    Ok(())
}

/// A session of the product that `record` records, on values that differ from element to element.
fn build(gpu: &Gpu, record: Record) -> portray::Result<(Session, Tensor)> {
    let mut g = Graph::new();
    let (x, w) = (g.stored("x", [SIDE, SIDE], DType::F32)?, g.stored("w", [SIDE, SIDE], DType::F32)?);
    let out = record(&mut g, x, w)?;
    g.output(out);
    let plan = Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions::default())?;
    let mut store = Store::new(gpu);
    store.allocate("operands", &["x", "w"].map(|key| (key.to_owned(), (SIDE * SIDE * 4) as u64)))?;
    let values = |step: usize| (0..SIDE * SIDE).map(|i| (i * step % 97) as f32 / 97.0 - 0.5).collect::<Vec<f32>>();
    store.write("x", &bytes(&values(31)))?;
    store.write("w", &bytes(&values(57)))?;
    Ok((pollster::block_on(Session::new(gpu, plan, &mut Pool::default(), &store))?, out))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
