//! Single-file checkpoints: every name of both layouts both ways, configurations read off the tensors, what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use portray::SamplerKind;
use portray::low_level::diffusion::{NoiseSchedule, SamplerOptions, ScheduleConfig, Trajectory};
use portray::low_level::family::single_file::{Structure, TextFlavour, TextNames};
use portray::low_level::io::checkpoints::{Names, Stored};
use portray::low_level::io::{
    Checkpoint, ElementType, PartId, SafeTensors, Tensor, write_diffusers_folder, write_safetensors,
};
use portray::low_level::models::{TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::low_level::nn::{Mode, Scope, Settings};

use super::random_model::RandomModel;
use super::support::message;

fn full_size(text: TextFlavour) -> Structure {
    let (prefix, layers) = match text {
        TextFlavour::Clip => ("cond_stage_model.transformer.", 12),
        _ => ("cond_stage_model.model.", 23),
    };
    let text = TextNames { part: PartId::TEXT_ENCODER, prefix, flavour: text, layers, projects: false };
    Structure { unet_blocks: 4, unet_layers: 2, unet_plain: 1, vae_blocks: 4, vae_layers: 2, texts: vec![text] }
}

/// What diffusers' own converters pair: part, original, canonical, how it is stored.
fn pairs() -> Vec<(&'static str, String, String, Stored)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let part = ["unet", "vae", "clip", "openclip"].into_iter().find(|p| *p == words[0]).unwrap();
        (
            part,
            words[1].to_owned(),
            words[2].to_owned(),
            words.get(3).map_or(Stored::Whole, |t| Stored::Third(t.parse().unwrap())),
        )
    };
    include_str!("../fixtures/single_file/names.txt").lines().map(line).collect()
}

fn names(part: &str) -> Names {
    let text = if part == "clip" { TextFlavour::Clip } else { TextFlavour::OpenClip };
    let part = match part {
        "unet" => PartId::UNET,
        "vae" => PartId::VAE,
        _ => PartId::TEXT_ENCODER,
    };
    Names::new(part, &full_size(text))
}

#[test]
fn every_name_of_both_layouts_is_known_both_ways() {
    let tables: BTreeMap<&str, Names> = ["unet", "vae", "clip", "openclip"].map(|p| (p, names(p))).into();
    for (part, original, canonical, stored) in pairs() {
        let table = &tables[part];
        let found = table.canonical(&original);
        assert!(found.contains(&(canonical.clone(), stored)), "{part} {original}: {found:?}, expected {canonical}");
        assert_eq!(found.len(), if stored == Stored::Whole { 1 } else { 3 }, "{original}");
        assert_eq!(table.original(&canonical), Some((original, stored)), "{part} {canonical}");
    }
    for stray in
        ["alphas_cumprod", "model_ema.decay", "cond_stage_model.model.logit_scale", "model.diffusion_model.x.y"]
    {
        assert!(tables.values().all(|table| table.canonical(stray).is_empty()), "{stray}");
    }
    assert!(tables["openclip"].canonical("cond_stage_model.model.transformer.resblocks.23.ln_1.weight").is_empty());
}

/// The names that our models ask for are those of the table, no more and no less.
#[test]
fn our_models_ask_for_exactly_these_names() {
    let template = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let sd1 = template(include_str!("../../src/family/sd1.json"));
    let sd2 = template(include_str!("../../src/family/sd2.json"));
    let mut asked: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (part, folder, configs) in [
        ("unet", "unet", &sd2),
        ("vae", "vae", &sd1),
        ("clip", "text_encoder", &sd1),
        ("openclip", "text_encoder", &sd2),
    ] {
        let scope = Scope::new(folder, Settings { mode: Mode::Training, ..Settings::default() });
        let text = configs[folder].to_string();
        match part {
            "unet" => drop(UNet::new(&scope, UnetConfig::parse(part, &text).unwrap()).unwrap()),
            "vae" => drop(Vae::new(&scope, VaeConfig::parse(part, &text).unwrap()).unwrap()),
            _ => drop(TextEncoder::new(&scope, TextEncoderConfig::parse(part, &text).unwrap()).unwrap()),
        }
        let keys =
            scope.params().into_iter().flat_map(|p| p.sources).map(|s| s.key.split_once('.').unwrap().1.to_owned());
        asked.insert(part, keys.collect());
    }
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (part, _, canonical, _) in pairs() {
        known.entry(part).or_default().insert(canonical);
    }
    assert_eq!(asked, known);
}

fn both(name: &str) -> (tempfile::TempDir, Checkpoint, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let model = RandomModel::named(name, 1).unwrap();
    model.write_folder(&dir.path().join("folder")).unwrap();
    model.write_file(&dir.path().join("one.safetensors")).unwrap();
    let (folder, file) = (dir.path().join("folder"), dir.path().join("one.safetensors"));
    let opened = (Checkpoint::open(folder).unwrap(), Checkpoint::open(file).unwrap());
    (dir, opened.0, opened.1)
}

#[test]
fn a_single_file_is_the_folder() {
    for (name, pad) in
        [("tiny-sd1", 49407), ("tiny-sd2", 0), ("tiny-sd1-inpainting", 49407), ("tiny-sd2-inpainting", 0)]
    {
        let (dir, folder, file) = both(name);
        for part in [PartId::TEXT_ENCODER, PartId::UNET, PartId::VAE] {
            let (a, b) = (folder.part(part).unwrap(), file.part(part).unwrap());
            assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>(), "{name} {part}");
            for (x, y) in a.iter().zip(b.iter()) {
                assert_eq!(
                    (&x.name, &x.shape, x.bytes().unwrap()),
                    (&y.name, &y.shape, y.bytes().unwrap()),
                    "{name} {part}"
                );
            }
            let fields = |config: &serde_json::Value| config.as_object().unwrap().clone();
            assert_eq!(fields(a.config()), fields(b.config()), "{name} {part}");
        }
        assert_eq!(folder.modules(), file.modules());
        assert_eq!(file.tokenizer().unwrap().pad(), pad);
        assert_eq!(folder.scheduler(), file.scheduler());
        assert!(!file.prediction_known(), "{name}: nothing says what it predicts");
        // And back: as a folder of its own.
        let unet: Vec<_> = file.part(PartId::UNET).unwrap().iter().collect();
        write_diffusers_folder(dir.path().join("back"), &file, &unet).unwrap();
        let back = Checkpoint::open(dir.path().join("back")).unwrap();
        let class = |folder: &str| fs::read_to_string(dir.path().join(folder).join("model_index.json")).unwrap();
        let inpaints = |folder: &str| class(folder).contains("StableDiffusionInpaintPipeline");
        assert_eq!([inpaints("folder"), inpaints("back")], [name.ends_with("-inpainting"); 2], "{name}");
        assert_eq!(back.modules(), folder.modules());
        assert_eq!(back.tokenizer().unwrap().pad(), pad);
    }
}

/// The first releases' names of CLIP's tensors lack a segment, and a buffer is among them.
#[test]
fn clip_under_its_oldest_names_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (new, old) = (dir.path().join("new.safetensors"), dir.path().join("old.safetensors"));
    RandomModel::named("tiny-sd1", 1).unwrap().write_file(&new).unwrap();
    let file = SafeTensors::open(&new).unwrap();
    let prefix = "cond_stage_model.transformer.";
    let shortened = |t: Tensor<'static>| {
        let name = t.name.replace(&format!("{prefix}text_model."), prefix);
        t.renamed(name)
    };
    let bytes: Vec<Vec<u8>> = file.iter().map(|t| t.bytes().unwrap().to_vec()).collect();
    let tensors = file.iter().zip(bytes.leak()).map(|(t, b)| Tensor::raw(t.name.to_string(), t.dtype, &t.shape, b));
    let ids: &'static [i64] = Box::leak(Box::new([0, 1]));
    let buffer = Tensor::i64(format!("{prefix}embeddings.position_ids"), &[1, 2], ids);
    let tensors: Vec<_> = tensors.map(shortened).chain([buffer]).collect();
    write_safetensors(&old, &tensors, &BTreeMap::new()).unwrap();
    let (new, old) = (Checkpoint::open(&new).unwrap(), Checkpoint::open(&old).unwrap());
    assert_eq!(old.modules(), new.modules());
    let (a, b) = (new.part(PartId::TEXT_ENCODER).unwrap(), old.part(PartId::TEXT_ENCODER).unwrap());
    assert_eq!(a.config(), b.config());
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>());
    for (x, y) in a.iter().zip(b.iter()) {
        assert_eq!((&x.name, &x.shape, x.bytes().unwrap()), (&y.name, &y.shape, y.bytes().unwrap()));
        assert_eq!(b.stored_name(&x.name), x.name.replace("text_model.", prefix), "{}", x.name);
    }
    assert!(old.tokenizer().unwrap().pad() == new.tokenizer().unwrap().pad());
}

/// The tensors of a tiny second-generation file, changed by `change`, with `metadata`.
fn changed(path: &Path, metadata: &[(&str, &str)], change: impl Fn(&mut Vec<Tensor<'static>>)) -> std::path::PathBuf {
    let source = path.join("source.safetensors");
    if !source.exists() {
        RandomModel::named("tiny-sd2", 1).unwrap().write_file(&source).unwrap();
    }
    let file = SafeTensors::open(&source).unwrap();
    let owned = |t: Tensor<'_>| {
        let bytes: &'static [u8] = Box::leak(t.bytes().unwrap().to_vec().into_boxed_slice());
        Tensor::raw(t.name.to_string(), t.dtype, &t.shape, bytes)
    };
    let mut tensors: Vec<Tensor<'static>> = file.iter().map(owned).collect();
    change(&mut tensors);
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let out = path.join("changed.safetensors");
    write_safetensors(&out, &tensors, &metadata).unwrap();
    out
}

#[test]
fn what_a_file_says_of_its_prediction_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let open = |metadata: &[(&str, &str)]| Checkpoint::open(changed(dir.path(), metadata, |_| {})).unwrap();
    let silent = open(&[]);
    assert!(!silent.prediction_known() && silent.scheduler()["prediction_type"] == "epsilon");
    let velocity = open(&[("modelspec.prediction_type", "v")]);
    assert!(velocity.prediction_known() && velocity.scheduler()["prediction_type"] == "v_prediction");
    assert_eq!(velocity.part(PartId::UNET).unwrap().config()["sample_size"], 96);
    let noise = open(&[("modelspec.prediction_type", "epsilon")]);
    assert!(noise.prediction_known() && noise.scheduler()["prediction_type"] == "epsilon");
    let marked = |names: &[&'static str]| {
        let markers = names.iter().map(|name| Tensor::raw(*name, ElementType::F16, &[0], &[])).collect::<Vec<_>>();
        Checkpoint::open(changed(dir.path(), &[], |tensors| tensors.extend(markers.clone()))).unwrap()
    };
    let velocity_alone = marked(&["v_pred"]);
    assert_eq!(velocity_alone.scheduler()["prediction_type"], "v_prediction");
    assert_eq!(velocity_alone.scheduler().get("rescale_betas_zero_snr"), None);
    let zero_snr = marked(&["v_pred", "ztsnr"]);
    assert_eq!(zero_snr.scheduler()["prediction_type"], "v_prediction");
    assert_eq!(zero_snr.scheduler()["rescale_betas_zero_snr"], true);
    assert_eq!(zero_snr.scheduler()["timestep_spacing"], "trailing");
    let config = ScheduleConfig::from_json(&zero_snr.scheduler().to_string(), "scheduler").unwrap();
    let trajectory = Trajectory::new(&config, &SamplerOptions::default(), 10).unwrap();
    assert_eq!(trajectory.timesteps[0], 999.0);
    assert_eq!(NoiseSchedule::new(&config).alphas_cumprod[999], 0.0);
    assert!(config.rescale_betas_zero_snr && trajectory.kind == SamplerKind::Ddim);

    let mut settled = silent.clone();
    settled.predicts_velocity();
    assert!(settled.prediction_known() && settled.scheduler() == velocity.scheduler());
    assert_eq!(settled.part(PartId::UNET).unwrap().config(), velocity.part(PartId::UNET).unwrap().config());
    assert_ne!(settled.fingerprint().unwrap(), silent.fingerprint().unwrap());
}

#[test]
fn other_files_are_refused_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |names: &[&str], says: &str| {
        let path = dir.path().join("other.safetensors");
        let tensors: Vec<_> = names.iter().map(|name| Tensor::f32(*name, &[1], &[0.0])).collect();
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        let e = message(Checkpoint::open(&path));
        assert!(e.contains("other.safetensors: ") && e.contains(says), "{e}");
    };
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    let more = "Portray takes Stable Diffusion 1.x, 2.x and XL";
    refused(&[unet, "conditioner.embedders.1.model.ln_final.weight"], "holds no autoencoder");
    refused(&[unet, "edm_mean"], "is a Playground 2.5 checkpoint");
    refused(&[unet, "edm_vpred.sigma_max"], "is a CosXL checkpoint");
    refused(&[unet, "conditioner.embedders.0.model.transformer.resblocks.0.ln_1.bias"], "refiner");
    refused(&["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "is a checkpoint of Stable Diffusion 3");
    refused(&["double_blocks.0.img_attn.qkv.weight"], "is a checkpoint of Flux");
    refused(&["double_blocks.0.img_attn.qkv.weight"], more);
    refused(&["control_model.input_hint_block.0.weight"], "is a ControlNet");
    refused(&["emb_params"], "is a textual inversion");
    refused(&["string_to_param.*"], "is a textual inversion");
    let text = "cond_stage_model.model.ln_final.weight";
    let labels = "model.diffusion_model.label_emb.0.0.weight";
    refused(&[unet, labels, "first_stage_model.quant_conv.bias"], "holds no text encoder");
    refused(&[unet, labels, text, "noise_augmentor.betas"], "is a Stable unCLIP checkpoint");
    refused(&[unet, labels, text], "whose UNet takes class labels");
    // What a trainer left of a textual inversion makes no textual inversion of a model.
    let left = "embedding_manager.string_to_param_dict.*";
    refused(&[unet, left, "first_stage_model.quant_conv.bias", text], "no Stable Diffusion UNet");
    refused(&["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"], "is a LoRA, which changes a model");
    refused(&["down_blocks.0.resnets.0.conv1.weight"], "is the UNet alone, in diffusers' layout");
    refused(&["something"], "is no Stable Diffusion checkpoint");
    refused(&[unet, "cond_stage_model.model.ln_final.weight"], "holds no autoencoder");
    refused(&[unet, "first_stage_model.quant_conv.bias"], "holds no text encoder");
    refused(
        &[unet, "first_stage_model.quant_conv.bias", "cond_stage_model.model.ln_final.weight"],
        "no Stable Diffusion UNet",
    );

    let lost = |name: &str| message(Checkpoint::open(changed(dir.path(), &[], |t| t.retain(|t| t.name != name))));
    let conv = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight";
    assert!(lost(conv).contains(&format!("has no tensor '{conv}'")), "{}", lost(conv));
    let part =
        Checkpoint::open(changed(dir.path(), &[], |t| t.retain(|t| t.name != "first_stage_model.quant_conv.bias")));
    let e = message(part.unwrap().part(PartId::VAE).unwrap().get("quant_conv.bias"));
    assert!(e.contains("lacks tensor 'first_stage_model.quant_conv.bias': get the complete checkpoint"), "{e}");
    let input = "model.diffusion_model.input_blocks.0.0.weight";
    let path = changed(dir.path(), &[], |tensors| {
        tensors.push(Tensor::raw("model.diffusion_model.label_emb.weight", ElementType::F16, &[0], &[]));
        let zeros: &'static [u8] = Box::leak(vec![0; 64 * 7 * 9 * 2].into_boxed_slice());
        *tensors.iter_mut().find(|t| t.name == input).unwrap() =
            Tensor::raw(input, ElementType::F16, &[64, 7, 3, 3], zeros);
    });
    let e = message(Checkpoint::open(path));
    assert!(e.contains("is an upscaler's model (its UNet reads 7 channels, not 4)"), "{e}");
    let whole = changed(dir.path(), &[], |t| t.push(Tensor::raw(left, ElementType::F16, &[0], &[])));
    assert!(Checkpoint::open(whole).is_ok());
    let reshaped = |name: &str, shape: &[usize]| {
        let bytes: &'static [u8] = Box::leak(vec![0; shape.iter().product::<usize>() * 2].into_boxed_slice());
        let path = changed(dir.path(), &[], |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.name == name).unwrap();
            *tensor = Tensor::raw(name, ElementType::F16, shape, bytes);
        });
        message(Checkpoint::open(path))
    };
    let e = reshaped(input, &[64, 8, 3, 3]);
    assert!(e.contains("is an InstructPix2Pix model (its UNet reads 8 channels, not 4)"), "{e}");
    let e = reshaped("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", &[7]);
    assert!(e.contains("has shape [7]: its rows are no three thirds"), "{e}");
    let e = reshaped("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[]);
    assert!(e.contains("has shape []: no Stable Diffusion model"), "{e}");
}

#[test]
fn pickles_and_halves_of_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], says: &str| {
        fs::write(dir.path().join(name), bytes).unwrap();
        let e = message(Checkpoint::open(dir.path().join(name)));
        assert!(e.contains(name) && e.contains(says), "{e}");
    };
    refused("v2.ckpt", b"PK\x03\x04rest", "is a Python pickle, which runs code");
    refused("v2.pt", b"\x80\x02rest", "is a Python pickle");
    refused("renamed.safetensors", b"PK\x03\x04 and so on", "is a Python pickle");
    refused("model.gguf", b"GGUF\x03\0\0\0", "is a GGUF file");
    refused("page.safetensors", b"<!DOCTYPE html>", "not a safetensors file");
    let whole = fs::read(changed(dir.path(), &[], |_| {})).unwrap();
    refused("half.safetensors", &whole[..whole.len() / 2], "truncated");
}
