//! `portray forward`: one part of a model on given tensors.

use std::path::Path;

use portray::error::option;
use portray::low_level::graph::{Compared, Replayed};
use portray::low_level::io::place::check_no_input;
use portray::low_level::io::{Place, SafeTensors};
use portray::low_level::tools::{self, CHECK_BOUND, ForwardInputs, ForwardPart};
use portray::{Error, Result};
use serde_json::json;

use super::args::{ForwardArgs, Global, PartArg};
use super::{tensors, terminal};

/// Reads, runs, writes.
pub fn run(global: &Global, args: &ForwardArgs) -> Result<()> {
    let part = match args.part {
        PartArg::Text => ForwardPart::Text,
        PartArg::Unet => ForwardPart::Unet,
        PartArg::VaeEncode => ForwardPart::VaeEncode,
        PartArg::VaeDecode => ForwardPart::VaeDecode,
    };
    if !args.prompt.is_empty() && part != ForwardPart::Text {
        return Err(Error::usage("prompt", option("prompt") + " goes with `forward text` only"));
    }
    let mut read: Vec<(&'static str, &Path)> = args.loras.iter().map(|lora| ("loras", lora.path.as_path())).collect();
    read.extend(args.model.model.as_deref().map(|path| ("model", path)));
    read.extend(args.model.vae.as_deref().map(|path| ("vae", path)));
    read.extend(args.model.unet.as_deref().map(|path| ("unet", path)));
    read.extend(args.input.as_deref().map(|path| ("input", path)));
    let place = args.out.as_ref().map(|out| Place::file(out, args.force));
    let mut lock = None;
    if let (Some(place), Some(out)) = (&place, &args.out) {
        place.check()?;
        check_no_input(("out", out), &read)?;
        lock = Some(place.lock(|text| terminal::warn(global.json, &text))?);
        place.check()?;
    }
    let input = args.input.as_ref().map(SafeTensors::open).transpose()?;
    let engine = super::device::open(global)?;
    let inputs =
        ForwardInputs { model: &args.model, loras: &args.loras, tensors: input.as_ref(), prompts: &args.prompt };
    let made = if args.check {
        let (made, replayed) = pollster::block_on(tools::check_forward(&engine, part, inputs))?;
        tell_check(global, &replayed);
        made
    } else {
        pollster::block_on(tools::forward(&engine, part, inputs))?
    };
    let Some(place) = place else { return Ok(()) };
    let written = tensors::write(global, &place, &made);
    drop(lock);
    written
}

/// Says what was compared with the references.
fn tell_check(global: &Global, replayed: &Replayed) {
    let worst = replayed.worst.as_ref();
    if global.json {
        let error = worst.map_or(0.0, |worst| worst.error);
        let worst = worst.map(Compared::to_string);
        terminal::tell(
            json!({"event": "checked", "nodes": replayed.nodes, "error": error, "bound": CHECK_BOUND, "worst": worst}),
        );
    } else {
        let worst = worst.map(|worst| format!("; the worst is {worst}")).unwrap_or_default();
        terminal::tell(format!("{} nodes agree with their references to {CHECK_BOUND:.0e}{worst}", replayed.nodes));
    }
}
