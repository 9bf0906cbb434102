//! Configurations of a single file: what is the same in the whole family comes from a template (`sd1.json`, `sd2.json`,
//! as diffusers ships them), what the tensors' shapes tell replaces it.

use serde_json::{Value, json};

use super::family::INPAINTING;
use super::names::{Names, Structure, TextFlavour, prefix};
use crate::error::{Error, Result};
use crate::io::{Part, SafeTensors};

/// Text layers of Stable Diffusion 2: it reads the state before OpenCLIP's last one.
const SECOND_LAYERS: usize = 23;
/// Channels of an attention head in Stable Diffusion 2 and in both text encoders.
const HEAD: usize = 64;

/// The generation of a model, which decides what no tensor says: activations, heads, padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Stable Diffusion 1.x, with OpenAI's CLIP.
    First,
    /// Stable Diffusion 2.x, with OpenCLIP.
    Second,
}

impl Generation {
    /// That of `file`, and what is to be said where it is no more than likely. Names say nothing of it: text encoders
    /// of both generations go about under either's names. The width of the text encoder's output does; where it is that
    /// of neither, as in miniatures, the projections around the UNet's transformers, which are linear in the second.
    pub fn of(file: &SafeTensors) -> (Generation, Option<String>) {
        let unet = prefix(Part::Unet, TextFlavour::Clip);
        let shape = |ending: &str| {
            let name = file.names().find(|name| name.starts_with(unet) && name.ends_with(ending))?;
            Some(file.find(name)?.shape.to_vec())
        };
        let width = shape(".attn2.to_k.weight").and_then(|shape| shape.get(1).copied()).unwrap_or(0);
        let linear = shape(".proj_in.weight").is_some_and(|shape| shape.len() == 2);
        match width {
            768 => (Generation::First, None),
            1024 => (Generation::Second, None),
            _ => {
                let (generation, name, why) = match linear {
                    true => (Generation::Second, "Stable Diffusion 2.x", "linear projections"),
                    false => (Generation::First, "Stable Diffusion 1.x", "projections that are convolutions"),
                };
                let message = format!(
                    "{}: taken for {name} by its {why}, its context width {width} being that of neither 1.x nor 2.x; \
                     where that is wrong: give a diffusers folder",
                    file.name()
                );
                (generation, Some(message))
            }
        }
    }
}

/// Counts what names depend on.
pub fn structure(file: &SafeTensors, text: TextFlavour, generation: Generation) -> Result<Structure> {
    let unet = prefix(Part::Unet, text);
    let inputs = count(file, &format!("{unet}input_blocks."));
    let is_down = |i: &usize| file.contains(&format!("{unet}input_blocks.{i}.0.op.weight"));
    let downs: Vec<usize> = (0..inputs).filter(is_down).collect();
    let unet_layers = downs.first().map_or(inputs.saturating_sub(1), |first| first.saturating_sub(1));
    let unet_blocks = downs.len() + 1;
    if unet_layers == 0 || inputs != unet_blocks * (unet_layers + 1) {
        let message = format!("has {inputs} input blocks with {} downsamplers: no Stable Diffusion UNet", downs.len());
        return Err(Error::file(file.name(), message));
    }
    let has_attention =
        |block: usize| file.contains(&format!("{unet}output_blocks.{}.1.proj_in.weight", block * (unet_layers + 1)));
    let unet_plain = (0..unet_blocks).take_while(|&block| !has_attention(block)).count();
    let vae = prefix(Part::Vae, text);
    let layers = |path: &str| count(file, &format!("{}{path}.", prefix(Part::TextEncoder, text)));
    let text_layers = match text {
        TextFlavour::Clip => layers("text_model.encoder.layers"),
        TextFlavour::BareClip => layers("encoder.layers"),
        TextFlavour::OpenClip => layers("transformer.resblocks"),
    };
    let text_layers = match generation {
        Generation::First => text_layers,
        Generation::Second => text_layers.min(SECOND_LAYERS),
    };
    Ok(Structure {
        unet_blocks,
        unet_layers,
        unet_plain,
        vae_blocks: count(file, &format!("{vae}encoder.down.")),
        vae_layers: count(file, &format!("{vae}encoder.down.0.block.")),
        text,
        text_layers,
    })
}

/// One more than the largest number that follows `prefix` in a tensor's name.
fn count(file: &SafeTensors, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    // A name may hold any number: nothing of the family has more than a few dozen of anything.
    file.names().filter_map(number).filter(|&n| n < 1000).max().map_or(0, |n| n + 1)
}

/// All configurations of a file.
pub struct Configs {
    pub unet: Value,
    vae: Value,
    text_encoder: Value,
    pub model_index: Value,
    pub scheduler: Value,
}

impl Configs {
    pub fn new(file: &SafeTensors, structure: &Structure, generation: Generation) -> Result<Configs> {
        let template = match generation {
            Generation::First => include_str!("sd1.json"),
            Generation::Second => include_str!("sd2.json"),
        };
        let mut template: Value = serde_json::from_str(template)
            .map_err(|e| Error::file(file.name(), format!("configuration template: {e}")))?;
        let mut take = |name: &str| template.get_mut(name).map(Value::take).unwrap_or_default();
        let (unet, vae, text) = (take("unet"), take("vae"), take("text_encoder"));
        let (model_index, scheduler) = (take("model_index"), take("scheduler"));
        let shapes = |part: Part| Shapes { file, names: Names::new(part, structure) };
        let mut configs = Configs {
            unet: with(unet, unet_fields(&shapes(Part::Unet), structure, generation)?),
            vae: with(vae, vae_fields(&shapes(Part::Vae), structure)?),
            text_encoder: with(text, text_fields(&shapes(Part::TextEncoder), structure)?),
            model_index,
            scheduler,
        };
        if configs.unet["in_channels"] == json!(INPAINTING) {
            configs.model_index["_class_name"] = json!("StableDiffusionInpaintPipeline");
        }
        // The marker of newer trainers for noise levels that end in pure noise (Lin et al. 2023): sampling has to begin
        // there, which the template's PNDM cannot.
        let zero_snr =
            file.metadata().get("ss_zero_terminal_snr").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if zero_snr || file.contains("ztsnr") {
            configs.scheduler["_class_name"] = json!("DDIMScheduler");
            configs.scheduler["rescale_betas_zero_snr"] = json!(true);
            configs.scheduler["timestep_spacing"] = json!("trailing");
        }
        Ok(configs)
    }

    pub fn part(&self, part: Part) -> &Value {
        match part {
            Part::TextEncoder => &self.text_encoder,
            Part::Unet => &self.unet,
            Part::Vae => &self.vae,
        }
    }
}

/// Says in a model's configurations that it predicts velocities. In the second generation that makes the 512-pixel
/// model the 768-pixel one, with its scheduler.
pub fn velocity(scheduler: &mut Value, unet: &mut Value, generation: Generation) {
    scheduler["prediction_type"] = json!("v_prediction");
    if generation == Generation::Second {
        scheduler["_class_name"] = json!("DDIMScheduler");
        if unet["sample_size"] == json!(64) {
            unet["sample_size"] = json!(96);
        }
    }
}

fn with(mut template: Value, fields: Value) -> Value {
    if let (Some(template), Value::Object(fields)) = (template.as_object_mut(), fields) {
        template.extend(fields);
    }
    template
}

/// Shapes by diffusers' names.
struct Shapes<'a> {
    file: &'a SafeTensors,
    names: Names,
}

impl Shapes<'_> {
    fn find(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.file.find(&self.names.original(name)?.0)?.shape.to_vec())
    }

    /// Extent `axis` of the tensor `name`.
    fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        let original = self.names.original(name).map_or(name.to_owned(), |(original, _)| original);
        let tensor = self.file.get(&original)?;
        let extent = tensor.shape.get(axis).copied().filter(|&n| n > 0);
        extent.ok_or_else(|| tensor.error(format!("has shape {:?}: no Stable Diffusion model", tensor.shape)))
    }
}

fn unet_fields(shapes: &Shapes<'_>, structure: &Structure, generation: Generation) -> Result<Value> {
    let blocks = structure.unet_blocks;
    let channels = (0..blocks).map(|i| shapes.extent(&format!("down_blocks.{i}.resnets.0.conv1.weight"), 0));
    let channels = channels.collect::<Result<Vec<usize>>>()?;
    let crosses = |i: usize| shapes.find(&format!("down_blocks.{i}.attentions.0.proj_in.weight"));
    let down: Vec<_> =
        (0..blocks).map(|i| if crosses(i).is_some() { "CrossAttnDownBlock2D" } else { "DownBlock2D" }).collect();
    let up: Vec<_> =
        (0..blocks).rev().map(|i| if crosses(i).is_some() { "CrossAttnUpBlock2D" } else { "UpBlock2D" }).collect();
    let Some(first) = (0..blocks).find(|&i| crosses(i).is_some()) else {
        return Err(Error::file(shapes.file.name(), "its UNet has no attention: no Stable Diffusion model"));
    };
    let attention = format!("down_blocks.{first}.attentions.0");
    let depth =
        (0..).take_while(|i| shapes.find(&format!("{attention}.transformer_blocks.{i}.norm1.weight")).is_some());
    let depth = depth.count().max(1);
    let heads = match generation {
        Generation::First => json!(8),
        Generation::Second => json!(channels.iter().map(|c| (c / HEAD).max(1)).collect::<Vec<_>>()),
    };
    Ok(json!({
        "in_channels": shapes.extent("conv_in.weight", 1)?,
        "out_channels": shapes.extent("conv_out.weight", 0)?,
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": structure.unet_layers,
        "transformer_layers_per_block": depth,
        "cross_attention_dim": shapes.extent(&format!("{attention}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        "attention_head_dim": heads,
        "use_linear_projection": crosses(first).is_some_and(|shape| shape.len() == 2),
    }))
}

fn vae_fields(shapes: &Shapes<'_>, structure: &Structure) -> Result<Value> {
    let blocks = structure.vae_blocks;
    let channels = (0..blocks).map(|i| shapes.extent(&format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0));
    Ok(json!({
        "in_channels": shapes.extent("encoder.conv_in.weight", 1)?,
        "out_channels": shapes.extent("decoder.conv_out.weight", 0)?,
        "latent_channels": shapes.extent("decoder.conv_in.weight", 1)?,
        "block_out_channels": channels.collect::<Result<Vec<usize>>>()?,
        "down_block_types": vec!["DownEncoderBlock2D"; blocks],
        "up_block_types": vec!["UpDecoderBlock2D"; blocks],
        "layers_per_block": structure.vae_layers,
    }))
}

fn text_fields(shapes: &Shapes<'_>, structure: &Structure) -> Result<Value> {
    let table = "text_model.embeddings.token_embedding.weight";
    let width = shapes.extent(table, 1)?;
    Ok(json!({
        "vocab_size": shapes.extent(table, 0)?,
        "hidden_size": width,
        "intermediate_size": shapes.extent("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "max_position_embeddings": shapes.extent("text_model.embeddings.position_embedding.weight", 0)?,
        "num_hidden_layers": structure.text_layers,
        "num_attention_heads": (width / HEAD).max(1),
    }))
}
