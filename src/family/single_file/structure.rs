//! Counts that names depend on, read off the names themselves.

use super::names::{Structure, TextNames, UNET, VAE};
use crate::error::{Error, Result};
use crate::family::description::TextFlavour;
use crate::io::SafeTensors;

/// Counts what names depend on.
pub fn structure(file: &SafeTensors, texts: Vec<TextNames>) -> Result<Structure> {
    let unet = UNET;
    let inputs = count(file, &format!("{unet}input_blocks."));
    let is_down = |i: &usize| file.contains(&format!("{unet}input_blocks.{i}.0.op.weight"));
    let downs: Vec<usize> = (0..inputs).filter(is_down).collect();
    let unet_layers = downs.first().map_or(inputs.saturating_sub(1), |first| first.saturating_sub(1));
    let unet_blocks = downs.len() + 1;
    if unet_layers == 0 || inputs != unet_blocks * (unet_layers + 1) {
        let message = format!("has {inputs} input blocks with {} downsamplers: no Stable Diffusion UNet", downs.len());
        return Err(Error::file(file.name(), message));
    }
    let has_attention =
        |block: usize| file.contains(&format!("{unet}output_blocks.{}.1.proj_in.weight", block * (unet_layers + 1)));
    let unet_plain = (0..unet_blocks).take_while(|&block| !has_attention(block)).count();
    Ok(Structure {
        unet_blocks,
        unet_layers,
        unet_plain,
        vae_blocks: count(file, &format!("{VAE}encoder.down.")),
        vae_layers: count(file, &format!("{VAE}encoder.down.0.block.")),
        texts,
    })
}

/// Layers of the text encoder whose names begin with `prefix`.
pub fn text_layers(file: &SafeTensors, prefix: &str, flavour: TextFlavour) -> usize {
    let path = match flavour {
        TextFlavour::Clip => "text_model.encoder.layers",
        TextFlavour::BareClip => "encoder.layers",
        TextFlavour::OpenClip => "transformer.resblocks",
    };
    count(file, &format!("{prefix}{path}."))
}

/// One more than the largest number that follows `prefix` in a tensor's name.
fn count(file: &SafeTensors, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    // A name may hold any number: nothing of the family has more than a few dozen of anything.
    file.names().filter_map(number).filter(|&n| n < 1000).max().map_or(0, |n| n + 1)
}
