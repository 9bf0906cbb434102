//! A model as part of the binary.

/// A model inside the binary: the texts and bytes of a diffusers folder's files.
#[derive(Clone, Copy, Debug)]
pub struct Bundle {
    /// Name of the model in messages and image files.
    pub name: &'static str,
    /// `model_index.json`.
    pub model_index: &'static [u8],
    /// `text_encoder/config.json` and `model.safetensors`.
    pub text_encoder: (&'static [u8], &'static [u8]),
    /// `unet/config.json` and `diffusion_pytorch_model.safetensors`.
    pub unet: (&'static [u8], &'static [u8]),
    /// `vae/config.json` and `diffusion_pytorch_model.safetensors`.
    pub vae: (&'static [u8], &'static [u8]),
    /// `scheduler/scheduler_config.json`.
    pub scheduler: &'static [u8],
    /// Files of `tokenizer/`, by name.
    pub tokenizer: &'static [(&'static str, &'static [u8])],
}
