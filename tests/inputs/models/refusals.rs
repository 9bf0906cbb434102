//! What of a model is refused or said, before the work, and in which words.

use super::super::support::{picture as photo, refused};
use super::*;

/// Every tensor that a job reads is missed before it computes, and no other.
#[test]
fn n03_each_tensor_that_a_job_reads_is_looked_for_by_its_plan() {
    let (_dir, model) = golden("sd15");
    for (part, file) in FILES {
        let path = model.join(file);
        let all = stored(&path);
        let names: Vec<&String> = all.iter().map(|t| &t.0).filter(|name| !name.contains("position_ids")).collect();
        // Of layers that are alike a few are enough; each kind of name is among them.
        let step = if part == PartId::VAE { 1 } else { (names.len() / 40).max(1) };
        for name in names.into_iter().step_by(step) {
            let rest: Vec<Stored> = all.iter().filter(|t| t.0 != *name).cloned().collect();
            fs::remove_file(&path).unwrap();
            store(&path, &rest, &[]);
            let encoder = part == PartId::VAE && (name.starts_with("encoder.") || name.starts_with("quant_conv"));
            let decoder = part == PartId::VAE && !encoder;
            let refusals = [
                (plan_generate(&picture(&model), &caps()).err(), !encoder),
                (plan_train(&training(&model), &caps()).err(), !decoder),
            ];
            for (error, read) in refusals {
                match (error.map(|e| e.to_string()), read) {
                    (Some(error), true) => {
                        let short = name.trim_start_matches("text_model.");
                        assert!(error.contains(short) && error.contains("lacks tensor"), "{name}: {error}");
                        assert!(!error.contains("damaged") && !error.contains("is there instead"), "{error}");
                    }
                    (None, false) => {}
                    (error, read) => panic!("{name}, read {read}: {error:?}"),
                }
            }
        }
        fs::remove_file(&path).unwrap();
        store(&path, &all, &[]);
    }
    // A training with samples decodes.
    change(&model.join(FILES[2].1), |t| t.retain(|t| t.0 != "decoder.conv_in.weight"));
    let sampled = TrainOptions { sample_prompts: vec!["a".into()], ..training(&model) };
    let error = plan_train(&sampled, &caps()).unwrap_err().to_string();
    assert!(error.contains("lacks tensor 'decoder.conv_in.weight'"), "{error}");
}

/// The jobs themselves refuse before a phase of theirs begins.
#[test]
fn n03_jobs_refuse_before_they_compute() {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).unwrap();
    let (dir, model) = golden("sd15");
    let vae = model.join(FILES[2].1);
    let whole = stored(&vae);
    let wrong = |with: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = whole.clone();
        with(&mut tensors);
        fs::remove_file(&vae).unwrap();
        store(&vae, &tensors, &[]);
    };
    let mut phases = Vec::new();
    let mut hear = |event: Event| {
        if let Event::Phase(name) = event {
            phases.push(name);
        }
        Flow::Continue
    };
    let decoder = "decoder.conv_in.weight";
    let at = |tensors: &[Stored], name: &str| tensors.iter().position(|t| t.0 == name).unwrap();
    type Damage<'a> = &'a dyn Fn(&mut Vec<Stored>);
    let cases: [(Damage<'_>, &str); 3] = [
        (&|t| t.retain(|t| t.0 != decoder), "lacks tensor 'decoder.conv_in.weight'"),
        (
            &|t| {
                let i = at(t, decoder);
                t[i].2.reverse()
            },
            "by config.json it must be",
        ),
        (
            &|t| {
                let i = at(t, decoder);
                let elements = t[i].2.iter().product();
                (t[i].1, t[i].3) = (ElementType::F8E4M3, vec![0; elements]);
            },
            "is F8_E4M3, which is not read: get the file in F16, BF16 or F32",
        ),
    ];
    for (with, says) in cases {
        wrong(with);
        let error = pollster::block_on(engine.generate(&picture(&model), &mut hear)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    fs::create_dir(dir.path().join("photos")).unwrap();
    photo(&dir.path().join("photos/a.png"), 16, 16);
    let job = TrainOptions {
        images: Some(dir.path().join("photos")),
        out: dir.path().join("out.safetensors"),
        steps: Some(1),
        ..training(&model)
    };
    wrong(&|t| t.retain(|t| t.0 != "encoder.conv_in.weight"));
    let error = pollster::block_on(engine.train(&job, &mut hear)).unwrap_err().to_string();
    assert!(error.contains("lacks tensor 'encoder.conv_in.weight'"), "{error}");
    assert!(phases.is_empty(), "{phases:?}");
}

#[test]
fn r24_eight_bit_floats_are_refused_by_name_before_the_work() {
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |tensors| {
        let tensor = tensors.iter_mut().find(|t| t.0 == "conv_in.weight").unwrap();
        (tensor.1, tensor.3) = (ElementType::F8E5M2, vec![0; tensor.2.iter().product()]);
    });
    says(&model, &[FILES[1].1, "'conv_in.weight'", "F8_E5M2", "get the file in F16, BF16 or F32"], &["damaged"]);
}

#[cfg(unix)]
#[test]
fn n10_a_link_to_what_was_not_downloaded_says_so() {
    let (_dir, model) = golden("sd15");
    let files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "tokenizer/merges.txt",
        FILES[0].1,
        FILES[1].1,
        FILES[2].1,
    ];
    for file in files {
        let (path, aside) = (model.join(file), model.join("aside"));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("../../blobs/0123abcd", &path).unwrap();
        says(&model, &[file, "not downloaded", "../../blobs/0123abcd"], &["give the one", "has no", "lacks"]);
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    planned(&model).unwrap();
}

#[test]
fn n16_what_is_no_model_is_told_what_it_is() {
    let (dir, model) = golden("sd15");
    says(&model.join("model_index.json"), &["is one file of a model folder: give the folder"], &["header"]);
    says(&model.join("unet/config.json"), &["is one file of a model folder: give the folder"], &["header"]);
    let unet = model.join(FILES[1].1);
    says(&unet, &["is the UNet alone, in diffusers' layout"], &["damaged"]);
    for (name, bytes, word) in [
        ("a.safetensors", &b"{\"a\": 1}                    "[..], "text, such as JSON"),
        ("b.safetensors", b"\x89PNG\r\n\x1a\n0000000000000", "PNG"),
        ("c.safetensors", b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0", "gzip"),
        ("d.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("e.safetensors", b"", "empty"),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        says(&dir.path().join(name), &[name, word], &["announces", "damaged"]);
    }
    // Shards without their index, and an index without its shards.
    let shard = |i: usize| unet.with_file_name(format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors"));
    fs::copy(&unet, shard(1)).unwrap();
    fs::rename(&unet, shard(2)).unwrap();
    says(&model, &["2 shards", "index", "diffusion_pytorch_model.safetensors.index.json"], &["give the one"]);
    let index = json!({"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00003-of-00003.safetensors"}});
    fs::write(unet.with_extension("safetensors.index.json"), index.to_string()).unwrap();
    says(&model, &["00003-of-00003", "no such file", "index.json names"], &["give the one"]);
    // A whole file beside them is the model's.
    fs::rename(shard(2), &unet).unwrap();
    planned(&model).unwrap();
}

#[test]
fn n19_a_text_encoder_of_another_kind_is_refused() {
    for (file, change) in [
        ("model_index.json", (|v| v["text_encoder"] = json!(["transformers", "T5EncoderModel"])) as fn(&mut Value)),
        ("text_encoder/config.json", |v| v["architectures"] = json!(["T5EncoderModel"])),
        ("text_encoder/config.json", |v| v["model_type"] = json!("t5")),
        ("model_index.json", |v| v["unet"] = json!(["diffusers", "UNetMotionModel"])),
        ("unet/config.json", |v| v["_class_name"] = json!("UNetSpatioTemporalConditionModel")),
        ("model_index.json", |v| v["vae"] = json!(["diffusers", "AutoencoderTiny"])),
        ("vae/config.json", |v| v["_class_name"] = json!("AutoencoderKLTemporalDecoder")),
        ("model_index.json", |v| v["tokenizer"] = json!(["transformers", "T5Tokenizer"])),
    ] {
        let (_dir, model) = golden("sd15");
        json(&model.join(file), change);
        says(&model, &[file, "only", "is supported"], &["lacks", "damaged"]);
    }
    // A scheduler that the index names is the one that diffusers makes.
    let (_dir, model) = golden("sd15");
    json(&model.join("model_index.json"), |v| v["scheduler"][1] = json!("EulerDiscreteScheduler"));
    let said = planned(&model).unwrap().join("\n");
    assert!(said.contains("EulerDiscreteScheduler is used") && said.contains("steps of euler"), "{said}");
}

#[test]
fn kind_reasons_are_true() {
    // Another tool's names, where nearly all are right.
    let (_dir, model) = golden("sd15");
    rename(&model.join(FILES[1].1), |name| name.replace("conv_in.", "conv_inn."));
    says(&model, &["lacks tensor 'conv_in.", "'conv_inn.", "is there instead"], &["config.json", "complete"]);
    // And where none is.
    let (_dir, model) = golden("sd15");
    rename(&model.join(FILES[1].1), |name| format!("x{name}").replace('.', "_"));
    says(&model, &["has none of the", "for example 'x"], &["damaged", "complete"]);
    // A configuration of a deeper model.
    let (_dir, model) = golden("sd15");
    json(&model.join("text_encoder/config.json"), |v| {
        v["num_hidden_layers"] = json!(v["num_hidden_layers"].as_u64().unwrap() + 2);
    });
    says(&model, &["text_encoder", "lacks tensor", "more of", "config.json asks for it"], &["damaged"]);
    // What is there and not read is said.
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |t| t.push(("extra.weight".into(), ElementType::F32, vec![1], vec![0; 4])));
    let said = planned(&model).unwrap().join("\n");
    assert!(said.contains("1 of its tensors are none of the model's") && said.contains("'extra.weight'"), "{said}");
    // A LoRA that was never merged.
    let (_dir, model) = golden("sd15");
    change(&model.join(FILES[1].1), |t| {
        t.push(("mid_block.attentions.0.proj_in.lora_A.default.weight".into(), ElementType::F32, vec![1], vec![0; 4]));
    });
    assert!(planned(&model).unwrap().join("\n").contains("a LoRA that is not merged"));
    // The library's format wants strings; what tools wrote instead costs nothing.
    let header = br#"{"__metadata__":{"epoch":3,"tags":["a"],"none":null}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let file = SafeTensors::from_source(Source::from_bytes("x", bytes)).unwrap();
    assert_eq!((file.metadata()["epoch"].as_str(), file.metadata()["tags"].as_str()), ("3", "[\"a\"]"));
}

#[test]
fn kind_odd_places_are_named() {
    let (dir, model) = golden("sd15");
    fs::remove_file(model.join(FILES[2].1)).unwrap();
    fs::create_dir(model.join(FILES[2].1)).unwrap();
    says(&model, &[FILES[2].1, "is a folder, expected a file"], &["damaged"]);
    let hub = dir.path().join("models--a--b");
    copy(&fixtures().join("sd15"), &hub.join("snapshots/abc"));
    says(&hub, &["hub's cache: give", "snapshots/abc"], &[]);
    fs::write(dir.path().join("x.json"), "{}").unwrap();
    refused(
        dir.path(),
        "generate a --model x.json --out y.png",
        1,
        &["x.json", "is a JSON file", "give a diffusers folder"],
    );
}
