//! The parts of a model.

/// A part of a model that holds weights, by the name of its folder in a diffusers model. Error messages and the keys of
/// LoRA files have the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(&'static str);

impl PartId {
    /// The text encoder, or the first of two. Its tensors are named with the prefix `text_model.`, whatever the file does.
    pub const TEXT_ENCODER: PartId = PartId("text_encoder");
    /// The second text encoder, named as the first.
    pub const TEXT_ENCODER_2: PartId = PartId("text_encoder_2");
    /// The denoising UNet.
    pub const UNET: PartId = PartId("unet");
    /// The autoencoder.
    pub const VAE: PartId = PartId("vae");
    /// Every part that a model can have.
    pub const ALL: [PartId; 4] = [PartId::TEXT_ENCODER, PartId::TEXT_ENCODER_2, PartId::UNET, PartId::VAE];
    /// The parts that a LoRA can change.
    pub const ADAPTED: [PartId; 3] = [PartId::UNET, PartId::TEXT_ENCODER, PartId::TEXT_ENCODER_2];

    /// Returns the name of its folder.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Returns the part of that name.
    pub fn from_name(name: &str) -> Option<PartId> {
        PartId::ALL.into_iter().find(|part| part.0 == name)
    }

    /// Returns whether it is a text encoder.
    pub fn is_text_encoder(self) -> bool {
        self.0.starts_with("text_encoder")
    }

    /// Stem of the weight file in diffusers and transformers.
    pub fn stem(self) -> &'static str {
        if self.is_text_encoder() { "model" } else { "diffusion_pytorch_model" }
    }
}

impl std::fmt::Display for PartId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
