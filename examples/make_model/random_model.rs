//! Stable Diffusion models with random weights, in both layouts, of full size or tiny.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use portray::low_level::base::rng::{CounterRng, Stream};
use portray::low_level::family::single_file::{Structure, TextFlavour, TextNames};
use portray::low_level::io::checkpoints::{Names, Stored};
use portray::low_level::io::{ElementType, PartId, Tensor, write_atomic, write_safetensors};
use portray::low_level::models::{TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::low_level::nn::{Mode, Scope, Settings};
use portray::{Error, Result};
use serde_json::{Value, json};

/// A model to be written.
pub struct RandomModel {
    flavour: TextFlavour,
    configs: Value,
    seed: u64,
}

/// One tensor: diffusers' name, shape, halves as bytes.
type Weight = (String, Vec<usize>, Vec<u8>);

const SD1: &str = include_str!("../../src/family/sd1.json");
const SD2: &str = include_str!("../../src/family/sd2.json");
/// Parts of a folder, in the order that seeds their values.
const PARTS: [&str; 4] = ["text_encoder", "unet", "vae", "text_encoder_2"];

impl RandomModel {
    /// `sd15`, `sd2-base`, `sd21` (768 pixels, velocities), `turbo`, or one of their small siblings; `sdxl`, `ssd-1b`, `vega` or
    /// `bk-tiny`, as folders only; with `-inpainting` behind its name, an inpainting model.
    pub fn named(name: &str, seed: u64) -> Option<RandomModel> {
        if let Some(base) = name.strip_suffix("-inpainting") {
            let mut model = RandomModel::named(base, seed)?;
            model.configs["unet"]["in_channels"] = json!(9);
            model.configs["model_index"]["_class_name"] = json!("StableDiffusionInpaintPipeline");
            return Some(model);
        }
        let (flavour, template) = match name {
            "sd15" | "tiny-sd1" | "sdxl" | "ssd-1b" | "vega" | "bk-tiny" => (TextFlavour::Clip, SD1),
            "sd2-base" | "sd21" | "turbo" | "tiny-sd2" => (TextFlavour::OpenClip, SD2),
            _ => return None,
        };
        let mut configs: Value = serde_json::from_str(template).ok()?;
        match name {
            "sd21" => {
                configs["scheduler"]["prediction_type"] = json!("v_prediction");
                configs["scheduler"]["_class_name"] = json!("DDIMScheduler");
                configs["unet"]["sample_size"] = json!(96);
                configs["unet"]["upcast_attention"] = json!(true);
            }
            "turbo" => {
                configs["scheduler"]["_class_name"] = json!("EulerDiscreteScheduler");
                configs["scheduler"]["timestep_spacing"] = json!("trailing");
            }
            "tiny-sd1" | "tiny-sd2" => shrink(&mut configs, flavour),
            "sdxl" | "ssd-1b" | "vega" => enlarge(&mut configs, name),
            "bk-tiny" => set(
                &mut configs["unet"],
                json!({"block_out_channels": [320, 640, 1280], "layers_per_block": 1, "mid_block_type": null,
                    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}),
            ),
            _ => {}
        }
        Some(RandomModel { flavour, configs, seed })
    }

    /// Writes a diffusers folder.
    pub fn write_folder(&self, folder: &Path) -> Result<()> {
        let text = |path: &str, value: &Value| {
            let bytes = value.to_string().into_bytes();
            write_atomic(folder.join(path), |out| out.write_all(&bytes))
        };
        text("model_index.json", &self.configs["model_index"])?;
        text("scheduler/scheduler_config.json", &self.configs["scheduler"])?;
        let pad = if self.flavour == TextFlavour::Clip { "<|endoftext|>" } else { "!" };
        let second = self.configs.get("text_encoder_2").map(|_| ("tokenizer_2", "!"));
        for (part, pad) in [("tokenizer", pad)].into_iter().chain(second) {
            for (name, source) in portray::low_level::io::bundled::tokenizer("CLIP", pad).iter() {
                let bytes = source.bytes()?;
                write_atomic(folder.join(part).join(name), |out| out.write_all(&bytes))?;
            }
        }
        for part in PARTS {
            let Some(config) = self.configs.get(part) else { continue };
            text(&format!("{part}/config.json"), config)?;
            let stem = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
            self.stream(part, &folder.join(format!("{part}/{stem}.safetensors")))?;
        }
        Ok(())
    }

    /// Writes the tensors of `part` as they are drawn, so that no model takes memory.
    fn stream(&self, part: &str, path: &Path) -> Result<()> {
        let mut tensors: Vec<(usize, String, Vec<usize>)> = self.sources(part)?;
        // As `write_safetensors` orders them.
        tensors.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
        let (mut header, mut offset) = (serde_json::Map::new(), 0);
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        for (_, name, shape) in &tensors {
            let end = offset + 2 * shape.iter().product::<usize>();
            header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}));
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        write_atomic(path, |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            tensors.iter().try_for_each(|(i, name, shape)| self.draw(part, *i, name, shape, out))
        })
    }

    /// Writes one file in the original layout, with the tensors that such files have besides.
    pub fn write_file(&self, path: &Path) -> Result<()> {
        let mut weights = Vec::new();
        for part in [PartId::TEXT_ENCODER, PartId::UNET, PartId::VAE] {
            weights.extend(self.original(part)?);
        }
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes().to_vec();
        weights.push(("model_ema.decay".into(), vec![1], half(0.999)));
        weights.push(("alphas_cumprod".into(), vec![2], [half(0.9), half(0.8)].concat()));
        write(path, &weights)
    }

    fn original(&self, part: PartId) -> Result<Vec<Weight>> {
        let names = Names::new(part, &self.structure());
        let mut fused: BTreeMap<String, (Vec<usize>, [Vec<u8>; 3])> = BTreeMap::new();
        let mut weights = Vec::new();
        for (name, mut shape, bytes) in self.weights(part)? {
            let found =
                names.original(&name).ok_or_else(|| Error::argument(format!("'{name}' has no original name")))?;
            // The autoencoder's attention is made of convolutions there.
            if part == PartId::VAE && name.contains(".attentions.") && shape.len() == 2 {
                shape.extend([1, 1]);
            }
            match found {
                (original, Stored::Third(i)) => {
                    let (_, thirds) = fused.entry(original).or_insert_with(|| (shape, Default::default()));
                    thirds[i] = bytes;
                }
                (original, _) => weights.push((original, shape, bytes)),
            }
        }
        for (original, (mut shape, thirds)) in fused {
            shape[0] *= 3;
            weights.push((original, shape, thirds.concat()));
        }
        if part == PartId::TEXT_ENCODER && self.flavour == TextFlavour::OpenClip {
            // The last layer and the projection, which Stable Diffusion 2 does not use.
            let layers = self.structure().texts[0].layers;
            let last = layers - 1;
            let (from, to) = (format!(".resblocks.{last}."), format!(".resblocks.{}.", last + 1));
            let copies = weights.iter().filter(|(name, ..)| name.contains(&from));
            let mut copies: Vec<Weight> = copies.cloned().map(|(n, s, b)| (n.replace(&from, &to), s, b)).collect();
            copies.push(("cond_stage_model.model.text_projection".into(), vec![2, 2], vec![0; 8]));
            if layers == 23 {
                weights.extend(copies);
            }
        }
        Ok(weights)
    }

    fn structure(&self) -> Structure {
        let length = |part: &str| self.configs[part]["block_out_channels"].as_array().map_or(0, Vec::len);
        let number = |part: &str, field: &str| self.configs[part][field].as_u64().unwrap_or(0) as usize;
        Structure {
            unet_blocks: length("unet"),
            unet_layers: number("unet", "layers_per_block"),
            // One, in every configuration here.
            unet_plain: 1,
            vae_blocks: length("vae"),
            vae_layers: number("vae", "layers_per_block"),
            texts: vec![TextNames {
                part: PartId::TEXT_ENCODER,
                prefix: match self.flavour {
                    TextFlavour::OpenClip => "cond_stage_model.model.",
                    _ => "cond_stage_model.transformer.",
                },
                flavour: self.flavour,
                layers: number("text_encoder", "num_hidden_layers"),
                projects: false,
            }],
        }
    }

    /// All tensors of `part`.
    fn weights(&self, part: PartId) -> Result<Vec<Weight>> {
        let one = |(i, name, shape): (usize, String, Vec<usize>)| {
            let mut bytes = Vec::new();
            self.draw(part.name(), i, &name, &shape, &mut bytes).map_err(|e| Error::argument(e.to_string()))?;
            Ok((name, shape, bytes))
        };
        self.sources(part.name())?.into_iter().map(one).collect()
    }

    /// Number, name and shape of every tensor of `part`.
    fn sources(&self, part: &str) -> Result<Vec<(usize, String, Vec<usize>)>> {
        let scope = Scope::new(part, Settings { mode: Mode::Training, ..Settings::default() });
        let (path, config) = (format!("{part}/config.json"), self.configs[part].to_string());
        match part {
            "unet" => drop(UNet::new(&scope, UnetConfig::parse(&path, &config)?)?),
            "vae" => drop(Vae::new(&scope, VaeConfig::parse(&path, &config)?)?),
            _ => drop(TextEncoder::new(&scope, TextEncoderConfig::parse(&path, &config)?)?),
        }
        let sources = scope.params().into_iter().flat_map(|param| param.sources).enumerate();
        let name = |key: String| key.split_once('.').map_or(key.clone(), |(_, name)| name.to_owned());
        Ok(sources.map(|(i, source)| (i, name(source.key), source.shape)).collect())
    }

    /// Writes the values of tensor `i` of `part` to `out`: uniform with the variance that keeps activations lively
    /// (1 / inputs), norms about 1.
    fn draw(&self, part: &str, i: usize, name: &str, shape: &[usize], out: &mut dyn Write) -> std::io::Result<()> {
        let inputs: usize = shape.iter().skip(1).product();
        let (mean, spread) = match shape.len() {
            1 if name.ends_with(".weight") => (1.0, 0.1),
            1 => (0.0, 0.05),
            _ if name.contains("embedding.weight") => (0.0, 0.5),
            _ => (0.0, (3.0 / inputs as f32).sqrt()),
        };
        let part = PARTS.iter().position(|&known| known == part).unwrap_or_default() as u64;
        let rng = CounterRng::new(self.seed ^ (part << 32), Stream::Init);
        let count = shape.iter().product::<usize>();
        let mut bytes = Vec::with_capacity(1 << 16);
        for block in 0..count.div_ceil(4) {
            // Sixteen bits are more than a half keeps: four values a draw.
            let bits = rng.u64(i as u32, block as u64);
            for k in 0..4.min(count - 4 * block) {
                let unit = ((bits >> (16 * k)) as u16 as f32 + 0.5) / 32768.0 - 1.0;
                bytes.extend(half::f16::from_f32(mean + spread * unit).to_le_bytes());
            }
            if bytes.len() + 8 > bytes.capacity() {
                out.write_all(&bytes)?;
                bytes.clear();
            }
        }
        out.write_all(&bytes)
    }
}

fn write(path: &Path, weights: &[Weight]) -> Result<()> {
    let tensors: Vec<Tensor<'_>> =
        weights.iter().map(|(name, shape, bytes)| Tensor::raw(name, ElementType::F16, shape, bytes)).collect();
    write_safetensors(path, &tensors, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))
}

/// Sets the `fields` of `config`.
fn set(config: &mut Value, fields: Value) {
    if let (Some(config), Value::Object(fields)) = (config.as_object_mut(), fields) {
        config.extend(fields);
    }
}

/// SDXL, SSD-1B or Segmind-Vega by its `name`, as published: SD 1's first encoder, a second one, and another UNet.
fn enlarge(configs: &mut Value, name: &str) {
    let clip = json!(["transformers", "CLIPTokenizer"]);
    set(
        &mut configs["model_index"],
        json!({"_class_name": "StableDiffusionXLPipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": clip,
            "force_zeros_for_empty_prompt": true}),
    );
    if let Some(index) = configs["model_index"].as_object_mut() {
        // Of the class of SD 1 alone.
        index.retain(|field, _| !["safety_checker", "requires_safety_checker"].contains(&field.as_str()));
    }
    configs["text_encoder_2"] = configs["text_encoder"].clone();
    set(
        &mut configs["text_encoder_2"],
        json!({"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "intermediate_size": 5120,
            "num_attention_heads": 20, "num_hidden_layers": 32, "hidden_act": "gelu", "projection_dim": 1280}),
    );
    let (mid, down, up) = match name {
        "ssd-1b" => ("UNetMidBlock2D", json!([1, [2, 2], [4, 4]]), json!([[4, 4, 10], [2, 1, 1], 1])),
        "vega" => ("UNetMidBlock2D", json!([1, [1, 1], [2, 2]]), json!([[2, 2, 2], [1, 1, 1], 1])),
        _ => ("UNetMidBlock2DCrossAttn", json!([1, 2, 10]), Value::Null),
    };
    set(
        &mut configs["unet"],
        json!({"block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "mid_block_type": mid,
            "transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up, "sample_size": 128,
            "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816}),
    );
    set(&mut configs["vae"], json!({"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": true}));
    configs["scheduler"] = json!({"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "timestep_spacing": "leading", "steps_offset": 1, "interpolation_type": "linear"});
}

/// The same architecture with few channels: heads of 64 and groups of 32 stay, as single files cannot say otherwise.
fn shrink(configs: &mut Value, flavour: TextFlavour) {
    let heads = if flavour == TextFlavour::Clip { json!(8) } else { json!([1, 2]) };
    set(
        &mut configs["unet"],
        json!({"block_out_channels": [64, 128], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "attention_head_dim": heads, "cross_attention_dim": 128,
            "layers_per_block": 1}),
    );
    set(
        &mut configs["vae"],
        json!({"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "layers_per_block": 1}),
    );
    set(
        &mut configs["text_encoder"],
        json!({"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}),
    );
}
