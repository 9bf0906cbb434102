//! Runs that work, and their ends.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::support::*;

#[test]
fn help_and_version_are_answers() {
    let dir = tempfile::tempdir().unwrap();
    assert!(stdout(&works(dir.path(), "--version")).starts_with("portray "));
    for command in [
        "",
        "generate ",
        "train ",
        "demo ",
        "plan ",
        "inspect ",
        "convert ",
        "forward ",
        "info ",
        "bench ",
        "evaluate ",
    ] {
        let output = works(dir.path(), &format!("{command}--help"));
        assert!(stdout(&output).contains("Usage:") && output.stderr.is_empty(), "{command}");
    }
}

#[test]
fn generate_writes_pictures_and_latents() {
    let dir = tempfile::tempdir().unwrap();
    let line = "generate cat --steps 2 --seed 7 --count 2 --latents-out l.safetensors";
    let output = works(dir.path(), line);
    assert_eq!(stdout(&output), "portray-7.png\nportray-8.png\nl.safetensors\n");
    let bytes = std::fs::read(dir.path().join("portray-8.png")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for part in ["parameters", "cat", "Steps: 2", "Seed: 8", "Size: 128x128"] {
        assert!(text.contains(part), "{part}");
    }
    let latents = portray::low_level::io::SafeTensors::open(dir.path().join("l.safetensors")).unwrap();
    assert_eq!(*latents.get("latents").unwrap().shape, [2, 4, 16, 16]);
    assert_eq!(*latents.get("steps").unwrap().shape, [2, 2, 4, 16, 16]);
    assert_eq!(*latents.get("timesteps").unwrap().shape, [2]);
    refused(dir.path(), line, 1, &["portray-7.png", "--force"]);
    // An image can be made again alone, and --json says where it went.
    let output = works(dir.path(), "generate cat --steps 2 --seed 8 --out again.png --json");
    assert_eq!(std::fs::read(dir.path().join("again.png")).unwrap(), bytes);
    let lines: Vec<Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["event"] == "saved" && l["path"] == "again.png"), "{lines:?}");
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn odd_pictures_are_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    picture(&photos.join("a.png"), 1, 1);
    picture(&photos.join("b.png"), 20000, 20);
    std::fs::write(photos.join("caption.txt"), "not an image").unwrap();
    let output = works(dir.path(), "train --model {F}/sd2 --images photos --prompt dot --steps 1 --out l.safetensors");
    assert_eq!(stdout(&output), "l.safetensors\n");
}

#[test]
fn a_replay_prints_its_steps() {
    let dir = tempfile::tempdir().unwrap();
    let output = works(
        dir.path(),
        "train --model {F}/sd2 --replay {F}/sd2-train/replay.safetensors --init-lora {F}/sd2-train/init.lora-peft.safetensors \
         --rank 4 --lr 1e-3 --dtype f32 --steps 2 --json --format peft --out l.safetensors",
    );
    let lines: Vec<Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let steps: Vec<_> = lines.iter().filter(|l| l["event"] == "step").collect();
    assert_eq!(steps.len(), 2);
    let keys: Vec<&String> = steps[1].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["event", "step", "steps", "loss", "instance", "prior", "grad_norm", "lr"]);
    assert_eq!(steps[1]["step"], 1);
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn layouts_convert_and_are_recognized() {
    let dir = tempfile::tempdir().unwrap();
    for (format, out, layout) in [
        ("kohya", "k.safetensors", "E"),
        ("peft-folder", "folder", "D"),
        ("peft", "p.safetensors", "C"),
        ("diffusers", "d.safetensors", "B"),
    ] {
        works(dir.path(), &format!("convert {{F}}/sd2-all.lora-diffusers.safetensors --format {format} --out {out}"));
        let output = works(dir.path(), &format!("inspect {out} --model {{F}}/sd2 --json"));
        let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(said["layout"], layout, "{format}");
        assert_eq!(said["unmatched"], serde_json::json!([]), "{format}");
        assert!(said["matched"].as_array().unwrap().len() > 50, "{format}");
    }
    let text = stdout(&works(dir.path(), "inspect {A}/model"));
    assert!(text.contains("v_prediction") && text.contains("8.74 M"), "{text}");
}

#[test]
fn plans_need_no_adapter() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["plan generate cat", "plan train --images {A}/subjects/cat --prompt cat --json"] {
        let mut command = portray(dir.path());
        command.args(words(line)).env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("peak"), "{line}");
        // Each job has some tens of kernels, of some thousands of bytes.
        match serde_json::from_str::<Value>(&text) {
            Ok(said) => {
                let count = said["kernels"].as_u64().unwrap();
                assert!(count > 10 && said["kernel_bytes"].as_u64().unwrap() > 1000 * count, "{text}");
            }
            Err(_) => {
                let line = text.lines().find(|line| line.contains("kernels to compile")).expect("a line of kernels");
                assert!(line.contains(" kB of WGSL)"), "{line}");
            }
        }
    }
    assert_eq!(listing(dir.path()), []);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = portray(dir.path());
    command.args(words("inspect {F}/sd2.safetensors")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(stderr(&output), "");
}

#[cfg(unix)]
#[test]
fn an_interrupted_generation_keeps_its_finished_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let line = "generate cat --steps 30 --width 64 --height 64 --count 3 --out out";
    let (lines, said) = interrupted(dir.path(), line, |said| said["event"] == "progress" && said["done"] == 31);
    let saved: Vec<_> = lines.iter().filter(|l| l["event"] == "saved").map(|l| l["path"].clone()).collect();
    assert_eq!(saved, ["out/portray-0.png"]);
    assert!(said.contains("interrupted after image 1 of 3"), "{said}");
    works(dir.path(), "generate cat --steps 30 --width 64 --height 64 --out alone.png");
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("out/portray-0.png") == read("alone.png"));
}

#[cfg(unix)]
#[test]
fn class_pictures_that_are_made_need_not_be_made_again() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let line = "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --class-prompt dog --class-count 2 \
                --steps 1 --out l.safetensors";
    works(other.path(), line);
    interrupted(dir.path(), line, |said| said["event"] == "progress" && said["done"] == 51);
    let class = |folder: &Path| {
        let folders = std::fs::read_dir(folder.join(".cache/portray/class")).unwrap();
        let folder = folders.last().unwrap().unwrap().path();
        let paths = portray::low_level::io::list_pictures(&folder).unwrap();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let (made, whole) = (class(dir.path()), class(other.path()));
    assert!(whole.len() == 2 && made[..] == whole[..1]);
    let output = works(dir.path(), &format!("{line} --json"));
    assert!(stdout(&output).contains("making 1 class images"), "{}", stdout(&output));
    assert!(class(dir.path()) == whole);
    let read = |folder: &Path| std::fs::read(folder.join("l.safetensors")).unwrap();
    assert!(read(dir.path()) == read(other.path()));
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let train = "train --images {A}/subjects/cat --prompt cat --resolution 64 --rank 2 --seed 3 --steps 6 --lr 1e-3";
    works(dir.path(), &format!("{train} --json --out whole.safetensors"));
    let (_, said) = interrupted(dir.path(), &format!("{train} --out parts.safetensors"), |said| said["step"] == 1);
    assert!(said.contains("--resume"), "{said}");
    assert!(!dir.path().join("parts.safetensors").exists());

    works(dir.path(), &format!("{train} --out parts.safetensors --resume"));
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("whole.safetensors"), read("parts.safetensors"));
    assert!(!dir.path().join("parts.safetensors.state").exists());
}
