//! The original code's names of the UNet that a LoRA is for.

use std::collections::BTreeSet;

use crate::family::single_file::Structure;
use crate::io::checkpoints::Names;
use crate::io::{LoraFile, ModelModules, PartId};

/// Resolutions of a UNet: in Stable Diffusion 1.x and 2.x, and in XL.
const USUAL: usize = 4;
const XL: usize = 3;

/// Residual blocks of a resolution: in every published model that kohya's scripts know, and in miniatures.
const LAYERS: usize = 2;
const FEW_LAYERS: usize = 1;

/// Parts of keys that only LoRAs of Stable Diffusion XL have.
const XL_MARKS: [&str; 6] =
    ["lora_te2_", "text_encoder_2.", "clip_g.", "transformer_blocks.1.", "transformer_blocks_1_", "label_emb"];

/// Parts of keys of a UNet that attends in its first blocks on the way up: XL's and small ones, which have as many resolutions.
const THREE_MARKS: [&str; 2] = ["output_blocks.0.1.", "output_blocks_0_1_"];

/// Parts of keys that only LoRAs of one residual block a resolution have: of two, the third input block is a convolution.
const FEW_LAYERS_MARKS: [&str; 2] = ["input_blocks.3.1.", "input_blocks_3_1_"];

/// The original code's names of the UNet of `model`; without one, or with one of another family, of the UNet that a LoRA with
/// `keys` can be for.
pub(crate) fn original_names<'k>(model: Option<&ModelModules>, keys: impl Iterator<Item = &'k str> + Clone) -> Names {
    let has = |marks: &[&str]| keys.clone().any(|key| marks.iter().any(|mark| key.contains(mark)));
    let of_xl = has(&XL_MARKS);
    let model = model.filter(|model| !of_xl || model.layers.contains_key(&PartId::TEXT_ENCODER_2));
    let numbers = |prefix: &str| {
        let paths = model.into_iter().flat_map(|model| model.of(PartId::UNET));
        let number = |path: &String| path.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        paths.filter_map(|(path, _)| number(path)).max().map(|last| last + 1)
    };
    let blocks = numbers("down_blocks.").unwrap_or_else(|| if of_xl || has(&THREE_MARKS) { XL } else { USUAL });
    let layers = numbers("down_blocks.0.resnets.");
    let layers = layers.unwrap_or_else(|| if has(&FEW_LAYERS_MARKS) { FEW_LAYERS } else { LAYERS });
    let attends = |block: &usize| {
        let start = format!("up_blocks.{block}.att");
        model.is_some_and(|model| model.of(PartId::UNET).any(|(path, _)| path.starts_with(&start)))
    };
    let plain = match model {
        Some(_) => (0..blocks).take_while(|block| !attends(block)).count(),
        None => blocks.saturating_sub(XL),
    };
    unet_names([blocks, layers], plain)
}

/// The original code's names of the UNet of Stable Diffusion XL that `lora` is for.
pub(super) fn names_of_xl(lora: &LoraFile) -> Names {
    // The numbers of the layers within their blocks, on one way.
    let numbers = |way: &str| -> BTreeSet<usize> {
        let number = |path: &str| path.strip_prefix(way)?.split('.').nth(2)?.parse().ok();
        lora.layers().into_iter().filter(|key| key.part == PartId::UNET).filter_map(|key| number(&key.path)).collect()
    };
    // There is one layer more on the way up.
    let few =
        numbers("down_blocks.").into_iter().eq(0..FEW_LAYERS) && numbers("up_blocks.").into_iter().eq(0..=FEW_LAYERS);
    unet_names([XL, if few { FEW_LAYERS } else { LAYERS }], 0)
}

fn unet_names([blocks, layers]: [usize; 2], plain: usize) -> Names {
    let structure = Structure {
        unet_blocks: blocks,
        unet_layers: layers,
        unet_plain: plain,
        vae_blocks: 0,
        vae_layers: 0,
        texts: Vec::new(),
    };
    Names::new(PartId::UNET, &structure)
}
