//! Names and paths that are no text, or odd ones.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::*;

fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[test]
fn r12_every_command_takes_and_tells_paths_that_are_not_text() {
    let dir = tempfile::tempdir().unwrap();
    let bad = name(b"bilder-\xe4");
    let folder = dir.path().join(&bad);
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(fixtures().join("sd15"), folder.join("model")).unwrap();
    crate::support::picture(&folder.join("a.png"), 64, 64);
    let inside = |path: &str| Path::new(&bad).join(path);

    // Programs get what a reader of JSON can show, and the very bytes.
    let output = convert(dir.path(), "kohya", inside("l.safetensors")).arg("--json").output().unwrap();
    passed(&output);
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(said["path"], "bilder-\u{fffd}/l.safetensors");
    assert_eq!(said["path_os"], json!({"Unix": b"bilder-\xe4/l.safetensors"}));
    // A shell gets the name itself.
    let output = convert(dir.path(), "peft-folder", inside("l")).output().unwrap();
    assert_eq!(output.stdout, b"bilder-\xe4/l\n");

    let output = portray(dir.path()).arg("inspect").arg(inside("l.safetensors")).arg("--json").output().unwrap();
    passed(&output);
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&said["layout"], &said["path_os"]), (&json!("E"), &json!({"Unix": b"bilder-\xe4/l.safetensors"})));

    let mut scaled = inside("l.safetensors").into_os_string();
    scaled.push("=0.5");
    let mut command = portray(dir.path());
    command.args(["generate", "x", "--steps", "1", "--json", "--model"]).arg(inside("model"));
    command.arg("--lora").arg(scaled).arg("--init").arg(inside("a.png")).args(["--strength", "1"]);
    command.arg("--out").arg(inside("p.png")).arg("--latents-out").arg(inside("p.safetensors"));
    let output = command.output().unwrap();
    passed(&output);
    let saved: Vec<Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let saved: Vec<&Value> = saved.iter().filter(|l| l["event"] == "saved").map(|l| &l["path_os"]["Unix"]).collect();
    assert_eq!(saved, [&json!(b"bilder-\xe4/p.png"), &json!(b"bilder-\xe4/p.safetensors")]);
    let png = std::fs::read(folder.join("p.png")).unwrap();
    assert!(String::from_utf8_lossy(&png).contains("l: 0.5"));

    let mut command = portray(dir.path());
    command.args(["plan", "train", "--prompt", "x", "--images"]).arg(&bad).arg("--model").arg(inside("model"));
    command.arg("--init-lora").arg(inside("l.safetensors")).args(["--rank", "3", "--out"]).arg(inside("new"));
    passed(&command.output().unwrap());
}

/// A training in a folder of such a name, stopped, and gone on with by the very line that it prints.
#[test]
fn r12_a_training_goes_on_by_the_line_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(name(b"it's \xe4\n"));
    std::fs::create_dir(&folder).unwrap();
    let photos = folder.join("photos");
    std::fs::create_dir(&photos).unwrap();
    crate::support::picture(&photos.join("a.png"), 48, 48);
    let mut command = portray(dir.path());
    command
        .args(words("train --model {F}/sd15 --prompt x --rank 1 --steps 6 --json --sample-prompt y --sample-every 1"));
    command.arg("--images").arg(&photos).arg("--out").arg(folder.join("l.safetensors"));
    let (mut child, mut lines) = spawned(command);
    assert!(lines.any(|line| line.unwrap().contains("\"step\":0")));
    kill("-TERM", &child);
    let saved = lines.map_while(Result::ok).find(|line| line.contains("l.safetensors.state")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    let bytes: Vec<u8> =
        saved["path_os"]["Unix"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
    assert_eq!(bytes, folder.join("l.safetensors.state").into_os_string().into_vec());
    let said = said(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    let line = said.lines().find_map(|line| line.strip_prefix("go on with: ")).unwrap_or_else(|| panic!("{said}"));
    let mut again = Command::new("bash");
    again.args(["-c", line]).current_dir(dir.path());
    again.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("system-cache"));
    match again.output() {
        Ok(output) => {
            passed(&output);
            assert!(LoraFile::open(folder.join("l.safetensors"), None).is_ok());
            assert!(!folder.join("l.safetensors.state").exists());
            assert!(folder.join("l-samples/step-000006-1.png").exists());
        }
        Err(e) => skipped("r12_a_training", &format!("no bash: {e}")),
    }
}

#[test]
fn r12_jobs_come_back_from_json() {
    let path = PathBuf::from(name(b"\xff\xfe/a=b"));
    let mut job = TrainOptions {
        images: Some(path.clone()),
        init_lora: Some(path.clone()),
        out: path.clone(),
        ..TrainOptions::default()
    };
    job.model.model = Some(path.clone());
    let text = serde_json::to_string(&job).unwrap();
    assert_eq!(serde_json::from_str::<TrainOptions>(&text).unwrap(), job);
    let lora = LoraArg { path, scale: 0.5 };
    assert_eq!(serde_json::from_value::<LoraArg>(serde_json::to_value(&lora).unwrap()).unwrap(), lora);
    // What is text stays what it was: states of earlier versions can be gone on with.
    assert_eq!(serde_json::to_value(TrainOptions::default()).unwrap()["out"], "portray-lora.safetensors");
}

#[test]
fn kind_loras_are_split_from_their_scales() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &[u8]| {
        let path = dir.path().join(OsStr::from_bytes(name));
        std::fs::write(&path, "x").unwrap();
        path
    };
    let at = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
    file(b"a");
    file(b"b=2");
    file(b"c");
    file(b"c=3");
    file(b"d=x.safetensors");
    for (given, path, scale) in [
        (&b"a=0.5"[..], &b"a"[..], 0.5),
        (b"a=-1", b"a", -1.0),
        (b"a", b"a", 1.0),
        // A file whose own name ends so.
        (b"b=2", b"b=2", 1.0),
        (b"b=2=0.5", b"b=2", 0.5),
        // Both are there: as it is documented.
        (b"c=3", b"c", 3.0),
        (b"c=3=1", b"c=3", 1.0),
        (b"d=x.safetensors", b"d=x.safetensors", 1.0),
        (b"d=x.safetensors=0.25", b"d=x.safetensors", 0.25),
        // Neither is there: the error names the file.
        (b"none=0.5", b"none", 0.5),
        (b"none=nan", b"none=nan", 1.0),
        (b"none=", b"none=", 1.0),
        (b"n\xe4=0.5", b"n\xe4", 0.5),
        (b"n=\xe4", b"n=\xe4", 1.0),
    ] {
        let arg = LoraArg::new(at(given));
        assert_eq!((arg.path, arg.scale), (at(path), scale), "{}", at(given).display());
    }
}

#[test]
fn kind_odd_names_are_names() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(240);
    for odd in [
        "-o",
        "--out",
        "a b",
        "it's",
        "\"q\"",
        "a\nb",
        "a\n",
        "dot.",
        "..x",
        "\u{1f431}",
        "*",
        "$HOME",
        "~",
        "a:b",
        &long,
    ] {
        let mut word = OsString::from("--out=");
        word.push(odd);
        let mut command = portray(dir.path());
        command.arg("convert").arg(lora()).args(["--format", "peft"]).arg(word);
        let output = command.output().unwrap();
        passed(&output);
        assert_eq!(stdout(&output), format!("{odd}\n"));
        assert!(is_whole(&dir.path().join(odd)), "{odd}");
        let output = portray(dir.path()).arg("inspect").arg(Path::new(".").join(odd)).output().unwrap();
        passed(&output);
    }
    let output = convert(dir.path(), "peft", "x".repeat(300)).output().unwrap();
    assert!(output.status.code() == Some(1) && stderr(&output).contains("too long"), "{}", stderr(&output));
}
