//! Paths, signals and streams of any system.
#![cfg(unix)]

mod streams;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use portray::io::LoraFile;
use portray::{LoraArg, TrainOptions};
use serde_json::{Value, json};

use streams::{kill, said, spawned};

use super::support::{fixtures, listing, stderr, stdout, words};

/// A training of a few updates; what follows are its steps and where it goes.
const TRAIN: &str = "train --model {F}/sd15 --images {A}/subjects/cat --prompt x --rank 1";

/// The binary in `folder`, with a cache that all these tests share: it holds what was measured of the adapter.
fn portray(folder: &Path) -> Command {
    let mut command = super::support::portray(folder);
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("system-cache"));
    command
}

fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A LoRA of the fixtures.
fn lora() -> PathBuf {
    fixtures().join("sd15.lora-kohya.safetensors")
}

fn convert(folder: &Path, format: &str, out: impl AsRef<OsStr>) -> Command {
    let mut command = portray(folder);
    command.arg("convert").arg(lora()).args(["--format", format, "--out"]).arg(out);
    command
}

/// Whether `path` holds the LoRA of the fixtures.
fn is_whole(path: &Path) -> bool {
    LoraFile::open(path, None).is_ok_and(|file| file.modules.len() == 56)
}

/// Lines of `text` that hold `word`.
fn count(text: &str, word: &str) -> usize {
    text.lines().filter(|line| line.contains(word)).count()
}

/// Says that a test is not done here, and why.
fn skipped(test: &str, why: &str) {
    eprintln!("{test}: skipped: {why}");
}

fn passed(output: &Output) {
    assert!(output.status.success(), "{:?}\n{}\n{}", output.status, stdout(output), stderr(output));
}

/// A library for LD_PRELOAD with which fsync fails as `SYNC_ERROR` says, of folders, or of files where `SYNC_OF` is `f`.
fn shim(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(
        &source,
        r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
int fsync(int fd) {
    struct stat s;
    const char *error = getenv("SYNC_ERROR"), *of = getenv("SYNC_OF");
    if (error && !fstat(fd, &s) && (of && *of == 'f' ? S_ISREG(s.st_mode) : S_ISDIR(s.st_mode))) {
        errno = atoi(error);
        return -1;
    }
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}
"#,
    )
    .unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    (cfg!(target_os = "linux") && built.is_ok_and(|status| status.success())).then_some(library)
}

const SYNC_ERRORS: [(&str, &str); 4] = [("EINVAL", "22"), ("ENOTSUP", "95"), ("ENOSYS", "38"), ("EPERM", "1")];

#[test]
fn r11_a_folder_that_cannot_sync_keeps_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim(dir.path()) else { return skipped("r11", "no C compiler, or no LD_PRELOAD") };
    for (error, code) in SYNC_ERRORS {
        for (format, ending) in [("peft", ".safetensors"), ("peft-folder", "")] {
            let out = format!("{error}{ending}");
            let output =
                convert(dir.path(), format, &out).env("LD_PRELOAD", &shim).env("SYNC_ERROR", code).output().unwrap();
            passed(&output);
            assert_eq!(stdout(&output), format!("{out}\n"));
            assert_eq!(count(&stderr(&output), "cannot sync"), 1, "{error}: {}", stderr(&output));
            assert!(!stderr(&output).contains(".part"), "{}", stderr(&output));
            assert!(is_whole(&dir.path().join(&out)), "{out}");
        }
    }
    // Bytes that are lost are no such thing; what is there stays.
    for (format, out) in [("peft", "EIO.safetensors"), ("peft-folder", "EIO")] {
        let output = convert(dir.path(), format, out).env("LD_PRELOAD", &shim).env("SYNC_ERROR", "5").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert!(said.contains(out) && said.contains("Input/output error") && said.contains("copy"), "{said}");
        assert!(is_whole(&dir.path().join(out)), "{out}");
    }
    let left = |(path, _): &(PathBuf, u64)| path.to_string_lossy().contains(".part");
    assert!(!listing(dir.path()).iter().any(left));
}

#[test]
fn r11_a_training_that_cannot_sync_ends_with_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim(dir.path()) else { return skipped("r11", "no C compiler, or no LD_PRELOAD") };
    let mut command = portray(dir.path());
    command.args(words(&format!("{TRAIN} --method full --steps 2 --save-every 1 --out full --json")));
    let output = command.env("LD_PRELOAD", &shim).env("SYNC_ERROR", "22").output().unwrap();
    passed(&output);
    let lines: Vec<Value> = stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let warned = lines.iter().filter(|l| l["event"] == "warning" && l["text"].to_string().contains("cannot sync"));
    assert_eq!(warned.count(), 1, "{}", stdout(&output));
    assert!(lines.iter().any(|l| l["event"] == "saved" && l["path"] == "full.state"));
    portray::io::Checkpoint::open(dir.path().join("full")).unwrap();
}

#[test]
fn kind_files_that_cannot_sync_are_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim(dir.path()) else { return skipped("kind_files", "no C compiler, or no LD_PRELOAD") };
    let run = |code: &str, format: &str, out: &str| {
        let mut command = convert(dir.path(), format, out);
        command.env("LD_PRELOAD", &shim).env("SYNC_ERROR", code).env("SYNC_OF", "files").output().unwrap()
    };
    for (format, out) in [("kohya", "o.safetensors"), ("peft-folder", "o")] {
        let output = run("95", format, out);
        passed(&output);
        assert_eq!(count(&stderr(&output), "cannot sync"), 1, "{}", stderr(&output));
        assert!(is_whole(&dir.path().join(out)), "{out}");
    }
    // Nothing says what of such a file is on the disk: it does not replace anything.
    let before = std::fs::read(dir.path().join("o.safetensors")).unwrap();
    let output = {
        let mut command = convert(dir.path(), "peft", "o.safetensors");
        command.arg("--force").env("LD_PRELOAD", &shim).env("SYNC_ERROR", "5").env("SYNC_OF", "files").output().unwrap()
    };
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(std::fs::read(dir.path().join("o.safetensors")).unwrap() == before);
}

#[test]
fn kind_what_is_mounted_is_written_into() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mkdir real folder && mkdir -p real/unet && echo old > real/unet/adapter_model.safetensors && \
                  echo old > file.real && echo old > file.safetensors && mount --bind real folder && \
                  mount --bind file.real file.safetensors && \
                  \"$0\" convert \"$1\" --format peft-folder --out folder --force && \
                  \"$0\" convert \"$1\" --format peft --out file.safetensors --force";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(env!("CARGO_BIN_EXE_portray")).arg(lora()).current_dir(dir.path());
    let mut may = Command::new("unshare");
    may.args(["-rm", "sh", "-c", "mkdir a b && mount --bind a b"]);
    let elsewhere = tempfile::tempdir().unwrap();
    if !may.current_dir(elsewhere.path()).status().is_ok_and(|status| status.success()) {
        return skipped("kind_what_is_mounted", "no private mount namespace");
    }
    passed(&command.output().unwrap());
    assert!(is_whole(&dir.path().join("real")) && is_whole(&dir.path().join("file.real")));
    let left = |(path, _): &(PathBuf, u64)| path.to_string_lossy().contains(".part");
    assert!(!listing(dir.path()).iter().any(left), "{:?}", listing(dir.path()));
}

#[test]
fn kind_results_have_the_rights_that_the_umask_leaves() {
    let dir = tempfile::tempdir().unwrap();
    for (umask, file, folder) in [("077", 0o600, 0o700), ("022", 0o644, 0o755), ("002", 0o664, 0o775)] {
        for (format, out, expected) in
            [("peft", format!("{umask}.safetensors"), file), ("peft-folder", umask.into(), folder)]
        {
            let mut command = Command::new("sh");
            command.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask]).arg(env!("CARGO_BIN_EXE_portray"));
            command.arg("convert").arg(lora()).args(["--format", format, "--out", &out]).current_dir(dir.path());
            passed(&command.output().unwrap());
            let mode = std::fs::metadata(dir.path().join(&out)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{out}: {mode:o}");
        }
    }
}

#[test]
fn kind_a_folder_that_may_not_be_listed_takes_results() {
    let dir = tempfile::tempdir().unwrap();
    let drop_box = dir.path().join("box");
    std::fs::create_dir(&drop_box).unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&drop_box, 0o333)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let user = |command: &str| {
        let mut user = Command::new("setpriv");
        user.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", command]).current_dir(dir.path());
        user
    };
    if !user(env!("CARGO_BIN_EXE_portray")).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skipped("kind_a_folder_that_may_not_be_listed", "no other user to be had");
    }
    for (format, out) in [("peft", "box/o.safetensors"), ("peft-folder", "box/o")] {
        let mut command = user(env!("CARGO_BIN_EXE_portray"));
        command.arg("convert").arg(lora()).args(["--format", format, "--out", out]);
        passed(&command.output().unwrap());
        std::fs::set_permissions(&drop_box, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_whole(&dir.path().join(out)));
        std::fs::set_permissions(&drop_box, std::fs::Permissions::from_mode(0o333)).unwrap();
    }
}

#[test]
fn r12_every_command_takes_and_tells_paths_that_are_not_text() {
    let dir = tempfile::tempdir().unwrap();
    let bad = name(b"bilder-\xe4");
    let folder = dir.path().join(&bad);
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(fixtures().join("sd15"), folder.join("model")).unwrap();
    super::support::picture(&folder.join("a.png"), 64, 64);
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
    super::support::picture(&photos.join("a.png"), 48, 48);
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

#[test]
fn kind_a_folder_that_is_gone_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"";
    for args in [
        &["inspect", "l.safetensors"][..],
        &["generate", "x", "--out", "p.png"],
        &["plan", "train", "--images", "d", "--prompt", "x"],
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_portray")]).args(args).current_dir(dir.path());
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the current folder is gone") && count(&said, "error: ") == 1, "{said}");
    }
}
/// Terminals of no width, of one column, and those that can nothing.
#[test]
fn kind_bars_fit_any_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let may = Command::new("script").args(["-qec", "true", "/dev/null"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return skipped("kind_bars", "no `script` to make a terminal");
    }
    for (i, setting) in
        ["stty cols 0 rows 0", "stty cols 1 rows 1; TERM=dumb", "TERM=; COLUMNS=x LINES=-1"].iter().enumerate()
    {
        let line = format!(
            "{setting}; export TERM COLUMNS LINES; exec {} generate x --model {}/sd15 --steps 2 --out {i}.png",
            env!("CARGO_BIN_EXE_portray"),
            fixtures().display()
        );
        let mut command = Command::new("script");
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system-cache");
        command.args(["-qec", &line, "/dev/null"]).current_dir(dir.path()).env("XDG_CACHE_HOME", cache);
        let output = command.stdin(Stdio::null()).output().unwrap();
        passed(&output);
        assert!(!stdout(&output).contains("panicked") && dir.path().join(format!("{i}.png")).exists(), "{setting}");
    }
}

/// A cache folder that is no whole path would be another for every folder that the program starts in.
#[test]
fn kind_a_cache_of_no_whole_path_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = portray(dir.path());
    command.args(words("generate x --model {F}/sd15 --steps 1 --out p.png"));
    command.env("XDG_CACHE_HOME", "cache").env("HOME", "").env("TMPDIR", "/nonexistent").env_remove("LOCALAPPDATA");
    passed(&command.output().unwrap());
    // The driver may keep its shaders there.
    assert!(dir.path().join("p.png").exists() && !dir.path().join("cache/portray").exists());
}
