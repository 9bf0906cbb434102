//! Running the binary and judging what it said.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The binary, in `folder`, with a cache of its own there. What the driver compiled is kept for every test: each process
/// would compile every kernel again.
pub fn portray(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portray"));
    command.current_dir(folder).env("XDG_CACHE_HOME", folder.join(".cache"));
    command.env("MESA_SHADER_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"));
    command
}

/// Runs it with the words of `line`; `{F}` stands for the fixtures, `{A}` for the assets.
pub fn run(folder: &Path, line: &str) -> Output {
    portray(folder).args(words(line)).output().unwrap()
}

pub fn words(line: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (fixtures, assets) = (root.join("tests/fixtures/golden"), root.join("assets"));
    let fill = |w: &str| w.replace("{F}", &fixtures.to_string_lossy()).replace("{A}", &assets.to_string_lossy());
    line.split_whitespace().map(fill).collect()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is wrong with `output` as the answer to bad input: one line that says `named`, the code, no panic, no data.
pub fn refusal_fault(output: &Output, code: i32, named: &[&str]) -> Option<String> {
    let text = stderr(output);
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    if output.status.code() != Some(code) {
        return Some(format!("exit code {:?}, expected {code}", output.status.code()));
    }
    if text.contains("panicked") || text.contains("RUST_BACKTRACE") {
        return Some("it panicked".into());
    }
    match errors[..] {
        [error] if text.trim_end().ends_with(error) => {
            let missing = named.iter().find(|word| !error.contains(**word));
            missing.map(|word| format!("'{word}' is not in: {error}"))
        }
        [_] => Some(format!("the error is not the last line of:\n{text}")),
        _ => Some(format!("{} error lines in:\n{text}", errors.len())),
    }
}

/// Runs a line that must be refused, and checks that it wrote nothing.
pub fn refused(folder: &Path, line: &str, code: i32, named: &[&str]) {
    let before = listing(folder);
    let output = run(folder, line);
    if let Some(fault) = refusal_fault(&output, code, named) {
        panic!("portray {line}\n{fault}\n{}", stderr(&output));
    }
    assert_eq!(listing(folder), before, "portray {line}: wrote something");
}

/// Runs a line that must work.
pub fn works(folder: &Path, line: &str) -> Output {
    let output = run(folder, line);
    assert!(output.status.success(), "portray {line}\n{:?}\n{}", output.status, stderr(&output));
    output
}

/// Runs `line` with `--json`, stops it with Ctrl-C at the first line that `at` knows, and returns its lines and what it said
/// beside. It must end as interrupted.
#[cfg(unix)]
pub fn interrupted(folder: &Path, line: &str, at: impl Fn(&Value) -> bool) -> (Vec<Value>, String) {
    let mut command = portray(folder);
    command.args(words(line)).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut seen, mut asked) = (Vec::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if !asked && at(&said) {
            let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(killed.success());
            asked = true;
        }
        seen.push(said);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    (seen, stderr(&output))
}

/// All files below `folder` but the cache's and locks that killed runs left, with their sizes.
pub fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == ".cache" || (name.starts_with(".portray-") && name.ends_with(".lock")) {
            continue;
        }
        let meta = entry.path().symlink_metadata().unwrap();
        found.push((entry.path(), if meta.is_file() { meta.len() } else { 0 }));
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort();
    found
}

/// A copy of the folder `from` in the temporary folder `to`.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target)
        } else {
            std::fs::write(&target, std::fs::read(&path).unwrap()).unwrap()
        }
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

/// An image file of one colour.
pub fn picture(path: &Path, width: usize, height: usize) {
    let rgb = [200, 120, 40].repeat(width * height);
    portray::low_level::io::write_png(path, &portray::low_level::io::Picture { width, height, rgb }, &[]).unwrap();
}
