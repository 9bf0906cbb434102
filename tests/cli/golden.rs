//! `portray forward` on recorded tensors, just as PyTorch wrote them, plain and with a LoRA of every layout.

use std::path::Path;

use portray::low_level::io::SafeTensors;
use portray::low_level::io::safetensors::write_safetensors;

use super::common::golden;
use super::support::*;
use portray::low_level::ops::oracle::close;

const KINDS: [&str; 2] = ["sd2", "sd15"];

/// Recorded tensors under other names, in a file of their own.
fn inputs(folder: &Path, kind: &str, names: &[(&str, &str)]) {
    let recorded = SafeTensors::open(golden(&format!("{kind}.safetensors"))).unwrap();
    let tensors: Vec<_> = names.iter().map(|(from, to)| recorded.get(from).unwrap().renamed(*to)).collect();
    write_safetensors(folder.join("in.safetensors"), &tensors, &Default::default()).unwrap();
}

/// Runs a part and compares its results with recorded ones.
fn forward(folder: &Path, kind: &str, line: &str, results: &[(&str, &str)]) {
    let model = golden(kind).display().to_string();
    let line = format!("forward {line} --model {model} --in in.safetensors --out out.safetensors --dtype f32 --force");
    works(folder, &line);
    let recorded = SafeTensors::open(golden(&format!("{kind}.safetensors"))).unwrap();
    let got = SafeTensors::open(folder.join("out.safetensors")).unwrap();
    for (name, expected) in results {
        let (got, expected) = (got.get(name).unwrap(), recorded.get(expected).unwrap());
        assert_eq!(got.shape, expected.shape, "{line}");
        let expected: Vec<f64> = expected.to_f32().unwrap().into_iter().map(f64::from).collect();
        close(&got.to_f32().unwrap(), &expected, 1e-4).unwrap_or_else(|e| panic!("{line}\n{name}: {e}"));
    }
}

const UNET: [(&str, &str); 3] = [("unet.sample", "sample"), ("unet.timestep", "timestep"), ("unet.context", "context")];
const TEXT: [(&str, &str); 1] = [("text.input_ids", "input_ids")];

#[test]
fn every_part() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        inputs(dir.path(), kind, &TEXT);
        forward(dir.path(), kind, "text", &[("hidden", "text.hidden")]);
        inputs(dir.path(), kind, &UNET);
        forward(dir.path(), kind, "unet", &[("out", "unet.out")]);
        inputs(dir.path(), kind, &[("vae.image", "image")]);
        forward(dir.path(), kind, "vae-encode", &[("mean", "vae.mean"), ("logvar", "vae.logvar")]);
        inputs(dir.path(), kind, &[("vae.latent", "latent")]);
        forward(dir.path(), kind, "vae-decode", &[("image", "vae.decoded")]);
    }
}

/// The built-in model computes as its references on the CPU do, node by node; a check needs no file to write.
#[test]
fn a_check_of_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let latent: Vec<f32> = (0..4 * 4 * 4).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensor = portray::low_level::io::Tensor::f32("latent", &[1, 4, 4, 4], &latent);
    write_safetensors(dir.path().join("in.safetensors"), &[tensor], &Default::default()).unwrap();
    for (line, least) in [("text --prompt cat", 20), ("vae-decode --in in.safetensors --out out.safetensors", 50)] {
        let said = stdout(&works(dir.path(), &format!("forward {line} --check --json")));
        let checked: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert!(checked["event"] == "checked" && checked["nodes"].as_u64().unwrap() >= least, "{said}");
        let (error, bound) = (checked["error"].as_f64().unwrap(), checked["bound"].as_f64().unwrap());
        assert!(error > 0.0 && error < bound / 10.0, "{said}");
        assert!(checked["worst"].as_str().unwrap().contains(" with ") || said.contains(" after "), "{said}");
        assert_eq!(said.lines().count(), if line.contains("--out") { 2 } else { 1 }, "{said}");
    }
    let image = SafeTensors::open(dir.path().join("out.safetensors")).unwrap();
    assert_eq!(*image.get("image").unwrap().shape, [1, 3, 32, 32]);
    refused(dir.path(), "forward text --prompt cat", 2, &["--out"]);
}

#[test]
fn every_lora_layout() {
    let dir = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let lora = |name: &str| golden(&format!("{kind}{name}")).display().to_string();
        inputs(dir.path(), kind, &UNET);
        for layout in ["old.safetensors", "diffusers.safetensors", "peft.safetensors", "folder", "kohya.safetensors"] {
            let line = format!("unet --lora {}", lora(&format!(".lora-{layout}")));
            forward(dir.path(), kind, &line, &[("out", "lora.unet.out")]);
        }
        let half = format!("unet --lora {}", lora(".lora-kohya-half.safetensors"));
        forward(dir.path(), kind, &half, &[("out", "lora-half.unet.out")]);
        let halved = format!("unet --lora {}=0.5", lora(".lora-peft.safetensors"));
        forward(dir.path(), kind, &halved, &[("out", "lora-half.unet.out")]);
        let layouts = ["diffusers.safetensors", "peft.safetensors", "folder", "kohya.safetensors"];
        for layout in layouts {
            let line = format!("unet --lora {}", lora(&format!("-all.lora-{layout}")));
            forward(dir.path(), kind, &line, &[("out", "lora-all.unet.out")]);
        }
        inputs(dir.path(), kind, &TEXT);
        for layout in layouts {
            let line = format!("text --lora {}", lora(&format!("-all.lora-{layout}")));
            forward(dir.path(), kind, &line, &[("hidden", "lora-all.text.hidden")]);
        }
    }
}
