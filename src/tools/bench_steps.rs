//! Benchmark of whole steps: a model's sampling and training step, against the times of their parts alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use web_time::Instant;

use crate::engine::Engine;
use crate::error::Result;
use crate::event::Flow;
use crate::gpu::Pool;
use crate::graph::{NodeTime, Plan, Session};
use crate::nn::{Mode, Ranks};
use crate::pipeline::denoise::{Extent, SamplingPlan};
use crate::pipeline::{Model, ModelOptions};
use crate::train::TrainOptions;
use crate::train::plans::{plan_training, training_alone};

use super::BenchRow;
use super::bench::median;
use super::self_test::zeroed;

/// Ops that are matrix products.
const CONTRACTIONS: &[&str] = &["linear", "conv2d", "conv2d_transposed", "weight_grad"];
/// Whole steps and their parts, in turns.
const PAIRS: usize = 10;
/// FLOPs of a step above which one pair has to do: software drivers take minutes for it.
const LONG: u64 = 200_000_000_000;

/// What the nodes of one kind take alone.
#[derive(Clone, Copy, Default)]
struct Part {
    seconds: f64,
    flops: u64,
    count: usize,
}

impl Part {
    fn add(&mut self, node: &NodeTime) {
        self.seconds += node.seconds;
        self.flops += node.flops;
        self.count += 1;
    }

    fn rate(self) -> f64 {
        self.flops as f64 / self.seconds
    }
}

fn row(name: String, seconds: f64, flops: u64, share: Option<f64>) -> BenchRow {
    BenchRow { name, seconds, flops, bytes: 0, share, first_extra: None }
}

/// Measures a guided UNet step and a LoRA training step (one image and one class image) of a model.
///
/// # Errors
/// If the model cannot be opened or does not fit, or the device fails.
pub async fn bench_steps(engine: &Engine, options: &ModelOptions, add: &mut dyn FnMut(BenchRow) -> Flow) -> Result<()> {
    let mut silent = |_| Flow::Continue;
    let model = Model::open(options, &[], &mut silent)?;
    let planning = engine.planning();
    let (side, tokens) = (model.native_side() / model.factor(), model.prompt_tokens());
    let plan = unet_step(engine, &model, Ranks::new())?;
    if against_parts(engine, "UNet step", plan, add).await? == Flow::Stop {
        return Ok(());
    }
    let job = TrainOptions { rank: 8, ..TrainOptions::default() };
    let setup = job.setup(&model, engine.gpu.caps(), [1, 1], [side, side, model.vae.latent_channels], tokens);
    let plan = plan_training(&job, setup, planning, training_alone).await?;
    against_parts(engine, "training step", plan.first.into(), add).await.map(drop)
}

/// The plan of a guided UNet step at the model's own size, with adapters of `ranks`.
pub(crate) fn unet_step(engine: &Engine, model: &Model, ranks: Ranks) -> Result<Arc<Plan>> {
    let (denoiser, _) = model.denoiser(model.settings(engine.gpu.caps(), &Arc::new(ranks)))?;
    let extent = Extent::new(model, [model.native_side(); 2], true, 1);
    Ok(SamplingPlan::new(engine.planning(), &*denoiser, Mode::Inference, extent)?.step)
}

/// The plan as a whole and its nodes alone, in turns: medians of both, how near the whole comes to the rate of its
/// contractions alone and to that of the largest of them, and the rate at each resolution.
async fn against_parts(
    engine: &Engine,
    name: &str,
    plan: Arc<Plan>,
    add: &mut dyn FnMut(BenchRow) -> Flow,
) -> Result<Flow> {
    let store = zeroed(engine, &plan)?;
    let (flops, dispatches) = (plan.total_flops(), plan.dispatch_count());
    let pairs = if flops > LONG { 1 } else { PAIRS };
    let began = Instant::now();
    let session = Session::new(&engine.gpu, plan, &mut Pool::default(), &store).await?;
    let (mut wholes, mut ratios, mut to_largest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_op, mut by_rows): (BTreeMap<&str, Part>, BTreeMap<usize, Part>) = Default::default();
    session.run().await?;
    engine.gpu.wait().await?;
    let first = began.elapsed().as_secs_f64();
    for _ in 0..pairs {
        let start = Instant::now();
        session.run().await?;
        engine.gpu.wait().await?;
        let whole = start.elapsed().as_secs_f64();
        let nodes = session.profile().await?;
        let (mut products, mut largest) = (Part::default(), Part::default());
        for node in &nodes {
            by_op.entry(node.op).or_default().add(node);
            if CONTRACTIONS.contains(&node.op) {
                products.add(node);
                by_rows.entry(node.rows).or_default().add(node);
                if node.flops >= largest.flops {
                    largest = Part { seconds: node.seconds, flops: node.flops, count: 1 };
                }
            }
        }
        wholes.push(whole);
        ratios.push(flops as f64 / whole / products.rate());
        to_largest.push(flops as f64 / whole / largest.rate());
    }
    let whole = median(&mut wholes);
    let share = |values: &mut [f64]| Some(median(values));
    let first_extra = Some(first - whole);
    add(BenchRow { first_extra, ..row(format!("{name}, {dispatches} dispatches"), whole, flops, None) });
    add(row(format!("  {name} against the rate of its contractions"), whole, flops, share(&mut ratios)));
    add(row(format!("  {name} against the rate of its largest contraction"), whole, flops, share(&mut to_largest)));
    let each = |part: &Part| (part.seconds / pairs as f64, part.flops / pairs as u64);
    let total = by_op.values().map(|part| each(part).0).sum::<f64>();
    add(row(format!("  {name}: sum of its parts alone"), total, flops, None));
    let mut by_op: Vec<_> = by_op.into_iter().collect();
    by_op.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    for (op, part) in &by_op {
        let (seconds, flops) = each(part);
        add(row(format!("    {op} x {}", part.count / pairs), seconds, flops, None));
    }
    for (rows, part) in by_rows.iter().rev().filter(|(_, part)| part.flops > 0) {
        let (seconds, flops) = each(part);
        let name = format!("    contractions of {rows} rows x {}", part.count / pairs);
        if add(row(name, seconds, flops, None)) == Flow::Stop {
            return Ok(Flow::Stop);
        }
    }
    Ok(Flow::Continue)
}
