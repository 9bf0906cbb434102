//! `cargo xtask make-model sd21 DIR`: a model of full size with random weights, to see what fits, how fast it is, and
//! whether another implementation computes the same. Its images are noise.

mod random_model;

use std::path::Path;
use std::process::ExitCode;

use random_model::RandomModel;

const USAGE: &str =
    "usage: make_model sd15|sd2-base|sd21|turbo|tiny-sd1|tiny-sd2[-inpainting] DIR|FILE.safetensors [SEED]
       make_model sdxl|ssd-1b|vega|bk-tiny DIR [SEED]
  a folder gets diffusers' layout; a path that ends in .safetensors gets one file in the original layout";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(name), Some(path)) = (args.first(), args.get(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let Some(model) = RandomModel::named(name, args.get(2).and_then(|s| s.parse().ok()).unwrap_or(0)) else {
        eprintln!("no model is called {name}\n{USAGE}");
        return ExitCode::from(2);
    };
    let path = Path::new(path);
    let single = path.extension().is_some_and(|e| e == "safetensors");
    if single && ["sdxl", "ssd-1b", "vega", "bk-tiny"].contains(&name.as_str()) {
        eprintln!("{name} is written as a folder only\n{USAGE}");
        return ExitCode::from(2);
    }
    let written = if single { model.write_file(path) } else { model.write_folder(path) };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
