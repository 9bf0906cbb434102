//! `portray bench`.

use std::path::Path;

use portray::error::{Message, option};
use portray::low_level::gpu::{AdapterClass, Caps, Variants};
use portray::low_level::io;
use portray::low_level::tools::BenchRow;
use portray::{Engine, Error, Flow, ModelOptions, Result};

use super::args::{BenchArgs, Global};
use super::{stop, terminal};

/// Refuses a folder for kernels that holds something already, or cannot be written.
///
/// # Errors
/// [`Error::File`] naming it.
pub fn check(args: &BenchArgs) -> Result<()> {
    let Some(folder) = &args.dump else { return Ok(()) };
    if folder.as_os_str().is_empty() {
        return Err(Error::usage("dump", option("dump") + ": the path is empty"));
    }
    let empty = io::files::entries(folder).is_ok_and(|entries| entries.is_empty());
    if io::files::is_taken(folder) && !empty && !args.force {
        return Err(Error::file(
            folder,
            Message::from("exists already: name another, or add ") + option("force") + " to write into it",
        ));
    }
    io::Place::file(folder.join("kernel.wgsl"), true).check()
}

/// Measures `engine`'s adapter, or whole steps of `--model`; with `--dump` writes every kernel as rendered into that folder
/// instead.
pub fn run(global: &Global, engine: &Engine, args: &BenchArgs) -> Result<()> {
    if let Some(folder) = &args.dump {
        return write_kernels(engine, folder);
    }
    stop::listen();
    if !global.json {
        let variants: Vec<String> = engine.variants().chosen.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        terminal::note(&format!("{}; {}", engine.gpu().info().name, variants.join(", ")));
        let columns = ["ms", "GFLOP/s", "GB/s", "ceiling", "first, +ms"];
        terminal::note(&line("", columns.map(str::to_owned)));
    }
    let mut printed = Ok(());
    let mut show = |row: &BenchRow| {
        printed = if global.json { terminal::data(serde_json::json!(row)) } else { terminal::data(human(row)) };
        if printed.is_err() || stop::asked() { Flow::Stop } else { Flow::Continue }
    };
    let measured = match &args.model {
        Some(model) => {
            let (model, vae, unet) = (Some(model.clone()), args.vae.clone(), args.unet.clone());
            let options = ModelOptions { model, vae, unet, dtype: args.dtype, ..ModelOptions::default() };
            pollster::block_on(portray::low_level::tools::bench_steps(engine, &options, &mut |row| show(&row)))
        }
        None => pollster::block_on(portray::low_level::tools::bench(engine, &mut show)).map(drop),
    };
    // What it could not say is why it stopped.
    printed.and(measured)
}

fn human(row: &BenchRow) -> String {
    let rate = |amount: u64| if amount == 0 { "-".into() } else { format!("{:.2}", amount as f64 / row.seconds / 1e9) };
    let share = row.share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
    let first = row.first_extra.map_or_else(|| "-".into(), |extra| format!("{:.0}", extra * 1e3));
    line(&row.name, [format!("{:.2}", row.seconds * 1e3), rate(row.flops), rate(row.bytes), share, first])
}

fn line(name: &str, [ms, flops, bytes, share, first]: [String; 5]) -> String {
    format!("{name:<58} {ms:>10} {flops:>12} {bytes:>10} {share:>8} {first:>10}")
}

/// One file a kernel, named by class of adapter, template and a number, as other compilers take it: the adapter's own, and
/// those that hardware with WebGPU's default limits would run.
fn write_kernels(engine: &Engine, folder: &Path) -> Result<()> {
    let hardware = [Variants::default()].into_iter().chain(portray::low_level::ops::large_tiles()).collect();
    let classes = [
        ("adapter", engine.gpu().caps().clone(), vec![engine.variants().clone()]),
        ("hardware", Caps::webgpu_defaults(AdapterClass::Gpu), hardware),
    ];
    for (class, caps, variants) in classes {
        let kernels = portray::low_level::ops::rendered_cases(&caps, &variants)?;
        for (i, (name, text)) in kernels.iter().enumerate() {
            let path = folder.join(format!("{class}-{name}-{i:03}.wgsl"));
            io::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        }
        terminal::note(&format!("{} kernels, {class}", kernels.len()));
    }
    terminal::tell_path(folder);
    Ok(())
}
