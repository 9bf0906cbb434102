//! Vision models against transformers (`tests/fixtures/vision`, by `tests/fixtures/make_vision.py`): DINO, DINOv2 with and
//! without registers, CLIP.

use std::path::{Path, PathBuf};

use portray::VisionModel;
use portray::low_level::io::image::{Decoded, Planes, list_pictures};
use portray::low_level::io::{SafeTensors, Tensor, write_safetensors};
use portray::low_level::ops::oracle::close;
use serde_json::{Value, json};

use super::adapters::work;
use super::samplers::{open, tensor};
use crate::common::{engine, link_folder, vision, vision_clip};

fn pictures() -> Vec<PathBuf> {
    list_pictures(vision("images")).unwrap()
}

fn prepare(model: &VisionModel, paths: &[PathBuf]) -> Vec<Planes> {
    paths.iter().map(|path| model.preprocess(&Decoded::open(path).unwrap()).unwrap()).collect()
}

/// The images of a tensor [n, 3, h, w].
fn planes(file: &SafeTensors, name: &str) -> Vec<Planes> {
    let (shape, values) = tensor(file, name);
    let [channels, height, width] = [shape[1], shape[2], shape[3]];
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    values
        .chunks_exact(channels * height * width)
        .map(|values| Planes { channels, height, width, values: values.to_vec() })
        .collect()
}

fn images(model: &VisionModel, images: &[Planes]) -> Vec<Vec<f32>> {
    pollster::block_on(engine().embed_images(model, images)).unwrap()
}

/// Largest distance of prepared images, in values of a byte before normalization.
fn bytes_apart(made: &[Planes], expected: &[Planes], deviations: [f64; 3]) -> f64 {
    assert_eq!(made.len(), expected.len());
    let mut most = 0.0f64;
    for (made, expected) in made.iter().zip(expected) {
        assert_eq!((made.height, made.width), (expected.height, expected.width));
        let plane = made.height * made.width;
        for (i, (a, b)) in made.values.iter().zip(&expected.values).enumerate() {
            most = most.max(f64::from((a - b).abs()) * deviations[i / plane] * 255.0);
        }
    }
    most
}

/// Largest of 1 - cosine of the rows of two matrices.
fn cosine_distance(made: &[Vec<f32>], expected: &[f64]) -> f64 {
    let rows = made.iter().zip(expected.chunks_exact(made[0].len()));
    let distance = |(a, b): (&Vec<f32>, &[f64])| {
        let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum();
        let lengths: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>() * b.iter().map(|b| b * b).sum::<f64>();
        1.0 - dot / lengths.sqrt()
    };
    rows.map(distance).fold(0.0, f64::max)
}

/// Deviations by which the model in `folder` divides.
fn deviations(folder: &Path) -> [f64; 3] {
    let text = std::fs::read(folder.join("preprocessor_config.json")).unwrap();
    serde_json::from_value(serde_json::from_slice::<Value>(&text).unwrap()["image_std"].clone()).unwrap()
}

#[test]
fn embeddings_are_those_of_transformers() {
    let clip = vision_clip();
    for kind in ["dino", "dinov2", "registers", "clip"] {
        let folder = if kind == "clip" { clip.path().to_owned() } else { vision(kind) };
        let (model, values) = (VisionModel::open(&folder).unwrap(), open(&vision(&format!("{kind}.safetensors"))));
        let given = images(&model, &planes(&values, "pixels"));
        close(&given.concat(), &tensor(&values, "images").1, 1e-4).unwrap_or_else(|e| panic!("{kind}: {e}"));

        let prepared = prepare(&model, &pictures());
        let apart = bytes_apart(&prepared, &planes(&values, "files.pixels"), deviations(&folder));
        assert!(apart < 0.01, "{kind}: prepared images are {apart} of 255 apart");
        let distance = cosine_distance(&images(&model, &prepared), &tensor(&values, "files.images").1);
        assert!(distance < 1e-9, "{kind}: embeddings of files are {distance} apart");
    }
}

#[test]
fn comparators_can_fail() {
    let one = |value: f32| Planes { channels: 3, height: 1, width: 1, values: vec![0.5, 0.5, value] };
    let apart = bytes_apart(&[one(0.5)], &[one(0.5 + 2.0 / 255.0)], [1.0, 1.0, 0.5]);
    assert!((apart - 1.0).abs() < 1e-4, "{apart}");
    assert!((cosine_distance(&[vec![1.0, 0.0]], &[0.0, 1.0]) - 1.0).abs() < 1e-12);
    assert!(cosine_distance(&[vec![1.0, 2.0]], &[2.0, 4.0]).abs() < 1e-12);
}

#[test]
fn texts_are_truncated_padded_and_embedded_as_by_transformers() {
    let folder = vision_clip();
    let (model, values) = (VisionModel::open(folder.path()).unwrap(), open(&vision("clip.safetensors")));
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(vision("texts.json")).unwrap()).unwrap();
    let tokens = model.tokenize(&texts).unwrap();
    let ids: Vec<i64> = tokens.iter().flat_map(|(ids, _)| ids.iter().map(|id| i64::from(*id))).collect();
    assert_eq!(ids, values.get("input_ids").unwrap().to_i64().unwrap());
    let cut: Vec<bool> = tokens.iter().map(|(_, cut)| cut.is_some()).collect();
    assert_eq!(cut, [false, false, false, true]);
    // More texts than run at once.
    let many: Vec<String> = texts.iter().cycle().take(9).cloned().collect();
    let made = pollster::block_on(engine().embed_texts(&model, &many)).unwrap();
    let expected: Vec<f64> = tensor(&values, "texts").1.iter().cycle().take(9 * 12).copied().collect();
    close(&made.concat(), &expected, 1e-4).unwrap();

    // Fewer positions: texts are cut there, and the end token that a file names is the first of its id.
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["text_config"]["max_position_embeddings"] = json!(9);
    config["text_config"]["eos_token_id"] = json!(49407);
    let short = folder.path().join("short");
    let replaced = ["config.json", "model.safetensors"].map(|name| short.join(name));
    link_folder(&vision("clip"), &short, &replaced);
    link_folder(&crate::common::golden("sd15/tokenizer"), &short, &[]);
    std::fs::write(&replaced[0], config.to_string()).unwrap();
    let weights = open(&folder.path().join("model.safetensors"));
    let positions = "text_model.embeddings.position_embedding.weight";
    let rows = |tensor: Tensor<'static>| if *tensor.name == *positions { tensor.rows(0, 9).unwrap() } else { tensor };
    let owned =
        |tensor: Tensor<'_>| Tensor::owned_f32(tensor.name.to_string(), &tensor.shape, &tensor.to_f32().unwrap());
    let tensors: Vec<Tensor> = weights.iter().map(|tensor| rows(owned(tensor))).collect();
    write_safetensors(&replaced[1], &tensors, &Default::default()).unwrap();
    let short = VisionModel::open(&short).unwrap();
    assert!(short.tokenize(&texts).unwrap().iter().all(|(ids, _)| ids.len() == 9 && ids.contains(&49407)));
    let made = pollster::block_on(engine().embed_texts(&short, &texts[..3])).unwrap();
    // The two first texts are shorter than that: what follows a text's end does not change its state.
    close(&made[..2].concat(), &expected[..24], 1e-4).unwrap();
    assert!(close(&made[2], &expected[24..36], 1e-2).is_err(), "the third is cut");
}

#[test]
fn images_of_several_sizes_and_many_at_once_are_embedded_as_each_alone() {
    let model = VisionModel::open(&vision("dinov2")).unwrap();
    let given = planes(&open(&vision("dinov2.safetensors")), "pixels");
    let smaller =
        |image: &Planes| Planes { height: image.height - 9, values: image.values[27 * 33..].to_vec(), ..*image };
    // The second size of 18 takes a whole run and a shorter one.
    let mut many = vec![smaller(&given[0])];
    many.extend(given.iter().cycle().take(18).cloned());
    many.push(smaller(&given[1]));
    let together = images(&model, &many);
    for i in [0, 1, 15, 17, 18, 19] {
        let alone = images(&model, &many[i..=i]).concat();
        let alone: Vec<f64> = alone.into_iter().map(f64::from).collect();
        close(&together[i], &alone, 1e-5).unwrap_or_else(|e| panic!("image {i}: {e}"));
    }
    assert!(together[0] != together[1] && together[1] == together[4]);
}

/// Folders as they are published: integer sizes, the extractor's older name, fields left out; and weights in shards, under the
/// names of a model with a head in front.
#[test]
fn published_folders_are_read_as_saved_ones() {
    let folder = tempfile::tempdir().unwrap();
    let clip = vision_clip();
    for (kind, own, json) in [
        ("dino", vision("dino"), json!({"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 2})),
        (
            "clip",
            clip.path().to_owned(),
            json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 28, "crop_size": 28}),
        ),
    ] {
        let to = folder.path().join(kind);
        link_folder(&own, &to, &[to.join("preprocessor_config.json")]);
        let mut config = json;
        if kind == "dino" {
            config["image_mean"] = json!([0.485, 0.456, 0.406]);
            config["image_std"] = json!([0.229, 0.224, 0.225]);
        }
        std::fs::write(to.join("preprocessor_config.json"), config.to_string()).unwrap();
        let [saved, published] = [&own, &to].map(|path| prepare(&VisionModel::open(path).unwrap(), &pictures()));
        assert_eq!(saved, published, "{kind}");
        // A processor's file with an image processor in it comes first.
        std::fs::write(to.join("processor_config.json"), json!({"image_processor": {"size": 9}}).to_string()).unwrap();
        let model = VisionModel::open(&to).unwrap();
        assert_eq!(prepare(&model, &pictures()[..1])[0].height, if kind == "dino" { 9 } else { 224 });
    }

    let to = folder.path().join("shards");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    link_folder(&vision("dino"), &to, &[to.join("model.safetensors")]);
    let weights = open(&vision("dino/model.safetensors"));
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let named = |t: Tensor<'static>| t.clone().renamed(format!("vit.{}", t.name));
        let own = |(at, tensor): (usize, Tensor<'_>)| {
            let (name, shape, values) = (tensor.name.to_string(), tensor.shape.to_vec(), tensor.to_f32().unwrap());
            (at % 2 == i).then(|| named(Tensor::owned_f32(name, &shape, &values)))
        };
        let tensors: Vec<Tensor> = weights.iter().enumerate().filter_map(own).collect();
        map.extend(tensors.iter().map(|tensor| (tensor.name.to_string(), json!(shard))));
        write_safetensors(to.join(shard), &tensors, &Default::default()).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let given = planes(&open(&vision("dino.safetensors")), "pixels");
    let [saved, shards] = [vision("dino"), to].map(|path| images(&VisionModel::open(&path).unwrap(), &given[..1]));
    assert_eq!(saved, shards);
}

/// A second call plans and loads nothing; freed weights are loaded again, with the same result.
#[test]
fn weights_stay_until_they_are_released() {
    let model = VisionModel::open(&vision("registers")).unwrap();
    let given = planes(&open(&vision("registers.safetensors")), "pixels");
    let (first, loaded) = work(|| images(&model, &given));
    assert!(loaded.planned.len() == 1 && loaded.uploaded > 50_000, "{loaded:?}");
    assert!(loaded.uploaded <= model.weight_bytes().unwrap()[0], "{loaded:?}");
    let (second, nothing) = work(|| images(&model, &given));
    assert_eq!((nothing.planned.len(), nothing.uploaded), (0, 0));
    model.release();
    let (third, again) = work(|| images(&model, &given));
    assert_eq!((again.planned.len(), again.uploaded), (0, loaded.uploaded));
    assert!(first == second && second == third);
}
