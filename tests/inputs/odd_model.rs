//! Small models whose sizes are no multiples of four: text widths of 33 to 36, prompts of 9 tokens, latents of 3 channels.
//! The weights are a formula of their names, as in `tests/fixtures/odd/make.py`, which says what PyTorch makes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use portray::low_level::models::{TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::low_level::nn::{Scope, Settings};
use serde_json::{Value, json};

/// The prompts of the reference values, of which the first is empty.
pub const PROMPTS: [&str; 9] = ["", "a cat", "dog", "red car", "a b c", "zzz", "house", "sky", "it is"];
/// Pixels of the reference values' images.
pub const SIZE: [usize; 2] = [6, 10];

/// The reference values `name`.
pub fn expected(name: &str) -> Vec<f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/odd/values.safetensors");
    let values = SafeTensors::open(path).unwrap().get(name).unwrap().to_numbers().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// -0.5 to 0.5, a hash of the name and the place.
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(2_166_136_261u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(16_777_619));
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2_654_435_761) ^ seed;
        for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35u32)] {
            x = (x ^ (x >> shift)).wrapping_mul(factor);
        }
        ((x ^ (x >> 16)) >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count as u32).map(value).collect()
}

/// The weights called `name`.
pub fn filled(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = uniform(name, shape.iter().product());
    let table = name.contains("embedding") && shape.len() == 2 && !name.contains("time");
    let inner: usize = shape.iter().skip(1).product();
    let scale = if table { 3.0 } else { (3.0 / (inner as f64).sqrt()) as f32 };
    match shape.len() {
        1 => values.iter().map(|u| u * 0.25 + if name.ends_with("bias") { 0.0 } else { 1.0 }).collect(),
        _ => values.iter().map(|u| u * scale).collect(),
    }
}

/// Writes the tensors that the layers of `scope` read.
fn weights(folder: &Path, file: &str, part: &str, config: &Value, scope: &Scope) {
    let folder = folder.join(part);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for source in scope.params().into_iter().flat_map(|param| param.sources) {
        let values = filled(&source.key.replacen(".text_model.", ".", 1), &source.shape);
        let name = source.key.split_once('.').unwrap().1.to_owned();
        tensors.insert(name, (source.shape, values));
    }
    let tensors: Vec<Tensor<'_>> = tensors.iter().map(|(name, (shape, v))| Tensor::f32(name, shape, v)).collect();
    write_safetensors(folder.join(file), &tensors, &BTreeMap::new()).unwrap();
}

/// Writes a model of text width `width` to `folder`, with the scheduler file `scheduler`.
pub fn write(folder: &Path, width: usize, scheduler: &Value) -> PathBuf {
    let heads = [3, 2, 5, 3][width - 33];
    let text = json!({"vocab_size": 514, "hidden_size": width, "intermediate_size": 41, "num_hidden_layers": 1,
        "num_attention_heads": heads, "max_position_embeddings": 9, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model"});
    let unet = json!({"_class_name": "UNet2DConditionModel", "sample_size": 5, "in_channels": 3, "out_channels": 3,
        "layers_per_block": 1, "block_out_channels": [8, 12], "norm_num_groups": 4, "attention_head_dim": 2,
        "cross_attention_dim": width, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]});
    let vae = json!({"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 3,
        "layers_per_block": 1, "block_out_channels": [4, 8], "norm_num_groups": 2, "sample_size": 10,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "scaling_factor": 0.18215});
    let scope = |part: &str| Scope::new(part, Settings::default());
    let of_text = scope("text_encoder");
    TextEncoder::new(&of_text, TextEncoderConfig::parse("text", &text.to_string()).unwrap()).unwrap();
    weights(folder, "model.safetensors", "text_encoder", &text, &of_text);
    let of_unet = scope("unet");
    UNet::new(&of_unet, UnetConfig::parse("unet", &unet.to_string()).unwrap()).unwrap();
    weights(folder, "diffusion_pytorch_model.safetensors", "unet", &unet, &of_unet);
    let of_vae = scope("vae");
    Vae::new(&of_vae, VaeConfig::parse("vae", &vae.to_string()).unwrap()).unwrap();
    weights(folder, "diffusion_pytorch_model.safetensors", "vae", &vae, &of_vae);

    let put = |path: &str, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("scheduler/scheduler_config.json", scheduler.to_string());
    put(
        "model_index.json",
        json!({"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})
        .to_string(),
    );
    // CLIP's vocabulary of single bytes, each also as the end of a word, and no merges.
    let printable: Vec<u32> = (33..127).chain(161..173).chain(174..256).collect();
    let others = (0..256).filter(|byte| !printable.contains(byte)).enumerate().map(|(i, _)| 256 + i as u32);
    let letters: Vec<char> = printable.iter().copied().chain(others).map(|c| char::from_u32(c).unwrap()).collect();
    let words = letters.iter().map(char::to_string).chain(letters.iter().map(|c| format!("{c}</w>")));
    let words = words.chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocabulary: serde_json::Map<_, _> = words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    put("tokenizer/vocab.json", Value::Object(vocabulary).to_string());
    put("tokenizer/merges.txt", "#version: 0.2\n".into());
    let end = "<|endoftext|>";
    put(
        "tokenizer/tokenizer_config.json",
        json!({"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end,
            "model_max_length": 9, "tokenizer_class": "CLIPTokenizer"})
        .to_string(),
    );
    folder.to_owned()
}

/// The scheduler file of the reference values: `class` with `fields` beside Stable Diffusion's betas.
pub fn scheduler(class: &str, fields: Value) -> Value {
    let mut all = json!({"_class_name": class, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1});
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    all
}
