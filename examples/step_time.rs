//! Times one step of the bundled model for each line of standard input, "unet", "unet-lora" or "train", and prints its
//! seconds. A step is compiled when it is asked for first. Behind it may stand how the weights are stored: "unet q8".
//!
//! With bounds checks in its shaders, as browsers have them: what a tab's steps are compared with, in turns.

use std::collections::BTreeMap;
use std::io::BufRead;

use portray::{Engine, EngineOptions, ModelOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = EngineOptions { bounds_checks: true, ..EngineOptions::default() };
    let engine = pollster::block_on(Engine::request(&options))?;
    let mut watches = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let step = line?.trim().to_owned();
        if !watches.contains_key(&step) {
            let (name, dtype) = step.split_once(' ').unwrap_or((&step, "auto"));
            let dtype = serde_json::from_value(dtype.into())?;
            let model = ModelOptions { dtype, ..ModelOptions::default() };
            let watch = pollster::block_on(portray::low_level::tools::stopwatch(&engine, name, &model))?;
            watches.insert(step.clone(), watch);
        }
        println!("{}", pollster::block_on(watches[&step].run())?);
    }
    Ok(())
}
