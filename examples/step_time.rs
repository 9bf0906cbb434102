//! Times one step of the bundled model for each line of standard input, "unet" or "train", and prints its seconds.
//!
//! With bounds checks in its shaders, as browsers have them: what a tab's steps are compared with, in turns.

use std::io::BufRead;

use portray::{Engine, EngineOptions, ModelOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = EngineOptions { bounds_checks: true, ..EngineOptions::default() };
    let engine = pollster::block_on(Engine::request(&options))?;
    let [unet, train] = ["unet", "train"]
        .map(|step| pollster::block_on(portray::tools::stopwatch(&engine, step, &ModelOptions::default())));
    let (unet, train) = (unet?, train?);
    for line in std::io::stdin().lock().lines() {
        let watch = if line?.trim() == "train" { &train } else { &unet };
        println!("{}", pollster::block_on(watch.run())?);
    }
    Ok(())
}
