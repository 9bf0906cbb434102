//! Names that wrappers leave in saved weights: torch.compile's `_orig_mod`, DataParallel's `module`, PEFT's
//! `base_layer`, and whatever a training script called the attribute that held the model.

use std::collections::HashMap;

use super::PartId;
use crate::error::Result;
use crate::io::SafeTensors;

/// Segments that no model has and wrappers put anywhere.
const ANYWHERE: [&str; 5] = ["_orig_mod", "module", "base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Segments in front of a model's own names.
const IN_FRONT: [&str; 12] = [
    "model",
    "base_model",
    "state_dict",
    "model_state_dict",
    "ema",
    "ema_model",
    "model_ema",
    "averaged_model",
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
];

/// Beginnings of names in a single file.
pub const SINGLE_FILE: [&str; 4] =
    ["model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."];

/// Places of a single file's text encoder in various tools, and in the original.
const TEXT: [(&str, &str); 3] = [
    ("cond_stage_model.text_model.", "cond_stage_model.transformer.text_model."),
    ("cond_stage_model.clip_l.transformer.", "cond_stage_model.transformer."),
    ("cond_stage_model.clip_h.transformer.", "cond_stage_model.transformer."),
];

/// Beginnings of the names of a part.
pub fn roots(part: PartId) -> &'static [&'static str] {
    match part {
        PartId::VAE => &["encoder.", "decoder.", "quant_conv.", "post_quant_conv."],
        _ if part.is_text_encoder() => {
            &["text_model.", "embeddings.", "encoder.", "final_layer_norm.", "text_projection."]
        }
        _ => &[
            "conv_in.",
            "conv_out.",
            "conv_norm_out.",
            "time_embedding.",
            "add_embedding.",
            "down_blocks.",
            "mid_block.",
            "up_blocks.",
        ],
    }
}

/// `stored` without wrappers, as a name that begins with one of `roots` where that is what is left.
fn plain(stored: &str, roots: &[&str]) -> String {
    let inside: Vec<&str> = stored.split('.').filter(|segment| !ANYWHERE.contains(segment)).collect();
    let mut rest = inside.join(".");
    for skip in 0..inside.len() {
        let name = inside[skip..].join(".");
        if roots.iter().any(|root| name.starts_with(root)) {
            rest = name;
            break;
        }
        if !IN_FRONT.contains(&inside[skip]) {
            break;
        }
    }
    let moved = TEXT.iter().find_map(|(from, to)| Some(format!("{to}{}", rest.strip_prefix(from)?)));
    moved.unwrap_or(rest)
}

/// `file` with plain names, and whether any of them is another than the stored one. Where a plain name is there as
/// well, it counts: a running average beside the weights is none of the model.
///
/// # Errors
/// [`Error::File`](crate::Error::File) where two wrapped tensors stand for one.
pub fn unwrap(file: SafeTensors, roots: &[&str]) -> Result<(SafeTensors, bool)> {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut taken: HashMap<String, &str> = HashMap::new();
    for stored in file.names() {
        let name = plain(stored, roots);
        if name == stored || file.contains(&name) {
            continue;
        }
        if let Some(other) = taken.insert(name.clone(), stored) {
            let tensor = file.get(stored)?;
            return Err(tensor.error(format!("stands for '{name}', and so does '{other}': which of them counts?")));
        }
        renamed.insert(stored.to_owned(), name);
    }
    match renamed.is_empty() {
        true => Ok((file, false)),
        false => Ok((file.renamed(|stored| renamed.get(stored).cloned()), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_go_and_names_stay() {
        let unet = |name: &str| plain(name, roots(PartId::UNET));
        for wrapped in ["_orig_mod.conv_in.weight", "module.conv_in.weight", "model.conv_in.weight"] {
            assert_eq!(unet(wrapped), "conv_in.weight");
        }
        for (wrapped, name) in [
            (
                "base_model.model.mid_block.attentions.0.proj_in.base_layer.weight",
                "mid_block.attentions.0.proj_in.weight",
            ),
            ("ema_model.module._orig_mod.up_blocks.0.x", "up_blocks.0.x"),
            ("unet._orig_mod.time_embedding.linear_1.bias", "time_embedding.linear_1.bias"),
            ("vision_model.encoder.layers.0.x", "vision_model.encoder.layers.0.x"),
            ("model.other", "model.other"),
        ] {
            assert_eq!(unet(wrapped), name);
        }
        assert_eq!(plain("vision_model.encoder.x", roots(PartId::TEXT_ENCODER)), "vision_model.encoder.x");
        let single = |name: &str| plain(name, &SINGLE_FILE);
        for name in ["model.diffusion_model.out.2.bias", "first_stage_model.quant_conv.bias"] {
            assert_eq!(single(name), name);
            assert_eq!(single(&format!("state_dict.{name}")), name);
            assert_eq!(single(&format!("_orig_mod.{name}")), name);
        }
        assert_eq!(single("model._orig_mod.diffusion_model.out.2.bias"), "model.diffusion_model.out.2.bias");
        assert_eq!(single("model_ema.diffusion_modelout2bias"), "model_ema.diffusion_modelout2bias");
        assert_eq!(
            single("cond_stage_model.clip_l.transformer.text_model.x"),
            "cond_stage_model.transformer.text_model.x"
        );
    }
}
