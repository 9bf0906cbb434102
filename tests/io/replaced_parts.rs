//! Another autoencoder or UNet in place of a model's own.

use std::fs;
use std::path::{Path, PathBuf};

use portray::low_level::diffusion::ScheduleConfig;
use portray::low_level::io::{Checkpoint, ElementType, PartId, SafeTensors, write_diffusers_folder};
use portray::low_level::models::{UnetConfig, VaeConfig};
use serde_json::json;

use super::single_file_xl::{asked, config, same_tensors};
use super::support::{OwnedTensor, golden, message, owned, write_owned};
use crate::common::{write_xl_single_file, xl};

fn base() -> Checkpoint {
    Checkpoint::open(xl("xl-64")).unwrap()
}

/// A file of `tensors` in `dir`.
fn file(dir: &Path, name: &str, tensors: &[OwnedTensor]) -> PathBuf {
    let path = dir.join(name);
    write_owned(&path, tensors);
    path
}

/// The tensors of the single file of `kind` whose names begin with `prefix`.
fn original(dir: &Path, kind: &str, prefix: &str) -> Vec<OwnedTensor> {
    let whole = dir.join("whole.safetensors");
    write_xl_single_file(kind, &whole);
    owned(&whole).into_iter().filter(|t| t.name.starts_with(prefix)).collect()
}

fn renamed(tensors: Vec<OwnedTensor>, name: impl Fn(&str) -> String) -> Vec<OwnedTensor> {
    tensors.into_iter().map(|t| OwnedTensor { name: name(&t.name), ..t }).collect()
}

const VAE: &str = "diffusion_pytorch_model.safetensors";

#[test]
fn an_autoencoder_comes_from_a_folder_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let other = Checkpoint::open(xl("xl")).unwrap();
    for path in [xl("xl"), xl("xl/vae"), xl("xl/vae").join(VAE)] {
        let model = base().with_vae(&path).unwrap();
        same_tensors(model.part(PartId::VAE).unwrap(), other.part(PartId::VAE).unwrap());
        let [ours, theirs] = [&model, &other].map(|model| config(model, PartId::VAE, VaeConfig::parse));
        assert_eq!(ours, theirs, "{}", path.display());
        assert_ne!(model.fingerprint().unwrap(), base().fingerprint().unwrap());
        same_tensors(model.part(PartId::UNET).unwrap(), base().part(PartId::UNET).unwrap());
        // What is saved has the autoencoder that was used.
        let (out, unet) = (dir.path().join("out"), model.part(PartId::UNET).unwrap().iter().collect::<Vec<_>>());
        write_diffusers_folder(&out, &model, &unet).unwrap();
        let written = Checkpoint::open(&out).unwrap();
        same_tensors(written.part(PartId::VAE).unwrap(), other.part(PartId::VAE).unwrap());
        assert_eq!(config(&written, PartId::VAE, VaeConfig::parse), theirs);
    }
    // The original names, in a whole checkpoint, by themselves, and without what stands before them.
    let prefix = "first_stage_model.";
    let vae = || original(dir.path(), "xl-64", prefix);
    let with = file(dir.path(), "with.safetensors", &vae());
    let without = file(dir.path(), "without.safetensors", &renamed(vae(), |name| name.replace(prefix, "")));
    let alone = file(dir.path(), "alone.safetensors", &owned(&xl("xl-64/vae").join(VAE)));
    let wrapped = file(dir.path(), "wrapped.safetensors", &renamed(owned(&alone), |name| format!("vae.{name}")));
    for path in [dir.path().join("whole.safetensors"), with, without, alone, wrapped] {
        let model = Checkpoint::open(xl("xl")).unwrap().with_vae(&path).unwrap();
        same_tensors(model.part(PartId::VAE).unwrap(), base().part(PartId::VAE).unwrap());
        let [ours, own] = [&model, &base()].map(|model| config(model, PartId::VAE, VaeConfig::parse));
        assert_eq!(ours, own, "{}", path.display());
        assert!(model.notes().is_empty(), "{:?}", model.notes());
    }
}

#[test]
fn an_autoencoder_of_other_latents_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, says: &str| {
        let e = message(base().with_vae(path));
        assert!(e.contains(&path.display().to_string()) && e.contains(says), "{e}");
    };
    refused(&dir.path().join("none"), "no such file or folder");
    refused(dir.path(), "has no config.json and no folder vae");
    refused(&xl("xl-64/unet"), "is of a UNet2DConditionModel, only AutoencoderKL is supported");
    refused(&xl("xl-64/vae/config.json"), "is one file of a model folder");
    refused(&xl("xl-64/unet").join(VAE), "holds no autoencoder of Stable Diffusion");
    let whole = file(dir.path(), "unet.safetensors", &owned(&xl("xl-64/unet").join(VAE)));
    refused(&whole, "holds no autoencoder of Stable Diffusion");
    refused(&xl("xl.lora-kohya.safetensors"), "is a LoRA");
    let mut tensors = owned(&xl("xl-64/vae").join(VAE));
    tensors.iter_mut().filter(|t| t.name == "decoder.conv_in.weight").for_each(|t| {
        t.shape[1] *= 4;
        t.bytes = t.bytes.repeat(4);
    });
    let wide = file(dir.path(), "wide.safetensors", &tensors);
    refused(&wide, "latents have 16 channels for 4x4 pixels");
    fs::write(dir.path().join("vae.pt"), b"PK\x03\x04").unwrap();
    refused(&dir.path().join("vae.pt"), "is a Python pickle");
    // Of another family, as far as the scale of its latents tells.
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(xl("xl/vae/config.json")).unwrap()).unwrap();
    config["scaling_factor"] = json!(0.18215);
    fs::copy(xl("xl/vae").join(VAE), dir.path().join(VAE)).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let notes = base().with_vae(dir.path()).unwrap().notes().to_vec();
    assert!(notes.iter().any(|note| note.to_string().contains("scaled by 0.18215")), "{notes:?}");
}

#[test]
fn a_unet_comes_from_a_file_under_any_names() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = "model.diffusion_model.";
    for kind in ["xl-64", "ssd-64"] {
        let other = Checkpoint::open(xl(kind)).unwrap();
        let unet = || original(dir.path(), kind, prefix);
        let with = file(dir.path(), "with.safetensors", &unet());
        let bare = file(dir.path(), "bare.safetensors", &renamed(unet(), |name| name.replace(prefix, "")));
        let short = file(dir.path(), "short.safetensors", &renamed(unet(), |name| name.replace("model.d", "d")));
        let diffusers = file(dir.path(), "diffusers.safetensors", &owned(&xl(kind).join("unet").join(VAE)));
        for path in [with, bare, short, diffusers, xl(kind), xl(kind).join("unet").join(VAE)] {
            let model = base().with_unet(&path).unwrap();
            same_tensors(model.part(PartId::UNET).unwrap(), other.part(PartId::UNET).unwrap());
            let [ours, theirs] = [&model, &other].map(|model| config(model, PartId::UNET, UnetConfig::parse));
            assert_eq!(asked(&ours), asked(&theirs), "{kind} {}", path.display());
            assert_eq!(ours.attention_head_dim, theirs.attention_head_dim);
            assert_eq!(ours.latent_size(), theirs.latent_size());
            assert_eq!(model.scheduler(), base().scheduler());
        }
    }
}

#[test]
fn a_unet_says_what_it_predicts_and_reads() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = "model.diffusion_model.";
    let mut unet = original(dir.path(), "xl-64", prefix);
    let mark = |name: &str| OwnedTensor { name: name.into(), dtype: ElementType::F16, shape: vec![0], bytes: vec![] };
    let lightning = file(dir.path(), "sdxl_lightning_1step_unet_x0.safetensors", &unet);
    let model = base().with_unet(&lightning).unwrap();
    assert_eq!(model.scheduler()["prediction_type"], "sample");
    assert!(model.notes()[0].to_string().contains("made for one step"), "{:?}", model.notes());
    unet.extend([mark("v_pred"), mark("ztsnr")]);
    let input = unet.iter_mut().find(|t| t.name.ends_with("input_blocks.0.0.weight")).unwrap();
    input.shape[1] = 9;
    input.bytes = vec![0; 32 * 9 * 9 * 2];
    let model = base().with_unet(&file(dir.path(), "v.safetensors", &unet)).unwrap();
    let schedule = |text: &str| ScheduleConfig::from_json(text, "scheduler").unwrap();
    let zero = Checkpoint::open(xl("xl-v-64")).unwrap();
    let [ours, expected] = [&model, &zero].map(|model| schedule(&model.scheduler().to_string()));
    assert_eq!(ScheduleConfig { rest: expected.rest.clone(), ..ours }, expected);
    assert_eq!(model.index_field("_class_name"), Some(json!("StableDiffusionXLInpaintPipeline")));
    assert!(config(&model, PartId::UNET, UnetConfig::parse).inpaints(4));
    let out = dir.path().join("out");
    let tensors: Vec<_> = model.part(PartId::UNET).unwrap().iter().collect();
    write_diffusers_folder(&out, &model, &tensors).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(
        (written.scheduler(), written.index_field("_class_name")),
        (model.scheduler(), model.index_field("_class_name"))
    );
    let plain = written.with_unet(&xl("xl-64")).unwrap();
    assert_eq!(plain.index_field("_class_name"), Some(json!("StableDiffusionXLPipeline")));
}

#[test]
fn a_unet_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, says: &str| {
        let e = message(base().with_unet(path));
        assert!(e.contains(&path.display().to_string()) && e.contains(says), "{e}");
    };
    refused(&golden("sd15"), "is a UNet for hidden states of width");
    refused(&golden("sd15").join("unet").join(VAE), "give one of the model's family, Stable Diffusion XL");
    refused(&xl("xl-64/vae"), "is of a AutoencoderKL, only UNet2DConditionModel is supported");
    refused(&xl("xl.lora-peft.safetensors"), "is a LoRA");
    let named = |names: &[&str], says: &str| {
        let tensor = |name: &&str| OwnedTensor {
            name: (*name).into(),
            dtype: ElementType::F16,
            shape: vec![1],
            bytes: vec![0; 2],
        };
        let path = file(dir.path(), "odd.safetensors", &names.iter().map(tensor).collect::<Vec<_>>());
        SafeTensors::open(&path).unwrap();
        refused(&path, says);
    };
    named(&["edm_mean", "input_blocks.0.0.bias"], "is a Playground 2.5 checkpoint");
    named(&["double_blocks.0.img_attn.qkv.weight"], "is a checkpoint of Flux");
    named(&["controlnet_cond_embedding.conv_in.bias", "down_blocks.0.resnets.0.norm1.bias"], "is a ControlNet");
    named(&["input_blocks.0.0.bias"], "no Stable Diffusion UNet");
    named(&["encoder.conv_in.bias"], "holds no UNet of Stable Diffusion");
    // No attention with a block that has its name: what is missing is named, when it is looked for.
    let tensors = renamed(original(dir.path(), "xl-64", ""), |name| name.replace(".norm1.", ".normal."));
    if let Ok(opened) = base().with_unet(&file(dir.path(), "damaged.safetensors", &tensors)) {
        assert!(
            !opened.part(PartId::UNET).unwrap().names().any(|name| name.ends_with("transformer_blocks.0.norm1.weight"))
        );
    }
}
