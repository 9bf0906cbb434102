//! Paths, signals and streams of any system.
#![cfg(unix)]

mod names;
mod streams;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use portray::low_level::io::LoraFile;
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
    portray::low_level::io::Checkpoint::open(dir.path().join("full")).unwrap();
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
