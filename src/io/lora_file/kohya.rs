//! kohya writes `_` for every dot of a layer's path, though the names hold `_` themselves. A model's own list of
//! layers undoes that; without a model, the names that Stable Diffusion's layers are made of do.

use super::ModuleKey;
use super::original::{UNET_ROOTS, canonical, is_original};
use crate::io::checkpoints::Names;
use crate::io::{ModelModules, PartId};

/// The words of UNet and text encoder paths, a longer one before its own beginning.
const WORDS: [&str; 59] = [
    "down_blocks",
    "up_blocks",
    "mid_block",
    "attentions",
    "resnets",
    "transformer_blocks",
    "attn1",
    "attn2",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "ff",
    "net",
    "proj_in",
    "proj_out",
    "proj",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "conv1",
    "conv2",
    "conv",
    "time_emb_proj",
    "time_embedding",
    "add_embedding",
    "text_projection",
    "linear_1",
    "linear_2",
    "downsamplers",
    "upsamplers",
    "text_model",
    "encoder",
    "layers",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "mlp",
    "norm",
    "norm1",
    "norm2",
    "norm3",
    "conv_norm_out",
    "layer_norm1",
    "layer_norm2",
    "final_layer_norm",
    // The original code's.
    "input_blocks",
    "middle_block",
    "output_blocks",
    "in_layers",
    "out_layers",
    "emb_layers",
    "skip_connection",
    "time_embed",
    "label_emb",
    "out",
    "op",
];
const LAST_WORDS: [&str; 2] = ["fc1", "fc2"];

/// Segments that compiling and other wrapping of a PyTorch module leave in its layers' names.
const WRAPPERS: [&str; 3] = ["_orig_mod_", "base_model_model_", "diffusion_model_"];

/// kohya's name for a path.
pub fn mangle(path: &str) -> String {
    path.replace('.', "_")
}

/// The layer that `name` (without `lora_unet_` or `lora_te_`) stands for, by diffusers' names or the original code's.
pub fn unmangle(name: &str, part: PartId, model: Option<&ModelModules>, originals: &Names) -> Option<ModuleKey> {
    let name = WRAPPERS.iter().fold(name.to_owned(), |name, wrapper| name.replace(wrapper, ""));
    let name = name.as_str();
    let of_model = model.and_then(|model| {
        let mut paths = model.of(part).map(|(path, _)| path);
        paths.find(|path| path.len() == name.len() && mangle(path) == name).cloned()
    });
    let path = of_model.or_else(|| words(name).map(|words| words.join(".")))?;
    let path = if part == PartId::UNET && is_original(&path) { canonical(originals, &path)? } else { path };
    let root = path.split('.').next().unwrap_or_default();
    let belongs = match part {
        PartId::UNET => UNET_ROOTS.contains(&root),
        _ => root == "text_model" || path == "text_projection",
    };
    belongs.then_some(ModuleKey { part, path })
}

/// Splits into known words and numbers, the longest that ends where a word can end.
fn words(name: &str) -> Option<Vec<&str>> {
    let mut all = Vec::new();
    let mut rest = Some(name);
    while let Some(text) = rest {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let known = WORDS.iter().chain(&LAST_WORDS).filter(|word| text.starts_with(**word)).map(|word| word.len());
        let ends = |&length: &usize| length > 0 && matches!(text.as_bytes().get(length), None | Some(b'_'));
        let length = known.chain([digits]).filter(ends).max()?;
        all.push(text.get(..length)?);
        rest = text.get(length + 1..);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmangle_alone(name: &str, part: PartId) -> Option<String> {
        unmangle(name, part, None, &crate::family::lora::original_names(None, std::iter::empty())).map(|m| m.path)
    }

    #[test]
    fn original_names_are_found_flattened() {
        for (name, path) in [
            (
                "input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            ),
            ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
            ("middle_block_2_in_layers_2", "mid_block.resnets.1.conv1"),
            ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
            ("output_blocks_11_0_skip_connection", "up_blocks.3.resnets.2.conv_shortcut"),
            ("output_blocks_5_0_emb_layers_1", "up_blocks.1.resnets.2.time_emb_proj"),
            ("time_embed_2", "time_embedding.linear_2"),
            ("input_blocks_0_0", "conv_in"),
            ("out_2", "conv_out"),
        ] {
            assert_eq!(unmangle_alone(name, PartId::UNET).as_deref(), Some(path), "{name}");
        }
    }

    #[test]
    fn names_come_back_without_a_model() {
        for path in [
            "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
            "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
            "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2",
            "up_blocks.3.resnets.2.conv_shortcut",
            "up_blocks.3.resnets.10.time_emb_proj",
            "mid_block.attentions.0.proj_in",
            "down_blocks.0.downsamplers.0.conv",
            "time_embedding.linear_1",
            "conv_in",
        ] {
            assert_eq!(unmangle_alone(&mangle(path), PartId::UNET).as_deref(), Some(path));
        }
        let path = "text_model.encoder.layers.11.mlp.fc2";
        assert_eq!(unmangle_alone(&mangle(path), PartId::TEXT_ENCODER).as_deref(), Some(path));
        for name in ["", "_", "input_blocks_3_1_proj_in", "down_blocks_", "down_blocks_0_nonsense", "é", "text_model_x"]
        {
            assert_eq!(unmangle_alone(name, PartId::UNET), None, "{name}");
        }
        let wrapped = "_orig_mod_down_blocks_0_attentions_1__orig_mod_proj_in";
        assert_eq!(unmangle_alone(wrapped, PartId::UNET).as_deref(), Some("down_blocks.0.attentions.1.proj_in"));
    }

    #[test]
    fn a_models_own_names_come_first() {
        let unet = [("mid_block.a_b.c".to_owned(), vec![1, 1])].into();
        let model = ModelModules { layers: [(PartId::UNET, unet)].into(), ..Default::default() };
        let originals = crate::family::lora::original_names(None, std::iter::empty());
        let path = |model| unmangle("mid_block_a_b_c", PartId::UNET, model, &originals).map(|m| m.path);
        assert_eq!(path(Some(&model)).as_deref(), Some("mid_block.a_b.c"));
        assert_eq!(path(None), None);
    }
}
