//! The parts of a model.

/// The parts of a model that hold weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// CLIP's text encoder. Its tensors are named with the prefix `text_model.`, whatever the file does.
    TextEncoder,
    /// The denoising UNet.
    Unet,
    /// The autoencoder.
    Vae,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::TextEncoder, Part::Unet, Part::Vae];

    /// The part's folder, which is also its name in error messages and in the keys of LoRA files.
    pub fn name(self) -> &'static str {
        match self {
            Part::TextEncoder => "text_encoder",
            Part::Unet => "unet",
            Part::Vae => "vae",
        }
    }

    /// Stem of the weight file in diffusers and transformers.
    pub(in crate::io) fn stem(self) -> &'static str {
        if self == Part::TextEncoder { "model" } else { "diffusion_pytorch_model" }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
