//! The miniature Stable Diffusion 2 model inside the binary (feature `bundled`).
//!
//! The architecture of SD 2 at a hundredth of its size: 128x128 images from 4x16x16 latents, v-prediction, CLIP's own
//! byte-pair tokenizer, f16 weights. What it was made from, and under which licences, is in [`NOTICE`].

use super::{Bundle, Source, TokenizerFiles};

/// A file under `assets/model`.
macro_rules! file {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model/", $path))
    };
}

/// The model's files, for [`Checkpoint::embedded`](super::Checkpoint::embedded).
pub static MODEL: Bundle = Bundle {
    name: "bundled",
    model_index: file!("model_index.json"),
    text_encoder: (file!("text_encoder/config.json"), file!("text_encoder/model.safetensors")),
    unet: (file!("unet/config.json"), file!("unet/diffusion_pytorch_model.safetensors")),
    vae: (file!("vae/config.json"), file!("vae/diffusion_pytorch_model.safetensors")),
    scheduler: file!("scheduler/scheduler_config.json"),
    tokenizer: &[
        ("vocab.json", file!("tokenizer/vocab.json")),
        ("merges.txt", file!("tokenizer/merges.txt")),
        ("special_tokens_map.json", file!("tokenizer/special_tokens_map.json")),
        ("tokenizer_config.json", file!("tokenizer/tokenizer_config.json")),
    ],
};

/// CLIP's tokenizer, which every Stable Diffusion 1.x and 2.x model shares, with the padding token `pad`; `name` is
/// what messages call it.
pub fn tokenizer(name: &str, pad: &str) -> TokenizerFiles {
    let shared =
        MODEL.tokenizer.iter().map(|(file, bytes)| (*file, Source::from_static(format!("{name}: {file}"), bytes)));
    TokenizerFiles::clip(name, pad, shared)
}

/// Licences and authors of the works that the model was made from.
pub static NOTICE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/NOTICE"));

#[cfg(test)]
mod tests {
    use super::super::{Checkpoint, ElementType, PartId};

    #[test]
    fn opens_and_holds_half_precision() {
        let model = Checkpoint::embedded(&super::MODEL).unwrap();
        for (part, weights) in model.parts() {
            assert!(weights.iter().all(|t| t.dtype == ElementType::F16), "{part}");
        }
        assert_eq!(model.part(PartId::UNET).unwrap().parameters(), 8_739_076);
        assert_eq!(model.tokenizer().unwrap().pad(), 0);
    }
}
