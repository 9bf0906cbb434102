//! kohya writes `_` for every dot of a layer's path, though the names hold `_` themselves. A model's own list of
//! layers undoes that; without a model, the names that Stable Diffusion's layers are made of do.

use super::ModuleKey;
use crate::io::{ModelModules, Part};

/// The words of UNet and text encoder paths, a longer one before its own beginning.
const WORDS: [&str; 38] = [
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
];
const LAST_WORDS: [&str; 2] = ["fc1", "fc2"];

/// kohya's name for a path.
pub fn mangle(path: &str) -> String {
    path.replace('.', "_")
}

/// The layer that `name` (without `lora_unet_` or `lora_te_`) stands for.
pub fn unmangle(name: &str, part: Part, model: Option<&ModelModules>) -> Option<ModuleKey> {
    let of_model = model.and_then(|model| {
        let paths = if part == Part::Unet { &model.unet } else { &model.text_encoder };
        paths.keys().find(|path| path.len() == name.len() && mangle(path) == name).cloned()
    });
    let path = of_model.or_else(|| words(name).map(|words| words.join(".")))?;
    let root = path.split('.').next().unwrap_or_default();
    let belongs = match part {
        Part::Unet => {
            ["down_blocks", "up_blocks", "mid_block", "conv_in", "conv_out", "time_embedding"].contains(&root)
        }
        _ => root == "text_model",
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
            assert_eq!(unmangle(&mangle(path), Part::Unet, None).map(|m| m.path).as_deref(), Some(path));
        }
        let path = "text_model.encoder.layers.11.mlp.fc2";
        assert_eq!(unmangle(&mangle(path), Part::TextEncoder, None).map(|m| m.path).as_deref(), Some(path));
        for name in ["", "_", "input_blocks_4_1_proj_in", "down_blocks_", "down_blocks_0_nonsense", "é", "text_model_x"]
        {
            assert_eq!(unmangle(name, Part::Unet, None), None, "{name}");
        }
    }

    #[test]
    fn a_models_own_names_come_first() {
        let unet = [("mid_block.a_b.c".to_owned(), vec![1, 1])].into();
        let model = ModelModules { unet, ..Default::default() };
        let path = |model| unmangle("mid_block_a_b_c", Part::Unet, model).map(|m| m.path);
        assert_eq!(path(Some(&model)).as_deref(), Some("mid_block.a_b.c"));
        assert_eq!(path(None), None);
    }
}
