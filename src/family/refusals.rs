//! Models of other families, told by names that only their tensors have, in checkpoints and in LoRA files alike.

/// A mark in a tensor's name, and whose it is.
pub const OTHERS: [(&str, &str); 14] = [
    ("joint_blocks", "Stable Diffusion 3"),
    ("double_blocks", "Flux"),
    ("single_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("double_stream_blocks", "HiDream"),
    ("effnet_mapper", "Stable Cascade"),
    ("time_stack", "Stable Video Diffusion"),
    ("temporal_transformer_blocks", "Stable Video Diffusion"),
    ("motion_modules", "AnimateDiff"),
    ("adaln_single", "PixArt"),
    ("caption_projection", "PixArt"),
    ("cap_embedder", "Lumina"),
    ("img_mod", "Qwen-Image"),
    ("self_attn.norm_q", "Wan"),
];

/// The checkpoints that can be used.
pub const TAKES: &str = "Portray takes Stable Diffusion 1.x, 2.x and XL (also their Turbo and other distilled models), as a \
     diffusers folder or as one .safetensors file";

/// The LoRAs that can be used.
pub const TAKES_LORAS: &str = "Portray takes LoRAs of Stable Diffusion 1.x, 2.x and XL";

/// Describes a model whose UNet reads `channels` channels, other than the `latent` ones of Stable Diffusion: something
/// joins the latent.
pub fn by_input_channels(channels: usize, latent: usize) -> String {
    let what = match channels {
        5 => "a depth-to-image",
        7 => "an upscaler's",
        8 => "an InstructPix2Pix",
        9 => "an inpainting",
        _ => "an unknown",
    };
    format!("{what} model (its UNet reads {channels} channels, not {latent})")
}
