//! LyCORIS files: each kind adds what LyCORIS itself adds.

mod damaged;

use std::collections::BTreeMap;
use std::path::PathBuf;

use portray::LoraFormat;
use portray::low_level::family::lora::MatchReport;
use portray::low_level::io::{LoraFile, ModelModules, ModuleKey, PartId, SafeTensors, Tensor, write_safetensors};

use super::support::{distance, golden, message};

const BLOCK: &str = "down_blocks.0.attentions.0.transformer_blocks.0";
const FORMATS: [(LoraFormat, &str); 4] = [
    (LoraFormat::Diffusers, "diffusers"),
    (LoraFormat::Peft, "peft"),
    (LoraFormat::PeftFolder, "peft-folder"),
    (LoraFormat::Kohya, "kohya"),
];

fn fixture(name: &str) -> PathBuf {
    golden("../lycoris").join(name)
}

/// A file of tensors under given names; those of `fill` hold halves.
fn open(tensors: &[Tensor<'_>]) -> portray::Result<LoraFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    LoraFile::open(&path, None)
}

fn halves<'a>(shapes: &[(&str, &[usize])]) -> Vec<Tensor<'a>> {
    const HALVES: [f32; 4096] = [0.5; 4096];
    shapes.iter().map(|(name, shape)| Tensor::f32(*name, shape, &HALVES[..shape.iter().product()])).collect()
}

/// The fixture's tensors, changed by `change`.
fn changed(change: impl Fn(Tensor<'static>) -> Option<Tensor<'static>>) -> portray::Result<LoraFile> {
    let file = SafeTensors::open(fixture("lycoris.safetensors")).unwrap();
    let owned = |t: Tensor<'_>| Tensor::raw(t.name.to_string(), t.dtype, &t.shape, t.bytes().unwrap().to_vec().leak());
    open(&file.iter().filter_map(|t| change(owned(t))).collect::<Vec<_>>())
}

/// What is added to a layer's weight of `[rows, ..]` and to its bias, a few rows at a time.
fn added(file: &LoraFile, key: &ModuleKey, weight: &[usize], bias: usize, scale: f64) -> [Vec<f32>; 2] {
    let columns: usize = weight[1..].iter().product();
    let mut sums = [vec![0.0; weight[0] * columns], vec![0.0; bias]];
    if let Some(module) = file.modules.get(key) {
        sums[0].iter_mut().zip(module.delta()).for_each(|(sum, x)| *sum += scale as f32 * x);
    }
    if let Some(change) = file.changes.get(key) {
        for (i, some) in sums[0].chunks_mut(3 * columns).enumerate() {
            assert!(change.add_to_weight(some, 3 * i..3 * i + some.len() / columns, scale));
        }
        for (i, some) in sums[1].chunks_mut(3).enumerate() {
            assert!(change.add_to_bias(some, 3 * i..3 * i + some.len(), scale));
        }
    }
    sums
}

/// The layers of the fixture's model.
fn layers() -> ModelModules {
    let mut model = ModelModules::default();
    for tensor in SafeTensors::open(fixture("deltas.safetensors")).unwrap().iter() {
        let (path, which) = tensor.name.rsplit_once('.').unwrap();
        if which == "weight" {
            model.layers.entry(PartId::UNET).or_default().insert(path.to_owned(), tensor.shape.to_vec());
        } else {
            model.biases.insert(unet(path), tensor.elements());
        }
    }
    model
}

fn unet(path: &str) -> ModuleKey {
    ModuleKey { part: PartId::UNET, path: path.to_owned() }
}

/// Distance of everything that `file` adds from `factor` times what LyCORIS does, at the worst layer.
fn apart(file: &LoraFile, scale: f64, factor: impl Fn(&ModuleKey) -> f32) -> f32 {
    let deltas = SafeTensors::open(fixture("deltas.safetensors")).unwrap();
    let model = layers();
    let mut worst = 0.0f32;
    for (path, shape) in &model.layers[&PartId::UNET] {
        let key = unet(path);
        let bias = model.biases.get(&key).copied().unwrap_or(0);
        let [weight, bias] = added(file, &key, shape, bias, scale);
        let expected = |name: String, factor: f32| -> Vec<f32> {
            deltas.find(&name).map_or(Vec::new(), |t| t.to_f32().unwrap().iter().map(|x| x * factor).collect())
        };
        worst = worst.max(distance(&weight, &expected(format!("{path}.weight"), scale as f32 * factor(&key))));
        worst = worst.max(distance(&bias, &expected(format!("{path}.bias"), scale as f32)));
    }
    worst
}

#[test]
fn every_kind_adds_what_lycoris_adds() {
    let file = LoraFile::open(fixture("lycoris.safetensors"), Some(&layers())).unwrap();
    assert_eq!(
        (file.layout.map(|layout| layout.letter()), file.layers().len(), file.foreign.len()),
        (Some('F'), 13, 0)
    );
    let kinds = [("LoCon", 2), ("LoHa", 3), ("LoKr", 6), ("weight difference", 2)];
    assert_eq!(file.kinds().into_iter().collect::<Vec<_>>(), kinds);
    let stored = SafeTensors::open(fixture("lycoris.safetensors")).unwrap();
    let counted: usize = stored.iter().filter(|t| !t.name.ends_with(".alpha")).map(|t| t.elements()).sum();
    // LoCon's third factor, 3 x 3 x 3 x 3, is in the first, which grows from 3 x 6 to 3 x 6 x 3 x 3.
    assert_eq!(file.parameters(), counted - 81 - 18 + 162);
    for scale in [1.0, -0.75] {
        let far = apart(&file, scale, |_| 1.0);
        assert!(far < 1e-6, "{far:e}");
    }
    assert!(apart(&file, 1.0, |_| 1.01) > 1e-3, "the comparator sees one percent");
    // It is added to what is there; a model of another size is left alone.
    let change = &file.changes[&unet(&format!("{BLOCK}.attn1.to_q"))];
    let (mut sum, mut alone) = (vec![2.0; 96], vec![0.0; 96]);
    assert!(change.add_to_weight(&mut sum, 0..8, 0.5) && change.add_to_weight(&mut alone, 0..8, 0.5));
    assert!(distance(&sum, &alone.iter().map(|x| x + 2.0).collect::<Vec<_>>()) < 1e-6);
    for (length, rows) in [(95, 0..8), (96, 1..9), (84, 0..8)] {
        let mut weight = vec![1.0; length];
        assert!(!change.add_to_weight(&mut weight, rows, 1.0) && weight.iter().all(|x| *x == 1.0), "{length}");
    }
}

#[test]
fn names_and_alphas() {
    // LyCORIS's own prefix, and what a model's text encoder is called.
    for prefix in ["lycoris_", "lycoris_unet_"] {
        let other = changed(|t| Some(t.clone().renamed(t.name.replace("lora_unet_", prefix)))).unwrap();
        assert_eq!(apart(&other, 1.0, |_| 1.0), apart(&changed(Some).unwrap(), 1.0, |_| 1.0));
        assert_eq!(other.layout.map(|layout| layout.letter()), Some('F'));
    }
    let name = "lora_te_text_model_encoder_layers_0_mlp_fc1";
    let shapes: [&[usize]; 2] = [&[6, 2], &[2, 4]];
    let pairs = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"].map(|end| format!("{name}.{end}"));
    let text = open(&halves(&[0, 1, 2, 3].map(|i| (pairs[i].as_str(), shapes[i % 2])))).unwrap();
    let key = text.changes.keys().next().unwrap();
    assert_eq!((key.part, key.path.as_str()), (PartId::TEXT_ENCODER, "text_model.encoder.layers.0.mlp.fc1"));
    assert_eq!(added(&text, key, &[6, 4], 0, 1.0)[0], [0.25; 24]);
    // Without an alpha the factor is 1.
    let bare = changed(|t| (!t.name.ends_with(".alpha")).then_some(t)).unwrap();
    let file = LoraFile::open(fixture("lycoris.safetensors"), None).unwrap();
    let scale = |key: &ModuleKey| {
        file.modules.get(key).map_or_else(|| file.changes[key].scale() as f32, |module| module.scale())
    };
    assert!((scale(&unet(&format!("{BLOCK}.attn1.to_q"))) - 2.0 / 3.0).abs() < 1e-6);
    assert_eq!(scale(&unet(&format!("{BLOCK}.attn2.to_q"))), 1.0, "both of LoKr's factors whole");
    assert!(apart(&bare, 1.0, |key| 1.0 / scale(key)) < 1e-6);
    // Half precision is what most files are in.
    let half = changed(|t| {
        let values = t.to_f32().unwrap();
        Some(Tensor::f16(t.name.to_string(), &t.shape, &values).unwrap())
    });
    let far = apart(&half.unwrap(), 1.0, |_| 1.0);
    assert!(far > 1e-6 && far < 3e-3, "{far}");
}

fn report(model: &ModelModules) -> MatchReport {
    LoraFile::open(fixture("lycoris.safetensors"), None).unwrap().match_report(model)
}

#[test]
fn layers_are_held_against_a_model() {
    let model = layers();
    let good = report(&model);
    good.check().unwrap();
    assert_eq!((good.matched.len(), good.kinds["LoKr"], good.kinds["LoHa"]), (13, 6, 3));
    let refused = |spoil: &dyn Fn(&mut ModelModules), says: &[&str]| {
        let mut model = model.clone();
        spoil(&mut model);
        let report = report(&model);
        let e = message(report.check());
        for part in says.iter().chain(&["lycoris.safetensors: LoRA of another model"]) {
            assert!(e.contains(part), "'{part}' is not in: {e}");
        }
        assert_eq!(report.matched.len() + report.mismatched.len() + report.unmatched.len(), 13, "{e}");
    };
    let shaped = |path: &str, shape: &'static [usize]| {
        let path = path.to_owned();
        move |model: &mut ModelModules| {
            drop(model.layers.entry(PartId::UNET).or_default().insert(path.clone(), shape.to_vec()))
        }
    };
    let q = format!("{BLOCK}.attn1.to_q");
    let out = format!("{BLOCK}.attn1.to_out.0");
    let says = format!("'unet.{q}' (LoHa) is for [8, 12], the model has [8, 13]");
    refused(&shaped(&q, &[8, 13]), &[&says]);
    refused(&shaped(&format!("{BLOCK}.attn1.to_k"), &[4, 12]), &["(LoKr) is for [8, 12], the model has [4, 12]"]);
    // As many values in another window.
    let conv = "up_blocks.0.resnets.0.conv1";
    refused(&shaped(conv, &[8, 54, 1, 1]), &["(weight difference) is for [8, 6, 3, 3], the model has [8, 54, 1, 1]"]);
    refused(&shaped("down_blocks.0.resnets.0.conv1", &[8, 6, 1, 1]), &["(LoCon) is for [8, 6, 3, 3]"]);
    refused(&shaped("mid_block.resnets.1.conv1", &[16, 10, 9, 1]), &["(LoKr) is for [16, 10, 3, 3]"]);
    let gone = |m: &mut ModelModules| m.biases.retain(|key, _| *key != unet(&out));
    refused(&gone, &["(bias difference) is for a bias of [8], the model has none"]);
    refused(&|m| m.biases.extend([(unet(&out), 9)]), &["(bias difference) is for [8], the model has [9]"]);
    refused(
        &|m| m.layers.get_mut(&PartId::UNET).unwrap().values_mut().for_each(|shape| shape[0] += 1),
        &["and 12 more layers differ"],
    );
    refused(&|m| m.layers.clear(), &["none of its 13 keys matches"]);
    // A model's own layers say how long their biases are.
    let sd2 = portray::low_level::io::Checkpoint::open(golden("sd2")).unwrap().modules();
    assert!(
        sd2.biases[&unet("conv_in")] == sd2.layers[&PartId::UNET]["conv_in"][0]
            && sd2.biases.len() < sd2.layers[&PartId::UNET].len() * 2
    );
    assert!(!sd2.biases.contains_key(&unet(&q)) && sd2.biases.contains_key(&unet(&out)));
}

#[test]
fn no_layout_is_written_that_cannot_hold_a_kind() {
    let dir = tempfile::tempdir().unwrap();
    let file = LoraFile::open(fixture("lycoris.safetensors"), None).unwrap();
    for (format, name) in FORMATS {
        let path = dir.path().join(name);
        let e = message(file.write(&path, format));
        assert!(e.contains(&format!("attn1.to_k' is a LoKr, which layout {name} cannot hold")), "{e}");
        assert!(e.contains("2 LoCon, 3 LoHa, 6 LoKr, 2 weight difference") && !path.exists(), "{e}");
    }
    // LoCon alone is written, its third factor within the first.
    let locon = changed(|t| t.name.contains("down_blocks_0_resnets_0").then_some(t)).unwrap();
    assert_eq!(locon.kinds().into_iter().collect::<Vec<_>>(), [("LoCon", 2)]);
    for (format, name) in FORMATS {
        let path = dir.path().join(name);
        locon.write(&path, format).unwrap();
        let read = LoraFile::open(&path, None).unwrap();
        assert_eq!(read.modules.keys().collect::<Vec<_>>(), locon.modules.keys().collect::<Vec<_>>());
        for (a, b) in read.modules.values().zip(locon.modules.values()) {
            assert!(a.weight_shape() == [8, 6, 3, 3] && distance(&a.delta(), &b.delta()) < 1e-6, "{name}");
        }
    }
}
