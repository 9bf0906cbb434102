//! Stable Diffusion models with random weights, in both layouts, of full size or tiny.

use std::collections::BTreeMap;
use std::path::Path;

use portray::base::rng::{CounterRng, Stream};
use portray::family::single_file::{Structure, TextFlavour, TextNames};
use portray::io::checkpoints::{Names, Stored};
use portray::io::{ElementType, PartId, Tensor, write_atomic, write_safetensors};
use portray::models::{TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::nn::{Mode, Scope, Settings};
use portray::{Error, Result};
use serde_json::{Value, json};

/// A model to be written.
pub struct RandomModel {
    flavour: TextFlavour,
    configs: Value,
    seed: u64,
}

/// Parts that have weights.
const PARTS: [PartId; 3] = [PartId::TEXT_ENCODER, PartId::UNET, PartId::VAE];

/// One tensor: diffusers' name, shape, halves as bytes.
type Weight = (String, Vec<usize>, Vec<u8>);

impl RandomModel {
    /// `sd15`, `sd2-base`, `sd21` (768 pixels, velocities), `turbo`, or one of their small siblings; with `-inpainting` behind
    /// its name, an inpainting model.
    pub fn named(name: &str, seed: u64) -> Option<RandomModel> {
        if let Some(base) = name.strip_suffix("-inpainting") {
            let mut model = RandomModel::named(base, seed)?;
            model.configs["unet"]["in_channels"] = json!(9);
            model.configs["model_index"]["_class_name"] = json!("StableDiffusionInpaintPipeline");
            return Some(model);
        }
        let (flavour, template) = match name {
            "sd15" | "tiny-sd1" => (TextFlavour::Clip, include_str!("../../src/family/sd1.json")),
            "sd2-base" | "sd21" | "turbo" | "tiny-sd2" => {
                (TextFlavour::OpenClip, include_str!("../../src/family/sd2.json"))
            }
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
        for (name, source) in portray::io::bundled::tokenizer("CLIP", pad).iter() {
            let bytes = source.bytes()?;
            write_atomic(folder.join("tokenizer").join(name), |out| out.write_all(&bytes))?;
        }
        for part in PARTS {
            text(&format!("{part}/config.json"), &self.configs[part.name()])?;
            let stem = if part == PartId::TEXT_ENCODER { "model" } else { "diffusion_pytorch_model" };
            let weights = self.weights(part)?;
            write(&folder.join(format!("{part}/{stem}.safetensors")), &weights)?;
        }
        Ok(())
    }

    /// Writes one file in the original layout, with the tensors that such files have besides.
    pub fn write_file(&self, path: &Path) -> Result<()> {
        let mut weights = Vec::new();
        for part in PARTS {
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

    /// All tensors of `part`: uniform with the variance that keeps activations lively (1 / inputs), norms about 1.
    fn weights(&self, part: PartId) -> Result<Vec<Weight>> {
        let scope = Scope::new(part.name(), Settings { mode: Mode::Training, ..Settings::default() });
        let (path, config) = (format!("{part}/config.json"), self.configs[part.name()].to_string());
        match part {
            PartId::TEXT_ENCODER => drop(TextEncoder::new(&scope, TextEncoderConfig::parse(&path, &config)?)?),
            PartId::UNET => drop(UNet::new(&scope, UnetConfig::parse(&path, &config)?)?),
            _ => drop(Vae::new(&scope, VaeConfig::parse(&path, &config)?)?),
        }
        let sources = scope.params().into_iter().flat_map(|param| param.sources);
        let number = PARTS.iter().position(|own| *own == part).unwrap_or(0) as u64;
        let one = |(i, source): (usize, portray::nn::Source)| {
            let name = source.key.split_once('.').map_or(source.key.clone(), |(_, name)| name.to_owned());
            let inputs: usize = source.shape.iter().skip(1).product();
            let (mean, spread) = match source.shape.len() {
                1 if name.ends_with(".weight") => (1.0, 0.1),
                1 => (0.0, 0.05),
                _ if name.contains("embedding.weight") => (0.0, 0.5),
                _ => (0.0, (3.0 / inputs as f32).sqrt()),
            };
            let rng = CounterRng::new(self.seed ^ (number << 32), Stream::Init);
            let count = source.shape.iter().product::<usize>();
            let mut bytes = Vec::with_capacity(count * 2 + 8);
            for block in 0..count.div_ceil(4) {
                // Sixteen bits are more than a half keeps: four values a draw.
                let bits = rng.u64(i as u32, block as u64);
                for k in 0..4 {
                    let unit = ((bits >> (16 * k)) as u16 as f32 + 0.5) / 32768.0 - 1.0;
                    bytes.extend(half::f16::from_f32(mean + spread * unit).to_le_bytes());
                }
            }
            bytes.truncate(count * 2);
            (name, source.shape, bytes)
        };
        Ok(sources.enumerate().map(one).collect())
    }
}

fn write(path: &Path, weights: &[Weight]) -> Result<()> {
    let tensors: Vec<Tensor<'_>> =
        weights.iter().map(|(name, shape, bytes)| Tensor::raw(name, ElementType::F16, shape, bytes)).collect();
    write_safetensors(path, &tensors, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))
}

/// The same architecture with few channels: heads of 64 and groups of 32 stay, as single files cannot say otherwise.
fn shrink(configs: &mut Value, flavour: TextFlavour) {
    let set = |config: &mut Value, fields: Value| {
        if let (Some(config), Value::Object(fields)) = (config.as_object_mut(), fields) {
            config.extend(fields);
        }
    };
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
