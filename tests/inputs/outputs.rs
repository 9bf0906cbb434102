//! Where results go: nothing that was there is lost, and no result of finished work.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use portray::low_level::io::{PartId, Place, files};
use portray::{Engine, EngineOptions, Error, Event, Flow, LoraFormat, ModelOptions, TrainOptions};

use super::support::*;
use crate::common::xl;

mod apart;
mod meanwhile;
mod mounts;

/// Every file below `folder` with its bytes, every link with what it leads to, every empty folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_symlink() {
            found.insert(path.clone(), std::fs::read_link(&path).unwrap().to_string_lossy().as_bytes().to_vec());
        } else if metadata.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found.retain(|path, _| !path.ends_with(".cache"));
    found
}

/// A run in which reaching for an adapter is an error of its own.
fn without_adapter(folder: &Path, line: &str) -> Output {
    let mut command = portray(folder);
    command.env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent").args(words(line));
    command.output().unwrap()
}

/// Runs a line that must be refused before an adapter is opened, with every byte left as it was.
fn refused_early(folder: &Path, line: &str, named: &[&str]) {
    let before = contents(folder);
    let output = without_adapter(folder, line);
    let text = stderr(&output);
    let code = output.status.code();
    assert!(matches!(code, Some(1 | 2)), "portray {line}\n{code:?}\n{text}");
    assert!(!text.contains("adapter") && !text.contains("panicked"), "portray {line}: came to the adapter\n{text}");
    for word in named {
        assert!(text.contains(word), "portray {line}\n'{word}' is not in: {text}");
    }
    assert!(contents(folder) == before, "portray {line}: changed something\n{text}");
}

/// A line whose places are in order: what ends it is that there is no adapter.
fn accepted(folder: &Path, line: &str) {
    let before = contents(folder);
    let text = stderr(&without_adapter(folder, line));
    assert!(text.contains("adapter"), "portray {line}\n{text}");
    assert!(contents(folder) == before, "portray {line}: changed something\n{text}");
}

/// A folder with two images, a LoRA and a model.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("pics")).unwrap();
    for name in ["a", "b"] {
        picture(&home.path().join(format!("pics/{name}.png")), 48, 48);
    }
    std::fs::copy(fixtures().join("sd2.lora-peft.safetensors"), home.path().join("in.safetensors")).unwrap();
    home
}

const TRAIN: &str = "train --model {F}/sd2 --images pics --prompt x --steps 2 --rank 1";

/// Every command with a file as its result, `OUT` in its place.
fn writers() -> Vec<(String, &'static str)> {
    vec![
        ("generate x --model {F}/sd2 --steps 1 --out OUT.png".into(), ".png"),
        ("generate x --model {F}/sd2 --steps 1 --out fresh.png --latents-out OUT.safetensors".into(), ".safetensors"),
        (format!("{TRAIN} --out OUT.safetensors"), ".safetensors"),
        (format!("{TRAIN} --save-every 1 --sample-prompt y --out OUT.safetensors"), ".safetensors"),
        ("forward text --model {F}/sd2 --prompt x --out OUT.safetensors".into(), ".safetensors"),
        ("convert in.safetensors --format kohya --out OUT.safetensors".into(), ".safetensors"),
    ]
}

fn folder_writers() -> Vec<String> {
    vec![
        format!("{TRAIN} --format peft-folder --out OUT"),
        format!("{TRAIN} --method full --out OUT"),
        "convert in.safetensors --format peft-folder --out OUT".into(),
    ]
}

/// Each command with each bad state of its output.
#[cfg(unix)]
#[test]
fn n02_every_bad_place_is_refused_before_the_work() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    type Make = fn(&Path);
    let file: Make = |path| std::fs::write(path, "precious").unwrap();
    let folder: Make = |path| {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("notes.txt"), "precious").unwrap();
    };
    let protected: Make = |path| {
        std::fs::write(path, "precious").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
    };
    let link_to_file: Make = |path| {
        std::fs::write(path.with_file_name("target"), "precious").unwrap();
        symlink("target", path).unwrap();
    };
    let link_to_folder: Make = |path| {
        std::fs::create_dir(path.with_file_name("target")).unwrap();
        std::fs::write(path.with_file_name("target").join("notes.txt"), "precious").unwrap();
        symlink("target", path).unwrap();
    };
    let dangling: Make = |path| symlink("nowhere", path).unwrap();
    let circle: Make = |path| symlink(path.file_name().unwrap(), path).unwrap();
    // Whether --force leaves it refused, of a file and of a folder.
    let states: [(&str, Make, bool, bool); 7] = [
        ("file", file, false, true),
        ("folder", folder, true, true),
        ("protected", protected, true, true),
        ("link to file", link_to_file, false, true),
        ("link to folder", link_to_folder, true, true),
        ("dangling link", dangling, false, false),
        ("circle", circle, true, true),
    ];
    let files = writers().into_iter().map(|(line, ending)| (line, ending, true));
    let folders = folder_writers().into_iter().map(|line| (line, "", false));
    for (line, ending, is_file) in files.chain(folders) {
        for (_state, make, file_forced, folder_forced) in states {
            let home = home();
            make(&home.path().join(format!("OUT{ending}")));
            refused_early(home.path(), &line, &["OUT"]);
            if if is_file { file_forced } else { folder_forced } {
                refused_early(home.path(), &format!("{line} --force"), &["OUT"]);
            }
        }
        // What is no place at all.
        let home = home();
        std::fs::write(home.path().join("plain"), "precious").unwrap();
        for name in ["plain/OUT", &"n".repeat(300)] {
            refused_early(home.path(), &line.replace("OUT", name), &[]);
        }
        // A longer name that fits, but not with what is added to it.
        if line.starts_with("train") && is_file {
            let long = "n".repeat(255 - ending.len());
            refused_early(home.path(), &line.replace("OUT", &long), &["too long"]);
        }
    }
}

/// A PEFT folder that Portray wrote goes with all its parts, those too that the new one does not have; what another program
/// or a user put there stays.
#[test]
fn n02_an_earlier_peft_folder_is_replaced_whole() {
    let home = home();
    let dir = home.path();
    let [two, one] = ["xl-all", "xl"].map(|name| xl(&format!("{name}.lora-peft.safetensors")).display().to_string());
    let convert = |from: &str| format!("convert {from} --format peft-folder --out out --force");
    let train = format!("{TRAIN} --format peft-folder --out out --force");
    works(dir, &convert(&two));
    assert!(dir.join("out/text_encoder_2/adapter_config.json").exists());
    accepted(dir, &train);
    std::fs::write(dir.join("out/text_encoder/notes.txt"), "precious").unwrap();
    refused_early(dir, &train, &["text_encoder/notes.txt", "would be lost"]);
    refused_early(dir, &convert(&one), &["text_encoder/notes.txt", "would be lost"]);
    std::fs::remove_file(dir.join("out/text_encoder/notes.txt")).unwrap();
    works(dir, &convert(&one));
    assert!(dir.join("out/unet/adapter_config.json").exists() && !dir.join("out/text_encoder").exists());
    // PEFT's own.
    let foreign = xl("xl-all.lora-folder");
    std::fs::create_dir(dir.join("out/text_encoder")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(foreign.join("text_encoder").join(file), dir.join("out/text_encoder").join(file)).unwrap();
    }
    refused_early(dir, &train, &["text_encoder", "would be lost"]);
    refused_early(dir, &convert(&one), &["text_encoder", "would be lost"]);
}

#[test]
fn n02_what_a_folder_holds_is_not_lost_at_any_depth() {
    let home = home();
    for (format, inner) in [
        ("--format peft-folder", "text_encoder/adapter_config.json"),
        ("--format peft-folder", "unet/notes.txt"),
        ("--method full", "README.md"),
        ("--method full", "unet/notes.txt"),
        ("--method full", "safety_checker/config.json"),
    ] {
        let out = home.path().join("out");
        let path = out.join(inner);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        refused_early(home.path(), &format!("{TRAIN} {format} --out out --force"), &["out", "would be lost"]);
        std::fs::remove_dir_all(out).unwrap();
    }
    // What the new folder has may be replaced.
    let out = home.path().join("out/unet");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("adapter_config.json"), "{}").unwrap();
    accepted(home.path(), &format!("{TRAIN} --format peft-folder --out out --force"));
    refused_early(home.path(), &format!("{TRAIN} --format peft-folder --out out"), &["out", "exists already"]);
}

#[test]
fn n01_a_state_is_its_runs() {
    let home = home();
    let dir = home.path();
    // A run stopped after its first update leaves its state.
    let stopped = |out: &str| {
        let job = job(dir, out);
        let mut steps = 0;
        let result = pollster::block_on(engine().train(&job, &mut |event| {
            steps += usize::from(matches!(event, Event::Step(_)));
            if steps > 0 { Flow::Stop } else { Flow::Continue }
        }));
        assert!(matches!(result, Err(Error::Interrupted { .. })), "{result:?}");
    };
    stopped("a.safetensors");
    let state = dir.join("a.safetensors.state/state.safetensors");
    let saved = std::fs::read(&state).unwrap();
    for options in ["", "--steps 9", "--rank 3", "--method full"] {
        let line = format!("train --model {{F}}/sd2 --images pics --prompt x --out a.safetensors {options}");
        refused_early(dir, &line, &["a.safetensors.state", "--resume", "--force"]);
    }
    assert_eq!(std::fs::read(&state).unwrap(), saved);
    // A user's folder of that name is no state, whatever is allowed.
    std::fs::create_dir(dir.join("b.state")).unwrap();
    std::fs::write(dir.join("b.state/notes.txt"), "precious").unwrap();
    for force in ["", "--force", "--resume"] {
        refused_early(dir, &format!("{TRAIN} --format peft-folder --out b {force}"), &["b.state", "notes.txt"]);
    }
    // A file is none either, nor a user's tensors.
    std::fs::write(dir.join("c.state"), "precious").unwrap();
    refused_early(dir, &format!("{TRAIN} --format peft-folder --out c --force"), &["c.state", "not a folder"]);
    std::fs::create_dir(dir.join("d.state")).unwrap();
    std::fs::copy(dir.join("in.safetensors"), dir.join("d.state/state.safetensors")).unwrap();
    refused_early(dir, &format!("{TRAIN} --format peft-folder --out d --force"), &["d.state"]);
    // What a user put beside a state stays; the state goes with its run.
    std::fs::write(dir.join("a.safetensors.state/notes.txt"), "precious").unwrap();
    let resumed = TrainOptions { resume: true, ..job(dir, "a.safetensors") };
    pollster::block_on(engine().train(&resumed, &mut |_| Flow::Continue)).unwrap();
    assert!(!state.exists() && dir.join("a.safetensors").is_file());
    assert_eq!(std::fs::read_to_string(dir.join("a.safetensors.state/notes.txt")).unwrap(), "precious");
}

fn engine() -> Engine {
    pollster::block_on(Engine::request(&EngineOptions::default())).unwrap()
}

/// Two updates of a small LoRA into `out`.
fn job(folder: &Path, out: &str) -> TrainOptions {
    TrainOptions {
        model: ModelOptions { model: Some(fixtures().join("sd2")), ..Default::default() },
        images: Some(folder.join("pics")),
        prompt: Some("x".into()),
        steps: Some(2),
        rank: 1,
        out: folder.join(out),
        ..Default::default()
    }
}

/// An image that appears while the image of that name is made, of the command line.
#[test]
fn n04_a_picture_that_appears_meanwhile_is_not_replaced() {
    let home = home();
    let dir = home.path();
    let line =
        "generate x --model {F}/sd2 --width 32 --height 32 --steps 40 --out g.png --latents-out l.safetensors --json";
    let mut child = portray(dir).args(words(line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut saved = Vec::new();
    for said in BufReader::new(child.stdout.take().unwrap()).lines() {
        let said: serde_json::Value = serde_json::from_str(&said.unwrap()).unwrap();
        if said["event"] == "progress" && !dir.join("g.png").exists() {
            std::fs::write(dir.join("g.png"), "precious").unwrap();
            std::fs::write(dir.join("l.safetensors"), "precious").unwrap();
        }
        saved.extend(said["path"].as_str().filter(|_| said["event"] == "saved").map(str::to_owned));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("g-1.png"), "{}", stderr(&output));
    assert_eq!(saved, ["g-1.png", "l-1.safetensors"]);
    for name in ["g.png", "l.safetensors"] {
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), "precious");
    }
    assert!(portray::low_level::io::Picture::open(dir.join("g-1.png")).is_ok());
}

/// Images of a folder are asked about by their names.
#[test]
fn kind_a_folder_takes_pictures_beside_others() {
    let home = home();
    let dir = home.path();
    let line = "generate x --model {F}/sd2 --steps 1 --count 2 --seed 5 --out pics";
    accepted(dir, line);
    std::fs::write(dir.join("pics/portray-6.png"), "precious").unwrap();
    refused_early(dir, line, &["portray-6.png", "--force"]);
    accepted(dir, &format!("{line} --force"));
    std::fs::remove_file(dir.join("pics/portray-6.png")).unwrap();
    std::fs::create_dir(dir.join("pics/portray-6.png")).unwrap();
    refused_early(dir, &format!("{line} --force"), &["portray-6.png"]);
}

#[test]
fn r15_samples_are_each_runs_own() {
    let home = home();
    let dir = home.path();
    std::fs::create_dir(dir.join("run-v1.5-samples")).unwrap();
    std::fs::write(dir.join("run-v1.5-samples/step-000001-1.png"), "precious").unwrap();
    let train = format!("{TRAIN} --format peft-folder --sample-prompt x");
    accepted(dir, &format!("{train} --out run-v1.6"));
    refused_early(dir, &format!("{train} --out run-v1.5"), &["run-v1.5-samples"]);
    accepted(dir, &format!("{train} --out run-v1.5 --force"));
    accepted(dir, &format!("{TRAIN} --format peft-folder --out run-v1.5"));
    // A file where the folder belongs.
    std::fs::write(dir.join("a-samples"), "precious").unwrap();
    refused_early(dir, &format!("{TRAIN} --sample-prompt x --out a.safetensors --force"), &["a-samples"]);
}

#[cfg(unix)]
#[test]
fn kind_a_demo_overwrites_nothing() {
    for name in ["sheet.png", "report.md", "lora.safetensors", "photos/2.png"] {
        let home = home();
        let path = home.path().join("demo").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        refused_early(home.path(), "demo --steps 1", &["demo", "exists already", "--force"]);
        accepted(home.path(), "demo --steps 1 --images pics --prompt x --class-prompt y --force");
    }
    let home = home();
    std::fs::create_dir(home.path().join("demo")).unwrap();
    std::fs::write(home.path().join("demo/notes.txt"), "precious").unwrap();
    accepted(home.path(), "demo --steps 1 --images pics --prompt x --class-prompt y");
}

#[test]
fn kind_kernels_are_not_dumped_over_files() {
    let home = home();
    refused_early(home.path(), "bench --dump pics", &["pics", "--force"]);
    std::fs::write(home.path().join("plain"), "precious").unwrap();
    refused_early(home.path(), "bench --dump plain --force", &["plain"]);
    accepted(home.path(), "bench --dump pics --force");
    accepted(home.path(), "bench --dump new");
}

/// A place at which a result is put that cannot stay there.
#[test]
fn kind_a_result_finds_a_place() {
    let home = home();
    let dir = home.path();
    let write = |at: &Path| portray::low_level::io::write_atomic(at, |out| out.write_all(b"result"));
    let long = dir.join("n".repeat(300));
    let below = dir.join("pics/a.png/out.txt");
    std::fs::write(dir.join("x.txt"), "precious").unwrap();
    for number in 1..4 {
        let placed = Place::file(dir.join("x.txt"), false).put(write).unwrap();
        assert_eq!(placed.path, dir.join(format!("x-{number}.txt")));
        assert!(placed.path().unwrap_err().to_string().contains("the result is"));
    }
    assert!(Place::file(&long, true).check().unwrap_err().to_string().contains("too long"));
    let placed = Place::file(&long, true).put(write).unwrap();
    assert_eq!(placed.path, dir.join("result-1"));
    let placed = Place::file(&below, true).put(write).unwrap();
    assert_eq!(std::fs::read_to_string(&placed.path).unwrap(), "result");
    let _ = std::fs::remove_file(&placed.path);
    // Neither devices nor folders are replaced; a folder comes beside a file.
    let folder = LoraFormat::PeftFolder.place(dir.join("x.txt"), &[PartId::UNET], true);
    assert!(folder.check().unwrap_err().to_string().contains("is a file"));
    let placed =
        folder.put(|at| portray::low_level::io::write_atomic(at.join("unet/a"), |out| out.write_all(b"a"))).unwrap();
    assert_eq!(placed.path, dir.join("x.txt-1"));
    assert_eq!(std::fs::read_to_string(dir.join("x.txt")).unwrap(), "precious");
    assert!(files::free_bytes(dir).is_none_or(|free| free > 0));
    assert!(Place::file(dir.join("new"), false).check_space(u64::MAX, "it").unwrap_err().to_string().contains("MB"));
}
