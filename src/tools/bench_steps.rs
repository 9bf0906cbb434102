//! Benchmark of whole steps: a model's sampling and training step, against the times of their parts alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use web_time::Instant;

use crate::engine::{Call, Engine};
use crate::error::Result;
use crate::event::Flow;
use crate::gpu::Store;
use crate::graph::{NodeTime, Plan};
use crate::nn::{Param, Ranks};
use crate::pipeline::{Model, ModelOptions};
use crate::train::TrainOptions;

use super::model_steps::{training_step, unet_step};
use super::stopwatch::median;
use super::{BenchRow, Stopwatch};

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
pub fn bench_steps<'a>(
    engine: &'a Engine,
    options: &'a ModelOptions,
    add: &'a mut dyn FnMut(BenchRow) -> Flow,
) -> Call<'a, ()> {
    Box::pin(measure(engine, options, add))
}

async fn measure(engine: &Engine, options: &ModelOptions, add: &mut dyn FnMut(BenchRow) -> Flow) -> Result<()> {
    let mut silent = |_| Flow::Continue;
    let model = Model::open(options, &[], &mut silent)?;
    if add(loading(engine, &model).await?) == Flow::Stop {
        return Ok(());
    }
    let plan = unet_step(engine, &model, Ranks::new())?;
    if against_parts(engine, "UNet step", plan, add).await? == Flow::Stop {
        return Ok(());
    }
    let plan = training_step(engine, &model, &TrainOptions { rank: 8, ..TrainOptions::default() }).await?;
    against_parts(engine, "training step", plan, add).await.map(drop)
}

/// Loads the UNet's weights, which were read before if the system keeps files in memory, and tells how long it took.
async fn loading(engine: &Engine, model: &Model) -> Result<BenchRow> {
    let (_, params) = model.denoiser(model.settings(engine.gpu.caps(), &Arc::default()))?;
    let began = Instant::now();
    let mut store = Store::new(&engine.gpu);
    model.load(&mut store, "unet", &params).await?;
    engine.gpu.wait().await?;
    let seconds = began.elapsed().as_secs_f64();
    let bytes = params.iter().map(Param::bytes).sum();
    Ok(BenchRow { name: "loading the UNet's weights".into(), seconds, flops: 0, bytes, share: None, first_extra: None })
}

/// Measures `plan` as a whole and its nodes alone, in turns, and tells the rows: the medians of both, how near the whole
/// comes to the rate of its contractions alone and to that of the largest of them, and the rate at each resolution.
async fn against_parts(
    engine: &Engine,
    name: &str,
    plan: Arc<Plan>,
    add: &mut dyn FnMut(BenchRow) -> Flow,
) -> Result<Flow> {
    let (flops, dispatches) = (plan.total_flops(), plan.dispatch_count());
    let began = Instant::now();
    let watch = Stopwatch::new(engine, plan).await?;
    watch.run().await?;
    let first = began.elapsed().as_secs_f64();
    let mut pairs = Pairs { flops, ..Pairs::default() };
    for _ in 0..if flops > LONG { 1 } else { PAIRS } {
        pairs.measure(&watch).await?;
    }
    // All is measured by now, and so all is told.
    let told = pairs.rows(name, dispatches, first).into_iter().map(add);
    Ok(told.last().unwrap_or(Flow::Continue))
}

/// Timings of a plan as a whole and of its nodes alone, in turns.
#[derive(Default)]
struct Pairs {
    /// FLOPs of the whole.
    flops: u64,
    wholes: Vec<f64>,
    /// Rates of the whole relative to that of its contractions alone.
    to_contractions: Vec<f64>,
    /// Rates of the whole relative to that of its largest contraction alone.
    to_largest: Vec<f64>,
    by_op: BTreeMap<&'static str, Part>,
    /// Contractions by their rows.
    by_rows: BTreeMap<usize, Part>,
}

impl Pairs {
    /// Runs the whole once and then each node alone.
    async fn measure(&mut self, watch: &Stopwatch) -> Result<()> {
        let whole = watch.run().await?;
        let (mut products, mut largest) = (Part::default(), Part::default());
        for node in &watch.session.profile().await? {
            self.by_op.entry(node.op).or_default().add(node);
            if CONTRACTIONS.contains(&node.op) {
                products.add(node);
                self.by_rows.entry(node.rows).or_default().add(node);
                if node.flops >= largest.flops {
                    largest = Part { seconds: node.seconds, flops: node.flops, count: 1 };
                }
            }
        }
        self.wholes.push(whole);
        self.to_contractions.push(self.flops as f64 / whole / products.rate());
        self.to_largest.push(self.flops as f64 / whole / largest.rate());
        Ok(())
    }

    /// Rows about the plan called `name`, whose first run was over after `first` seconds.
    fn rows(mut self, name: &str, dispatches: usize, first: f64) -> Vec<BenchRow> {
        let (flops, runs) = (self.flops, self.wholes.len());
        let whole = median(&mut self.wholes);
        let each = |part: &Part| (part.seconds / runs as f64, part.flops / runs as u64);
        let share = |values: &mut [f64]| Some(median(values));
        let all = row(format!("{name}, {dispatches} dispatches"), whole, flops, None);
        let total = self.by_op.values().map(|part| each(part).0).sum::<f64>();
        let against = |what: &str| format!("  {name} against the rate of its {what}");
        let mut rows = vec![
            BenchRow { first_extra: Some(first - whole), ..all },
            row(against("contractions"), whole, flops, share(&mut self.to_contractions)),
            row(against("largest contraction"), whole, flops, share(&mut self.to_largest)),
            row(format!("  {name}: sum of its parts alone"), total, flops, None),
        ];
        let mut by_op: Vec<_> = self.by_op.into_iter().collect();
        by_op.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        let part = |name: String, part: &Part| {
            let (seconds, flops) = each(part);
            row(format!("    {name} x {}", part.count / runs), seconds, flops, None)
        };
        rows.extend(by_op.iter().map(|(op, found)| part(op.to_string(), found)));
        let by_rows = self.by_rows.iter().rev().filter(|(_, found)| found.flops > 0);
        rows.extend(by_rows.map(|(count, found)| part(format!("contractions of {count} rows"), found)));
        rows
    }
}
