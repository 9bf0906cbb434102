//! Single files of the SDXL family beside the folders that they were made of.

use std::fs;
use std::path::{Path, PathBuf};

use portray::low_level::diffusion::{SamplerOptions, ScheduleConfig, Trajectory};
use portray::low_level::family::Family;
use portray::low_level::family::single_file::{Structure, TextFlavour, TextNames};
use portray::low_level::io::checkpoints::{Names, Stored};
use portray::low_level::io::{Checkpoint, ElementType, PartId, Weights, write_diffusers_folder};
use portray::low_level::models::{TextEncoderConfig, UNet, UnetConfig, VaeConfig};
use portray::low_level::nn::{Scope, Settings};
use serde_json::{Value, json};

use super::support::{OwnedTensor, message, owned, write_owned};
use crate::common::{write_xl_single_file, xl};

const ENCODERS: [PartId; 2] = [PartId::TEXT_ENCODER, PartId::TEXT_ENCODER_2];

/// Structure of the names of `xl-64`; `ssd-64` has the same.
fn structure() -> Structure {
    let text = |part, prefix, flavour, layers, projects| TextNames { part, prefix, flavour, layers, projects };
    Structure {
        unet_blocks: 3,
        unet_layers: 1,
        unet_plain: 0,
        vae_blocks: 3,
        vae_layers: 1,
        texts: vec![
            text(ENCODERS[0], "conditioner.embedders.0.transformer.", TextFlavour::Clip, 3, false),
            text(ENCODERS[1], "conditioner.embedders.1.model.", TextFlavour::OpenClip, 2, true),
        ],
    }
}

#[test]
fn every_name_of_an_sdxl_file_is_known_both_ways() {
    for list in ["names-xl-64.txt", "names-ssd-64.txt"] {
        for line in fs::read_to_string(xl(list)).unwrap().lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let Some(part) = PartId::from_name(words[0]) else { continue };
            let stored = match words.get(3) {
                Some(&"T") => Stored::Transposed,
                Some(&third @ ("0" | "1" | "2")) => Stored::Third(third.parse().unwrap()),
                _ => Stored::Whole,
            };
            let names = Names::new(part, &structure());
            let (original, canonical) = (words[1].to_owned(), words[2].to_owned());
            assert!(names.canonical(&original).contains(&(canonical.clone(), stored)), "{list}: {line}");
            assert_eq!(names.original(&canonical), Some((original, stored)), "{list}: {line}");
        }
    }
}

pub fn same_tensors(a: &Weights, b: &Weights) {
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>(), "{}", a.part());
    for (x, y) in a.iter().zip(b.iter()) {
        assert_eq!((&x.shape, x.bytes().unwrap()), (&y.shape, y.bytes().unwrap()), "{} {}", a.part(), x.name);
    }
}

pub fn config<T>(of: &Checkpoint, part: PartId, parse: fn(&str, &str) -> portray::Result<T>) -> T {
    parse(part.name(), &of.part(part).unwrap().config().to_string()).unwrap()
}

/// Parameters that a UNet of that configuration asks for, which its depths decide.
pub fn asked(config: &UnetConfig) -> Vec<(String, Vec<usize>)> {
    let scope = Scope::new("unet", Settings::default());
    UNet::new(&scope, config.clone()).unwrap();
    let mut sources: Vec<_> = scope.params().into_iter().flat_map(|p| p.sources).map(|s| (s.key, s.shape)).collect();
    sources.sort();
    sources
}

/// Compares all that decides what the models compute. A file cannot tell for which size its UNet was made.
fn same_model(folder: &Checkpoint, file: &Checkpoint) {
    let parts = |of: &Checkpoint| of.parts().map(|(part, _)| part).collect::<Vec<_>>();
    assert_eq!(parts(folder), parts(file));
    for (part, weights) in folder.parts() {
        same_tensors(weights, file.part(part).unwrap());
    }
    let (a, b) = (config(folder, PartId::UNET, UnetConfig::parse), config(file, PartId::UNET, UnetConfig::parse));
    assert_eq!(asked(&a), asked(&b));
    assert_eq!(b.latent_size(), [128, 128]);
    let heads = |config: &UnetConfig| (0..3).map(|i| config.attention_head_dim.get(i)).collect::<Vec<_>>();
    assert_eq!(heads(&a), heads(&b));
    // Depths have several forms; what they ask for is compared above.
    assert_eq!(
        UnetConfig {
            sample_size: a.sample_size.clone(),
            diffusers_version: a.diffusers_version.clone(),
            transformer_layers_per_block: a.transformer_layers_per_block.clone(),
            reverse_transformer_layers_per_block: a.reverse_transformer_layers_per_block.clone(),
            ..b
        },
        a
    );
    assert_eq!(config(folder, PartId::VAE, VaeConfig::parse), config(file, PartId::VAE, VaeConfig::parse));
    for (part, projection) in [(ENCODERS[0], None), (ENCODERS[1], Some(36))] {
        let [a, b] = [folder, file].map(|of| config(of, part, TextEncoderConfig::parse));
        assert_eq!((a.projection(), b.projection()), (projection, projection));
        // Without a projection its width says nothing.
        assert_eq!(TextEncoderConfig { projection_dim: a.projection_dim, ..b }, a);
    }
    for encoder in Family::of(file).encoders {
        let [a, b] = [folder, file].map(|of| of.tokenizer_in(encoder.tokenizer).unwrap());
        assert_eq!(a.pad(), b.pad(), "{}", encoder.tokenizer);
        assert_eq!(a.encode("a red fox, 1 of 2").unwrap().ids, b.encode("a red fox, 1 of 2").unwrap().ids);
    }
    let schedules =
        [folder, file].map(|of| ScheduleConfig::from_json(&of.scheduler().to_string(), "scheduler").unwrap());
    let [a, b] = schedules.map(|config| {
        let trajectory = Trajectory::new(&config, &SamplerOptions::default(), 6).unwrap();
        (config.prediction_type, config.rescale_betas_zero_snr, trajectory.kind, trajectory.timesteps)
    });
    assert_eq!(a, b);
    assert_eq!(folder.index_field("force_zeros_for_empty_prompt"), file.index_field("force_zeros_for_empty_prompt"));
    assert_eq!(folder.modules(), file.modules());
}

fn single_file(kind: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.safetensors");
    write_xl_single_file(kind, &path);
    (dir, path)
}

/// Writes `file` as a folder and opens that.
fn back(file: &Checkpoint, dir: &Path) -> Checkpoint {
    let unet: Vec<_> = file.part(PartId::UNET).unwrap().iter().collect();
    write_diffusers_folder(dir.join("back"), file, &unet).unwrap();
    Checkpoint::open(dir.join("back")).unwrap()
}

#[test]
fn an_sdxl_file_is_the_folder() {
    for (kind, velocity) in [("xl-64", false), ("xl-v-64", true), ("ssd-64", false)] {
        let (dir, path) = single_file(kind);
        let (folder, file) = (Checkpoint::open(xl(kind)).unwrap(), Checkpoint::open(&path).unwrap());
        assert_eq!(Family::of(&file).name, "Stable Diffusion XL");
        same_model(&folder, &file);
        assert_eq!(file.scheduler()["prediction_type"], if velocity { "v_prediction" } else { "epsilon" });
        assert_eq!(file.scheduler()["_class_name"], "EulerDiscreteScheduler");
        let spacing = if velocity { json!("trailing") } else { json!("leading") };
        assert_eq!([&file.scheduler()["timestep_spacing"], &file.scheduler()["steps_offset"]], [&spacing, &json!(1)]);
        assert!(file.prediction_known() && file.notes().is_empty(), "{kind}: {:?}", file.notes());
        let written = back(&file, dir.path());
        same_model(&folder, &written);
        assert_eq!(written.part(PartId::UNET).unwrap().config()["in_channels"], 4);
    }
}

/// The file of `kind`, with `change` made to its tensors.
fn changed(kind: &str, change: impl FnOnce(&mut Vec<OwnedTensor>)) -> (tempfile::TempDir, Checkpoint) {
    let (dir, path) = single_file(kind);
    let mut tensors = owned(&path);
    change(&mut tensors);
    write_owned(&path, &tensors);
    (dir, Checkpoint::open(&path).unwrap())
}

#[test]
fn an_sdxl_inpainting_file_is_one() {
    let (dir, file) = changed("xl-64", |tensors| {
        let first = tensors.iter_mut().find(|t| t.name == "model.diffusion_model.input_blocks.0.0.weight").unwrap();
        first.shape[1] = 9;
        first.bytes = (0..32 * 9 * 9u16).flat_map(|i| (0x2000 + i).to_le_bytes()).collect();
    });
    let folder = Checkpoint::open(xl("xl-64")).unwrap();
    for opened in [&file, &back(&file, dir.path())] {
        let unet = config(opened, PartId::UNET, UnetConfig::parse);
        assert!(unet.inpaints(4) && unet.in_channels == 9);
        assert_eq!(opened.index_field("_class_name"), Some(json!("StableDiffusionXLInpaintPipeline")));
        let first = opened.part(PartId::UNET).unwrap().get("conv_in.weight").unwrap();
        assert_eq!((&*first.shape, &first.bytes().unwrap()[..2]), (&[32, 9, 3, 3][..], &[0, 0x20][..]));
        for part in [PartId::VAE, ENCODERS[0], ENCODERS[1]] {
            same_tensors(folder.part(part).unwrap(), opened.part(part).unwrap());
        }
    }
}

/// What ComfyUI, kohya's scripts and mergers leave out, add, or name otherwise.
#[test]
fn variants_of_an_sdxl_file_are_the_folder() {
    let folder = Checkpoint::open(xl("xl-64")).unwrap();
    let first = "conditioner.embedders.0.transformer.";
    let projection = "conditioner.embedders.1.model.text_projection";
    let ids = |name: String| OwnedTensor { name, dtype: ElementType::I64, shape: vec![1, 2], bytes: vec![0; 16] };
    let (_dir, comfy) = changed("xl-64", |tensors| {
        tensors.retain(|t| !t.name.ends_with("logit_scale"));
        tensors.push(ids(format!("{first}text_model.embeddings.position_ids")));
    });
    same_model(&folder, &comfy);
    let (_dir, oldest) = changed("xl-64", |tensors| {
        tensors.iter_mut().for_each(|t| t.name = t.name.replace(&format!("{first}text_model."), first));
        tensors.push(ids(format!("{first}embeddings.position_ids")));
    });
    same_model(&folder, &oldest);
    // A linear layer's weight is as transformers has it, and so is one that was saved as the weight of a weight.
    let whole = |t: portray::low_level::io::Tensor| t.bytes().unwrap().to_vec();
    let linear = whole(folder.part(ENCODERS[1]).unwrap().get("text_projection.weight").unwrap());
    for ending in [".weight", ".weight.weight"] {
        let (_dir, turned) = changed("xl-64", |tensors| {
            let stored = tensors.iter_mut().find(|t| t.name == projection).unwrap();
            assert_ne!(stored.bytes, linear);
            stored.name += ending;
            stored.shape.reverse();
            stored.bytes.clone_from(&linear);
        });
        same_model(&folder, &turned);
    }
}

/// A text encoder that no job asks for a pooled state may be saved with the layer that makes one.
#[test]
fn a_projection_of_the_first_encoder_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    super::support::copy_folder(&xl("xl-64"), dir.path());
    let at = dir.path().join("text_encoder");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(at.join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["CLIPTextModelWithProjection"]);
    fs::write(at.join("config.json"), config.to_string()).unwrap();
    for with in [false, true] {
        let mut tensors = owned(&at.join("model.safetensors"));
        let weight = || vec![0; 64 * 64 * 2];
        let projection = || OwnedTensor {
            name: "text_projection.weight".into(),
            dtype: ElementType::F16,
            shape: vec![64, 64],
            bytes: weight(),
        };
        tensors.extend(with.then(projection));
        write_owned(&at.join("model.safetensors"), &tensors);
        let model = Checkpoint::open(dir.path()).unwrap();
        assert!(!model.part(ENCODERS[0]).unwrap().contains("text_projection.weight"));
        let [first, second] = [0, 1].map(|i| Family::of(&model).encoders[i].config(&model).unwrap().projection());
        assert_eq!((first, second), (None, Some(36)));
    }
}

#[test]
fn sdxl_files_that_lack_an_encoder_say_which() {
    let lacking = |prefix: &str| {
        let (_dir, path) = single_file("xl-64");
        let mut tensors = owned(&path);
        tensors.retain(|t| !t.name.starts_with(prefix));
        write_owned(&path, &tensors);
        message(Checkpoint::open(&path))
    };
    let e = lacking("conditioner.embedders.0.");
    assert!(e.contains("holds no text encoder (conditioner.embedders.0.…)"), "{e}");
    let e = lacking("conditioner.embedders.1.");
    assert!(e.contains("holds no text encoder (conditioner.embedders.1.model.…)"), "{e}");
}
