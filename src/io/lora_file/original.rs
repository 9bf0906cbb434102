//! Layers under the names of the original code (CompVis and Stability AI), `input_blocks.1.1.proj_in`, which ComfyUI
//! and OneTrainer write, and kohya's files flattened: where they are in a diffusers model depends on how many residual
//! blocks a resolution has.

use crate::io::checkpoints::Names;

/// Beginnings of the paths of the UNet's original modules.
pub const ROOTS: [&str; 6] = ["input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"];

/// Beginnings of the paths of its modules in diffusers.
pub const UNET_ROOTS: [&str; 8] = [
    "down_blocks",
    "mid_block",
    "up_blocks",
    "conv_in",
    "conv_out",
    "time_embedding",
    "add_embedding",
    "conv_norm_out",
];

/// The path in diffusers of what the original code calls `path`, by the table `names` of the UNet.
pub fn canonical(names: &Names, path: &str) -> Option<String> {
    let found = names.canonical(&format!("{}{path}", names.prefix()));
    found.into_iter().next().map(|(path, _)| path)
}

/// Returns whether `path` is one of the original code.
pub fn is_original(path: &str) -> bool {
    ROOTS.contains(&path.split('.').next().unwrap_or_default())
}
