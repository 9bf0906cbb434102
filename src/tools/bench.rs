//! Benchmark of the adapter's peak rates, of hot ops against them, and of whole steps against the sum of their parts.

use web_time::Instant;

use crate::base::DType;
use crate::engine::{Call, Engine};
use crate::error::Result;
use crate::event::Flow;
use crate::graph::{Graph, Tensor};
use crate::ops;
use crate::ops::{AttentionSpec, Conv, Heads};
use crate::pipeline::ModelOptions;

use super::stopwatch::median;
use super::{BenchRow, Stopwatch, bench_steps};

/// Runs of each op; the median counts.
const RUNS: usize = 5;

/// What a timing lasts at least, in seconds: a fast card runs one op in less than it takes to submit and wait.
const LEAST: f64 = 5e-3;
/// Runs within a timing, at most.
const MOST_RUNS: f64 = 100.0;

/// Seconds of one run: the median of [`RUNS`] timings after a first run, each of as many runs as last [`LEAST`]; and seconds
/// from `began`, before the session was made, to the end of the first run.
async fn time(watch: &Stopwatch, began: Instant) -> Result<[f64; 2]> {
    watch.run().await?;
    let first = began.elapsed().as_secs_f64();
    let runs = (LEAST / watch.run().await?).ceil().clamp(1.0, MOST_RUNS) as usize;
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        seconds.push(watch.run_times(runs).await?);
    }
    Ok([median(&mut seconds), first])
}

async fn op(
    engine: &Engine,
    name: impl Into<String>,
    build: impl FnOnce(&mut Graph) -> Result<Tensor>,
) -> Result<BenchRow> {
    let mut g = Graph::new();
    let out = build(&mut g)?;
    g.output(out);
    let bytes = g.stored_tensors().map(|(_, t)| g.info(t).bytes()).sum::<u64>() + g.info(out).bytes();
    let began = Instant::now();
    let plan = engine.planning().plan(&g)?;
    let flops = plan.total_flops();
    let [seconds, first] = time(&Stopwatch::new(engine, plan).await?, began).await?;
    Ok(BenchRow { name: name.into(), seconds, flops, bytes, share: None, first_extra: Some(first - seconds) })
}

/// Multiply-adds in registers by as many threads as keep the adapter busy for [`LEAST`]: 16 thousand leave most of a
/// large card idle.
async fn fma_ceiling(engine: &Engine) -> Result<BenchRow> {
    let mut threads = 1 << 14;
    loop {
        let row = op(engine, "register FMA", |g| {
            let x = g.stored("x", [threads], DType::F32)?;
            ops::fma_peak(g, x, 2000)
        });
        let row = row.await?;
        if row.seconds >= LEAST || threads >= 1 << 22 {
            return Ok(row);
        }
        threads *= 4;
    }
}

/// Measures the adapter and the ops. Each row goes to `line` when it is measured, which may stop the benchmark.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if the device fails.
pub fn bench<'a>(engine: &'a Engine, line: &'a mut dyn FnMut(&BenchRow) -> Flow) -> Call<'a, Vec<BenchRow>> {
    Box::pin(measure(engine, line))
}

async fn measure(engine: &Engine, line: &mut dyn FnMut(&BenchRow) -> Flow) -> Result<Vec<BenchRow>> {
    let mut rows: Vec<BenchRow> = Vec::new();
    let fma = fma_ceiling(engine).await?;
    let copy = op(engine, "copy of 64 MB", |g| {
        let x = g.stored("x", [1 << 24], DType::F32)?;
        ops::scale(g, x, 1.0)
    });
    let copy = copy.await?;
    let (peak, bandwidth) = (fma.flops as f64 / fma.seconds, copy.bytes as f64 / copy.seconds);
    let mut add = |mut row: BenchRow, rows: &mut Vec<BenchRow>| {
        if row.bytes > 0 {
            row.share = Some((row.flops as f64 / peak).max(row.bytes as f64 / bandwidth) / row.seconds);
        }
        let flow = line(&row);
        rows.push(row);
        flow
    };
    add(fma, &mut rows);
    add(copy, &mut rows);
    for (name, build) in hot_ops() {
        let row = op(engine, name, build).await?;
        if add(row, &mut rows) == Flow::Stop {
            return Ok(rows);
        }
    }
    bench_steps(engine, &ModelOptions::default(), &mut |row| add(row, &mut rows)).await?;
    Ok(rows)
}

/// Name of an op at some size, and how to record it.
type HotOp = (String, Box<dyn Fn(&mut Graph) -> Result<Tensor>>);

/// The ops that take most of a step's time.
fn hot_ops() -> Vec<HotOp> {
    let mut found: Vec<HotOp> = Vec::new();
    for (m, n, k) in GEMMS {
        let build = move |g: &mut Graph| {
            let (x, w) = (g.stored("x", [m, k], DType::F32)?, g.stored("w", [n, k], DType::F32)?);
            ops::linear(g, x, w, Default::default())
        };
        found.push((format!("gemm {m}x{n}x{k}"), Box::new(build)));
    }
    for (side, c, n) in [(16, 64, 64), (8, 128, 128), (64, 320, 320)] {
        let build = move |g: &mut Graph| {
            let (x, w) = (g.stored("x", [1, side, side, c], DType::F32)?, g.stored("w", [n, 3, 3, c], DType::F32)?);
            ops::conv2d(g, x, None, w, Conv::same(3), Default::default())
        };
        found.push((format!("conv 3x3 {side}x{side} {c} to {n}"), Box::new(build)));
    }
    for (tokens, heads, head_dim) in [(256, 2, 32), (1024, 10, 64), (4096, 5, 64)] {
        let build = move |g: &mut Graph| {
            let names = ["q", "k", "v"];
            let [q, k, v] = names.map(|n| g.stored(n, [1, tokens, heads * head_dim], DType::F32).map(Heads::from));
            let spec = AttentionSpec { heads, head_dim, scale: 0.1, causal: false };
            ops::attention(g, q?, k?, v?, spec)
        };
        found.push((format!("attention {tokens} tokens, {heads} heads of {head_dim}"), Box::new(build)));
    }
    for (side, c) in [(16, 64), (64, 320)] {
        let build = move |g: &mut Graph| {
            let x = g.stored("x", [1, side, side, c], DType::F32)?;
            let (gamma, beta) = (g.stored("gamma", [c], DType::F32)?, g.stored("beta", [c], DType::F32)?);
            ops::group_norm(g, x, None, gamma, beta, 32, 1e-5, true)
        };
        found.push((format!("group norm {side}x{side}x{c}"), Box::new(build)));
    }
    found
}

/// GEMM shapes: the bundled model's, SD 2's, and the square one that rates are quoted for.
const GEMMS: [(usize, usize, usize); 9] = [
    (768, 768, 768),
    (512, 64, 576),
    (512, 512, 64),
    (128, 128, 1152),
    (32, 128, 1152),
    (512, 8, 64),
    (1024, 640, 640),
    (4096, 320, 320),
    (1024, 640, 5760),
];
