//! Configurations of parts that come without one: what is the same in the whole family comes from its template
//! (`sd1.json`, `sdxl.json`, as diffusers ships them), what the tensors' shapes tell replaces it.

use serde_json::{Map, Value, json};

use super::identify::INPAINTING;
use super::stated::Stated;
use super::structure::count;
use crate::diffusion::Prediction;
use crate::error::{Error, Result};
use crate::family::description::{Family, Heads};
use crate::io::{PartId, SafeTensors, Weights};

/// Channels of an attention head in every text encoder.
const HEAD: usize = 64;

/// Configurations that the files of a family have in common.
pub struct Template {
    /// Configurations of the parts, by name.
    parts: Map<String, Value>,
    pub model_index: Value,
    pub scheduler: Value,
}

impl Template {
    /// Reads the template of `family`.
    ///
    /// # Errors
    /// [`Error::File`] named `name` if the template is malformed.
    pub fn new(name: &str, family: &Family) -> Result<Template> {
        let mut template: Map<String, Value> = serde_json::from_str(family.template)
            .map_err(|e| Error::file(name, format!("configuration template: {e}")))?;
        let mut take = |name: &str| template.remove(name).unwrap_or_default();
        Ok(Template { model_index: take("model_index"), scheduler: take("scheduler"), parts: template })
    }

    /// Returns the configuration of `part`.
    pub fn part(&self, part: PartId) -> Value {
        self.parts.get(part.name()).cloned().unwrap_or_default()
    }
}

/// Settles the pipeline of `model_index` by the channels that the UNet of `config` reads.
pub fn settle_pipeline(model_index: &mut Value, config: &Value, family: &Family) {
    let inpaints = model_index["_class_name"] == family.inpainting_pipeline;
    if config["in_channels"] == json!(INPAINTING) {
        model_index["_class_name"] = family.inpainting_pipeline.into();
    } else if let Some(first) = family.pipelines.first().filter(|_| inpaints) {
        model_index["_class_name"] = (*first).into();
    }
}

/// Changes the configurations of scheduler and UNet to what a file says of its training: what it predicts, and whether
/// its noise levels end in pure noise.
pub fn settle_training(
    scheduler: &mut Value,
    unet: &mut Value,
    (file, stated): (&SafeTensors, Option<&Stated>),
    family: &Family,
) {
    // The marker of newer trainers for noise levels that end in pure noise (Lin et al. 2023): sampling has to begin
    // there, which a template's leading spacing does not.
    let zero_snr = file.metadata().get("ss_zero_terminal_snr").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if zero_snr || file.contains("ztsnr") {
        scheduler["_class_name"] = family.zero_snr_scheduler.into();
        scheduler["rescale_betas_zero_snr"] = json!(true);
        scheduler["timestep_spacing"] = json!("trailing");
    }
    match stated.map(|stated| stated.prediction) {
        Some(Prediction::V) => (family.velocity)(scheduler, unet),
        Some(Prediction::Epsilon) => scheduler["prediction_type"] = "epsilon".into(),
        Some(Prediction::Sample) => scheduler["prediction_type"] = "sample".into(),
        None => {}
    }
}

/// Returns `template` with `fields` in place of its own.
pub fn with(mut template: Value, fields: Value) -> Value {
    if let (Some(template), Value::Object(fields)) = (template.as_object_mut(), fields) {
        template.extend(fields);
    }
    template
}

/// Returns the fields of the configuration of `weights` that its tensors tell.
///
/// # Errors
/// [`Error::File`] naming a tensor that is missing, or of a shape that no part of `family` has.
pub fn fields(weights: &Weights, family: &Family) -> Result<Value> {
    let shapes = Shapes { weights };
    match weights.part() {
        PartId::UNET => unet_fields(&shapes, family.heads),
        PartId::VAE => vae_fields(&shapes),
        _ => text_fields(&shapes),
    }
}

/// Shapes by diffusers' names.
struct Shapes<'a> {
    weights: &'a Weights,
}

impl Shapes<'_> {
    fn find(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.weights.find(name)?.shape.to_vec())
    }

    /// Extent `axis` of the tensor `name`.
    fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        let original = self.weights.stored_name(name);
        let Some(tensor) = self.weights.find(name) else {
            return Err(Error::file(self.weights.location(), format!("has no tensor '{original}'")));
        };
        let extent = tensor.shape.get(axis).copied().filter(|&n| n > 0);
        let message = format!("has shape {:?}: no Stable Diffusion model", tensor.shape);
        extent.ok_or_else(|| tensor.renamed(original.as_str()).error(message))
    }

    /// One more than the largest number that follows `prefix` in a tensor's name.
    fn count(&self, prefix: &str) -> usize {
        count(self.weights.names(), prefix)
    }
}

/// Transformer blocks of every attention, found by names.
struct Depths {
    /// Of each down block's attentions, from the highest resolution down.
    down: Vec<Vec<usize>>,
    /// Of each up block's, from the lowest resolution up.
    up: Vec<Vec<usize>>,
    middle: usize,
}

impl Depths {
    fn new(shapes: &Shapes<'_>, blocks: usize, layers: usize) -> Depths {
        let depth = |attention: String| {
            let has = |i: &usize| shapes.find(&format!("{attention}.transformer_blocks.{i}.norm1.weight")).is_some();
            (0..).take_while(has).count()
        };
        let of = |half: &str, layers: usize| {
            let block = |i| (0..layers).map(|j| depth(format!("{half}_blocks.{i}.attentions.{j}"))).collect();
            (0..blocks).map(block).collect::<Vec<Vec<usize>>>()
        };
        Depths { down: of("down", layers), up: of("up", layers + 1), middle: depth("mid_block.attentions.0".into()) }
    }

    /// The fields of the configuration: one number where all agree, else one for each resolution, else one for each
    /// attention, for there are models with others on the way up.
    fn fields(&self) -> [(&'static str, Value); 2] {
        // A block without attention has any depth.
        let counted = |list: &[usize]| list.iter().map(|&n| n.max(1)).collect::<Vec<usize>>();
        let same = |list: &[usize]| list.first().copied().filter(|first| list.iter().all(|n| n == first));
        let each: Vec<Option<usize>> = self.down.iter().map(|block| same(block)).collect();
        let last = each.len().saturating_sub(1);
        let mirrored = self.up.iter().enumerate().all(|(i, block)| {
            let depth = same(block);
            depth == Some(0) || each[last - i] == Some(0) || depth == each[last - i]
        });
        let middle = self.middle == 0 || each[last].is_none_or(|depth| depth == 0 || depth == self.middle);
        let (down, reverse) = match each.iter().copied().collect::<Option<Vec<usize>>>() {
            Some(mut each) if mirrored && middle => {
                // What the way down does not tell, the middle or the way up does.
                let up = |i: usize| self.up[last - i].first().copied().unwrap_or(0);
                (0..each.len()).filter(|&i| each[i] == 0).collect::<Vec<_>>().into_iter().for_each(|i| {
                    each[i] = if i == last && self.middle > 0 { self.middle } else { up(i) };
                });
                let (all, each) = (same(&each.iter().copied().filter(|n| *n > 0).collect::<Vec<_>>()), counted(&each));
                (all.map_or(json!(each), |depth| json!(depth)), Value::Null)
            }
            _ => {
                let lists = |blocks: &[Vec<usize>]| blocks.iter().map(|block| counted(block)).collect::<Vec<_>>();
                (json!(lists(&self.down)), json!(lists(&self.up)))
            }
        };
        [("transformer_layers_per_block", down), ("reverse_transformer_layers_per_block", reverse)]
    }
}

fn unet_fields(shapes: &Shapes<'_>, heads: Heads) -> Result<Value> {
    let (blocks, layers) = (shapes.count("down_blocks."), shapes.count("down_blocks.0.resnets."));
    let channels = (0..blocks).map(|i| shapes.extent(&format!("down_blocks.{i}.resnets.0.conv1.weight"), 0));
    let channels = channels.collect::<Result<Vec<usize>>>()?;
    let attends = |half: &str, i: usize| shapes.find(&format!("{half}_blocks.{i}.attentions.0.proj_in.weight"));
    let kind = |half: &str, i: usize, [with, without]: [&'static str; 2]| {
        if attends(half, i).is_some() { with } else { without }
    };
    let down: Vec<_> = (0..blocks).map(|i| kind("down", i, ["CrossAttnDownBlock2D", "DownBlock2D"])).collect();
    let up: Vec<_> = (0..blocks).map(|i| kind("up", i, ["CrossAttnUpBlock2D", "UpBlock2D"])).collect();
    let Some(first) = (0..blocks).find(|&i| attends("down", i).is_some()) else {
        return Err(Error::file(shapes.weights.location(), "its UNet has no attention: no Stable Diffusion model"));
    };
    let depths = Depths::new(shapes, blocks, layers);
    let middle = match depths.middle {
        0 if shapes.find("mid_block.resnets.0.conv1.weight").is_none() => Value::Null,
        0 => json!("UNetMidBlock2D"),
        _ => json!("UNetMidBlock2DCrossAttn"),
    };
    let heads = match heads {
        Heads::Count(count) => json!(count),
        Heads::Width(width) => json!(channels.iter().map(|c| (c / width).max(1)).collect::<Vec<_>>()),
    };
    let attention = format!("down_blocks.{first}.attentions.0");
    let mut fields = json!({
        "in_channels": shapes.extent("conv_in.weight", 1)?,
        "out_channels": shapes.extent("conv_out.weight", 0)?,
        "block_out_channels": channels,
        "down_block_types": down,
        "mid_block_type": middle,
        "up_block_types": up,
        "layers_per_block": layers,
        "cross_attention_dim": shapes.extent(&format!("{attention}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        "attention_head_dim": heads,
        "use_linear_projection": attends("down", first).is_some_and(|shape| shape.len() == 2),
    });
    for (name, value) in depths.fields() {
        fields[name] = value;
    }
    if let Some(shape) = shapes.find("add_embedding.linear_1.weight") {
        fields["projection_class_embeddings_input_dim"] = json!(shape.get(1));
    }
    Ok(fields)
}

fn vae_fields(shapes: &Shapes<'_>) -> Result<Value> {
    let blocks = shapes.count("encoder.down_blocks.");
    let channels = (0..blocks).map(|i| shapes.extent(&format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0));
    Ok(json!({
        "in_channels": shapes.extent("encoder.conv_in.weight", 1)?,
        "out_channels": shapes.extent("decoder.conv_out.weight", 0)?,
        "latent_channels": shapes.extent("decoder.conv_in.weight", 1)?,
        "block_out_channels": channels.collect::<Result<Vec<usize>>>()?,
        "down_block_types": vec!["DownEncoderBlock2D"; blocks],
        "up_block_types": vec!["UpDecoderBlock2D"; blocks],
        "layers_per_block": shapes.count("encoder.down_blocks.0.resnets."),
    }))
}

fn text_fields(shapes: &Shapes<'_>) -> Result<Value> {
    let table = "text_model.embeddings.token_embedding.weight";
    let width = shapes.extent(table, 1)?;
    let mut fields = json!({
        "vocab_size": shapes.extent(table, 0)?,
        "hidden_size": width,
        "intermediate_size": shapes.extent("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "max_position_embeddings": shapes.extent("text_model.embeddings.position_embedding.weight", 0)?,
        "num_hidden_layers": shapes.count("text_model.encoder.layers."),
        "num_attention_heads": (width / HEAD).max(1),
    });
    if let Some(shape) = shapes.find("text_projection.weight") {
        fields["projection_dim"] = json!(shape.first());
    }
    Ok(fields)
}
