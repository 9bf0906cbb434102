//! LyCORIS files from the command line: merged into the weights at load, listed, and refused where they cannot go.

use std::collections::BTreeMap;
use std::path::Path;

use portray::low_level::io::{
    Checkpoint, LoraFile, PartId, SafeTensors, Tensor, write_diffusers_folder, write_safetensors,
};

use super::common::golden;
use super::support::*;
use portray::low_level::ops::oracle::close;

const Q: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
const OUT: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0";
const V: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v";
const CONV: &str = "down_blocks.0.resnets.0.conv1";

/// A tensor by the end of its name, and its shape.
type Shaped = (&'static str, Vec<usize>);

/// Layers with values of no pattern; every alpha is 1.5.
fn write(path: &Path, layers: &[(&str, &[Shaped])]) {
    let mut stored = Vec::new();
    for (layer, tensors) in layers {
        for (end, shape) in *tensors {
            let name = format!("lora_unet_{}.{end}", layer.replace('.', "_"));
            let seed = stored.len();
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i| 0.3 * ((i * 37 + seed * 11) as f32).sin()).collect();
            stored.push((name, shape.clone(), if *end == "alpha" { vec![1.5] } else { values }));
        }
    }
    let tensors: Vec<_> =
        stored.iter().map(|(name, shape, values)| Tensor::f32(name.as_str(), shape, values)).collect();
    write_safetensors(path, &tensors, &BTreeMap::new()).unwrap();
}

/// Two files for the small SD 2 model, which change some layers both.
fn files(folder: &Path, model: &Checkpoint) {
    let unet = model.modules().layers[&PartId::UNET].clone();
    let shape = |path: &str| unet[path].clone();
    let loha = |path: &str| {
        let [rows, columns] = [shape(path)[0], shape(path)[1..].iter().product()];
        let pair = [("hada_w1_a", vec![rows, 2]), ("hada_w1_b", vec![2, columns])];
        [&pair[..], &[("hada_w2_a", vec![rows, 2]), ("hada_w2_b", vec![2, columns]), ("alpha", vec![])]].concat()
    };
    let v = shape(V);
    let lokr = [
        ("lokr_w1", vec![2, 2]),
        ("lokr_w2_a", vec![v[0] / 2, 3]),
        ("lokr_w2_b", vec![3, v[1] / 2]),
        ("alpha", vec![]),
    ];
    let conv = shape(CONV);
    let locon = [
        ("lora_down.weight", vec![2, conv[1], 1, 1]),
        ("lora_mid.weight", vec![2, 2, 3, 3]),
        ("lora_up.weight", vec![conv[0], 2, 1, 1]),
        ("alpha", vec![]),
    ];
    let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
    write(&a, &[(Q, &loha(Q)), (V, &lokr), (CONV, &[("diff", conv.clone()), ("diff_b", vec![conv[0]])])]);
    write(&b, &[(CONV, &locon), (V, &loha(V)), (OUT, &[("diff_b", vec![shape(OUT)[0]])])]);
}

#[test]
fn several_files_are_merged_at_their_own_scales() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let model = Checkpoint::open(golden("sd2")).unwrap();
    files(at, &model);
    // The same sums written into a model of its own.
    let loras = [("a", 0.5), ("b", -1.25)].map(|(name, scale)| {
        let path = at.join(format!("{name}.safetensors"));
        (LoraFile::open(path, Some(&model.modules())).unwrap(), scale)
    });
    let mut merged: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for tensor in model.part(PartId::UNET).unwrap().iter() {
        let mut values = tensor.to_f32().unwrap();
        let (path, which) = tensor.name.rsplit_once('.').unwrap();
        let rows = 0..tensor.shape[0];
        for (file, scale) in &loras {
            let layer = |key: &&portray::low_level::io::ModuleKey| key.part == PartId::UNET && key.path == path;
            let Some(key) = file.layers().into_iter().find(layer) else { continue };
            if let Some(change) = file.changes.get(key) {
                let done = match which {
                    "weight" => change.add_to_weight(&mut values, rows.clone(), *scale),
                    _ => change.add_to_bias(&mut values, rows.clone(), *scale),
                };
                assert!(done, "{}", tensor.name);
            }
            if let Some(module) = file.modules.get(key).filter(|_| which == "weight") {
                values.iter_mut().zip(module.delta()).for_each(|(w, x)| *w += *scale as f32 * x);
            }
        }
        merged.push((tensor.name.to_string(), tensor.shape.to_vec(), values));
    }
    let tensors: Vec<_> =
        merged.iter().map(|(name, shape, values)| Tensor::f32(name.as_str(), shape, values)).collect();
    write_diffusers_folder(at.join("merged"), &model, &tensors).unwrap();

    let recorded = SafeTensors::open(golden("sd2.safetensors")).unwrap();
    let names = [("unet.sample", "sample"), ("unet.timestep", "timestep"), ("unet.context", "context")];
    let inputs: Vec<_> = names.iter().map(|(from, to)| recorded.get(from).unwrap().renamed(*to)).collect();
    write_safetensors(at.join("in.safetensors"), &inputs, &BTreeMap::new()).unwrap();
    let answer = |line: &str| -> Vec<f32> {
        works(at, &format!("forward unet --in in.safetensors --out out.safetensors --dtype f32 --force {line}"));
        SafeTensors::open(at.join("out.safetensors")).unwrap().get("out").unwrap().to_f32().unwrap()
    };
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let expected = wide(&answer("--model merged"));
    let given = answer("--model {F}/sd2 --lora a.safetensors=0.5 --lora b.safetensors=-1.25");
    close(&given, &expected, 1e-5).unwrap();
    for other in
        ["", "--lora a.safetensors=0.5", "--lora b.safetensors=-1.25", "--lora a.safetensors=0.5 --lora b.safetensors"]
    {
        assert!(close(&answer(&format!("--model {{F}}/sd2 {other}")), &expected, 1e-3).is_err(), "'{other}' differs");
    }
    let made =
        works(at, "generate cat --model {F}/sd2 --steps 1 --out p.png --lora a.safetensors=0.5 --lora b.safetensors");
    assert!(stderr(&made).contains("3 layers"), "{}", stderr(&made));
    let line = "generate cat --model {F}/sd2 --steps 1 --out q.png --lora";
    refused(at, &format!("{line} a.safetensors=1e41"), 2, &["a.safetensors", "scale"]);
    // Each factor is a number that f32 holds, their product is not.
    let shape = model.modules().layers[&PartId::UNET][Q].clone();
    let large = vec![1e25; shape[0].max(shape[1])];
    let layer = format!("lora_unet_{}", Q.replace('.', "_"));
    let factors = [("lora_down", vec![1, shape[1]]), ("lora_up", vec![shape[0], 1])].map(|(end, shape)| {
        let count = shape.iter().product::<usize>();
        Tensor::f32(format!("{layer}.{end}.weight"), &shape.clone(), &large[..count])
    });
    write_safetensors(at.join("large.safetensors"), &factors, &BTreeMap::new()).unwrap();
    refused(
        at,
        &format!("{line} large.safetensors"),
        1,
        &["large.safetensors", "more than f32 holds", "smaller scale"],
    );
}

#[test]
fn kinds_are_listed_and_refused_where_they_cannot_go() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    files(at, &Checkpoint::open(golden("sd2")).unwrap());
    let file = "{F}/../lycoris/lycoris.safetensors";
    let said = stdout(&works(at, &format!("inspect {file}")));
    for part in ["F (LyCORIS)", "2 LoCon, 3 LoHa, 6 LoKr, 2 weight difference", "0.16666667 to 1"] {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&works(at, &format!("inspect {file} --json")))).unwrap();
    assert_eq!((&json["layout"], &json["kinds"]["LoKr"], &json["unet_layers"]), (&"F".into(), &6.into(), &13.into()));
    let said = stdout(&works(at, &format!("inspect {file} --model {{F}}/sd2")));
    assert!(said.contains("attn1.to_q' (LoHa) is for [8, 12], the model has ["), "{said}");
    let said = stdout(&works(at, "inspect b.safetensors --model {F}/sd2"));
    assert!(said.contains("1 LoCon, 1 LoHa, 1 bias difference") && said.contains("3 layers"), "{said}");

    refused(
        at,
        &format!("convert {file} --format kohya --out o.safetensors"),
        1,
        &["LoKr", "layout kohya cannot hold"],
    );
    refused(
        at,
        &format!("generate cat --model {{F}}/sd2 --lora {file}"),
        1,
        &["lycoris.safetensors", "another model", "(Lo"],
    );
    let replay = "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors --steps 1 --out o.safetensors";
    refused(
        at,
        &format!("{replay} --init-lora a.safetensors"),
        1,
        &["a.safetensors", "which training cannot go on from", "give a LoRA or LoCon"],
    );
}
