//! Folders of the SDXL family: variants that are read, and what is refused, as what it is.

use std::fs;
use std::path::{Path, PathBuf};

use portray::low_level::io::{Checkpoint, PartId};
use portray::{Flow, Model, ModelOptions, ModelReport};
use serde_json::{Value, json};

use super::support::{copy_folder, message};
use crate::common::xl;

fn copy() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_folder(&xl("xl-64"), &model);
    (dir, model)
}

fn set(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn opened(model: &Path) -> portray::Result<Model> {
    let options = ModelOptions { model: Some(model.into()), ..ModelOptions::default() };
    Model::open(&options, &[], &mut |_| Flow::Continue)
}

#[test]
fn published_variants_of_an_sdxl_folder_are_read() {
    let (_dir, model) = copy();
    let whole = Checkpoint::open(&model).unwrap().fingerprint().unwrap();
    for part in PartId::ALL {
        let at = |ending: &str| model.join(part.name()).join(format!("{}{ending}", part.stem()));
        fs::rename(at(".safetensors"), at(".fp16.safetensors")).unwrap();
    }
    // Turbo's folder and older ones say nothing of an empty prompt.
    set(&model.join("model_index.json"), |index| {
        drop(index.as_object_mut().unwrap().remove("force_zeros_for_empty_prompt"))
    });
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert_eq!(checkpoint.fingerprint().unwrap(), whole);
    opened(&model).unwrap();
    let report = ModelReport::of_files(&checkpoint).unwrap();
    assert_eq!(report.family, "small Stable Diffusion XL");
    assert_eq!(report.parts.keys().copied().collect::<Vec<_>>(), ["text_encoder", "text_encoder_2", "unet", "vae"]);
    assert_eq!((report.pixels, report.factor, report.context_width), (Some(48), Some(4), Some(192)));
}

#[test]
fn odd_sdxl_folders_are_refused_by_what_is_odd() {
    let refused = |change: &dyn Fn(&Path), says: &str| {
        let (_dir, model) = copy();
        change(&model);
        let e = message(opened(&model));
        assert!(e.contains(&model.display().to_string()) && e.contains(says), "{e}");
    };
    refused(&|model| fs::remove_dir_all(model.join("tokenizer_2")).unwrap(), "tokenizer_2");
    refused(
        &|model| fs::remove_dir_all(model.join("text_encoder_2")).unwrap(),
        "text_encoder_2: the model lacks this folder",
    );
    let swap = |model: &Path| {
        let [first, second, other] = ["text_encoder", "text_encoder_2", "other"].map(|name| model.join(name));
        fs::rename(&first, &other).unwrap();
        fs::rename(&second, &first).unwrap();
        fs::rename(&other, &second).unwrap();
    };
    refused(&swap, "is of a CLIPTextModel, only CLIPTextModelWithProjection is supported");
    let widened = |model: &Path| {
        set(&model.join("text_encoder_2/config.json"), |config| {
            config["hidden_size"] = json!(192);
            config["num_attention_heads"] = json!(3);
        });
    };
    refused(&widened, "the text encoders give 256 columns, the UNet reads 192");
    let narrow = |model: &Path| {
        set(&model.join("text_encoder_2/config.json"), |config| config["projection_dim"] = json!(64));
    };
    refused(&narrow, "pooled embedding of 64 columns, the UNet reads 36");
    let pickled = |model: &Path| {
        let unet = model.join("unet");
        fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
        fs::write(unet.join("diffusion_pytorch_model.bin"), b"PK").unwrap();
    };
    refused(&pickled, "has pickled weights only (diffusion_pytorch_model.bin)");
    refused(
        &pickled,
        "convert the model with python -c \"from diffusers import DiffusionPipeline as P; P.from_pretrained('",
    );
}

#[test]
fn relatives_of_sdxl_that_are_not_read_are_named() {
    let (_dir, model) = copy();
    let index = fs::read_to_string(model.join("model_index.json")).unwrap();
    let refused = |change: &dyn Fn(&mut Value), says: &str| {
        fs::write(model.join("model_index.json"), &index).unwrap();
        set(&model.join("model_index.json"), change);
        let e = message(Checkpoint::open(&model));
        assert!(e.contains(&model.display().to_string()) && e.contains(says), "{e}");
    };
    let named = |class: &'static str| move |index: &mut Value| index["_class_name"] = json!(class);
    let refiner = |index: &mut Value| {
        index["_class_name"] = json!("StableDiffusionXLImg2ImgPipeline");
        index["requires_aesthetics_score"] = json!(true);
    };
    refused(&refiner, "is a Stable Diffusion XL refiner (StableDiffusionXLImg2ImgPipeline)");
    refused(&|index| index["text_encoder"] = json!([null, null]), "is a Stable Diffusion XL refiner");
    let playground = |index: &mut Value| index["scheduler"] = json!(["diffusers", "EDMDPMSolverMultistepScheduler"]);
    refused(&playground, "noise levels are EDM's (EDMDPMSolverMultistepScheduler)");
    refused(&named("KolorsPipeline"), "is a Kolors model, whose text encoder is ChatGLM");
    refused(&named("StableDiffusionXLControlNetPipeline"), "is a Stable Diffusion XL model with a ControlNet");
    fs::remove_file(model.join("model_index.json")).unwrap();
    fs::write(model.join("config.json"), r#"{"_class_name": "ControlNetModel"}"#).unwrap();
    let e = message(Checkpoint::open(&model));
    assert!(e.contains("is a ControlNet (ControlNetModel)"), "{e}");
}
