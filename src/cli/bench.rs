//! `portray bench`.

use std::path::Path;

use portray::engine::{BenchRow, Engine};
use portray::event::Flow;
use portray::gpu::AdapterClass;
use portray::{Error, Result, io};

use super::args::Global;
use super::{stop, terminal};

/// Measures `engine`'s adapter; with `dump` writes every kernel as rendered into that folder instead.
pub fn run(global: &Global, engine: &Engine, dump: Option<&Path>) -> Result<()> {
    if let Some(folder) = dump {
        return write_kernels(engine, folder);
    }
    stop::listen();
    if !global.json {
        terminal::note(&format!("{:<58} {:>10} {:>12} {:>10} {:>8}", "", "ms", "GFLOP/s", "GB/s", "ceiling"));
    }
    let mut show = |row: &BenchRow| {
        let printed = if global.json { terminal::data(serde_json::json!(row)) } else { terminal::data(human(row)) };
        if printed.is_err() || stop::asked() { Flow::Stop } else { Flow::Continue }
    };
    pollster::block_on(engine.bench(&mut show)).map(drop)
}

fn human(row: &BenchRow) -> String {
    let rate = |amount: u64| if amount == 0 { "-".into() } else { format!("{:.2}", amount as f64 / row.seconds / 1e9) };
    let share = row.share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
    format!("{:<58} {:>10.2} {:>12} {:>10} {share:>8}", row.name, row.seconds * 1e3, rate(row.flops), rate(row.bytes))
}

/// One file a kernel, named by template and a number, as other compilers take it.
fn write_kernels(engine: &Engine, folder: &Path) -> Result<()> {
    let class = engine.gpu().caps().class;
    let kernels = portray::ops::rendered_cases(engine.gpu().caps())?;
    for (i, (name, text)) in kernels.iter().enumerate() {
        let path = folder.join(format!("{name}-{i:03}.wgsl"));
        io::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
    }
    let kind = if class == AdapterClass::Cpu { "software" } else { "hardware" };
    if kernels.is_empty() {
        return Err(Error::file(folder, "no kernels to write"));
    }
    terminal::note(&format!("{} kernels for {kind} adapters", kernels.len()));
    terminal::data(folder.display())
}
