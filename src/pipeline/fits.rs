//! Whether the parts of a model fit each other.

use crate::error::{Error, Result};
use crate::family::{TAKES, by_input_channels};
use crate::models::{UnetConfig, VaeConfig};

use super::text::TextModel;

/// Refuses a UNet that reads or gives something else than the latents of `vae`, and an autoencoder of other than images.
pub(super) fn check_channels(name: &str, unet: &UnetConfig, vae: &VaeConfig) -> Result<()> {
    let latent = vae.latent_channels;
    if unet.in_channels != latent && !unet.inpaints(latent) {
        let what = by_input_channels(unet.in_channels, latent);
        return Err(Error::file(name, format!("is {what}; {TAKES}")));
    }
    if unet.out_channels != latent {
        let message = format!("the UNet gives {} channels, a latent has {latent}", unet.out_channels);
        return Err(Error::file(name, format!("{message}; {TAKES}")));
    }
    match (vae.in_channels, vae.out_channels) {
        (3, 3) => Ok(()),
        (read, given) => {
            let message = format!("the autoencoder reads {read} channels and gives {given}, an image has 3");
            Err(Error::file(name, format!("{message}; {TAKES}")))
        }
    }
}

/// Refuses text encoders that do not fit their tokenizers, each other, or the UNet.
pub(super) fn check_texts(name: &str, texts: &[TextModel], unet: &UnetConfig) -> Result<()> {
    let refuse = |message: String| Err(Error::file(name, format!("{message}: parts of different models")));
    let length = texts.first().map_or(0, |text| text.tokenizer.length());
    for TextModel { place, config, tokenizer } in texts {
        let (given, taken, part) = (tokenizer.length(), config.max_position_embeddings, place.part);
        if given > taken {
            return refuse(format!("the tokenizer gives {given} tokens a prompt, the text encoder takes {taken}"));
        }
        if given != length {
            return refuse(format!("{} gives {given} tokens a prompt, tokenizer {length}", place.tokenizer));
        }
        if let Some(skipped) = place.skip.filter(|skipped| config.num_hidden_layers < *skipped) {
            return refuse(format!("{part} has {} layers, {skipped} are left out", config.num_hidden_layers));
        }
        let rows = config.vocab_size;
        if let Some(id) = tokenizer.ends().into_iter().find(|&id| id as usize >= rows) {
            return refuse(format!(
                "the tokenizer gives token {id}, the text encoder knows {rows} (0 to {})",
                rows - 1
            ));
        }
    }
    let given: usize = texts.iter().map(|text| text.config.hidden_size).sum();
    let reads = (0..unet.block_out_channels.len()).map(|i| unet.cross_attention_dim.get(i));
    if let Some(taken) = reads.into_iter().find(|taken| *taken != given) {
        let whose = if texts.len() == 1 { "the text encoder gives" } else { "the text encoders give" };
        return refuse(format!("{whose} {given} columns, the UNet reads {taken}"));
    }
    let pooled = texts.iter().find_map(TextModel::pooled_width);
    match (pooled, unet.added().map(|added| added.pooled)) {
        (given, taken) if given == taken => Ok(()),
        (Some(given), Some(taken)) => {
            refuse(format!("the text encoder gives a pooled embedding of {given} columns, the UNet reads {taken}"))
        }
        (None, _) if texts.iter().any(|text| text.place.pooled) => {
            let part = texts.iter().find(|text| text.place.pooled).map_or("", |text| text.place.part.name());
            refuse(format!("{part} has no text projection (CLIPTextModelWithProjection), which the UNet reads"))
        }
        (None, _) => refuse("the UNet reads a pooled embedding, which its text encoder does not give".into()),
        (Some(_), None) => refuse("the UNet reads no pooled embedding and no sizes (addition_embed_type)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_must_pass_on_latents_and_pictures() {
        let unet = |fields: &str| UnetConfig::parse("u", &format!("{{{fields}}}")).expect("a UNet");
        let vae = |fields: &str| {
            VaeConfig::parse("v", &format!("{{\"norm_num_groups\": 32{fields}}}")).expect("an autoencoder")
        };
        let check = |u: &str, v: &str| check_channels("m", &unet(u), &vae(v)).map_err(|e| e.to_string());
        assert_eq!(check("", ""), Ok(()));
        assert_eq!(check(r#""in_channels": 9"#, ""), Ok(()));
        assert_eq!(check(r#""in_channels": 16, "out_channels": 16"#, r#", "latent_channels": 16"#), Ok(()));
        for (u, v, says) in [
            (
                r#""in_channels": 9"#,
                r#", "latent_channels": 16"#,
                "m: is an inpainting model (its UNet reads 9 channels, not 16)",
            ),
            (r#""in_channels": 8"#, "", "is an InstructPix2Pix model"),
            (r#""in_channels": 5"#, "", "is a depth-to-image model"),
            (r#""in_channels": 7"#, "", "is an upscaler's model"),
            (r#""out_channels": 8"#, "", "the UNet gives 8 channels, a latent has 4"),
            ("", r#", "latent_channels": 16"#, "reads 4 channels, not 16"),
            ("", r#", "out_channels": 4"#, "reads 3 channels and gives 4, an image has 3"),
            ("", r#", "in_channels": 1"#, "reads 1 channels and gives 3, an image has 3"),
        ] {
            let error = check(u, v).expect_err(says);
            assert!(
                error.contains(says) && error.contains("Portray takes Stable Diffusion 1.x, 2.x and XL"),
                "{error}"
            );
        }
    }
}
