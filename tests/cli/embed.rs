//! `portray embed`: its results, and folders and tensors that are not what it takes.

use std::path::Path;

use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use serde_json::{Value, json};

use super::common::{link_folder, vision, vision_clip};
use super::support::*;

fn shapes(path: &Path) -> Vec<(String, Vec<usize>)> {
    let file = SafeTensors::open(path).unwrap();
    file.iter().map(|tensor| (tensor.name.to_string(), tensor.shape.to_vec())).collect()
}

#[test]
fn images_texts_and_given_tensors() {
    let (dir, clip) = (tempfile::tempdir().unwrap(), vision_clip());
    let (clip, images) = (clip.path().display(), vision("images"));
    let one = images.join("3-RGBA.png");
    // An image, a folder of six, and texts, of which the last is longer than the model reads.
    let mut command = portray(dir.path());
    command.args(words(&format!(
        "embed --vision {clip} {} {} --out a.safetensors --text",
        one.display(),
        images.display()
    )));
    let output = command.args(["a cat", "a hat ", &"hat ".repeat(90)]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("longer than 77 tokens; this is cut: hat"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "images [7, 12]\ntexts [3, 12]\npixels [7, 3, 28, 28]\n");
    let made = SafeTensors::open(dir.path().join("a.safetensors")).unwrap();
    let rows = made.get("images").unwrap().to_f32().unwrap();
    assert_eq!(rows[..12], rows[4 * 12..5 * 12], "the image is the folder's fourth");

    // The same pixels and ids, given as tensors beside others.
    let named = |name: &str| made.get(name).unwrap();
    let ids: Vec<i64> = [49406i64, 320, 2368, 49407].into_iter().chain([49407; 73]).collect();
    let tensors = [named("pixels"), Tensor::i64("input_ids", &[1, 77], &ids), named("texts")];
    write_safetensors(dir.path().join("in.safetensors"), &tensors, &Default::default()).unwrap();
    let said =
        stdout(&works(dir.path(), &format!("embed --vision {clip} --in in.safetensors --out b.safetensors --json")));
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"event": "tensor", "name": "images", "shape": [7, 12]}));
    assert_eq!(
        shapes(&dir.path().join("b.safetensors")),
        [("images".into(), vec![7, 12]), ("texts".into(), vec![1, 12])]
    );
    let again = SafeTensors::open(dir.path().join("b.safetensors")).unwrap();
    assert_eq!(again.get("images").unwrap().to_f32().unwrap(), rows);
    assert_eq!(again.get("texts").unwrap().to_f32().unwrap(), named("texts").to_f32().unwrap()[..12]);
    let (vision, one) = (vision("dino"), one.display());
    let line = format!("embed --vision {} --in in.safetensors {one} --out c.safetensors", vision.display());
    refused(dir.path(), &line, 1, &["dino: ", "is an image model (ViTModel)", "give a whole CLIP"]);
    for (line, named) in [
        (format!("--vision {clip} --in in.safetensors {one} --out c.safetensors"), ["--in", "give one of them"]),
        (format!("--vision {clip} {one} --out b.safetensors"), ["b.safetensors", "exists"]),
        (format!("--vision {clip} --out c.safetensors"), ["IMAGE", "--text"]),
        (format!("--vision {clip} {one} --out ."), ["--out .: is a folder", "such as ./embeddings.safetensors"]),
        (
            format!("--vision {clip} {one} --out new/"),
            ["--out new/: is a folder", "such as new/embeddings.safetensors"],
        ),
        (format!("--vision {clip} {one} --out c.png"), ["--out c.png", "name it c.safetensors"]),
        (format!("--vision {clip} --text a {one} --out c.safetensors"), ["--text", "is a file"]),
        (format!("--vision {clip} --in in.safetensors --out in.safetensors --force"), ["--out", "--in"]),
    ] {
        let code = if named[1] == "exists" { 1 } else { 2 };
        refused(dir.path(), &format!("embed {line}"), code, &named);
    }
    write_safetensors(dir.path().join("ids.safetensors"), &tensors[1..2], &Default::default()).unwrap();
    let line = format!("embed --vision {clip} --in ids.safetensors --text cat --out c.safetensors");
    refused(dir.path(), &line, 2, &["--in holds input_ids, and --text", "give one of them"]);
}

#[test]
fn other_folders_are_refused_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.txt"), "x").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for (folder, named) in [
        ("none", ["no such folder", "none"]),
        ("x.txt", ["is a file", "a vision model is a folder"]),
        ("empty", ["has no config.json", "a vision model is a folder"]),
        ("{F}/sd15", ["is a diffusion model's folder (StableDiffusionPipeline)", "--model"]),
        ("{F}/sd15/text_encoder", ["is CLIP's text side alone", "give a whole CLIP"]),
        ("{F}/sd15/unet", ["is a UNet2DConditionModel", "DINOv2 or CLIP"]),
    ] {
        refused(dir.path(), &format!("embed x.txt --vision {folder} --out o.safetensors"), 1, &named);
    }
}

/// A copy of the folder of DINO's fixture in which `change` changes the configurations.
fn changed(to: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let names = ["config.json", "preprocessor_config.json"];
    link_folder(&vision("dino"), to, &names.map(|name| to.join(name)));
    let read = |name: &str| serde_json::from_slice(&std::fs::read(vision("dino").join(name)).unwrap()).unwrap();
    let [mut config, mut processor]: [Value; 2] = names.map(read);
    change(&mut config, &mut processor);
    for (name, json) in names.iter().zip([config, processor]).filter(|(_, json)| !json.is_null()) {
        std::fs::write(to.join(name), json.to_string()).unwrap();
    }
}

#[test]
fn models_that_are_not_supported_or_damaged_are_refused_by_field_and_tensor() {
    type Change = fn(&mut Value, &mut Value);
    let dir = tempfile::tempdir().unwrap();
    let cases: [(Change, [&str; 2]); 14] = [
        (|c, _| c["model_type"] = json!("siglip"), ["is a model of type siglip (ViTModel)", "DINOv2 or CLIP"]),
        (|c, _| c["hidden_act"] = json!("mish"), ["config.json: hidden_act is mish", "gelu"]),
        (|c, _| c["num_attention_heads"] = json!(5), ["num_attention_heads is 5", "24 channels"]),
        (|c, _| c["image_size"] = json!("large"), ["image_size is \"large\"", "a whole number"]),
        (|c, _| c["image_size"] = json!(4), ["patch_size is 8x8", "image_size, 4x4"]),
        (|c, _| c["image_size"] = json!(64), ["'embeddings.position_embeddings'", "it must be [65, 24]"]),
        (|c, _| c["num_hidden_layers"] = json!(3), ["lacks tensor", "encoder.layer.2"]),
        (|c, _| c["intermediate_size"] = json!(45), ["intermediate.dense", "by config.json it must be [45, 24]"]),
        (|_, p| *p = Value::Null, ["has no preprocessor_config.json", "a vision model is a folder"]),
        (
            |_, p| p["image_processor_type"] = json!("DPTImageProcessor"),
            ["preprocessor_config.json: ", "DPTImageProcessor"],
        ),
        (|_, p| p["size"] = json!({"longest_edge": 9}), ["size has longest_edge", "height and width"]),
        (|_, p| p["resample"] = json!(7), ["resample is 7", "0 to 5"]),
        (|_, p| p["size"] = json!(5), ["0-RGB.png", "8x8 pixels or more"]),
        (|c, _| c["model_type"] = json!("clip_vision_model"), ["lacks tensor", "vision_model."]),
    ];
    let image = vision("images/0-RGB.png");
    for (i, (change, named)) in cases.into_iter().enumerate() {
        changed(&dir.path().join(i.to_string()), change);
        let line = format!("embed {} --vision {i} --out o.safetensors", image.display());
        refused(dir.path(), &line, 1, &named);
    }

    let pickled = dir.path().join("pickled");
    link_folder(&vision("dino"), &pickled, &[pickled.join("model.safetensors")]);
    std::fs::write(pickled.join("pytorch_model.bin"), "PK").unwrap();
    let line = "embed --vision pickled x.png --out o.safetensors";
    refused(
        dir.path(),
        line,
        1,
        &["pickled weights only (pytorch_model.bin)", "AutoModel", "save_pretrained('pickled')"],
    );

    // The image side of a CLIP reads images, and no text.
    let alone = dir.path().join("alone");
    link_folder(&vision("clip"), &alone, &[alone.join("config.json")]);
    let config: Value = serde_json::from_slice(&std::fs::read(vision("clip/config.json")).unwrap()).unwrap();
    let mut side = config["vision_config"].clone();
    (side["architectures"], side["projection_dim"]) = (json!(["CLIPVisionModelWithProjection"]), json!(12));
    std::fs::write(alone.join("config.json"), side.to_string()).unwrap();
    let named = ["is CLIP's image side alone (CLIPVisionModelWithProjection)", "reads no text", "CLIPModel"];
    refused(dir.path(), "embed --vision alone --text cat --out o.safetensors", 1, &named);
    works(dir.path(), &format!("embed {} --vision alone --out o.safetensors", image.display()));
    assert_eq!(shapes(&dir.path().join("o.safetensors"))[0], ("images".into(), vec![1, 12]));
}

#[test]
fn tensors_and_files_that_do_not_fit_are_named() {
    let (dir, clip) = (tempfile::tempdir().unwrap(), vision_clip());
    let clip = clip.path().display();
    let values = vec![f32::NAN; 4 * 32 * 32];
    let nan = Tensor::f32("pixels", &[1, 3, 32, 32], &values[..3 * 32 * 32]);
    let zero = vec![0.0f32; 4 * 32 * 32];
    let pixels = |shape: &[usize]| Tensor::f32("pixels", shape, &zero[..shape.iter().product()]);
    let ids = [7i64, 49408, -1];
    for (tensor, named) in [
        (
            Tensor::f32("images", &[1, 2], &zero[..2]),
            ["in.safetensors", "neither pixels [n, channels, height, width] nor"],
        ),
        (pixels(&[3, 32, 32]), ["'pixels'", "expected [n, channels, height, width]"]),
        (pixels(&[0, 3, 32, 32]), ["'pixels'", "holds no image"]),
        (pixels(&[1, 4, 32, 32]), ["4 channels", "reads 3 channels"]),
        (pixels(&[1, 3, 4, 5]), ["5x4 pixels", "7x7 pixels or more"]),
        (nan, ["'pixels'", "NaN"]),
        (Tensor::f32("input_ids", &[1, 2], &zero[..2]), ["'input_ids'", "F32"]),
        (Tensor::i64("input_ids", &[1, 2], &ids[..2]), ["holds 49408", "ids are 0 to 49407"]),
        (Tensor::i64("input_ids", &[1, 1], &ids[2..]), ["holds -1", "ids are 0 to 49407"]),
        (Tensor::i64("input_ids", &[3], &ids), ["'input_ids'", "expected [n, tokens]"]),
        (Tensor::i64("input_ids", &[1, 78], &[0; 78]), ["'input_ids'", "1 to 77 tokens"]),
    ] {
        write_safetensors(dir.path().join("in.safetensors"), &[tensor], &Default::default()).unwrap();
        refused(dir.path(), &format!("embed --vision {clip} --in in.safetensors --out o.safetensors"), 1, &named);
    }
    std::fs::write(dir.path().join("x.png"), "no image").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for (what, named) in [("x.png", "a text file"), ("gone.png", "gone.png"), ("empty", "holds no images")] {
        refused(dir.path(), &format!("embed {what} --vision {clip} --out o.safetensors"), 1, &[named]);
    }
}
