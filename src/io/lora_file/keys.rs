//! What a key of a LoRA file says: which layer, and which of its tensors.

use super::{ModuleKey, kohya};
use crate::io::{ModelModules, Part};

/// Which tensor of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Down,
    Up,
    Alpha,
}

/// A key, understood or not.
#[derive(Debug, PartialEq)]
pub enum Key {
    Known {
        module: ModuleKey,
        role: Role,
        layout: char,
    },
    /// A kind of adapter that this program does not apply.
    Refused(&'static str),
    /// A layer no SD 1.x or 2.x model has, or no LoRA at all.
    Foreign,
}

/// Adapters other than plain LoRA, by what their keys contain.
const REFUSED: [(&str, &str); 11] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("lora_mid", "LoCon with a third factor (lora_mid)"),
    (".diff", "weight-difference (.diff)"),
    ("oft_", "OFT"),
    ("lora_embedding_", "embedding LoRA"),
    ("lora_B.bias", "LoRA with bias"),
    ("lora_up.bias", "LoRA with bias"),
    ("modules_to_save", "LoRA with whole layers (modules_to_save)"),
];

/// Reads `key`. `lone` is the part that keys without a part's name belong to; `model` gives the layer names with which
/// kohya's are told apart.
pub fn parse(key: &str, lone: Option<Part>, model: Option<&ModelModules>) -> Key {
    if let Some((_, kind)) = REFUSED.iter().find(|(mark, _)| key.contains(mark)) {
        return Key::Refused(kind);
    }
    let Some((stem, role, style)) = split_role(key) else { return Key::Foreign };
    let (module, layout) = if let Some(name) = stem.strip_prefix("lora_unet_") {
        (kohya::unmangle(name, Part::Unet, model), 'E')
    } else if let Some(name) = stem.strip_prefix("lora_te_").or_else(|| stem.strip_prefix("lora_te1_")) {
        (kohya::unmangle(name, Part::TextEncoder, model), 'E')
    } else {
        let (peft, stem) = stem.strip_prefix("base_model.model.").map_or((false, stem), |rest| (true, rest));
        (dotted(stem, lone), if peft { 'D' } else { style })
    };
    module.map_or(Key::Foreign, |module| Key::Known { module, role, layout })
}

/// The key without its ending, what the ending says, and the layout it is from.
fn split_role(key: &str) -> Option<(&str, Role, char)> {
    const ENDINGS: [(&str, Role, char); 9] = [
        (".lora_linear_layer.down.weight", Role::Down, 'B'),
        (".lora_linear_layer.up.weight", Role::Up, 'B'),
        (".lora.down.weight", Role::Down, 'B'),
        (".lora.up.weight", Role::Up, 'B'),
        ("_lora.down.weight", Role::Down, 'A'),
        ("_lora.up.weight", Role::Up, 'A'),
        (".lora_down.weight", Role::Down, 'E'),
        (".lora_up.weight", Role::Up, 'E'),
        (".alpha", Role::Alpha, 'E'),
    ];
    let plain = ENDINGS.iter().find_map(|&(ending, role, layout)| Some((key.strip_suffix(ending)?, role, layout)));
    if let Some((stem, Role::Alpha, layout)) = plain {
        let stem =
            ["_lora", ".lora", ".lora_linear_layer"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
        return Some((stem, Role::Alpha, layout));
    }
    // PEFT puts the adapter's name between, where it is not saved by PEFT's own function.
    plain.or_else(|| {
        let stem = key.strip_suffix(".weight")?;
        let at = |mark: &str| stem.rfind(mark).filter(|&i| !stem[i + 1..].trim_start_matches("lora_").contains("lora"));
        let ends = |mark: &str| {
            let i = at(mark)?;
            let adapter = &stem[i + mark.len()..];
            (adapter.is_empty() || (adapter.starts_with('.') && !adapter[1..].contains('.'))).then_some(&stem[..i])
        };
        let down = ends(".lora_A").map(|stem| (stem, Role::Down, 'C'));
        down.or_else(|| ends(".lora_B").map(|stem| (stem, Role::Up, 'C')))
    })
}

/// The module of a stem written with dots.
fn dotted(stem: &str, lone: Option<Part>) -> Option<ModuleKey> {
    const UNET_ROOTS: [&str; 6] =
        ["down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding."];
    let (part, path) = if let Some(path) = stem.strip_prefix("unet.") {
        (Part::Unet, path)
    } else if let Some(path) = stem.strip_prefix("text_encoder.") {
        (Part::TextEncoder, path)
    } else if stem.starts_with("text_model.") {
        (Part::TextEncoder, stem)
    } else if UNET_ROOTS.iter().any(|root| stem.starts_with(root)) {
        (Part::Unet, stem)
    } else {
        (lone?, stem)
    };
    let mut path = path.replace(".processor.", ".");
    if let Some((block, leaf)) = path.rsplit_once('.') {
        let renamed = match (part, leaf) {
            (Part::Unet, "to_out") => "to_out.0",
            (Part::TextEncoder, "to_q") => "q_proj",
            (Part::TextEncoder, "to_k") => "k_proj",
            (Part::TextEncoder, "to_v") => "v_proj",
            (Part::TextEncoder, "to_out") => "out_proj",
            (_, other) => other,
        };
        path = format!("{block}.{renamed}");
    }
    if part == Part::TextEncoder && !path.starts_with("text_model.") {
        path.insert_str(0, "text_model.");
    }
    Some(ModuleKey { part, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(key: &str, lone: Option<Part>) -> (String, Role, char) {
        match parse(key, lone, None) {
            Key::Known { module, role, layout } => (module.to_string(), role, layout),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn every_layout_names_the_same_layer() {
        let block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";
        let q = format!("unet.{block}.to_q");
        let out = format!("unet.{block}.to_out.0");
        for (key, module, role, layout) in [
            (format!("unet.{block}.processor.to_q_lora.down.weight"), &q, Role::Down, 'A'),
            (format!("{block}.processor.to_q_lora.up.weight"), &q, Role::Up, 'A'),
            (format!("unet.{block}.processor.to_out_lora.up.weight"), &out, Role::Up, 'A'),
            (format!("unet.{block}.to_q.lora.down.weight"), &q, Role::Down, 'B'),
            (format!("unet.{block}.to_out.0.lora.up.weight"), &out, Role::Up, 'B'),
            (format!("unet.{block}.to_q.lora_A.weight"), &q, Role::Down, 'C'),
            (format!("unet.{block}.to_q.lora_B.default_0.weight"), &q, Role::Up, 'C'),
            (format!("base_model.model.{block}.to_out.0.lora_B.weight"), &out, Role::Up, 'D'),
            (format!("lora_unet_{}_to_out_0.lora_up.weight", block.replace('.', "_")), &out, Role::Up, 'E'),
            (format!("lora_unet_{}_to_q.alpha", block.replace('.', "_")), &q, Role::Alpha, 'E'),
        ] {
            assert_eq!(known(&key, None), (module.clone(), role, layout), "{key}");
        }
        let layer = "text_model.encoder.layers.3.self_attn";
        let (q, out) = (format!("text_encoder.{layer}.q_proj"), format!("text_encoder.{layer}.out_proj"));
        for (key, module, role, layout) in [
            (format!("text_encoder.{layer}.to_q_lora.down.weight"), &q, Role::Down, 'A'),
            (format!("text_encoder.{layer}.to_out_lora.up.weight"), &out, Role::Up, 'A'),
            (format!("text_encoder.{layer}.q_proj.lora_linear_layer.down.weight"), &q, Role::Down, 'B'),
            ("text_encoder.encoder.layers.3.self_attn.q_proj.lora_A.weight".into(), &q, Role::Down, 'C'),
            (format!("base_model.model.{layer}.out_proj.lora_B.weight"), &out, Role::Up, 'D'),
            ("lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight".into(), &q, Role::Down, 'E'),
            ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj.alpha".into(), &q, Role::Alpha, 'E'),
        ] {
            assert_eq!(known(&key, None), (module.clone(), role, layout), "{key}");
        }
        let flat = "base_model.model.encoder.layers.3.self_attn.q_proj.lora_A.weight";
        assert_eq!(known(flat, Some(Part::TextEncoder)), (q, Role::Down, 'D'));
    }

    #[test]
    fn others_are_refused_or_foreign() {
        for (key, kind) in [
            ("lora_unet_x.dora_scale", "DoRA"),
            ("lora_unet_x.hada_w1_a", "LoHa"),
            ("lora_unet_x.lokr_w1", "LoKr"),
            ("lora_unet_x.diff_b", "weight-difference (.diff)"),
            ("lora_unet_x.lora_mid.weight", "LoCon with a third factor (lora_mid)"),
        ] {
            assert_eq!(parse(key, None, None), Key::Refused(kind));
        }
        for key in [
            "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
            "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "down_blocks.0.resnets.0.conv1.weight",
            "",
            ".alpha",
            ".lora_A.weight",
        ] {
            assert_eq!(parse(key, None, None), Key::Foreign, "{key}");
        }
    }
}
