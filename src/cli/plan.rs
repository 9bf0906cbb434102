//! `portray plan`: what a job would take.

use portray::low_level::generate::plan_generate;
use portray::low_level::gpu::{self, AdapterClass, AdapterEntry, Caps};
use portray::low_level::train::plan_train;
use portray::{PlanReport, Result};

use super::args::{Global, PlanArgs, PlanJob};
use super::words::CommandLine;
use super::{info, table, terminal};

/// Prints memory, dispatches and FLOPs of the very job.
pub fn run(global: &Global, args: &PlanArgs) -> Result<()> {
    let (caps, adapter) = caps(global)?;
    let report = match &args.job {
        PlanJob::Generate(args) => plan_generate(&args.job, &caps)?,
        PlanJob::Train(args) => plan_train(&args.job, &caps)?,
    };
    if global.json { terminal::data(as_json(&report, &adapter)) } else { print(&report, &adapter) }
}

/// The limits to plan with: those of `--adapter`, or WebGPU's defaults, which hold everywhere and need no GPU.
fn caps(global: &Global) -> Result<(Caps, String)> {
    let Some(wanted) = &global.adapter else {
        return Ok((Caps::webgpu_defaults(AdapterClass::Gpu), "any adapter (WebGPU's default limits)".into()));
    };
    let adapters = pollster::block_on(gpu::adapters());
    let entry: &AdapterEntry = info::find(&adapters, wanted)?;
    Ok((entry.caps(), entry.info.name.clone()))
}

fn as_json(report: &PlanReport, adapter: &str) -> serde_json::Value {
    let mut said = report.to_json(&CommandLine);
    said["adapter"] = adapter.into();
    said
}

fn print(report: &PlanReport, adapter: &str) -> Result<()> {
    let row = |label: &str, value: String| vec![label.to_owned(), value];
    let mut rows: Vec<Vec<String>> = report.rows.iter().map(|(label, b)| row(label, table::bytes(*b))).collect();
    rows.push(row("peak memory", table::bytes(report.peak_bytes)));
    rows.push(row("dispatches", report.dispatches.to_string()));
    rows.push(row("work", table::flops(report.flops as f64)));
    let (count, bytes) = (report.kernels, table::bytes(report.kernel_bytes));
    rows.push(row("kernels to compile", format!("{count} ({bytes} of WGSL)")));
    terminal::data(format!("planned for {adapter}"))?;
    for line in table::lines(&rows) {
        terminal::data(format!("  {line}"))?;
    }
    report.notes.iter().try_for_each(|note| terminal::data(format!("  {}", note.in_words(&CommandLine))))
}
