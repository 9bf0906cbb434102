//! `bench`: the adapter's own ceilings, hot ops against them, whole steps against the sum of their parts.

use std::collections::BTreeMap;

use web_time::Instant;

use crate::base::DType;
use crate::error::Result;
use crate::event::Flow;
use crate::gpu::{Pool, Store};
use crate::graph::{Graph, Plan, Session, Tensor};
use crate::job::{ModelOptions, TrainJob};
use crate::models::UNet;
use crate::nn::{Mode, Scope, Settings};
use crate::ops::{self, AttentionSpec, Conv, Heads};

use super::sample::{Extent, SamplingPlan};
use super::train::plan_training;
use super::{Engine, Model};

/// One measured line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BenchRow {
    /// What was run.
    pub name: String,
    /// Median seconds of a run.
    pub seconds: f64,
    /// FLOPs of a run.
    pub flops: u64,
    /// Bytes that it has to read and write once.
    pub bytes: u64,
    /// Share of the ceiling that binds it: arithmetic or memory, whichever is nearer; of a whole step, its rate against
    /// that of its contractions alone.
    pub share: Option<f64>,
}

/// Runs of each op; the median counts.
const RUNS: usize = 5;

/// Seconds of one run: the median of [`RUNS`] after a warm-up.
fn time(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(&mut seconds))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Engine {
    /// A graph's session with zeroed stored tensors.
    async fn session(&self, g: &Graph) -> Result<(Session, u64)> {
        let plan = self.planning().plan(g)?;
        let mut store = Store::new(&self.gpu);
        let tensors: Vec<(String, u64)> = plan.stored.iter().map(|(k, b)| (k.clone(), *b)).collect();
        store.allocate("bench", &tensors)?;
        let flops = plan.total_flops();
        Ok((Session::new(&self.gpu, plan, &mut Pool::default(), &store).await?, flops))
    }

    async fn op(&self, name: impl Into<String>, build: impl FnOnce(&mut Graph) -> Result<Tensor>) -> Result<BenchRow> {
        let mut g = Graph::new();
        let out = build(&mut g)?;
        g.output(out);
        let bytes = g.stored_tensors().map(|(_, t)| g.info(t).bytes()).sum::<u64>() + g.info(out).bytes();
        let (session, flops) = self.session(&g).await?;
        let seconds = time(|| session.run().and_then(|()| self.gpu.wait()))?;
        Ok(BenchRow { name: name.into(), seconds, flops, bytes, share: None })
    }

    /// Measures; each line goes to `line` as it is done.
    pub async fn bench(&self, line: &mut dyn FnMut(&BenchRow) -> Flow) -> Result<Vec<BenchRow>> {
        let mut rows: Vec<BenchRow> = Vec::new();
        let fma = self.op("register FMA", |g| {
            let x = g.stored("x", [1 << 14], DType::F32)?;
            ops::fma_peak(g, x, 2000)
        });
        let fma = fma.await?;
        let copy = self.op("copy of 64 MB", |g| {
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
        for (m, n, k) in GEMMS {
            let row = self.op(format!("gemm {m}x{n}x{k}"), |g| {
                let (x, w) = (g.stored("x", [m, k], DType::F32)?, g.stored("w", [n, k], DType::F32)?);
                ops::linear(g, x, w, Default::default())
            });
            if add(row.await?, &mut rows) == Flow::Stop {
                return Ok(rows);
            }
        }
        for (side, c, n) in [(16, 64, 64), (8, 128, 128), (64, 320, 320)] {
            let row = self.op(format!("conv 3x3 {side}x{side} {c} to {n}"), |g| {
                let (x, w) = (g.stored("x", [1, side, side, c], DType::F32)?, g.stored("w", [n, 3, 3, c], DType::F32)?);
                ops::conv2d(g, x, None, w, Conv::same(3), Default::default())
            });
            if add(row.await?, &mut rows) == Flow::Stop {
                return Ok(rows);
            }
        }
        for (tokens, heads, head_dim) in [(256, 2, 32), (1024, 10, 64), (4096, 5, 64)] {
            let row = self.op(format!("attention {tokens} tokens, {heads} heads of {head_dim}"), |g| {
                let names = ["q", "k", "v"];
                let [q, k, v] = names.map(|n| g.stored(n, [1, tokens, heads * head_dim], DType::F32).map(Heads::from));
                let spec = AttentionSpec { heads, head_dim, scale: 0.1, causal: false };
                ops::attention(g, q?, k?, v?, spec)
            });
            if add(row.await?, &mut rows) == Flow::Stop {
                return Ok(rows);
            }
        }
        for (side, c) in [(16, 64), (64, 320)] {
            let row = self.op(format!("group norm {side}x{side}x{c}"), |g| {
                let x = g.stored("x", [1, side, side, c], DType::F32)?;
                let (gamma, beta) = (g.stored("gamma", [c], DType::F32)?, g.stored("beta", [c], DType::F32)?);
                ops::group_norm(g, x, None, gamma, beta, 32, 1e-5, true)
            });
            if add(row.await?, &mut rows) == Flow::Stop {
                return Ok(rows);
            }
        }
        self.whole_steps(&mut |row| add(row, &mut rows)).await?;
        Ok(rows)
    }

    /// A guided UNet step and a training step of the bundled model, each against the lone times of its parts.
    async fn whole_steps(&self, add: &mut dyn FnMut(BenchRow) -> Flow) -> Result<()> {
        let mut silent = |_| Flow::Continue;
        let model = Model::open(&ModelOptions::default(), &[], &mut silent)?;
        let planning = self.planning();
        let scope = Scope::new("unet", Settings { dtype: model.dtype(self.gpu.caps()), ..Settings::default() });
        let unet = UNet::new(&scope, model.unet.clone())?;
        let side = model.native_side() / model.factor();
        let extent = Extent {
            size: [side, side],
            channels: model.unet.in_channels,
            tokens: model.tokenizer.length(),
            width: model.context_width(),
            guided: true,
            slots: 1,
        };
        let plan = SamplingPlan::new(planning, &unet, Mode::Inference, extent)?.step;
        self.against_parts("UNet step", plan, add).await?;
        let job = TrainJob { rank: 8, accumulate: 1, batch: 1, max_grad_norm: 1.0, ..TrainJob::default() };
        let setup = job.setup(&model, self.gpu.caps(), [1, 1], [side, side, model.unet.in_channels], extent.tokens);
        let plan = plan_training(&job, setup, planning)?;
        self.against_parts("training step", plan.first, add).await
    }

    /// The plan as a whole and its nodes alone, in turns: medians of both, and how near the whole comes to the rate of its
    /// contractions alone.
    async fn against_parts(&self, name: &str, plan: Plan, add: &mut dyn FnMut(BenchRow) -> Flow) -> Result<()> {
        let mut store = Store::new(&self.gpu);
        let tensors: Vec<(String, u64)> = plan.stored.iter().map(|(k, b)| (k.clone(), *b)).collect();
        store.allocate("bench", &tensors)?;
        let (flops, dispatches) = (plan.total_flops(), plan.dispatch_count());
        let session = Session::new(&self.gpu, plan, &mut Pool::default(), &store).await?;
        let mut wholes = Vec::with_capacity(PAIRS);
        let mut ratios = Vec::with_capacity(PAIRS);
        let mut parts: BTreeMap<&'static str, Part> = BTreeMap::new();
        session.run().and_then(|()| self.gpu.wait())?;
        for _ in 0..PAIRS {
            let start = Instant::now();
            session.run().and_then(|()| self.gpu.wait())?;
            let whole = start.elapsed().as_secs_f64();
            let mut lone: BTreeMap<&'static str, Part> = BTreeMap::new();
            for (op, seconds, flops) in session.profile()? {
                let part = lone.entry(op).or_default();
                part.add(seconds, flops, 1);
            }
            let contractions = lone.iter().filter(|(op, _)| CONTRACTIONS.contains(op));
            let (seconds, product_flops) =
                contractions.fold((0.0, 0), |(s, f), (_, part)| (s + part.seconds, f + part.flops));
            wholes.push(whole);
            ratios.push((flops as f64 / whole) / (product_flops as f64 / seconds));
            for (op, part) in lone {
                parts.entry(op).or_default().add(part.seconds / PAIRS as f64, part.flops / PAIRS as u64, part.count);
            }
        }
        let row = |name: String, seconds: f64, flops: u64| BenchRow { name, seconds, flops, bytes: 0, share: None };
        let whole = median(&mut wholes);
        add(row(format!("{name}, {dispatches} dispatches"), whole, flops));
        let share = Some(median(&mut ratios));
        add(BenchRow { share, ..row(format!("  {name} against the rate of its contractions alone"), whole, flops) });
        let total = parts.values().map(|p| p.seconds).sum::<f64>();
        add(row(format!("  {name}: sum of its parts alone"), total, flops));
        let mut parts: Vec<_> = parts.into_iter().collect();
        parts.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        for (op, part) in parts {
            add(row(format!("    {op} x {}", part.count / PAIRS), part.seconds, part.flops));
        }
        Ok(())
    }
}

/// What the nodes of one op take alone.
#[derive(Default)]
struct Part {
    seconds: f64,
    flops: u64,
    count: usize,
}

impl Part {
    fn add(&mut self, seconds: f64, flops: u64, count: usize) {
        self.seconds += seconds;
        self.flops += flops;
        self.count += count;
    }
}

/// Ops that are matrix products.
const CONTRACTIONS: &[&str] = &["linear", "conv2d", "conv2d_transposed", "weight_grad"];

/// Whole steps and their parts, in turns.
const PAIRS: usize = 10;

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
