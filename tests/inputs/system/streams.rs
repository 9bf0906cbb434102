//! Signals, and streams that nobody reads.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

pub fn spawned(mut command: Command) -> (Child, impl Iterator<Item = std::io::Result<String>>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

pub fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

pub fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// `line` by a shell that ignores `signals`.
pub fn deaf(folder: &Path, signals: &str, line: &str) -> Command {
    let portray = portray(folder);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' {signals}; exec \"$0\" \"$@\"")]).arg(portray.get_program());
    command.args(words(line)).current_dir(folder).envs(portray.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command
}

#[test]
fn n06_a_training_under_nohup_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut lines) =
        spawned(deaf(dir.path(), "HUP", &format!("{TRAIN} --steps 8 --json --out l.safetensors")));
    assert!(lines.any(|line| line.unwrap().contains("\"step\":0")));
    kill("-HUP", &child);
    kill("-HUP", &child);
    assert!(lines.any(|line| line.unwrap().contains("\"event\":\"done\"")));
    drop(lines);
    let said = said(&mut child);
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
    assert!(LoraFile::open(dir.path().join("l.safetensors"), None).is_ok());
}

#[test]
fn n06_a_terminal_that_closes_leaves_a_state() {
    let dir = tempfile::tempdir().unwrap();
    // A terminal's shell hangs up a second time. A shell without job control has its background jobs ignore SIGINT.
    for (ignored, signals) in [("INT", &["-HUP", "-HUP"][..]), ("INT HUP", &["-INT"])] {
        if signals.contains(&"-HUP") && hangups_are_ignored() {
            skipped("n06_a_terminal_that_closes", "these tests run under nohup");
            continue;
        }
        closed(dir.path(), ignored, signals);
        std::fs::remove_dir_all(dir.path().join("l.safetensors.state")).unwrap();
    }
}

/// Whether this process, and so what it starts, ignores SIGHUP.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// A training that ignores `ignored` is stopped by `signals`, with its state saved.
fn closed(dir: &Path, ignored: &str, signals: &[&str]) {
    let (mut child, mut lines) =
        spawned(deaf(dir, ignored, &format!("{TRAIN} --steps 600 --json --out l.safetensors")));
    assert!(lines.any(|line| line.unwrap().contains("\"step\":0")));
    signals.iter().for_each(|signal| kill(signal, &child));
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().any(|line| line.contains("l.safetensors.state")), "{rest:?}");
    let said = said(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("go on with: ") && dir.join("l.safetensors.state/state.safetensors").exists(), "{said}");
}

#[test]
fn n07_a_training_goes_on_when_its_reader_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let line = |out: &str| words(&format!("{TRAIN} --steps 2 --json --out {out}"));
    // At once, as with `| true`, and in the middle, as with `| head`.
    let mut command = portray(dir.path());
    command.args(line("l.safetensors"));
    let (mut child, mut lines) = spawned(command);
    assert!(lines.any(|line| line.unwrap().contains("\"step\":0")));
    drop(lines);
    let text = said(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert_eq!(count(&text, "the reader of standard output left"), 1, "{text}");
    assert!(LoraFile::open(dir.path().join("l.safetensors"), None).is_ok());

    // A full disk is told once, and by the exit code at the end.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return skipped("n07", "no /dev/full") };
    let output = portray(dir.path()).args(line("full.safetensors")).stdout(full).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(count(&text, "standard output: cannot write") == 1 && text.lines().count() == 1, "{text}");
    assert!(LoraFile::open(dir.path().join("full.safetensors"), None).is_ok());
}

#[test]
fn n07_pictures_are_written_when_no_reader_is_left() {
    let dir = tempfile::tempdir().unwrap();
    for (json, out) in [(" --json", "a"), ("", "b")] {
        let mut command = portray(dir.path());
        command.args(words(&format!("generate x --model {{F}}/sd15 --steps 1 --count 2 --out {out}{json}")));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Nobody reads either.
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(std::fs::read_dir(dir.path().join(out)).unwrap().count(), 2);
    }
}

#[test]
fn kind_answers_end_quietly_and_faults_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let unread = |line: &str| {
        let mut command = portray(dir.path());
        let mut child = command.args(words(line)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let text = said(&mut child);
        (child.wait().unwrap().code(), text)
    };
    for line in ["inspect {F}/sd15", "inspect {F}/sd15 --json", "plan generate x --model {F}/sd15", "info --licenses"] {
        assert_eq!(unread(line), (Some(0), String::new()), "{line}");
    }
    // A fault is one, whoever reads.
    let (code, text) = unread("inspect nothing.safetensors");
    assert!(code == Some(1) && text.contains("no such file"), "{text}");
    // What was written is there, and its name was not asked for.
    let (code, text) = unread(&format!("convert {} --format peft --out o.safetensors", lora().display()));
    assert!(code == Some(0) && is_whole(&dir.path().join("o.safetensors")), "{text}");
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = portray(dir.path()).args(words("inspect {F}/sd15")).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("standard output: cannot write: no space left"), "{}", stderr(&output));
    }
    for closed in [">&-", "2>&-", ">&- 2>&- <&-"] {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec \"$0\" \"$@\" {closed}"), env!("CARGO_BIN_EXE_portray")])
            .current_dir(dir.path());
        command.arg("convert").arg(lora()).args(["--format", "peft", "--force", "--out", "o.safetensors"]);
        assert_eq!(command.output().unwrap().status.code(), Some(0), "{closed}");
    }
}
