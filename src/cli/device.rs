//! The device of a command.

use portray::{Engine, EngineOptions, Result};

use super::args::Global;

/// Opens the adapter that the global options name.
pub fn open(global: &Global) -> Result<Engine> {
    // Without a cache folder nothing is remembered, and the usual kernels run.
    let variants = portray::pipeline::cache_folder().ok().map(|cache| cache.join("variants"));
    let options = EngineOptions { adapter: global.adapter.clone(), variants, ..Default::default() };
    pollster::block_on(Engine::request(&options))
}
