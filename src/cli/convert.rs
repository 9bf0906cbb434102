//! `portray convert`: between the LoRA layouts.

use portray::Result;
use portray::low_level::io::place::check_no_input;
use portray::low_level::io::{Checkpoint, LoraFile, PartId};
use serde_json::json;

use super::args::{ConvertArgs, Global};
use super::terminal;

/// Reads any layout and writes the one asked for.
pub fn run(global: &Global, args: &ConvertArgs) -> Result<()> {
    args.format.place(&args.out, &PartId::ADAPTED, args.force).check()?;
    if let Some(model) = &args.model {
        check_no_input(("out", &args.out), &[("model", model)])?;
    }
    let lora = read(args)?;
    let place = lora.place(&args.out, args.format, args.force);
    place.check()?;
    let _lock = place.lock(|text| terminal::warn(global.json, &text))?;
    let placed = place.put(|at| lora.write(at, args.format))?;
    if !lora.foreign.is_empty() && !global.quiet && !global.json {
        let (count, first) = (lora.foreign.len(), &lora.foreign[0]);
        terminal::note(&format!("warning: {count} keys belong to no layer and were left out, for example '{first}'"));
    }
    if global.json {
        let mut saved = terminal::with_path(json!({"event": "saved"}), "path", &placed.path);
        (saved["modules"], saved["left_out"]) = (lora.modules.len().into(), lora.foreign.into());
        terminal::tell(saved);
    } else {
        terminal::tell_path(&placed.path);
    }
    placed.path().map(drop)
}

/// The LoRA; with a model, one that is for it.
fn read(args: &ConvertArgs) -> Result<LoraFile> {
    let Some(model) = &args.model else { return LoraFile::open(&args.lora, None) };
    let model = Checkpoint::open(model)?;
    let modules = model.modules();
    let mut lora = LoraFile::open(&args.lora, Some(&modules))?;
    lora.match_report(&modules).check()?;
    lora.note_base(&model);
    Ok(lora)
}
