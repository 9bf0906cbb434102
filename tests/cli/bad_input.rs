//! Whatever is wrong is said in one line that names it, and nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::support::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn wrong_use() {
    let dir = folder();
    for (line, named) in [
        ("generate x --sampler bogus", &["--sampler", "bogus", "euler-a"][..]),
        ("generate x --steps -3", &["--steps", "-3", "1 or more"]),
        ("generate x --steps 0", &["--steps"]),
        ("generate x --count 0", &["--count"]),
        ("generate x --count 99999999999", &["--count 99999999999", "10000"]),
        ("plan generate x --width 1048576", &["--width 1048576", "8192"]),
        ("generate x --width nine", &["--width", "nine"]),
        ("generate x --memory lots", &["--memory", "lots"]),
        ("generate", &["PROMPT"]),
        ("generate x --out a.jpg", &["a.jpg", ".png"]),
        ("generate x --count 2 --out a.png", &["a.png", "folder"]),
        ("generate x --strength 7 --init {A}/subjects/cat/0.png", &["strength"]),
        ("generate x --width 61", &["61"]),
        ("generate x --width 80000 --height 80000", &["80000", "8192"]),
        ("train", &["--images"]),
        ("train --images {A}/subjects/cat", &["--prompt"]),
        ("train --images {A}/subjects/cat --prompt x --steps -1", &["--steps"]),
        ("train --images {A}/subjects/cat --prompt x --lr -1", &["--lr"]),
        ("train --images {A}/subjects/cat --prompt x --save-every 0", &["--save-every", "1 or more"]),
        ("train --images {A}/subjects/cat --prompt x --rank 0", &["--rank"]),
        ("train --images {A}/subjects/cat --prompt x --format tar", &["--format", "kohya"]),
        ("train --images {A}/subjects/cat --prompt x --class-images .", &["--class-prompt"]),
        ("demo --images {A}/subjects/cat", &["--prompt"]),
        ("generate x --adapter 99", &["--adapter", "99"]),
        ("generate x --adapter nonesuch", &["--adapter", "nonesuch"]),
        ("forward unet --out o.safetensors", &["--in"]),
        ("watch", &["watch"]),
        ("generate x --sede 1", &["--sede"]),
    ] {
        refused(dir.path(), line, 2, named);
    }
}

#[test]
fn files_that_are_not_there_or_no_pictures() {
    let dir = folder();
    let (empty, text) = (dir.path().join("empty"), dir.path().join("text"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&text).unwrap();
    fs::write(text.join("a.png"), "this is no image").unwrap();
    let mut cut = fs::read(fixtures().join("../../../assets/subjects/cat/0.png")).unwrap();
    cut.truncate(cut.len() / 2);
    fs::write(dir.path().join("cut.png"), cut).unwrap();
    for (line, named) in [
        ("train --images nowhere --prompt x", &["nowhere"][..]),
        ("train --images empty --prompt x", &["empty", "image"]),
        ("train --images text --prompt x", &["a.png"]),
        ("train --images text/a.png --prompt x", &["text/a.png"]),
        ("train --images {A}/subjects/cat --prompt x --class-prompt y --class-images empty", &["empty"]),
        ("train --replay nowhere.safetensors", &["nowhere.safetensors"]),
        ("generate x --init nowhere.png", &["nowhere.png"]),
        ("generate x --init text/a.png", &["a.png"]),
        ("generate x --init cut.png", &["cut.png"]),
        ("generate x --model nowhere", &["nowhere"]),
        ("generate x --model text/a.png", &["a.png"]),
        ("generate x --model empty", &["empty", "model_index.json"]),
        ("generate x --lora nowhere.safetensors", &["nowhere.safetensors"]),
        ("generate x --lora nowhere.safetensors=abc", &["nowhere.safetensors=abc", "no such file"]),
        ("inspect nowhere", &["nowhere"]),
        ("inspect text/a.png", &["a.png"]),
        ("inspect empty", &["empty"]),
        ("inspect {F}/sd2/unet", &["sd2/unet", "is one part of a model: give"]),
        ("convert text/a.png --format kohya --out o.safetensors", &["a.png"]),
        ("forward unet --in text/a.png --out o.safetensors", &["a.png"]),
    ] {
        refused(dir.path(), line, 1, named);
    }
}

/// A model that is whole but for one file.
fn spoiled(dir: &Path, file: &str, spoil: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let _ = fs::remove_dir_all(dir.join("model"));
    copy(&fixtures().join("sd2"), &dir.join("model"));
    let path = dir.join("model").join(file);
    let bytes = fs::read(&path).unwrap();
    fs::write(path, spoil(bytes)).unwrap();
}

fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn damaged_models() {
    let dir = folder();
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let check = |file: &str, named: &[&str], spoil: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        spoiled(dir.path(), file, spoil);
        refused(dir.path(), "generate x --steps 1 --model model", 1, named);
    };
    check(unet, &[unet], &|b| b[..b.len() - 1000].to_vec());
    check(unet, &[unet], &|b| b[..5].to_vec());
    check(unet, &[unet], &|_| Vec::new());
    check(unet, &[unet], &|b| [&(u64::MAX / 2).to_le_bytes(), &b[8..]].concat());
    check(unet, &[unet], &|b| [&b[..8], &b"\xff\xfe"[..], &b[10..]].concat());
    check(unet, &[unet], &|b| [b, vec![0; 64]].concat());
    check("unet/config.json", &["unet/config.json"], &|b| b[..b.len() / 2].to_vec());
    check("unet/config.json", &["unet/config.json"], &|_| b"\xff\xfe{}".to_vec());
    check("unet/config.json", &["unet/config.json"], &|_| b"[]".to_vec());
    check("unet/config.json", &["block_out_channels"], &|b| replaced(b, "block_out_channels", "block_out_chanels"));
    check("unet/config.json", &["UNet3D"], &|b| replaced(b, "CrossAttnDownBlock2D", "UNet3DBlock"));
    check("scheduler/scheduler_config.json", &["scheduler_config.json"], &|_| b"{".to_vec());
    check("scheduler/scheduler_config.json", &["beta_schedule"], &|b| replaced(b, "scaled_linear", "guessed"));
    check("tokenizer/tokenizer.json", &["tokenizer.json"], &|b| b[..b.len() / 2].to_vec());
    check("unet/config.json", &["InstructPix2Pix"], &|b| replaced(b, "\"in_channels\": 4", "\"in_channels\": 8"));
    // Weights of another depth than the configuration's.
    check("unet/config.json", &["unet"], &|b| replaced(b, "\"layers_per_block\": 2", "\"layers_per_block\": 3"));
    fs::remove_file(dir.path().join("model").join(unet)).unwrap();
    refused(dir.path(), "generate x --steps 1 --model model", 1, &["unet"]);
}

#[test]
fn inspected_files_of_other_families_are_named() {
    let dir = folder();
    let tensor = portray::low_level::io::Tensor::f32("double_blocks.0.img_attn.qkv.weight", &[1], &[0.0]);
    portray::low_level::io::write_safetensors(dir.path().join("flux.safetensors"), &[tensor], &Default::default())
        .unwrap();
    let text = stdout(&works(dir.path(), "inspect flux.safetensors"));
    assert!(text.contains("a checkpoint of Flux, 1 tensors; Portray takes Stable Diffusion 1.x, 2.x and XL"), "{text}");
}

#[test]
fn loras_of_another_model_or_kind() {
    let dir = folder();
    refused(
        dir.path(),
        "generate x --steps 1 --lora {F}/sd15.lora-kohya.safetensors",
        1,
        &["sd15.lora-kohya", "another"],
    );
    refused(dir.path(), "generate x --steps 1 --lora {F}/sd15-train/replay.safetensors", 1, &["replay.safetensors"]);
    for command in ["generate x", "forward text --prompt x --out o", "identifier --words sks"] {
        let line = format!("{command} --lora {{F}}/sd15.lora-kohya.safetensors=abc");
        refused(dir.path(), &line, 2, &["--lora ", "kohya.safetensors=abc", "must be a finite number"]);
    }
    refused(dir.path(), "convert {F}/sd2-train/replay.safetensors --format peft --out o", 1, &["replay.safetensors"]);
    refused(dir.path(), "train --replay {F}/sd2-train/replay.safetensors --steps 1", 1, &["replay.safetensors"]);
    let replay = "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors";
    refused(dir.path(), &format!("{replay} --steps 99"), 2, &["99"]);
    refused(dir.path(), &format!("{replay} --init-lora {{F}}/sd15.lora-peft.safetensors --steps 1"), 1, &["sd15.lora"]);
}

/// A LoRA of Stable Diffusion XL beside models of another family, the other way round, and what is called after LoRAs.
#[test]
fn loras_of_another_family_are_named() {
    let dir = folder();
    let (all, attention) = ("{F}/../xl/xl-all.lora-kohya.safetensors", "{F}/../xl/xl.lora-peft.safetensors");
    let of_xl = &["LoRA of another model", "made for Stable Diffusion XL"];
    refused(dir.path(), &format!("generate x --steps 1 --lora {all}"), 1, of_xl);
    // The first text encoder's layers fit this model's.
    refused(dir.path(), &format!("generate x --steps 1 --model {{F}}/../xl/bk --lora {all}"), 1, of_xl);
    let replay = "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors --steps 1";
    refused(dir.path(), &format!("{replay} --init-lora {attention}"), 1, of_xl);
    refused(dir.path(), &format!("convert {attention} --model {{F}}/sd15 --format kohya --out o"), 1, of_xl);
    let sd15 = "{F}/sd15.lora-kohya.safetensors --model {F}/../xl/xl --format kohya --out o";
    refused(
        dir.path(),
        &format!("convert {sd15}"),
        1,
        &["LoRA of another model", "a model of cross-attention width 36"],
    );
    let said = stdout(&works(dir.path(), &format!("inspect {all}")));
    let row = |name: &str, value: &str| said.lines().any(|line| line.contains(name) && line.ends_with(value));
    assert!(row("made for", "Stable Diffusion XL") && row("UNet layers", "368"), "{said}");
    assert!(row("text encoder layers", "20 (12 in the first, 8 in the second)"), "{said}");
    // What the model of another family lacks is read for what it is, too.
    let said = stdout(&works(dir.path(), &format!("inspect {all} --model {{F}}/sd15")));
    assert!(said.lines().any(|line| line.contains("UNet layers") && line.ends_with("368")), "{said}");
    // Values that are called after LoRAs are none.
    let said = stdout(&works(dir.path(), "inspect {F}/../xl/xl.safetensors --json"));
    assert!(said.contains("\"event\":\"tensors\"") && said.contains("\"is\":null"), "{said}");
}

#[test]
fn tensors_that_do_not_fit() {
    let dir = folder();
    let empty = std::collections::BTreeMap::new();
    let tensor = |shape: &[usize]| {
        let data = vec![0.0; shape.iter().product()];
        let path = dir.path().join("in.safetensors");
        let tensors = [("sample", shape), ("latent", shape)];
        let tensors: Vec<_> = tensors.iter().map(|(n, s)| portray::low_level::io::Tensor::f32(*n, s, &data)).collect();
        portray::low_level::io::write_safetensors(path, &tensors, &empty).unwrap();
    };
    tensor(&[1, 3, 8, 8]);
    refused(dir.path(), "forward vae-decode --in in.safetensors --out o.safetensors", 1, &["latent", "in.safetensors"]);
    tensor(&[4]);
    refused(dir.path(), "forward unet --in in.safetensors --out o.safetensors", 1, &["sample"]);
    tensor(&[1, 4, 16, 16]);
    refused(dir.path(), "forward unet --in in.safetensors --out o.safetensors", 1, &["timestep"]);
    refused(dir.path(), "forward vae-encode --in in.safetensors --out o.safetensors", 1, &["image"]);
}

#[test]
fn results_that_cannot_be_written() {
    let dir = folder();
    fs::write(dir.path().join("taken.png"), "mine").unwrap();
    fs::write(dir.path().join("portray-5.png"), "mine").unwrap();
    fs::write(dir.path().join("taken.safetensors"), "mine").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    for (line, code, named) in [
        ("generate x --out taken.png", 1, &["taken.png", "--force"][..]),
        ("generate x --seed 4 --count 2", 1, &["portray-5.png", "--force"]),
        ("generate x --out taken.png/a.png", 1, &["taken.png"]),
        ("generate x --out /proc/nowhere/a.png", 1, &["/proc"]),
        ("generate x --latents-out taken.safetensors", 1, &["taken.safetensors"]),
        ("generate x --latents-out folder --force", 1, &["folder"]),
        ("train --images {A}/subjects/cat --prompt x --out taken.safetensors", 1, &["taken.safetensors", "--force"]),
        ("train --images {A}/subjects/cat --prompt x --out /proc/a.safetensors", 1, &["/proc"]),
        ("convert {F}/sd2.lora-kohya.safetensors --format peft --out taken.safetensors", 1, &["taken.safetensors"]),
        ("convert {F}/sd2.lora-kohya.safetensors --format peft --out /dev/full", 1, &["/dev/full", "full"]),
        ("demo --out taken.png", 1, &["taken.png"]),
    ] {
        refused(dir.path(), line, code, named);
    }
    assert_eq!(fs::read(dir.path().join("taken.png")).unwrap(), b"mine");
}

#[test]
fn no_adapter_at_all() {
    let dir = folder();
    for line in ["generate x --steps 1", "info"] {
        let mut command = portray(dir.path());
        command.args(words(line)).env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
        let output = command.output().unwrap();
        assert_eq!(refusal_fault(&output, 1, &["adapter", "mesa-vulkan-drivers"]), None, "{line}");
    }
    assert_eq!(listing(dir.path()), []);
}

#[test]
fn a_full_stdout() {
    let dir = folder();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = portray(dir.path()).args(words("inspect {F}/sd2")).stdout(full).output().unwrap();
    assert_eq!(refusal_fault(&output, 1, &["standard output"]), None);
}

#[test]
fn the_judge_of_refusals_can_fail() {
    let dir = folder();
    let good = run(dir.path(), "inspect nowhere");
    assert_eq!(refusal_fault(&good, 1, &["nowhere"]), None);
    assert!(refusal_fault(&good, 2, &[]).is_some());
    assert!(refusal_fault(&good, 1, &["elsewhere"]).is_some());
    let with = |text: &str| Output { stderr: text.as_bytes().to_vec(), ..good.clone() };
    assert!(refusal_fault(&with("thread 'main' panicked at x\nerror: nowhere\n"), 1, &[]).is_some());
    assert!(refusal_fault(&with("error: a\nerror: b\n"), 1, &[]).is_some());
    assert!(refusal_fault(&with("error: a\nand more\n"), 1, &[]).is_some());
    assert!(refusal_fault(&with(""), 1, &[]).is_some());
}
