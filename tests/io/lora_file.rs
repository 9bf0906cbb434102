//! LoRA files: every layout read alike, written so that it reads back alike, and what is no LoRA for the model refused.

use std::collections::BTreeMap;
use std::fs;

use portray::LoraFormat;
use portray::low_level::io::{
    Checkpoint, ElementType, LoraFile, ModelModules, ModuleKey, PartId, SafeTensors, Tensor, write_safetensors,
};

use super::support::{distance, golden, message};

const FORMATS: [LoraFormat; 4] = [LoraFormat::Diffusers, LoraFormat::Peft, LoraFormat::PeftFolder, LoraFormat::Kohya];

fn modules(model: &str) -> ModelModules {
    Checkpoint::open(golden(model)).unwrap().modules()
}

fn open(name: &str, model: Option<&ModelModules>) -> LoraFile {
    LoraFile::open(golden(name), model).unwrap()
}

/// Largest distance between what two files add to any layer; infinite when they change different layers.
fn apart(a: &LoraFile, b: &LoraFile) -> f32 {
    if a.modules.keys().ne(b.modules.keys()) {
        return f32::INFINITY;
    }
    let pairs = a.modules.values().zip(b.modules.values());
    pairs.map(|(x, y)| distance(&x.delta(), &y.delta())).fold(0.0, f32::max)
}

#[test]
fn all_layouts_read_alike() {
    for (model, count) in [("sd2", 88), ("sd15", 56)] {
        let layers = modules(model);
        let expected = open(&format!("{model}.lora-peft.safetensors"), Some(&layers));
        assert_eq!((expected.modules.len(), expected.rank()), (count, 3));
        for (layout, letter) in [
            ("old.safetensors", 'A'),
            ("diffusers.safetensors", 'B'),
            ("folder", 'D'),
            ("folder/unet", 'D'),
            ("kohya.safetensors", 'E'),
        ] {
            for known in [Some(&layers), None] {
                let lora = open(&format!("{model}.lora-{layout}"), known);
                assert_eq!(lora.layout.map(|layout| layout.letter()), Some(letter), "{layout}");
                assert_eq!(apart(&lora, &expected), 0.0, "{layout}");
                let report = lora.match_report(&layers);
                report.check().unwrap();
                assert_eq!((report.matched.len(), report.unmatched.len()), (count, 0), "{layout}");
            }
        }
        let half = open(&format!("{model}.lora-kohya-half.safetensors"), None);
        assert!(half.modules.values().all(|m| m.alpha == Some(1.5) && m.scale() == 0.5));
        assert!(apart(&half, &expected) > 0.4, "the comparator sees half an alpha");

        let all = open(&format!("{model}-all.lora-peft.safetensors"), Some(&layers));
        assert_eq!(all.match_report(&layers).matched.len(), all.modules.len());
        for part in [PartId::UNET, PartId::TEXT_ENCODER] {
            assert!(all.modules.keys().any(|key| key.part == part));
        }
        assert!(all.modules.values().any(|m| m.weight_shape()[2..] == [3, 3]), "convolutions");
        for layout in ["diffusers.safetensors", "folder", "kohya.safetensors"] {
            for known in [Some(&layers), None] {
                let lora = open(&format!("{model}-all.lora-{layout}"), known);
                assert_eq!(apart(&lora, &all), 0.0, "{layout}");
            }
        }
    }
}

#[test]
fn delta_is_the_product() {
    let lora = open("sd2-all.lora-kohya.safetensors", None);
    let key = ModuleKey { part: PartId::UNET, path: "down_blocks.0.resnets.0.conv1".into() };
    let m = &lora.modules[&key];
    let (rank, columns) = (m.rank(), m.down.data.len() / m.rank());
    let delta = m.delta();
    assert_eq!(delta.len(), m.weight_shape().iter().product::<usize>());
    for (o, c) in [(0, 0), (5, 17), (23, columns - 1)] {
        let sum: f32 = (0..rank).map(|r| m.up.data[o * rank + r] * m.down.data[r * columns + c]).sum();
        assert!((delta[o * columns + c] - sum).abs() < 1e-6);
    }
}

#[test]
fn every_layout_is_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["sd2.lora-kohya-half.safetensors", "sd15-all.lora-diffusers.safetensors", "sd2-all.lora-folder"] {
        let mut lora = open(name, None);
        // Ranks and alphas that differ between layers.
        let key = lora.modules.keys().nth(5).unwrap().clone();
        let odd = lora.modules.get_mut(&key).unwrap();
        odd.alpha = Some(0.7);
        odd.down.data.truncate(odd.down.data.len() / odd.rank());
        odd.up.data.truncate(odd.up.shape[0]);
        (odd.down.shape[0], odd.up.shape[1]) = (1, 1);
        for first in FORMATS {
            let a = dir.path().join("a");
            lora.write(&a, first).unwrap();
            let read = LoraFile::open(&a, None).unwrap();
            assert!(apart(&read, &lora) < 1e-6, "{name} {first:?}");
            if matches!(first, LoraFormat::Peft | LoraFormat::PeftFolder) {
                assert_eq!(read.modules[&key].scale(), 0.7);
            }
            for second in FORMATS {
                let b = dir.path().join("b");
                read.write(&b, second).unwrap();
                assert!(apart(&LoraFile::open(&b, None).unwrap(), &lora) < 1e-6, "{name} {first:?} {second:?}");
                if b.is_dir() { fs::remove_dir_all(&b).unwrap() } else { fs::remove_file(&b).unwrap() }
            }
            // The same again gives the same bytes.
            if a.is_dir() {
                fs::remove_dir_all(&a).unwrap();
            } else {
                let bytes = fs::read(&a).unwrap();
                lora.write(&a, first).unwrap();
                assert_eq!(fs::read(&a).unwrap(), bytes);
                fs::remove_file(&a).unwrap();
            }
        }
    }
}

#[test]
fn a_whole_alpha_leaves_the_factors_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let lora = open("sd15-all.lora-kohya.safetensors", None);
    for format in FORMATS {
        let path = dir.path().join(format!("{format:?}"));
        lora.write(&path, format).unwrap();
        let read = LoraFile::open(&path, None).unwrap();
        let same = |(a, b): (&portray::low_level::io::LoraModule, &portray::low_level::io::LoraModule)| {
            a.down == b.down && a.up == b.up
        };
        assert!(lora.modules.values().zip(read.modules.values()).all(same), "{format:?}");
    }
}

#[test]
fn peft_configurations_name_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    let lora = open("sd15-all.lora-kohya.safetensors", None);
    lora.write(dir.path().join("c"), LoraFormat::Peft).unwrap();
    let packed = SafeTensors::open(dir.path().join("c")).unwrap().metadata()["lora_adapter_metadata"].clone();
    let packed: serde_json::Value = serde_json::from_str(&packed).unwrap();
    assert_eq!(packed["text_encoder.target_modules"][0], "encoder.layers.0.self_attn.k_proj");
    assert_eq!((&packed["unet.r"], &packed["unet.lora_alpha"]), (&2.into(), &2.into()));
    lora.write(dir.path().join("d"), LoraFormat::PeftFolder).unwrap();
    let config = fs::read(dir.path().join("d/text_encoder/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    // As transformers 5 names them; PEFT compares ends of names, and those of earlier versions end alike.
    assert_eq!(config["target_modules"][0], "encoder.layers.0.self_attn.k_proj");
    assert_eq!(config["peft_type"], "LORA");
}

#[test]
fn kohya_layers_share_one_alpha() {
    let dir = tempfile::tempdir().unwrap();
    let mut lora = open("sd2.lora-kohya-half.safetensors", None);
    for (i, module) in lora.modules.values_mut().enumerate().take(3) {
        module.alpha = [Some(0.0), None, Some(-2.0)][i];
    }
    let path = dir.path().join("k.safetensors");
    lora.write(&path, LoraFormat::Kohya).unwrap();
    let read = LoraFile::open(&path, None).unwrap();
    assert!(read.modules.values().all(|m| m.alpha == Some(1.5)));
    let pairs = lora.modules.values().zip(read.modules.values());
    assert!(pairs.map(|(a, b)| distance(&b.delta(), &a.delta())).all(|d| d < 1e-6));
}

#[test]
fn alphas_of_every_number_type_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.safetensors");
    let stem = "lora_unet_mid_block_attentions_0_proj_in";
    let values = [0.5f32; 8];
    let with = |dtype: ElementType, bytes: &[u8]| {
        let factor = |end: &str, shape: &[usize]| Tensor::f32(format!("{stem}.{end}.weight"), shape, &values);
        let alpha = Tensor::raw(format!("{stem}.alpha"), dtype, &[], bytes);
        let tensors = [factor("lora_down", &[4, 2]), factor("lora_up", &[2, 4]), alpha];
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        LoraFile::open(&path, None)
    };
    for (dtype, bytes) in [
        (ElementType::I64, &2i64.to_le_bytes()[..]),
        (ElementType::I32, &2i32.to_le_bytes()),
        (ElementType::I16, &2i16.to_le_bytes()),
        (ElementType::I8, &[2]),
        (ElementType::U64, &2u64.to_le_bytes()),
        (ElementType::U32, &2u32.to_le_bytes()),
        (ElementType::U16, &2u16.to_le_bytes()),
        (ElementType::U8, &[2]),
        (ElementType::F16, &[0, 0x40]),
        (ElementType::F64, &2f64.to_le_bytes()),
    ] {
        let lora = with(dtype, bytes).unwrap();
        assert!(lora.modules.values().all(|m| m.scale() == 0.5), "{dtype:?}");
    }
    assert!(message(with(ElementType::Bool, &[1])).contains("is BOOL"));
    assert!(message(with(ElementType::F32, &f32::NAN.to_le_bytes())).contains("holds NaN"));
}

#[test]
fn kohya_metadata_is_strings_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut lora = open("sd2-all.lora-diffusers.safetensors", None);
    let given = [("ss_base_model_version", "mine"), ("ss_steps", "400"), ("ss_network_dim", "99")];
    lora.metadata.extend(given.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let path = dir.path().join("k.safetensors");
    lora.write(&path, LoraFormat::Kohya).unwrap();
    let metadata = SafeTensors::open(&path).unwrap().metadata().clone();
    for (name, value) in [
        ("ss_v2", "False"),
        ("ss_base_model_version", "mine"),
        ("ss_network_module", "networks.lora"),
        ("ss_network_dim", "2"),
        ("ss_network_alpha", "2"),
        ("ss_network_args", r#"{"conv_dim":"2","conv_alpha":"2"}"#),
        ("ss_steps", "400"),
    ] {
        assert_eq!(metadata.get(name).map(String::as_str), Some(value), "{name}");
    }
    let back = LoraFile::open(&path, None).unwrap();
    assert_eq!(back.metadata["ss_steps"], "400");
    back.write(&path, LoraFormat::Diffusers).unwrap();
    let metadata = SafeTensors::open(&path).unwrap().metadata().clone();
    let ours: Vec<&str> = metadata.keys().map(String::as_str).filter(|name| !name.starts_with("modelspec.")).collect();
    assert_eq!(ours, ["format", "ss_base_model_version", "ss_v2"], "of kohya's fields those of the base");
}

#[test]
fn a_lora_of_another_model_is_refused() {
    let (sd2, sd15) = (modules("sd2"), modules("sd15"));
    let e = message(open("sd2.lora-peft.safetensors", None).match_report(&sd15).check());
    assert!(e.contains("LoRA of another model") && e.contains("cross-attention width 40"), "{e}");
    let files: [(&[&str], &str); 4] = [
        (&["lora_te2_text_model_encoder_layers_0_self_attn_q_proj"], "Stable Diffusion XL"),
        (&["lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"], "Stable Diffusion XL"),
        (&["lora_unet_double_blocks_0_img_attn_qkv"], "Flux"),
        (
            &["lora_te3_encoder_block_0_layer_0_SelfAttention_k", "lora_te1_text_model_encoder_layers_9_mlp_fc1"],
            "Stable Diffusion 3",
        ),
    ];
    for (stems, family) in files {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors: Vec<_> = stems
            .iter()
            .flat_map(|stem| {
                ["lora_down", "lora_up"].map(|end| Tensor::f32(format!("{stem}.{end}.weight"), &[1, 1], &[1.0]))
            })
            .collect();
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        let e = message(LoraFile::open(&path, Some(&sd2)).unwrap().match_report(&sd2).check());
        assert!(e.contains("none of its") && e.contains(&format!("seems to be made for {family}")), "{e}");
    }
    // A checkpoint is no LoRA, and is named.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    for (name, says) in [
        ("double_blocks.0.img_attn.qkv.weight", "is a checkpoint of Flux and no LoRA; Portray takes LoRAs of"),
        ("model.diffusion_model.out.0.bias", "is a checkpoint and no LoRA: give it with model"),
        ("something", "holds no LoRA"),
    ] {
        write_safetensors(&path, &[Tensor::f32(name, &[1], &[1.0])], &BTreeMap::new()).unwrap();
        let e = message(LoraFile::open(&path, None));
        assert!(e.contains(says), "{e}");
    }
    assert!(message(LoraFile::open(golden("sd2"), None)).contains("is a model and no LoRA: give it with model"));
    // Some layers more than the model has are listed, not refused.
    let mut lora = open("sd15.lora-kohya.safetensors", None);
    let first = lora.modules.values().next().unwrap().clone();
    lora.modules.insert(ModuleKey { part: PartId::UNET, path: "up_blocks.9.resnets.0.conv1".into() }, first);
    let report = lora.match_report(&sd15);
    report.check().unwrap();
    assert_eq!(
        (report.matched.len(), &report.unmatched[..]),
        (56, &["unet.up_blocks.9.resnets.0.conv1".to_owned()][..])
    );
    assert_eq!(report.listed_unmatched().as_deref(), Some("unet.up_blocks.9.resnets.0.conv1"));
    let names = |n: usize| {
        let mut report = report.clone();
        report.unmatched = (0..n).map(|i| i.to_string()).collect();
        report
    };
    assert_eq!(names(0).listed_unmatched(), None);
    assert_eq!(names(3).listed_unmatched().as_deref(), Some("0, 1, 2"));
    let many = names(23).listed_unmatched().unwrap();
    assert!(many.starts_with("0, 1,") && many.ends_with(", 19 and 3 more"), "{many}");
}

#[test]
fn norm_layers_are_differences() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let file = SafeTensors::open(golden("sd15.lora-kohya.safetensors")).unwrap();
    let norms = ["w_norm", "b_norm"].map(|end| format!("lora_unet_mid_block_resnets_0_norm1.{end}"));
    let sd15 = modules("sd15");
    let key = ModuleKey { part: PartId::UNET, path: "mid_block.resnets.0.norm1".into() };
    let channels = sd15.norms[&key][0];
    let values: Vec<f32> = (0..channels).map(|i| i as f32).collect();
    let tensors: Vec<_> = file.iter().chain(norms.iter().map(|n| Tensor::f32(n, &[channels], &values))).collect();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let lora = LoraFile::open(&path, Some(&sd15)).unwrap();
    let report = lora.match_report(&sd15);
    report.check().unwrap();
    assert_eq!((report.matched.len(), report.unmatched.len(), report.kinds["weight difference"]), (57, 0, 1));
    let mut factors = vec![1.0; channels];
    assert!(lora.changes[&key].add_to_weight(&mut factors, 0..channels, 0.5));
    assert_eq!(factors, values.iter().map(|x| 1.0 + 0.5 * x).collect::<Vec<_>>());
    // Of another size it is of another model.
    let short: Vec<_> = file.iter().chain([Tensor::f32(&*norms[0], &[1], &[1.0])]).collect();
    write_safetensors(&path, &short, &BTreeMap::new()).unwrap();
    let e = message(LoraFile::open(&path, Some(&sd15)).unwrap().match_report(&sd15).check());
    assert!(e.contains("'unet.mid_block.resnets.0.norm1' (weight difference) is for [1]"), "{e}");
}

#[test]
fn faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let stem = "unet.mid_block.attentions.0.proj_in.lora";
    let pair = |down: &[usize], up: &[usize]| {
        let [d, u] = [down, up].map(|s| vec![0.5f32; s.iter().product()]);
        let tensors =
            [Tensor::f32(format!("{stem}.down.weight"), down, &d), Tensor::f32(format!("{stem}.up.weight"), up, &u)];
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        LoraFile::open(&path, None)
    };
    assert!(pair(&[2, 4], &[4, 2]).is_ok());
    assert_eq!(pair(&[2, 4, 1, 1], &[4, 2]).unwrap().modules.values().next().unwrap().up.shape, [4, 2, 1, 1]);
    for (down, up) in
        [(&[2, 4][..], &[4, 3][..]), (&[2], &[4, 2]), (&[2, 4], &[4, 2, 3, 3]), (&[0, 4], &[4, 0]), (&[], &[])]
    {
        let e = message(pair(down, up));
        assert!(e.contains(&format!("'{stem}.down.weight'")) && e.contains("does not fit"), "{e}");
    }
    let one = |tensors: &[Tensor<'_>]| {
        write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
        message(LoraFile::open(&path, None))
    };
    let t = |name: &str, data: &'static [f32]| Tensor::f32(name, &[1, data.len()], data);
    let e = one(&[t(&format!("{stem}.down.weight"), &[1.0])]);
    assert!(e.contains("'unet.mid_block.attentions.0.proj_in' has only one of its two factors"), "{e}");
    let e = one(&[t(&format!("{stem}.down.weight"), &[f32::NAN]), t(&format!("{stem}.up.weight"), &[1.0])]);
    assert!(e.contains("holds NaN (element 0)"), "{e}");
    let e = one(&[t("lora_unet_mid_block_attentions_0_proj_in.alpha", &[1.0, 2.0])]);
    assert!(e.contains("must be one number"), "{e}");
    let e = one(&[t("lora_unet_x.dora_scale", &[1.0])]);
    assert!(e.contains("'lora_unet_x.dora_scale': is of DoRA, which rescales the whole weight"), "{e}");
    let down = "mid_block.attentions.0.proj_in.lora.down.weight";
    let e = one(&[t(down, &[1.0]), t(&format!("unet.{down}"), &[2.0])]);
    assert!(e.contains("names the same layer as another"), "{e}");
    assert!(one(&[t("conv_in.weight", &[1.0])]).contains("holds no LoRA"));
    assert!(message(LoraFile::open(dir.path(), None)).contains("holds no LoRA"));
    assert!(message(LoraFile::open(dir.path().join("x.pt"), None)).contains("save the LoRA as .safetensors"));
    assert!(message(LoraFile::open("/nowhere/x.safetensors", None)).contains("no such file"));
    let full = LoraFile::default().write(dir.path().join("y"), LoraFormat::Kohya);
    assert!(message(full).contains("nothing to write"));

    fs::create_dir(dir.path().join("unet")).unwrap();
    fs::write(dir.path().join("unet/adapter_config.json"), "{").unwrap();
    assert!(message(LoraFile::open(dir.path(), None)).contains("adapter_model.safetensors: no such file"));
    fs::copy(
        golden("sd2.lora-folder/unet/adapter_model.safetensors"),
        dir.path().join("unet/adapter_model.safetensors"),
    )
    .unwrap();
    assert!(message(LoraFile::open(dir.path(), None)).contains("adapter_config.json: not valid JSON"));
}
