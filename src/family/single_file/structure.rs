//! Counts that names depend on, read off the names themselves.

use super::names::{Structure, TextNames, UNET, VAE};
use crate::error::{Error, Result};
use crate::family::description::TextFlavour;
use crate::io::SafeTensors;

/// Counts what names depend on.
pub fn structure(file: &SafeTensors, texts: Vec<TextNames>) -> Result<Structure> {
    let Structure { vae_blocks, vae_layers, .. } = vae(file, VAE);
    Ok(Structure { vae_blocks, vae_layers, texts, ..unet(file, UNET)? })
}

/// Counts what the names of an autoencoder behind `prefix` depend on.
pub fn vae(file: &SafeTensors, prefix: &str) -> Structure {
    Structure {
        vae_blocks: count(file.names(), &format!("{prefix}encoder.down.")),
        vae_layers: count(file.names(), &format!("{prefix}encoder.down.0.block.")),
        ..Structure::default()
    }
}

/// Counts what the names of a UNet behind `prefix` depend on.
pub fn unet(file: &SafeTensors, prefix: &str) -> Result<Structure> {
    let inputs = count(file.names(), &format!("{prefix}input_blocks."));
    let is_down = |i: &usize| file.contains(&format!("{prefix}input_blocks.{i}.0.op.weight"));
    let downs: Vec<usize> = (0..inputs).filter(is_down).collect();
    let unet_layers = downs.first().map_or(inputs.saturating_sub(1), |first| first.saturating_sub(1));
    let unet_blocks = downs.len() + 1;
    if unet_layers == 0 || inputs != unet_blocks * (unet_layers + 1) {
        let message = format!("has {inputs} input blocks with {} downsamplers: no Stable Diffusion UNet", downs.len());
        return Err(Error::file(file.name(), message));
    }
    let has_attention =
        |block: usize| file.contains(&format!("{prefix}output_blocks.{}.1.proj_in.weight", block * (unet_layers + 1)));
    let unet_plain = (0..unet_blocks).take_while(|&block| !has_attention(block)).count();
    Ok(Structure { unet_blocks, unet_layers, unet_plain, ..Structure::default() })
}

/// Layers of the text encoder whose names begin with `prefix`.
pub fn text_layers(file: &SafeTensors, prefix: &str, flavour: TextFlavour) -> usize {
    let path = match flavour {
        TextFlavour::Clip => "text_model.encoder.layers",
        TextFlavour::BareClip => "encoder.layers",
        TextFlavour::OpenClip => "transformer.resblocks",
    };
    count(file.names(), &format!("{prefix}{path}."))
}

/// One more than the largest number that follows `prefix` in one of `names`.
pub fn count<'n>(names: impl Iterator<Item = &'n str>, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    // A name may hold any number: nothing of the family has more than a few dozen of anything.
    names.filter_map(number).filter(|&n| n < 1000).max().map_or(0, |n| n + 1)
}
