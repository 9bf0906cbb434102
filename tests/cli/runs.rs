//! Runs that work, and their ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use super::support::*;

#[test]
fn help_and_version_are_answers() {
    let dir = tempfile::tempdir().unwrap();
    assert!(stdout(&works(dir.path(), "--version")).starts_with("portray "));
    for command in ["", "generate ", "train ", "demo ", "plan ", "inspect ", "convert ", "forward ", "info ", "bench "]
    {
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
    for part in ["parameters", "cat", "Steps: 2", "Seed: 8", "Size: 64x64"] {
        assert!(text.contains(part), "{part}");
    }
    let latents = portray::io::SafeTensors::open(dir.path().join("l.safetensors")).unwrap();
    assert_eq!(*latents.get("latents").unwrap().shape, [2, 4, 16, 16]);
    assert_eq!(*latents.get("steps").unwrap().shape, [2, 2, 4, 16, 16]);
    assert_eq!(*latents.get("timesteps").unwrap().shape, [2]);
    refused(dir.path(), line, 1, &["portray-7.png", "--force"]);
    // A picture can be made again alone, and --json says where it went.
    let output = works(dir.path(), "generate cat --steps 2 --seed 8 --out again.png --json");
    assert_eq!(std::fs::read(dir.path().join("again.png")).unwrap(), bytes);
    let lines: Vec<serde_json::Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
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
    std::fs::write(photos.join("caption.txt"), "not a picture").unwrap();
    let output = works(dir.path(), "train --images photos --prompt dot --steps 1 --out l.safetensors");
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
    let lines: Vec<serde_json::Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let steps: Vec<_> = lines.iter().filter(|l| l["event"] == "step").collect();
    assert_eq!(steps.len(), 2);
    let keys: Vec<&String> = steps[1].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["event", "step", "loss", "instance", "prior", "grad_norm", "lr"]);
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
        let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(said["layout"], layout, "{format}");
        assert_eq!(said["unmatched"], serde_json::json!([]), "{format}");
        assert!(said["matched"].as_array().unwrap().len() > 50, "{format}");
    }
    let text = stdout(&works(dir.path(), "inspect {A}/model"));
    assert!(text.contains("v_prediction") && text.contains("5.88 M"), "{text}");
}

#[test]
fn plans_need_no_adapter() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["plan generate cat", "plan train --images {A}/subjects/cat --prompt cat --json"] {
        let mut command = portray(dir.path());
        command.args(words(line)).env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        assert!(stdout(&output).contains("peak"), "{line}");
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
fn an_interrupted_training_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let train = "train --images {A}/subjects/cat --prompt cat --rank 2 --seed 3 --steps 6 --lr 1e-3 --json";
    works(dir.path(), &format!("{train} --out whole.safetensors"));

    let mut command = portray(dir.path());
    command.args(words(&format!("{train} --out parts.safetensors"))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("\"step\":1")));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    for line in lines {
        line.unwrap();
    }
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("--resume"), "{said}");
    assert!(!dir.path().join("parts.safetensors").exists());

    works(dir.path(), &format!("{train} --out parts.safetensors --resume"));
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("whole.safetensors"), read("parts.safetensors"));
    assert!(!dir.path().join("parts.safetensors.state").exists());
}
