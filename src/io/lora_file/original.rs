//! Layers under the names of the original code (CompVis and Stability AI), `input_blocks.1.1.proj_in`, which ComfyUI
//! and OneTrainer write, and some kohya files flattened: where they are in a diffusers model depends on how many
//! residual blocks a resolution has.

use crate::io::checkpoints::original::{Names, Structure, TextFlavour};
use crate::io::{ModelModules, Part};

/// Beginnings of the paths of the UNet's original modules.
pub const ROOTS: [&str; 5] = ["input_blocks", "middle_block", "output_blocks", "time_embed", "out"];

/// Stable Diffusion's resolutions, and the residual blocks of each.
const STABLE_DIFFUSION: [usize; 2] = [4, 2];

/// The original names of one model's UNet.
pub struct OriginalNames(Names);

impl OriginalNames {
    /// The names in `model`; without one, those in the model that a LoRA with `keys` can be for.
    pub fn new<'k>(model: Option<&ModelModules>, mut keys: impl Iterator<Item = &'k str>) -> OriginalNames {
        let numbers = |prefix: &str| {
            let paths = model.into_iter().flat_map(|model| model.unet.keys());
            let after = paths.filter_map(|path| path.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok());
            after.max().map(|last| last + 1)
        };
        let [mut blocks, mut layers] = STABLE_DIFFUSION;
        match (numbers("down_blocks."), numbers("down_blocks.0.resnets.")) {
            (Some(b), Some(l)) => [blocks, layers] = [b, l],
            // With two residual blocks the third input block is a convolution.
            _ if keys.any(|key| key.contains("input_blocks.3.1.") || key.contains("input_blocks_3_1_")) => layers = 1,
            _ => {}
        }
        let attention =
            |i: &usize| model.is_some_and(|m| m.unet.keys().any(|k| k.starts_with(&format!("up_blocks.{i}.att"))));
        let plain = if model.is_some() { (0..blocks).take_while(|i| !attention(i)).count() } else { 1 };
        let structure = Structure {
            unet_blocks: blocks,
            unet_layers: layers,
            unet_plain: plain,
            vae_blocks: 0,
            vae_layers: 0,
            text: TextFlavour::Clip,
            text_layers: 0,
        };
        OriginalNames(Names::new(Part::Unet, &structure))
    }

    /// The path in diffusers of what the original code calls `path`.
    pub fn path(&self, path: &str) -> Option<String> {
        let found = self.0.canonical(&format!("model.diffusion_model.{path}"));
        found.into_iter().next().map(|(path, _)| path)
    }
}

/// Returns whether `path` is one of the original code.
pub fn is_original(path: &str) -> bool {
    ROOTS.contains(&path.split('.').next().unwrap_or_default())
}
