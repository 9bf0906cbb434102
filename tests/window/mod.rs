//! `portray watch` under a display without a screen: what it shows, and that it does what the plain command does.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portray::low_level::io::{Picture, write_png};

/// Xvfb with its frame buffer as a file. `None`, said loudly, where it is not installed.
struct Display {
    server: Child,
    name: String,
    folder: tempfile::TempDir,
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Display {
    fn open() -> Option<Display> {
        let folder = tempfile::tempdir().unwrap();
        let started = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "960x680x24", "-fbdir"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut server) = started else {
            eprintln!("SKIPPED: Xvfb is not installed (apt install xvfb libxcursor1 libxi6 libxkbcommon-x11-0)");
            return None;
        };
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Display { server, name: format!(":{}", line.trim()), folder })
    }

    /// What is on the screen: Xvfb keeps it as an X window dump.
    fn picture(&self) -> Picture {
        let file = std::fs::read(self.folder.path().join("Xvfb_screen0")).unwrap();
        let word = |at: usize| u32::from_be_bytes(file[at * 4..at * 4 + 4].try_into().unwrap()) as usize;
        let (header, width, height, line, colours) = (word(0), word(4), word(5), word(12), word(19));
        let pixels = &file[header + colours * 12..];
        let row = |y: usize| pixels[y * line..y * line + width * 4].chunks(4).flat_map(|p| [p[2], p[1], p[0]]);
        Picture { width, height, rgb: (0..height).flat_map(row).collect() }
    }
}

fn portray(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portray"));
    command.current_dir(folder).env("XDG_CACHE_HOME", folder.join(".cache"));
    command.env("MESA_SHADER_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"));
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env_remove("WAYLAND_SOCKET");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Shows `command` on the display until it ends; returns the screen that `worth` valued most.
fn shown(display: &Display, command: &mut Command, worth: impl Fn(&Picture) -> usize) -> Picture {
    let mut job = command.env("DISPLAY", &display.name).spawn().unwrap();
    let began = Instant::now();
    let mut best = display.picture();
    loop {
        let ended = job.try_wait().unwrap();
        let seen = display.picture();
        if worth(&seen) >= worth(&best) {
            best = seen;
        }
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            return best;
        }
        assert!(began.elapsed() < Duration::from_secs(600), "it does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Keeps a screenshot where `PORTRAY_SHOTS` names a folder.
fn keep(name: &str, picture: &Picture) {
    if let Some(folder) = std::env::var_os("PORTRAY_SHOTS").map(PathBuf::from) {
        write_png(folder.join(name), picture, &[]).unwrap();
    }
}

/// How many colours there are in the rectangle of `[left, top, right, bottom]` pixels.
fn colours(picture: &Picture, [left, top, right, bottom]: [usize; 4]) -> usize {
    let line = |y: usize| &picture.rgb[(y * picture.width + left) * 3..(y * picture.width + right) * 3];
    let seen: std::collections::HashSet<&[u8]> = (top..bottom).flat_map(|y| line(y).chunks(3)).collect();
    seen.len()
}

const BODY: [usize; 4] = [30, 120, 900, 600];
const ACCENT: [u8; 3] = [127, 214, 185];

fn pixels(picture: &Picture, [left, top, right, bottom]: [usize; 4], colour: [u8; 3]) -> usize {
    let line = |y: usize| &picture.rgb[(y * picture.width + left) * 3..(y * picture.width + right) * 3];
    (top..bottom).flat_map(|y| line(y).chunks(3)).filter(|p| *p == colour).count()
}

#[test]
fn pictures_form_in_the_window_and_are_written_as_without_it() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(colours(&display.picture(), BODY), 1, "there is nothing on the screen yet");
    let words = "generate cat --steps 4 --width 64 --height 64 --count 2 --out".split(' ');
    let mut watch = portray(folder.path());
    let screen =
        shown(&display, watch.arg("watch").args(words.clone()).args(["watched", "--close"]), |p| colours(p, BODY));
    keep("watch-generate.png", &screen);
    assert!(colours(&screen, BODY) > 1000, "{} colours", colours(&screen, BODY));
    assert!(portray(folder.path()).args(words).arg("plain").status().unwrap().success());
    for name in ["portray-0.png", "portray-1.png"] {
        let [a, b] = ["watched", "plain"].map(|f| std::fs::read(folder.path().join(f).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

#[test]
fn a_training_shows_its_loss_and_samples() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat");
    let mut watch = portray(folder.path());
    watch.args([
        "watch",
        "train",
        "--prompt",
        "a mscds cat",
        "--steps",
        "12",
        "--lr",
        "1e-3",
        "--out",
        "l.safetensors",
    ]);
    watch
        .args(["--sample-prompt", "a mscds cat with a crown", "--sample-every", "6", "--close", "--images"])
        .arg(images);
    let [plot, samples] = [[80, 140, 460, 530], [494, 116, 900, 600]];
    let screen = shown(&display, &mut watch, |p| pixels(p, plot, ACCENT) + colours(p, samples));
    keep("watch-train.png", &screen);
    assert!(pixels(&screen, plot, ACCENT) > 100 && colours(&screen, samples) > 500);
    assert!(folder.path().join("l.safetensors").is_file() && folder.path().join("l-samples").is_dir());
}

/// Types `key` into the window every half second until `enough`. False, said loudly, where there is nothing to type with.
fn typed(display: &Display, key: &str, mut enough: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !enough() {
        assert!(began.elapsed() < Duration::from_secs(600), "nothing comes of {key}");
        // Without a window manager nobody gives the window the keyboard.
        let words = ["search", "--onlyvisible", "--name", "Portray$", "windowfocus", "--sync", "key", key];
        let mut xdotool = Command::new("xdotool");
        xdotool.args(words).env("DISPLAY", &display.name).stdout(Stdio::null()).stderr(Stdio::null());
        if xdotool.status().is_err() {
            eprintln!("SKIPPED: xdotool is not installed (apt install xdotool)");
            return false;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    true
}

/// Until `path` is there.
fn appears(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(600), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Ends the job, whatever becomes of the test.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn keys_ask_for_another_seed_and_save_it() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let words = ["generate", "a cat", "--steps", "2", "--width", "64", "--height", "64"];
    let [first, second] = ["portray-0.png", "portray-1.png"].map(|name| folder.path().join(name));
    let mut watch = portray(folder.path());
    let mut job = Job(watch.arg("watch").args(words).env("DISPLAY", &display.name).spawn().unwrap());
    appears(&first);
    let mut presses = 0;
    // Once: each is another seed.
    let once = || std::mem::replace(&mut presses, 1) == 1;
    if !typed(&display, "r", once) {
        return;
    }
    // It is written when it is asked for, and not before.
    assert!(!second.exists());
    typed(&display, "s", || second.exists());
    typed(&display, "q", || job.0.try_wait().unwrap().is_some());
    assert!(job.0.wait().unwrap().success());
    let plain = folder.path().join("plain.png");
    let words = words.iter().copied().chain(["--seed", "1", "--out", "plain.png"]);
    assert!(portray(folder.path()).args(words).status().unwrap().success());
    assert!(std::fs::read(&second).unwrap() == std::fs::read(&plain).unwrap());
}

#[test]
fn a_training_whose_display_goes_leaves_a_state() {
    let Some(mut display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat");
    let mut watch = portray(folder.path());
    watch.args(["watch", "train", "--prompt", "a cat", "--resolution", "64", "--steps", "100000"]);
    watch.args(["--out", "l.safetensors", "--images"]);
    let mut job = Job(watch.arg(images).env("DISPLAY", &display.name).spawn().unwrap());
    appears(&folder.path().join("l.safetensors.state"));
    display.server.kill().unwrap();
    assert!(!job.0.wait().unwrap().success());
    assert!(folder.path().join("l.safetensors.state/state.safetensors").is_file());
}

#[test]
fn keys_finish_a_training_that_is_paused() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat");
    let mut watch = portray(folder.path());
    watch.args(["watch", "train", "--prompt", "a cat", "--resolution", "64", "--steps", "100000"]);
    watch.args(["--out", "l.safetensors", "--sample-prompt", "a cat", "--sample-every", "1", "--images"]).arg(images);
    let mut job = Job(watch.env("DISPLAY", &display.name).spawn().unwrap());
    appears(&folder.path().join("l-samples"));
    let mut presses = 0;
    if !typed(&display, "space", || std::mem::replace(&mut presses, 1) == 1) {
        return;
    }
    let file = folder.path().join("l.safetensors");
    assert!(!file.exists());
    typed(&display, "s", || file.exists());
    typed(&display, "q", || job.0.try_wait().unwrap().is_some());
    assert!(job.0.wait().unwrap().success());
}

#[test]
fn a_job_that_fails_closes_the_window_and_says_why() {
    let Some(display) = Display::open() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("torn.png"), b"no image").unwrap();
    let mut watch = portray(folder.path());
    watch.args(["watch", "train", "--prompt", "a cat", "--out", "l.safetensors", "--images", "torn.png"]);
    let output = watch.env("DISPLAY", &display.name).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("torn.png"), "{said}");
    assert!(!said.contains("no window"), "{said}");
}

#[test]
fn without_a_display_the_job_is_done_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["generate", "a cat", "--steps", "1", "--width", "64", "--height", "64", "--out"];
    let output = portray(folder.path()).arg("watch").args(words).arg("a.png").stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("no window: ") && said.contains("going on without"), "{said}");
    assert!(!said.contains(".rs:"), "{said}");
    assert!(portray(folder.path()).args(words).arg("b.png").status().unwrap().success());
    let [a, b] = ["a.png", "b.png"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    assert!(a == b);
}
