//! Models of other families, told by names that only their tensors have, in checkpoints and in LoRA files alike.

/// A mark in a tensor's name, and whose it is.
pub const FAMILIES: [(&str, &str); 16] = [
    ("joint_blocks", "Stable Diffusion 3"),
    ("double_blocks", "Flux"),
    ("single_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("double_stream_blocks", "HiDream"),
    ("add_embedding", "Stable Diffusion XL"),
    ("label_emb", "Stable Diffusion XL"),
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
