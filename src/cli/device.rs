//! The device of a command.

use portray::{Engine, EngineOptions, Result};

use super::args::Global;

/// Opens the adapter that the global options name; Ctrl-C ends what it does.
pub fn open(global: &Global) -> Result<Engine> {
    // Without a cache folder nothing is remembered, and the usual kernels run.
    let variants = portray::low_level::pipeline::cache_folder().ok().map(|cache| cache.join("variants"));
    let options = EngineOptions { adapter: global.adapter.clone(), variants, ..Default::default() };
    let engine = pollster::block_on(Engine::request(&options))?;
    Ok(engine.with_cancel(super::stop::token()))
}
