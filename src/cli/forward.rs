//! `portray forward`: one part of a model on given tensors.

use std::collections::BTreeMap;
use std::path::Path;

use portray::error::option;
use portray::io::place::check_no_input;
use portray::io::{Place, SafeTensors, Tensor, write_safetensors};
use portray::tools::ForwardPart;
use portray::{Error, Result};
use serde_json::json;

use super::args::{ForwardArgs, Global, PartArg};
use super::terminal;

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
    let place = Place::file(&args.out, args.force);
    place.check()?;
    let mut read: Vec<(&'static str, &Path)> = args.loras.iter().map(|lora| ("loras", lora.path.as_path())).collect();
    read.extend(args.model.model.as_deref().map(|path| ("model", path)));
    read.extend(args.input.as_deref().map(|path| ("input", path)));
    check_no_input(("out", &args.out), &read)?;
    let _lock = place.lock(|text| terminal::warn(global.json, &text))?;
    place.check()?;
    let input = args.input.as_ref().map(SafeTensors::open).transpose()?;
    let engine = super::device::open(global)?;
    let made = portray::tools::forward(&engine, part, &args.model, &args.loras, input.as_ref(), &args.prompt);
    let made = pollster::block_on(made)?;
    let tensors: Vec<Tensor<'_>> =
        made.iter().map(|(name, shape, data)| Tensor::f32(name.as_str(), shape, data)).collect();
    let placed = place.put(|at| write_safetensors(at, &tensors, &BTreeMap::new()))?;
    for (name, shape, _) in &made {
        if global.json {
            terminal::tell(json!({"event": "tensor", "name": name, "shape": shape}));
        } else {
            terminal::tell(format!("{name} {shape:?}"));
        }
    }
    placed.path().map(drop)
}
