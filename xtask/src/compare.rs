//! `cargo xtask compare`: this tree's binary against another's, run in turns on one machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Failure, cargo, output, root, succeed, target_folder};

/// Interleaved runs of both binaries.
const PAIRS: usize = 10;

/// What two trees are compared by: a name, and how much of it a binary takes.
type Figures = Vec<(String, f64)>;

/// Compares this tree with `other`, a binary or a revision that git knows, and prints medians of the ratios.
pub fn run(other: &str) -> Result<(), Failure> {
    let (there, here) = (other_binary(other)?, own_binary()?);
    let folder = target_folder().join("compare");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut pairs: Vec<(Figures, Figures)> = Vec::new();
    for pair in 0..PAIRS {
        eprintln!("pair {} of {PAIRS}", pair + 1);
        // Who goes first takes turns, too: a machine that gets slower favours neither.
        let pair = if pair % 2 == 0 {
            let first = figures(&there, &folder)?;
            (first, figures(&here, &folder)?)
        } else {
            let first = figures(&here, &folder)?;
            (figures(&there, &folder)?, first)
        };
        pairs.push(pair);
    }
    println!("{:<44} {:>12} {:>12} {:>8}", "median", other, "this tree", "ratio");
    for (i, (name, _)) in pairs.first().map(|(there, _)| there.clone()).unwrap_or_default().iter().enumerate() {
        let of = |pick: &dyn Fn(&(Figures, Figures)) -> f64| median(pairs.iter().map(pick).collect());
        let (before, after) = (of(&|p| p.0[i].1), of(&|p| p.1[i].1));
        println!("{name:<44} {before:>12.4} {after:>12.4} {:>8.3}", of(&|p| p.1[i].1 / p.0[i].1));
    }
    Ok(())
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

/// Runs `binary` once at each thing that is compared.
fn figures(binary: &Path, folder: &Path) -> Result<Figures, Failure> {
    let (binary_text, assets) = (binary.to_string_lossy().into_owned(), root().join("assets"));
    let model = assets.join("model").to_string_lossy().into_owned();
    let rows = output(&binary_text, &["bench", "--model", &model, "--json"]);
    let mut figures = Figures::new();
    for step in ["UNet step", "training step"] {
        let seconds = seconds_of(&rows, step).ok_or_else(|| format!("{binary_text}: its bench has no {step}"))?;
        figures.push((format!("{step}, s"), seconds));
    }
    let photos = assets.join("subjects").join("cat").to_string_lossy().into_owned();
    let jobs: [(&str, &[&str]); 2] = [
        ("peak memory of generate, MB", &["generate", "a cat", "--steps", "2", "--out", "compared.png"]),
        (
            "peak memory of train, MB",
            &["train", "--images", &photos, "--prompt", "a cat", "--steps", "2", "--out", "compared.safetensors"],
        ),
    ];
    for (name, args) in jobs {
        let mut command = Command::new(binary);
        command.current_dir(folder).args(args).args(["--force", "--quiet"]).stdout(Stdio::null());
        let usage = succeed_counted(&mut command)?;
        figures.extend(usage.map(|usage| (name.to_owned(), usage.peak_bytes / 1e6)));
    }
    let size = std::fs::metadata(binary).map_err(|e| format!("{binary_text}: {e}"))?.len();
    figures.push(("binary, MB".into(), size as f64 / 1e6));
    Ok(figures)
}

/// The seconds of the row whose name begins with `step`, of one JSON object a line.
fn seconds_of(rows: &str, step: &str) -> Option<f64> {
    let row = rows.lines().find(|row| row.contains(&format!("\"name\":\"{step}, ")))?;
    row.split("\"seconds\":").nth(1)?.split([',', '}']).next()?.parse().ok()
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
    fn rows_are_read() {
        let rows = "{\"name\":\"  UNet step against\",\"seconds\":1.0}\n{\"name\":\"UNet step, 355 dispatches\",\"seconds\":0.25,\"flops\":1}\n";
        assert_eq!(seconds_of(rows, "UNet step"), Some(0.25));
        assert_eq!(seconds_of(rows, "training step"), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0, 5.0]), 2.5);
    }
}
