//! `portray forward` on recorded tensors, just as PyTorch wrote them, plain and with a LoRA of every layout.

use std::path::Path;

use portray::io::SafeTensors;
use portray::io::safetensors::write_safetensors;

use super::common::golden;
use super::support::*;
use portray::ops::oracle::close;

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
