//! Names of an image tower's tensors in files. Inside, all kinds share the names that transformers 5 has in memory for most:
//! `layers.0.attention.q_proj`. Files have those of their first release, or these.

use super::config::VisionKind;

/// Place of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Half of the stored tensor's rows, 0 or 1; `None` for all of them.
    pub half: Option<usize>,
}

/// Beginnings of names: those of models with a head in front of the tower.
fn roots(kind: VisionKind) -> &'static [&'static str] {
    match kind {
        VisionKind::Vit => &["", "vit."],
        VisionKind::Dinov2 => &["", "dinov2."],
        VisionKind::Dinov2WithRegisters => &["", "dinov2_with_registers."],
        VisionKind::Clip => &["vision_model.", "", "clip.vision_model."],
    }
}

/// Names of whole tensors and modules outside the layers.
const OUTSIDE: [(&str, &str, &str); 8] = [
    ("class_token", "embeddings.cls_token", "embeddings.class_embedding"),
    ("registers", "embeddings.register_tokens", ""),
    ("positions", "embeddings.position_embeddings", "embeddings.position_embedding.weight"),
    ("patches.weight", "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight"),
    ("patches.bias", "embeddings.patch_embeddings.projection.bias", ""),
    ("norm.", "layernorm.", "post_layernorm."),
    ("pre_norm.", "", "pre_layrnorm."),
    ("projection.weight", "", "visual_projection.weight"),
];

/// A module of a layer: its own name, and those in files of ViT, of DINOv2 and of CLIP where they differ.
type Row = [&'static str; 4];

const INSIDE: [Row; 11] = [
    ["norm1.", "layernorm_before.", "norm1.", "layer_norm1."],
    ["norm2.", "layernorm_after.", "norm2.", "layer_norm2."],
    ["attention.q_proj.", "attention.attention.query.", "attention.attention.query.", "self_attn.q_proj."],
    ["attention.k_proj.", "attention.attention.key.", "attention.attention.key.", "self_attn.k_proj."],
    ["attention.v_proj.", "attention.attention.value.", "attention.attention.value.", "self_attn.v_proj."],
    ["attention.o_proj.", "attention.output.dense.", "attention.output.dense.", "self_attn.out_proj."],
    ["mlp.fc1.", "intermediate.dense.", "", ""],
    ["mlp.fc2.", "output.dense.", "", ""],
    ["mlp.gate_proj.", "", "mlp.weights_in.", ""],
    ["mlp.up_proj.", "", "mlp.weights_in.", ""],
    ["mlp.down_proj.", "", "mlp.weights_out.", ""],
];

/// Returns the places in files where the tensor `name` of a tower of `kind` may be, the usual one first.
pub fn stored(kind: VisionKind, name: &str) -> Vec<Stored> {
    let own = within(kind, name);
    // The projection stands beside the tower.
    let roots = if name.starts_with("projection.") { &["", "clip."][..] } else { roots(kind) };
    let mut places = Vec::with_capacity(roots.len() * own.len());
    for root in roots {
        places.extend(own.iter().map(|(own, half)| Stored { name: format!("{root}{own}"), half: *half }));
    }
    places
}

/// Names below a root, each with the half of its rows: the older ones first.
fn within(kind: VisionKind, name: &str) -> Vec<(String, Option<usize>)> {
    let Some((layer, rest)) = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        let row = OUTSIDE.iter().find(|row| name.starts_with(row.0));
        let stem = row.map_or("", |row| if kind == VisionKind::Clip { row.2 } else { row.1 });
        return vec![(format!("{stem}{}", row.map_or(name, |row| &name[row.0.len()..])), None)];
    };
    let (folders, column): (&[&str], usize) = match kind {
        VisionKind::Vit => (&["encoder.layer", "layers"], 1),
        VisionKind::Dinov2 | VisionKind::Dinov2WithRegisters => (&["encoder.layer"], 2),
        VisionKind::Clip => (&["encoder.layers"], 3),
    };
    let row = INSIDE.iter().find(|row| rest.starts_with(row[0])).filter(|row| !row[column].is_empty());
    let older = row.map(|row| (format!("{}{}", row[column], &rest[row[0].len()..]), half(rest, row[column])));
    let names: Vec<(String, Option<usize>)> = older.into_iter().chain([(rest.to_owned(), None)]).collect();
    let mut all = Vec::with_capacity(folders.len() * names.len());
    for folder in folders {
        all.extend(names.iter().map(|(name, half)| (format!("{folder}.{layer}.{name}"), *half)));
    }
    all
}

/// Half of the joint matrix that holds a gated layer's `rest`: the gate's rows come first.
fn half(rest: &str, stored: &str) -> Option<usize> {
    stored.contains("weights_in").then(|| usize::from(!rest.contains("gate_proj")))
}

/// Name of the factor per row that is multiplied into the tensor `name` of a tower with LayerScale when it is loaded.
pub fn fold(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let module = rest.rsplit_once('.')?.0;
    let scale = match module {
        "attention.o_proj" => "layer_scale1",
        "mlp.fc2" | "mlp.down_proj" => "layer_scale2",
        _ => return None,
    };
    Some(format!("layers.{layer}.{scale}.lambda1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(kind: VisionKind, name: &str) -> (String, Option<usize>) {
        let stored = stored(kind, name).remove(0);
        (stored.name, stored.half)
    }

    #[test]
    fn names_are_those_of_published_files() {
        use VisionKind::{Clip, Dinov2, Vit};
        for (kind, name, file, half) in [
            (Vit, "layers.3.attention.q_proj.bias", "encoder.layer.3.attention.attention.query.bias", None),
            (Vit, "layers.0.mlp.fc2.weight", "encoder.layer.0.output.dense.weight", None),
            (Vit, "norm.weight", "layernorm.weight", None),
            (Vit, "patches.weight", "embeddings.patch_embeddings.projection.weight", None),
            (Dinov2, "layers.1.mlp.gate_proj.bias", "encoder.layer.1.mlp.weights_in.bias", Some(0)),
            (Dinov2, "layers.1.mlp.up_proj.weight", "encoder.layer.1.mlp.weights_in.weight", Some(1)),
            (Dinov2, "layers.1.mlp.fc1.weight", "encoder.layer.1.mlp.fc1.weight", None),
            (Dinov2, "layers.1.layer_scale2.lambda1", "encoder.layer.1.layer_scale2.lambda1", None),
            (Clip, "layers.1.attention.o_proj.weight", "vision_model.encoder.layers.1.self_attn.out_proj.weight", None),
            (Clip, "class_token", "vision_model.embeddings.class_embedding", None),
            (Clip, "pre_norm.bias", "vision_model.pre_layrnorm.bias", None),
            (Clip, "projection.weight", "visual_projection.weight", None),
        ] {
            assert_eq!(first(kind, name), (file.into(), half), "{name}");
        }
        let later = stored(Vit, "layers.3.attention.q_proj.bias");
        assert!(later.iter().any(|place| place.name == "vit.layers.3.attention.q_proj.bias"), "{later:?}");
    }

    #[test]
    fn scales_belong_to_the_last_layer_of_a_branch() {
        assert_eq!(fold("layers.2.attention.o_proj.bias").as_deref(), Some("layers.2.layer_scale1.lambda1"));
        assert_eq!(fold("layers.12.mlp.down_proj.weight").as_deref(), Some("layers.12.layer_scale2.lambda1"));
        assert_eq!(fold("layers.2.mlp.fc1.weight"), None);
    }
}
