//! `portray convert`: between the LoRA layouts.

use portray::Result;
use portray::io::{Checkpoint, LoraFile};
use serde_json::json;

use super::args::{ConvertArgs, Global};
use super::{files, terminal};

/// Reads any layout and writes the one asked for.
pub fn run(global: &Global, args: &ConvertArgs) -> Result<()> {
    files::check(&args.out, args.force)?;
    let model = args.model.as_ref().map(Checkpoint::open).transpose()?.map(|m| m.modules());
    let lora = LoraFile::open(&args.lora, model.as_ref())?;
    lora.write(&args.out, args.format)?;
    if !lora.foreign.is_empty() && !global.quiet && !global.json {
        let (count, first) = (lora.foreign.len(), &lora.foreign[0]);
        terminal::note(&format!(
            "warning: {count} keys belong to no SD layer and were left out, for example '{first}'"
        ));
    }
    if global.json {
        let mut saved = terminal::with_path(json!({"event": "saved"}), "path", &args.out);
        (saved["modules"], saved["left_out"]) = (lora.modules.len().into(), lora.foreign.into());
        terminal::tell(saved);
    } else {
        terminal::tell_path(&args.out);
    }
    Ok(())
}
