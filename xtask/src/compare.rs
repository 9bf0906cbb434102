//! `cargo xtask compare`: this tree's binary against another's, run in turns on one machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[cfg(unix)]
use crate::turns;
use crate::{Failure, cargo, root, succeed, target_folder};

/// Interleaved runs of both binaries, of what is not timed in turns.
const PAIRS: usize = 3;

/// Figures of the other tree and of this one.
type Pairs = Vec<[f64; 2]>;

/// Compares this tree with `other`, a binary or a revision that git knows, and prints medians of the ratios.
pub fn run(other: &str) -> Result<(), Failure> {
    let binaries = [other_binary(other)?, own_binary()?];
    let folder = target_folder().join("compare");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let assets = root().join("assets");
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let (model, photos) = (path(assets.join("model")), path(assets.join("subjects").join("cat")));
    let image = ["generate", "a cat", "--model", &model, "--out", "compared.png", "--force"];
    let training = ["train", "--images", &photos, "--prompt", "a cat", "--model", &model];
    let training = [&training[..], &["--out", "compared.safetensors", "--force"]].concat();
    let jobs = [("guided UNet step", "an image", &image[..]), ("training step", "a training", &training[..])];
    let mut rows = Vec::new();
    for (step, _, job) in jobs {
        eprintln!("{step}");
        rows.push((format!("{step}, s"), steps(&binaries, job, &folder)?));
    }
    for (_, what, job) in jobs {
        eprintln!("peak memory of {what}");
        let pairs = memory(&binaries, job, &folder)?;
        rows.extend(pairs.map(|pairs| (format!("peak memory of {what}, MB"), pairs)));
    }
    let size = |binary: &PathBuf| std::fs::metadata(binary).map(|file| file.len() as f64 / 1e6).unwrap_or_default();
    rows.push(("binary, MB".into(), vec![[size(&binaries[0]), size(&binaries[1])]]));
    println!("{:<44} {:>12} {:>12} {:>8}", "median", other, "this tree", "ratio");
    for (name, pairs) in &rows {
        let of = |pick: &dyn Fn(&[f64; 2]) -> f64| median(pairs.iter().map(pick).collect());
        let (before, after, ratio) = (of(&|p| p[0]), of(&|p| p[1]), of(&|p| p[1] / p[0]));
        println!("{name:<44} {before:>12.4} {after:>12.4} {ratio:>8.3}");
    }
    Ok(())
}

/// Seconds of the steps of `job`.
#[cfg(unix)]
fn steps(binaries: &[PathBuf; 2], job: &[&str], folder: &Path) -> Result<Pairs, Failure> {
    let steps = turns::STEPS.to_string();
    turns::seconds(binaries.each_ref().map(PathBuf::as_path), &[job, &["--json", "--steps", &steps]].concat(), folder)
}

/// Jobs cannot be stopped and continued here.
#[cfg(not(unix))]
fn steps(_: &[PathBuf; 2], _: &[&str], _: &Path) -> Result<Pairs, Failure> {
    Err("steps are compared on Unix only: elsewhere, run `portray bench --model assets/model` of both"
        .to_owned()
        .into())
}

/// The peak memory of `job`, where the system tells it.
fn memory(binaries: &[PathBuf; 2], job: &[&str], folder: &Path) -> Result<Option<Pairs>, Failure> {
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let mut pair = [0.0; 2];
        for (binary, peak) in binaries.iter().zip(&mut pair) {
            let mut command = Command::new(binary);
            command.current_dir(folder).args(job).args(["--steps", "2", "--quiet"]).stdout(Stdio::null());
            let Some(usage) = succeed_counted(&mut command)? else { return Ok(None) };
            *peak = usage.peak_bytes / 1e6;
        }
        pairs.push(pair);
    }
    Ok(Some(pairs))
}

/// The middle of `values`.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// The binary of this tree, built now.
pub(crate) fn own_binary() -> Result<PathBuf, Failure> {
    build(&root(), &target_folder())
}

/// The file `other`, or what revision `other` builds.
pub(crate) fn other_binary(other: &str) -> Result<PathBuf, Failure> {
    if Path::new(other).is_file() {
        return Ok(std::path::absolute(other).unwrap_or_else(|_| other.into()));
    }
    let git = |args: &[&str]| Command::new("git").current_dir(root()).args(args).output();
    let found = git(&["rev-parse", "--verify", "--quiet", &format!("{other}^{{commit}}")]);
    let revision = found.ok().filter(|found| found.status.success());
    let revision = revision.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_owned());
    let revision = revision.ok_or_else(|| format!("{other}: neither a binary nor a revision that git knows"))?;
    let target = target_folder().join("compare");
    let tree = target.join(format!("tree-{revision}"));
    if !tree.exists() {
        let tree = tree.to_string_lossy().into_owned();
        git(&["worktree", "prune"]).map_err(|e| format!("cannot run git: {e}"))?;
        succeed(Command::new("git").current_dir(root()).args(["worktree", "add", "--detach", &tree, &revision]))?;
    }
    build(&tree, &target.join("build"))
}

/// Builds the binary of the sources in `tree`, with its artifacts in `target`.
fn build(tree: &Path, target: &Path) -> Result<PathBuf, Failure> {
    let mut command = cargo();
    command.current_dir(tree).args(["build", "--release", "--bin", "portray", "--target-dir"]).arg(target);
    succeed(&mut command)?;
    Ok(target.join("release").join(format!("portray{}", std::env::consts::EXE_SUFFIX)))
}

/// Whether an event of `--json` says that a denoising step or a training step is done.
pub(crate) fn tells_of_a_step(line: &str) -> bool {
    let denoising = line.contains(r#""event":"progress""#) && line.contains(r#""unit":"step""#);
    denoising || line.contains(r#""event":"step""#)
}

/// What a process took that has ended.
pub(crate) struct Usage {
    /// Its largest resident memory.
    pub peak_bytes: f64,
    /// Seconds that its threads ran outside the kernel.
    pub user_secs: f64,
}

/// Runs `command` and tells what it took; `None` where the system does not tell.
fn succeed_counted(command: &mut Command) -> Result<Option<Usage>, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|e| format!("cannot run {name}: {e}"))?;
    let (success, usage) = usage(child).map_err(|e| format!("{name}: {e}"))?;
    if success { Ok(usage) } else { Err(format!("{name} failed").into()) }
}

/// Waits for `child`: whether it ended well, and what it took where the system tells.
#[cfg(unix)]
pub(crate) fn usage(child: Child) -> std::io::Result<(bool, Option<Usage>)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the pointers are of this frame, and nobody else waits for the child.
    if unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: zeroed is a valid value, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    // macOS counts bytes.
    let unit = if cfg!(target_os = "macos") { 1.0 } else { 1024.0 };
    let user_secs = usage.ru_utime.tv_sec as f64 + usage.ru_utime.tv_usec as f64 / 1e6;
    let success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    Ok((success, Some(Usage { peak_bytes: usage.ru_maxrss as f64 * unit, user_secs })))
}

#[cfg(not(unix))]
pub(crate) fn usage(mut child: Child) -> std::io::Result<(bool, Option<Usage>)> {
    Ok((child.wait()?.success(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0, 5.0]), 2.5);
    }

    #[test]
    fn steps_are_heard() {
        assert!(tells_of_a_step(r#"{"done":1,"event":"progress","total":12,"unit":"step"}"#));
        assert!(tells_of_a_step(r#"{"event":"step","step":0,"loss":0.1}"#));
        assert!(!tells_of_a_step(r#"{"event":"phase","name":"a step"}"#));
        assert!(!tells_of_a_step(r#"{"event":"progress","unit":"image","done":1,"total":4}"#));
    }
}
