//! Keys of LoRA files: which layer they name, and which of its tensors.

use super::layout::{Layout, Role};
use super::original::{ROOTS, UNET_ROOTS, canonical, is_original};
use super::{ModuleKey, kohya};
use crate::io::checkpoints::Names;
use crate::io::{ModelModules, PartId};

/// A key, understood or not.
#[derive(Debug, PartialEq)]
pub enum Key {
    Known {
        module: ModuleKey,
        role: Role,
        layout: Layout,
    },
    /// A kind of adapter that this program does not apply, and why.
    Refused(&'static str),
    /// A layer that no model has, or no LoRA at all.
    Foreign,
}

/// Description of DoRA, and why it is refused.
pub const DORA: &str = "DoRA, which rescales the whole weight beside changing it and so cannot be added to it";

/// Adapters that are not applied, by what their keys contain.
const REFUSED: [(&str, &str); 12] = [
    ("dora_scale", DORA),
    ("lora_magnitude_vector", DORA),
    ("oft_", "an OFT, which is not supported"),
    (".on_input", "an (IA)3, which is not supported"),
    (".scalar", "a LyCORIS file with a scalar of its own, which is not supported"),
    (".a1.weight", "a GLoRA, which is not supported"),
    (".bias_values", "a LoRA with sparse biases, which is not supported"),
    ("set_weight", "a file of whole weights (set_weight), which is not supported"),
    ("lora_embedding_", "an embedding LoRA, which is not supported"),
    ("lora_B.bias", "a LoRA with bias, which is not supported"),
    ("lora_up.bias", "a LoRA with bias, which is not supported"),
    ("modules_to_save", "a LoRA with whole layers (modules_to_save), which is not supported"),
];

/// Returns whether `key` looks like an adapter's, supported or not.
pub fn is_adapter_key(key: &str) -> bool {
    // Not the bare word: tensors of other files are called after LoRAs too.
    let marks = ["lora_", "_lora.", ".lora.", "lycoris_", "hada_w", "lokr_w", "dora_scale"];
    marks.iter().any(|mark| key.contains(mark))
}

/// Reads `key`. `lone` is the part that keys without a part's name belong to; `model` gives the layer names with which
/// kohya's are told apart, `originals` the original code's names of the UNet.
pub fn parse(key: &str, lone: Option<PartId>, model: Option<&ModelModules>, originals: &Names) -> Key {
    if let Some((_, kind)) = REFUSED.iter().find(|(mark, _)| key.contains(mark)) {
        return Key::Refused(kind);
    }
    let Some((stem, role, style)) = split_role(key) else { return Key::Foreign };
    let lycoris = matches!(role, Role::Lycoris(_));
    let (module, layout) = if let Some((part, name)) = without_dots(stem) {
        (kohya::unmangle(name, part, model, originals), Layout::Kohya)
    } else {
        let style = if stem.contains("base_model.model.") { Layout::Peft } else { style };
        dotted(stem, lone, originals)
            .map_or((None, style), |(module, other)| (Some(module), if other { Layout::Original } else { style }))
    };
    module.map_or(Key::Foreign, |module| Key::Known {
        module,
        role,
        layout: if lycoris { Layout::Lycoris } else { layout },
    })
}

/// Part and layer name of a stem that is written without dots. LyCORIS alone, outside kohya's scripts, names no part.
fn without_dots(stem: &str) -> Option<(PartId, &str)> {
    const PREFIXES: [(&str, PartId); 8] = [
        ("lora_unet_", PartId::UNET),
        ("lora_te_", PartId::TEXT_ENCODER),
        ("lora_te1_", PartId::TEXT_ENCODER),
        ("lora_te2_", PartId::TEXT_ENCODER_2),
        ("lycoris_unet_", PartId::UNET),
        ("lycoris_te_", PartId::TEXT_ENCODER),
        ("lycoris_te1_", PartId::TEXT_ENCODER),
        ("lycoris_te2_", PartId::TEXT_ENCODER_2),
    ];
    let named = PREFIXES.iter().find_map(|&(prefix, part)| Some((part, stem.strip_prefix(prefix)?)));
    named.or_else(|| {
        let name = stem.strip_prefix("lycoris_")?;
        Some((if name.starts_with("text_model_") { PartId::TEXT_ENCODER } else { PartId::UNET }, name))
    })
}

/// The key without its ending, what the ending says, and the layout it is from.
fn split_role(key: &str) -> Option<(&str, Role, Layout)> {
    let plain = Layout::ALL.iter().find_map(|&layout| layout.split(key).map(|(stem, role)| (stem, role, layout)));
    if let Some((stem, Role::Alpha, layout)) = plain {
        let stem =
            ["_lora", ".lora", ".lora_linear_layer"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
        return Some((stem, Role::Alpha, layout));
    }
    // PEFT puts the adapter's name between, where it is not saved by PEFT's own function.
    plain.or_else(|| {
        let stem = key.strip_suffix(".weight").unwrap_or(key);
        let at = |mark: &str| stem.rfind(mark).filter(|&i| !stem[i + 1..].trim_start_matches("lora_").contains("lora"));
        let ends = |mark: &str| {
            let i = at(mark)?;
            let adapter = &stem[i + mark.len()..];
            (adapter.is_empty() || (adapter.starts_with('.') && !adapter[1..].contains('.'))).then_some(&stem[..i])
        };
        let down = ends(".lora_A").map(|stem| (stem, Role::Down, Layout::DiffusersPeft));
        down.or_else(|| ends(".lora_B").map(|stem| (stem, Role::Up, Layout::DiffusersPeft)))
    })
}

/// Prefixes of a layer's path: the text, the part it means, and whether only ComfyUI and OneTrainer write it.
const PREFIXES: [(&str, Option<PartId>, bool); 17] = [
    ("base_model.model.", None, false),
    ("unet.", Some(PartId::UNET), false),
    ("text_encoder.", Some(PartId::TEXT_ENCODER), false),
    ("text_encoder_2.", Some(PartId::TEXT_ENCODER_2), false),
    ("diffusion_model.", Some(PartId::UNET), true),
    ("model.diffusion_model.", Some(PartId::UNET), true),
    ("lora_unet.", Some(PartId::UNET), true),
    ("lora_te.", Some(PartId::TEXT_ENCODER), true),
    ("lora_te1.", Some(PartId::TEXT_ENCODER), true),
    ("lora_te2.", Some(PartId::TEXT_ENCODER_2), true),
    ("text_encoders.", None, true),
    ("clip_l.", Some(PartId::TEXT_ENCODER), true),
    ("clip_h.", Some(PartId::TEXT_ENCODER), true),
    ("clip_g.", Some(PartId::TEXT_ENCODER_2), true),
    ("cond_stage_model.", Some(PartId::TEXT_ENCODER), true),
    ("transformer.text_model.", None, true),
    ("transformer.text_projection", None, true),
];

/// Segments that PyTorch's wrappers (compiling, data parallel, PEFT) insert into a module's path.
const WRAPPERS: [&str; 5] = ["_orig_mod", "module", "base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The module of a stem written with dots, and whether it has names that only ComfyUI and OneTrainer write.
fn dotted(stem: &str, lone: Option<PartId>, originals: &Names) -> Option<(ModuleKey, bool)> {
    let unwrapped = stem.split('.').filter(|segment| !WRAPPERS.contains(segment)).collect::<Vec<_>>().join(".");
    let (mut part, mut path, mut other) = (None, unwrapped.as_str(), false);
    while let Some((rest, of, marks)) =
        PREFIXES.iter().find_map(|(prefix, of, marks)| Some((path.strip_prefix(prefix)?, *of, *marks)))
    {
        // The segment `text_model` belongs to the path.
        path = if path.starts_with("transformer.text_") { &path["transformer.".len()..] } else { rest };
        (part, other) = (of.or(part), other || marks);
    }
    let root = path.split('.').next().unwrap_or_default();
    let of_unet = UNET_ROOTS.contains(&root) || (ROOTS.contains(&root) && path != root);
    let part = match part {
        Some(PartId::UNET) if !of_unet => return None,
        Some(part) => part,
        // Both text encoders have this root: a folder tells which one it is of.
        None if root == "text_model" && path != root => {
            lone.filter(|part| part.is_text_encoder()).unwrap_or(PartId::TEXT_ENCODER)
        }
        None if of_unet => PartId::UNET,
        None => lone?,
    };
    if part == PartId::UNET && is_original(path) {
        return canonical(originals, path).map(|path| (ModuleKey { part, path }, true));
    }
    let mut path = path.replace(".processor.", ".");
    if let Some((block, leaf)) = path.rsplit_once('.') {
        let renamed = match (part, leaf) {
            (PartId::UNET, "to_out") => "to_out.0",
            (part, "to_q") if part.is_text_encoder() => "q_proj",
            (part, "to_k") if part.is_text_encoder() => "k_proj",
            (part, "to_v") if part.is_text_encoder() => "v_proj",
            (part, "to_out") if part.is_text_encoder() => "out_proj",
            (_, other) => other,
        };
        path = format!("{block}.{renamed}");
    }
    if part.is_text_encoder() && path != "text_projection" && !path.starts_with("text_model.") {
        path.insert_str(0, "text_model.");
    }
    Some((ModuleKey { part, path }, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_alone(key: &str) -> Key {
        parse(key, None, None, &crate::family::lora::original_names(None, std::iter::empty()))
    }

    #[test]
    fn other_tools_names_are_the_same_layers() {
        let block = "down_blocks.0.attentions.1.transformer_blocks.0.attn2";
        let q = format!("unet.{block}.to_q");
        let text = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj".to_owned();
        let own = &text["text_encoder.".len()..];
        let original = "input_blocks.2.1.transformer_blocks.0.attn2.to_q";
        for (key, module, layout) in [
            (format!("diffusion_model.{original}.lora_up.weight"), &q, 'G'),
            (format!("model.diffusion_model.{original}.lora_B.weight"), &q, 'G'),
            (format!("diffusion_model.{block}.to_q.lora_up.weight"), &q, 'G'),
            (format!("unet.{original}.lora_up.weight"), &q, 'G'),
            (format!("{original}.lora_B.default.weight"), &q, 'G'),
            (format!("lora_unet.{block}.to_q.lora_up.weight"), &q, 'G'),
            (format!("unet.base_model.model.{block}.to_q.lora_B.weight"), &q, 'D'),
            (format!("base_model.model.unet.{block}.to_q.lora_B.weight"), &q, 'D'),
            (format!("_orig_mod.{block}.to_q.lora_B.weight"), &q, 'C'),
            (format!("module.unet._orig_mod.{block}.to_q.base_layer.lora_B.weight"), &q, 'C'),
            (format!("unet.{block}.to_q.lora_B"), &q, 'C'),
            (format!("lora_unet_{}.lora_up.weight", original.replace('.', "_")), &q, 'E'),
            (format!("text_encoders.clip_l.transformer.{own}.lora_up.weight"), &text, 'G'),
            (format!("clip_l.transformer.{own}.lora_up.weight"), &text, 'G'),
            (format!("clip_h.transformer.{own}.lora_up.weight"), &text, 'G'),
            (format!("clip_l.{own}.lora_up.weight"), &text, 'G'),
            (format!("cond_stage_model.transformer.{own}.lora_up.weight"), &text, 'G'),
            (format!("lora_te.{own}.lora_up.weight"), &text, 'G'),
            (format!("text_encoder.base_model.model.{own}.lora_B.weight"), &text, 'D'),
            (format!("text_encoder._orig_mod.{own}.lora_B.weight"), &text, 'C'),
        ] {
            assert_eq!(known(&key, None), (module.clone(), Role::Up, layout), "{key}");
        }
    }

    fn known(key: &str, lone: Option<PartId>) -> (String, Role, char) {
        match parse(key, lone, None, &crate::family::lora::original_names(None, std::iter::empty())) {
            Key::Known { module, role, layout } => (module.to_string(), role, layout.letter()),
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
        assert_eq!(known(flat, Some(PartId::TEXT_ENCODER)), (q, Role::Down, 'D'));
        let rooted = format!("base_model.model.{layer}.q_proj.lora_A.weight");
        for (lone, part) in [(PartId::UNET, "text_encoder"), (PartId::TEXT_ENCODER_2, "text_encoder_2")] {
            assert_eq!(known(&rooted, Some(lone)), (format!("{part}.{layer}.q_proj"), Role::Down, 'D'));
        }
        for name in ["hada_w1_a", "lokr_w2", "diff", "diff_b", "lora_mid.weight"] {
            for prefix in ["lora_unet_", "lycoris_", "lycoris_unet_"] {
                let key = format!("{prefix}mid_block_resnets_0_conv1.{name}");
                let expected = ("unet.mid_block.resnets.0.conv1".to_owned(), Role::Lycoris(name), 'F');
                assert_eq!(known(&key, None), expected, "{key}");
            }
        }
        for prefix in ["lora_te_", "lora_te1_", "lycoris_", "lycoris_te_"] {
            let key = format!("{prefix}text_model_encoder_layers_3_self_attn_out_proj.hada_t1");
            assert_eq!(known(&key, None), (out.clone(), Role::Lycoris("hada_t1"), 'F'), "{key}");
        }
    }

    #[test]
    fn others_are_refused_or_foreign() {
        for (key, kind) in [
            ("lora_unet_x.dora_scale", "DoRA, which rescales the whole weight"),
            ("lora_unet_x.oft_blocks", "an OFT"),
            ("lora_unet_x.on_input", "an (IA)3"),
            ("lora_unet_x.scalar", "a LyCORIS file with a scalar"),
        ] {
            assert!(matches!(parse_alone(key), Key::Refused(why) if why.starts_with(kind)), "{key}");
            assert!(is_adapter_key(key));
        }
        for key in [
            "lora_unet_input_blocks_3_1_proj_in.lora_down.weight",
            "diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight",
            "diffusion_model.input_blocks.3.1.proj_in.lora_down.weight",
            "bundle_emb.sks.clip_l",
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
            "down_blocks.0.resnets.0.conv1.weight",
            "",
            ".alpha",
            ".lora_A.weight",
        ] {
            assert_eq!(parse_alone(key), Key::Foreign, "{key}");
        }
    }
}
