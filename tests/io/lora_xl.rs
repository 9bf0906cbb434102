//! LoRA files of Stable Diffusion XL: every layout read alike, original names written, the base noted, other families named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use portray::LoraFormat;
use portray::low_level::io::{
    Checkpoint, LoraFile, ModelModules, ModuleKey, PartId, SafeTensors, Tensor, write_safetensors,
};

use super::support::{golden, message};

const FORMATS: [LoraFormat; 4] = [LoraFormat::Diffusers, LoraFormat::Peft, LoraFormat::PeftFolder, LoraFormat::Kohya];
const ENDS: [&str; 2] = ["lora_down.weight", "lora_up.weight"];

fn xl(name: &str) -> PathBuf {
    golden("../xl").join(name)
}

fn modules(model: &str) -> ModelModules {
    Checkpoint::open(xl(model)).unwrap().modules()
}

fn open(name: &str, model: Option<&ModelModules>) -> LoraFile {
    LoraFile::open(xl(name), model).unwrap()
}

/// Asserts that two files have the same layers with the same factors, bit for bit, and the same scales.
fn assert_same(a: &LoraFile, b: &LoraFile, what: &str) {
    assert!(a.modules.keys().eq(b.modules.keys()), "{what}: other layers");
    let mut pairs = a.modules.values().zip(b.modules.values());
    assert!(pairs.all(|(a, b)| a.down == b.down && a.up == b.up && a.scale() == b.scale()), "{what}: other factors");
}

fn counts(lora: &LoraFile) -> [usize; 3] {
    let of = |part| lora.layers().iter().filter(|key| key.part == part).count();
    [PartId::UNET, PartId::TEXT_ENCODER, PartId::TEXT_ENCODER_2].map(of)
}

fn named(path: &Path) -> BTreeSet<String> {
    SafeTensors::open(path).unwrap().names().map(str::to_owned).collect()
}

fn metadata(path: &Path) -> BTreeMap<String, String> {
    SafeTensors::open(path).unwrap().metadata().clone()
}

fn lacks(path: &Path, formats: &str) -> bool {
    !metadata(path).contains_key(formats)
}

#[test]
fn every_layout_of_two_encoders_reads_alike() {
    let layers = modules("xl");
    for (name, expected) in [("xl", [224, 0, 0]), ("xl-all", [368, 12, 8])] {
        let first = open(&format!("{name}.lora-peft.safetensors"), Some(&layers));
        assert_eq!(counts(&first), expected, "{name}");
        for (layout, letter) in [
            ("peft.safetensors", 'C'),
            ("diffusers.safetensors", 'B'),
            ("folder", 'D'),
            ("kohya.safetensors", 'E'),
            ("kohya-diffusers-names.safetensors", 'E'),
        ] {
            for known in [Some(&layers), None] {
                let lora = open(&format!("{name}.lora-{layout}"), known);
                assert_same(&lora, &first, &format!("{name} {layout}, model known: {}", known.is_some()));
                assert_eq!(lora.layout.map(|layout| layout.letter()), Some(letter), "{layout}");
                let report = lora.match_report(&layers);
                report.check().unwrap();
                assert_eq!((report.matched.len(), report.unmatched.len()), (expected.iter().sum(), 0), "{layout}");
            }
        }
    }
    // SSD-1B's and Vega's depths, without attention in the middle.
    let layers = modules("ssd");
    for (name, expected) in [("ssd", [192, 0, 0]), ("ssd-all", [323, 12, 8])] {
        let [with, without] = [Some(&layers), None].map(|known| open(&format!("{name}.lora-kohya.safetensors"), known));
        assert_same(&with, &without, name);
        assert_eq!((counts(&with), with.match_report(&layers).unmatched.len()), (expected, 0), "{name}");
    }
}

/// Original names of the modules of a model whose resolutions have `layers` residual blocks, in the fixtures' lists.
fn originals() -> BTreeMap<String, String> {
    let list = fs::read_to_string(xl("names-xl-64.txt")).unwrap();
    let words = list.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let unet = words.filter(|words| words[0] == "unet" && words[2].ends_with(".weight"));
    let module = |name: &str| name.trim_end_matches(".weight").to_owned();
    unet.map(|words| (module(words[2]), module(words[1].trim_start_matches("model.diffusion_model.")))).collect()
}

/// A LoRA of rank 1 of every layer of `xl-64` that has a weight of two or four extents.
fn small() -> LoraFile {
    let layers = modules("xl-64");
    let mut lora = LoraFile { name: "small".into(), ..LoraFile::default() };
    for part in PartId::ADAPTED {
        for (path, shape) in layers.of(part).filter(|(path, _)| !path.contains("embeddings")) {
            let factor = |shape: &[usize], seed: usize| portray::low_level::io::lora_file::Factor {
                shape: shape.to_vec(),
                data: (0..shape.iter().product()).map(|i: usize| ((i + seed) % 7) as f32 - 3.0).collect(),
            };
            let (mut down, mut up) = (shape.clone(), vec![1; shape.len()]);
            (down[0], up[0]) = (1, shape[0]);
            let key = ModuleKey { part, path: path.clone() };
            let seed = lora.modules.len();
            let module = portray::low_level::io::LoraModule {
                down: factor(&down, seed),
                up: factor(&up, seed),
                alpha: Some(1.0),
            };
            lora.modules.insert(key, module);
        }
    }
    lora
}

#[test]
fn names_of_other_tools_are_the_same_layers() {
    let (lora, layers, originals) = (small(), modules("xl-64"), originals());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let original = |key: &ModuleKey| originals[&key.path].clone();
    let flat = |text: String| text.replace('.', "_");
    type Naming<'a> = (&'a str, char, &'a dyn Fn(&ModuleKey) -> String);
    let comfy: Naming<'_> = ("ComfyUI", 'G', &|key| match key.part {
        PartId::UNET => format!("diffusion_model.{}", original(key)),
        PartId::TEXT_ENCODER => format!("text_encoders.clip_l.transformer.{}", key.path),
        _ => format!("text_encoders.clip_g.transformer.{}", key.path),
    });
    let onetrainer: Naming<'_> = ("OneTrainer", 'G', &|key| match key.part {
        PartId::UNET => format!("unet.{}", original(key)),
        PartId::TEXT_ENCODER => format!("clip_l.{}", key.path),
        _ => format!("clip_g.{}", key.path),
    });
    let dotted: Naming<'_> = ("OneTrainer, diffusers' names", 'G', &|key| match key.part {
        PartId::UNET => format!("lora_unet.{}", key.path),
        PartId::TEXT_ENCODER => format!("lora_te1.{}", key.path),
        _ => format!("lora_te2.{}", key.path),
    });
    let kohya: Naming<'_> = ("kohya", 'E', &|key| match key.part {
        PartId::UNET => flat(format!("lora_unet_{}", original(key))),
        PartId::TEXT_ENCODER => flat(format!("lora_te1_{}", key.path)),
        _ => flat(format!("lora_te2_{}", key.path)),
    });
    for (what, letter, name) in [comfy, onetrainer, dotted, kohya] {
        let mut tensors = Vec::new();
        for (key, module) in &lora.modules {
            for (end, factor) in ENDS.iter().zip([&module.down, &module.up]) {
                tensors.push(Tensor::f32(format!("{}.{end}", name(key)), &factor.shape, &factor.data));
            }
        }
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        for known in [Some(&layers), None] {
            let read = LoraFile::open(&path, known).unwrap();
            assert_same(&read, &lora, what);
            assert_eq!(read.layout.map(|layout| layout.letter()), Some(letter), "{what}");
        }
    }
    // LyCORIS's kinds under the same names.
    let ends = |key: &ModuleKey| match key.path.len() % 3 {
        0 => &["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"][..],
        1 => &["lokr_w1", "lokr_w2"],
        _ => &["diff"],
    };
    let one = |key: &ModuleKey, end: &str| {
        let shape: &[usize] = if end == "lokr_w1" { &[1, 1] } else { layers.weight(key).unwrap() };
        let shape = if end.starts_with("hada") {
            let rows = if end.ends_with('a') { shape[0] } else { 1 };
            vec![rows, if end.ends_with('a') { 1 } else { shape[1..].iter().product() }]
        } else {
            shape.to_vec()
        };
        let values = vec![0.5f32; shape.iter().product()];
        Tensor::owned_f32(format!("{}.{end}", kohya.2(key)), &shape, &values)
    };
    let tensors: Vec<_> = lora.modules.keys().flat_map(|key| ends(key).iter().map(|end| one(key, end))).collect();
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    for known in [Some(&layers), None] {
        let read = LoraFile::open(&path, known).unwrap();
        assert!(read.changes.keys().eq(lora.modules.keys()), "LyCORIS");
        let report = read.match_report(&layers);
        report.check().unwrap();
        assert_eq!((report.matched.len(), report.kinds.len()), (lora.modules.len(), 3));
    }
}

#[test]
fn what_is_written_reads_back_bit_for_bit_and_has_the_names_that_kohya_gives() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["xl", "xl-all", "ssd", "ssd-all"] {
        let kohya = xl(&format!("{name}.lora-kohya.safetensors"));
        let lora = LoraFile::open(&kohya, None).unwrap();
        let mut first = lora.clone();
        for format in FORMATS {
            let path = dir.path().join(format!("{name}-{}", format.name()));
            // From the layout before.
            first.write(&path, format).unwrap();
            first = LoraFile::open(&path, None).unwrap();
            assert_same(&first, &lora, &format!("{name} as {}", format.name()));
        }
        assert_eq!(named(&dir.path().join(format!("{name}-kohya"))), named(&kohya), "{name}");
        // diffusers reads the words of one layout only: of a file that mixes them, a part would be left out.
        let names = named(&dir.path().join(format!("{name}-diffusers")));
        assert!(names.iter().all(|name| !name.contains("lora_A") && !name.contains("lora_B")), "{name}");
    }
    // Of one residual block a resolution.
    let (lora, originals, path) = (small(), originals(), dir.path().join("small"));
    lora.write(&path, LoraFormat::Kohya).unwrap();
    let names = named(&path);
    for key in lora.modules.keys().filter(|key| key.part == PartId::UNET) {
        let name = format!("lora_unet_{}.alpha", originals[&key.path].replace('.', "_"));
        assert!(names.contains(&name), "{name}");
    }
    for known in [Some(&modules("xl-64")), None] {
        assert_same(&LoraFile::open(&path, known).unwrap(), &lora, "xl-64");
    }
}

/// A1111 sorts by the beginning of `ss_base_model_version` and by `ss_v2`, in every layout; others by the architecture.
#[test]
fn the_base_is_in_the_metadata_of_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let lora = |name: &str, said: &str| {
        let mut lora = LoraFile::open(xl(name), None).unwrap();
        lora.metadata.extend((!said.is_empty()).then(|| ("ss_base_model_version".to_owned(), said.to_owned())));
        lora
    };
    let (sd1, sd2) = ("../golden/sd15.lora-kohya.safetensors", "../golden/sd2.lora-kohya.safetensors");
    let base = "stable-diffusion-xl-v1-base/lora";
    for (lora, version, second, architecture) in [
        (lora("xl.lora-peft.safetensors", ""), "sdxl_base_v1-0", "False", base),
        (lora("ssd.lora-kohya.safetensors", ""), "sdxl_base_v1-0", "False", base),
        (lora("xl-all.lora-folder", "sdxl_base_v1-0"), "sdxl_base_v1-0", "False", base),
        // Miniatures have no layer that tells.
        (lora(sd1, ""), "sd_v1", "False", "stable-diffusion-v1/lora"),
        (lora(sd1, "sd_v1"), "sd_v1", "False", "stable-diffusion-v1/lora"),
        (lora(sd2, "sd_v2"), "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        (lora(sd2, "sd_v2_v"), "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
    ] {
        for format in FORMATS {
            lora.write(&path, format).unwrap();
            let file = if path.is_dir() { path.join("unet/adapter_model.safetensors") } else { path.clone() };
            let metadata = metadata(&file);
            let said = ["ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.sai_model_spec"];
            let said = said.map(|name| metadata.get(name).map_or("", String::as_str));
            assert_eq!(said, [version, second, architecture, "1.0.0"], "{} {}", lora.name, format.name());
            assert_eq!(lacks(&file, "ss_network_dim"), format != LoraFormat::Kohya);
            let original = format == LoraFormat::Kohya && architecture == base;
            let implementation = &metadata["modelspec.implementation"];
            assert_eq!(implementation.contains("generative-models"), original, "{implementation}");
            assert_eq!(original, named(&file).iter().any(|name| name.contains("_blocks_4_1_")));
            if path.is_dir() { fs::remove_dir_all(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
    }
    for (model, version) in
        [("xl", "sdxl_base_v1-0"), ("xl-v", "sdxl_base_v1-0"), ("ssd", "sdxl_base_v1-0"), ("bk", "sd_v1")]
    {
        let mut lora = LoraFile::default();
        lora.note_base(&Checkpoint::open(xl(model)).unwrap());
        assert_eq!(lora.metadata["ss_base_model_version"], version, "{model}");
    }
    let mut lora = LoraFile::default();
    lora.note_base(&Checkpoint::open(golden("sd2")).unwrap());
    lora.note_base(&Checkpoint::open(golden("sd15")).unwrap());
    assert_eq!(lora.metadata["ss_base_model_version"], "sd_v2_v", "the first stays");
}

#[test]
fn a_lora_of_another_family_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let refused = |lora: &LoraFile, model: &ModelModules| message(lora.match_report(model).check());
    let attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
    let text = "text_model.encoder.layers.0.self_attn.q_proj";
    let written = |layers: &[(&str, usize)]| {
        let values = [0.5f32; 4096];
        let factors = |(name, width): &(&str, usize)| {
            [
                Tensor::f32(format!("{name}.lora_A.weight"), &[1, *width], &values[..*width]),
                Tensor::f32(format!("{name}.lora_B.weight"), &[*width, 1], &values[..*width]),
            ]
        };
        let tensors: Vec<_> = layers.iter().flat_map(factors).collect();
        write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        LoraFile::open(&path, None).unwrap()
    };
    let (sd15, sd2) = (Checkpoint::open(golden("sd15")).unwrap(), Checkpoint::open(golden("sd2")).unwrap());
    let (sd15, sd2, bk, big) = (sd15.modules(), sd2.modules(), modules("bk"), modules("xl"));
    // Of XL, beside models of one text encoder; that of `bk` is the first one of `xl`.
    for name in ["xl.lora-peft.safetensors", "xl-all.lora-kohya.safetensors", "ssd-all.lora-kohya.safetensors"] {
        let lora = open(name, None);
        assert_eq!(lora.made_for().as_deref(), Some("Stable Diffusion XL"), "{name}");
        for model in [&sd15, &sd2, &bk] {
            let error = refused(&lora, model);
            assert!(
                error.contains("LoRA of another model") && error.ends_with("made for Stable Diffusion XL"),
                "{error}"
            );
        }
    }
    let mut texts = open("xl-all.lora-peft.safetensors", None);
    texts.modules.retain(|key, _| key.part != PartId::UNET);
    assert_eq!(texts.match_report(&bk).matched.len(), 12, "the first encoder's layers fit");
    assert!(refused(&texts, &bk).ends_with("made for Stable Diffusion XL"));
    // Of others, beside XL: one whose text encoder's layers fit its first one.
    for (width, family) in
        [(768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (1280, "Stable Diffusion XL's refiner")]
    {
        let path = format!("unet.up_blocks.3.attentions.0.{}", &attention["down_blocks.1.attentions.0.".len()..]);
        let lora = written(&[(&path, width), (&format!("text_encoder.{text}"), 64)]);
        assert!(lora.made_for().is_some_and(|found| found.starts_with(family)), "{:?}", lora.made_for());
        let report = lora.match_report(&big);
        assert_eq!((report.matched.len(), report.unmatched.len()), (1, 1));
        let error = message(report.check());
        assert!(error.contains("match nothing") && error.contains(&format!("made for {family}")), "{error}");
    }
    let refiner = written(&[(&format!("unet.{attention}"), 1280)]);
    assert!(
        refused(&refiner, &big)
            .contains("made for Stable Diffusion XL's refiner (cross-attention width 1280): Portray takes")
    );
    let error = message(refiner.write(dir.path().join("y"), LoraFormat::Kohya));
    assert!(
        error.contains("is a LoRA for Stable Diffusion XL's refiner (cross-attention width 1280); Portray takes"),
        "{error}"
    );
    // What layers do not tell, metadata may.
    let mut first = written(&[(&format!("text_encoder.{text}"), 768)]);
    assert!(first.made_for().is_some_and(|found| found.starts_with("Stable Diffusion 1.x (text encoder width")));
    first.metadata.insert("ss_base_model_version".into(), "sdxl_base_v1-0".into());
    assert_eq!(first.made_for().as_deref(), Some("Stable Diffusion XL (base version sdxl_base_v1-0)"));
}
