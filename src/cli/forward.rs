//! `portray forward`: one part of a model on given tensors.

use std::collections::BTreeMap;

use portray::engine::ForwardPart;
use portray::io::{SafeTensors, Tensor, write_safetensors};
use portray::{Error, Result};
use serde_json::json;

use super::args::{ForwardArgs, Global, PartArg};
use super::{files, terminal};

/// Reads, runs, writes.
pub fn run(global: &Global, args: &ForwardArgs) -> Result<()> {
    let part = match args.part {
        PartArg::Text => ForwardPart::Text,
        PartArg::Unet => ForwardPart::Unet,
        PartArg::VaeEncode => ForwardPart::VaeEncode,
        PartArg::VaeDecode => ForwardPart::VaeDecode,
    };
    if !args.prompt.is_empty() && part != ForwardPart::Text {
        return Err(Error::Usage("--prompt goes with `forward text` only".into()));
    }
    files::check_file(&args.out, args.force)?;
    let input = args.input.as_ref().map(SafeTensors::open).transpose()?;
    let engine = super::open(global)?;
    let made = engine.forward(part, &args.model, &args.loras, input.as_ref(), &args.prompt);
    let made = pollster::block_on(made)?;
    let tensors: Vec<Tensor<'_>> =
        made.iter().map(|(name, shape, data)| Tensor::f32(name.as_str(), shape, data)).collect();
    write_safetensors(&args.out, &tensors, &BTreeMap::new())?;
    for (name, shape, _) in &made {
        if global.json {
            terminal::tell(json!({"event": "tensor", "name": name, "shape": shape}));
        } else {
            terminal::tell(format!("{name} {shape:?}"));
        }
    }
    Ok(())
}
