//! Diffusers folders: opened in every layout they come in, refused with a remedy, written whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use portray::low_level::io::{
    Bundle, Checkpoint, PartId, SafeTensors, Tensor, write_diffusers_folder, write_safetensors,
};

use super::support::{Stream, golden, message};

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A copy of golden sd15 that a test may break.
fn model() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sd15");
    copy_tree(&golden("sd15"), &path);
    (dir, path)
}

fn write(path: &Path, tensors: &[Tensor<'_>]) {
    write_safetensors(path, tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn both_flavours_have_the_same_text_names() {
    let (sd2, sd15) = (Checkpoint::open(golden("sd2")).unwrap(), Checkpoint::open(golden("sd15")).unwrap());
    let names =
        |model: &Checkpoint| model.part(PartId::TEXT_ENCODER).unwrap().names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&sd2), names(&sd15));
    assert!(names(&sd2).contains(&"text_model.final_layer_norm.weight".to_owned()));
    assert_eq!(sd2.part(PartId::UNET).unwrap().config()["cross_attention_dim"], 40);
    assert_eq!(sd2.scheduler()["prediction_type"], "v_prediction");
    assert_eq!(sd2.tokenizer().unwrap().pad(), 0);

    let unet = sd2.part(PartId::UNET).unwrap();
    assert_eq!(&*unet.get_shaped("conv_in.weight", &[24, 4, 3, 3]).unwrap().shape, [24, 4, 3, 3]);
    let e = message(unet.get("nope"));
    assert!(e.contains("sd2/unet: ") && e.contains("'nope'"), "{e}");
    let e = message(unet.get_shaped("conv_in.weight", &[24, 4]));
    assert!(e.contains("[24, 4, 3, 3]") && e.contains("must be [24, 4]"), "{e}");

    let modules = sd2.modules();
    assert_eq!(modules.layers[&PartId::UNET]["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"], [24, 40]);
    assert_eq!(modules.layers[&PartId::TEXT_ENCODER]["text_model.encoder.layers.1.mlp.fc1"], [88, 40]);
    assert!(!modules.layers[&PartId::TEXT_ENCODER].keys().any(|k| k.contains("embedding")));
    assert_ne!(sd2.fingerprint().unwrap(), sd15.fingerprint().unwrap());
    assert_eq!(sd2.fingerprint().unwrap(), Checkpoint::open(golden("sd2")).unwrap().fingerprint().unwrap());
}

#[test]
fn an_embedded_model_is_the_same_model() {
    fn leak(file: &str) -> &'static [u8] {
        Box::leak(fs::read(golden("sd2").join(file)).unwrap().into_boxed_slice())
    }
    let part = |part: PartId, stem| (leak(&format!("{part}/config.json")), leak(&format!("{part}/{stem}.safetensors")));
    let tokenizer = ["tokenizer.json", "tokenizer_config.json"].map(|f| (f, leak(&format!("tokenizer/{f}"))));
    let bundle = Bundle {
        name: "bundled",
        model_index: leak("model_index.json"),
        text_encoder: part(PartId::TEXT_ENCODER, "model"),
        unet: part(PartId::UNET, "diffusion_pytorch_model"),
        vae: part(PartId::VAE, "diffusion_pytorch_model"),
        scheduler: leak("scheduler/scheduler_config.json"),
        tokenizer: Box::leak(Box::new(tokenizer)),
    };
    let (model, folder) = (Checkpoint::embedded(&bundle).unwrap(), Checkpoint::open(golden("sd2")).unwrap());
    assert_eq!(model.modules(), folder.modules());
    assert_eq!(model.fingerprint().unwrap(), folder.fingerprint().unwrap());
    assert!(message(model.part(PartId::VAE).unwrap().get("x")).starts_with("bundled/vae: "));
    let broken = Bundle { vae: (bundle.vae.0, &bundle.vae.1[..100]), ..bundle };
    assert!(
        message(Checkpoint::embedded(&broken)).starts_with("bundled/vae/diffusion_pytorch_model.safetensors: trunc")
    );
    // It can be written as a folder too.
    let dir = tempfile::tempdir().unwrap();
    let unet: Vec<_> = model.part(PartId::UNET).unwrap().iter().collect();
    write_diffusers_folder(dir.path().join("out"), &model, &unet).unwrap();
    assert_eq!(Checkpoint::open(dir.path().join("out")).unwrap().fingerprint().unwrap(), folder.fingerprint().unwrap());
}

#[test]
fn sharded_and_fp16_weights_open() {
    let (_dir, path) = model();
    let whole = path.join("unet/diffusion_pytorch_model.safetensors");
    let expected = Checkpoint::open(&path).unwrap().fingerprint().unwrap();
    let file = SafeTensors::open(&whole).unwrap();
    let (a, b): (Vec<_>, Vec<_>) = file.iter().partition(|t| t.name.starts_with("down"));
    write(&path.join("unet/s-1.safetensors"), &a);
    write(&path.join("unet/s-2.safetensors"), &b);
    let entry = |(shard, tensors): (&str, &Vec<Tensor<'_>>)| {
        tensors.iter().map(|t| (t.name.to_string(), shard.into())).collect::<Vec<(String, serde_json::Value)>>()
    };
    let map: serde_json::Map<_, _> =
        [("s-1.safetensors", &a), ("s-2.safetensors", &b)].into_iter().flat_map(entry).collect();
    let index = path.join("unet/diffusion_pytorch_model.safetensors.index.json");
    let write_index = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    };
    write_index(&map);
    let moved = path.join("unet/diffusion_pytorch_model.fp16.safetensors");
    fs::rename(&whole, &moved).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().fingerprint().unwrap(), expected);

    let mut bad = map.clone();
    bad.insert("conv_in.weight".into(), "../../secret".into());
    write_index(&bad);
    assert!(message(Checkpoint::open(&path)).contains("'weight_map' of 'conv_in.weight' is no file name"));
    bad.insert("conv_in.weight".into(), "s-1.safetensors".into());
    write_index(&bad);
    assert!(message(Checkpoint::open(&path)).contains("'conv_in.weight' is not in"));
    bad.insert("conv_in.weight".into(), "s-3.safetensors".into());
    write_index(&bad);
    let e = message(Checkpoint::open(&path));
    assert!(
        e.contains("s-3.safetensors: no such file, a part of the weights that ") && e.contains(".json names"),
        "{e}"
    );
    fs::write(&index, "{}").unwrap();
    assert!(message(Checkpoint::open(&path)).contains("has no object 'weight_map'"));
    fs::remove_file(&index).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().fingerprint().unwrap(), expected);
    fs::rename(&moved, path.join("unet/diffusion_pytorch_model.bf16.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().fingerprint().unwrap(), expected);
}

#[test]
fn old_vae_attention_names_are_understood() {
    let (_dir, path) = model();
    let expected = Checkpoint::open(&path).unwrap();
    let file = path.join("vae/diffusion_pytorch_model.safetensors");
    let old = SafeTensors::open(&file).unwrap();
    let renamed: Vec<_> = old
        .iter()
        .map(|mut t| {
            let mut name = t.name.to_string();
            for (new, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
                name = name.replace(&format!("attentions.0.{new}."), &format!("attentions.0.{old}."));
            }
            if name != t.name && t.shape.len() == 2 {
                t.shape = [&*t.shape, &[1, 1]].concat().into();
            }
            t.renamed(name)
        })
        .collect();
    assert!(renamed.iter().any(|t| t.name == "decoder.mid_block.attentions.0.proj_attn.weight" && t.shape.len() == 4));
    write(&file, &renamed);
    let opened = Checkpoint::open(&path).unwrap();
    assert_eq!(opened.fingerprint().unwrap(), expected.fingerprint().unwrap());
    assert_eq!(opened.part(PartId::VAE).unwrap().modules(), expected.part(PartId::VAE).unwrap().modules());
}

#[test]
fn a_trained_model_is_written_whole() {
    let (_dir, path) = model();
    fs::create_dir(path.join("feature_extractor")).unwrap();
    fs::write(path.join("feature_extractor/preprocessor_config.json"), "{}").unwrap();
    let source = Checkpoint::open(&path).unwrap();
    let unet = source.part(PartId::UNET).unwrap();
    let values: Vec<_> = unet.iter().map(|t| (t.name.to_string(), t.shape.to_vec(), t.to_f32().unwrap())).collect();
    let changed: Vec<Vec<f32>> = values.iter().map(|(_, _, v)| v.iter().map(|x| x + 1.0).collect()).collect();
    let tensors: Vec<_> = values.iter().zip(&changed).map(|((n, s, _), v)| Tensor::f32(n.as_str(), s, v)).collect();
    let out = path.with_file_name("out");
    write_diffusers_folder(&out, &source, &tensors).unwrap();

    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.part(PartId::UNET).unwrap().get("conv_in.bias").unwrap().to_f32().unwrap(), {
        let old = unet.get("conv_in.bias").unwrap().to_f32().unwrap();
        old.iter().map(|x| x + 1.0).collect::<Vec<_>>()
    });
    for same in ["model_index.json", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"] {
        assert_eq!(fs::read(path.join(same)).unwrap(), fs::read(out.join(same)).unwrap(), "{same}");
    }
    assert!(out.join("feature_extractor/preprocessor_config.json").exists());

    let wrong = [tensors.clone(), vec![Tensor::f32("x", &[0], &[])]].concat();
    assert!(message(write_diffusers_folder(&out, &source, &wrong)).contains("'x' is not a tensor of the UNet"));
    assert_eq!(Checkpoint::open(&out).unwrap().fingerprint().unwrap(), written.fingerprint().unwrap());
    // What training did not touch is kept as it was.
    let last = &values[values.len() - 1];
    write_diffusers_folder(&out, &source, &tensors[..tensors.len() - 1]).unwrap();
    let kept = Checkpoint::open(&out).unwrap().part(PartId::UNET).unwrap().get(&last.0).unwrap().to_f32().unwrap();
    assert_eq!(kept, last.2);
}

#[test]
fn every_refusal_has_a_remedy() {
    let refused = |breaking: &dyn Fn(&Path), expected: &str| {
        let (_dir, path) = model();
        breaking(&path);
        let e = message(Checkpoint::open(&path));
        assert!(e.contains(expected), "expected {expected}, got {e}");
    };
    let class = |class: &'static str| {
        move |p: &Path| fs::write(p.join("model_index.json"), format!(r#"{{"_class_name":"{class}"}}"#)).unwrap()
    };
    for family in ["StableDiffusion3Pipeline", "FluxPipeline"] {
        refused(&class(family), &format!("is a {family}; Portray takes Stable Diffusion 1.x, 2.x and XL"));
    }
    for (class, what) in [
        ("StableDiffusionControlNetInpaintPipeline", "is a model with a ControlNet"),
        ("StableDiffusionInstructPix2PixPipeline", "is an InstructPix2Pix model"),
        ("StableDiffusionDepth2ImgPipeline", "is a depth-to-image model"),
        ("StableDiffusionUpscalePipeline", "is an upscaler's model"),
        ("StableDiffusionControlNetPipeline", "is a model with a ControlNet"),
        ("StableDiffusionControlNetImg2ImgPipeline", "Portray takes Stable Diffusion 1.x, 2.x and XL"),
        ("StableDiffusionSomethingPipeline", "is a StableDiffusionSomethingPipeline; Portray takes"),
    ] {
        refused(&|p| fs::write(p.join("model_index.json"), format!(r#"{{"_class_name":"{class}"}}"#)).unwrap(), what);
    }
    refused(&|p| fs::remove_file(p.join("model_index.json")).unwrap(), "no model_index.json: give a diffusers folder");
    refused(&|p| fs::write(p.join("model_index.json"), "{").unwrap(), "model_index.json: not valid JSON");
    refused(&|p| fs::write(p.join("model_index.json"), b"\xff").unwrap(), "model_index.json: not UTF-8");
    refused(&|p| fs::write(p.join("unet/config.json"), "[]").unwrap(), "unet/config.json: is JSON, but not an object");
    refused(&|p| fs::remove_file(p.join("unet/config.json")).unwrap(), "unet/config.json: no such file");
    refused(&|p| fs::remove_dir_all(p.join("vae")).unwrap(), "vae: the model lacks this folder");
    refused(&|p| fs::remove_dir_all(p.join("tokenizer")).unwrap(), "tokenizer: the model lacks this folder");
    refused(
        &|p| fs::remove_dir_all(p.join("scheduler")).unwrap(),
        "scheduler_config.json: no such file, which every model has",
    );
    let weights = "text_encoder/model.safetensors";
    refused(&|p| fs::remove_file(p.join(weights)).unwrap(), "text_encoder: has no weights: expected model.safetensors");
    refused(
        &|p| fs::rename(p.join(weights), p.join("text_encoder/pytorch_model.bin")).unwrap(),
        "pickled weights only",
    );
    refused(
        &|p| fs::rename(p.join(weights), p.join("text_encoder/model.non_ema.safetensors")).unwrap(),
        "expected model.safetensors, here are model.non_ema.safetensors: give the one",
    );
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3\n";
    refused(
        &|p| fs::write(p.join(weights), pointer).unwrap(),
        "model.safetensors: not a safetensors file, but a Git LFS",
    );
    refused(&|p| fs::write(p.join("unet/config.json"), pointer).unwrap(), "but a Git LFS pointer");
    refused(&|p| fs::write(p.join(weights), "").unwrap(), "but empty, 0 bytes: get it again");
    refused(&|p| fs::write(p.join(weights), "hello").unwrap(), "model.safetensors: not a safetensors file");
    let twice = |p: &Path| {
        let names = ["a.weight", "text_model.a.weight"];
        write(&p.join(weights), &names.map(|name| Tensor::f32(name, &[1], &[0.0])));
    };
    refused(&twice, "is there twice, both stand for 'text_model.a.weight'");

    assert!(message(Checkpoint::open("/nowhere")).contains("/nowhere: no such model folder"));
    let part = message(Checkpoint::open(golden("sd2/unet")));
    assert!(part.contains("is one part of a model: give ") && part.ends_with("golden/sd2"), "{part}");
}

#[test]
fn mutated_configurations_never_panic() {
    let (_dir, path) = model();
    let config = path.join("unet/config.json");
    let good = fs::read(&config).unwrap();
    let mut stream = Stream(42);
    let mut refused = 0;
    for _ in 0..2000 {
        fs::write(&config, stream.mutate(&good)).unwrap();
        let source = portray::low_level::io::Source::open(&config).unwrap();
        refused += usize::from(source.json().is_err());
    }
    assert!((100..2000).contains(&refused), "{refused}");
    for _ in 0..100 {
        fs::write(&config, stream.mutate(&good)).unwrap();
        drop(Checkpoint::open(&path));
    }
}
