//! `cargo xtask cold`: what a first run takes, with nothing compiled before it, here and in another tree.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::compare::{median, other_binary, own_binary, tells_of_a_step, usage};
use crate::{Failure, root, target_folder};

/// Interleaved runs of both binaries.
const PAIRS: usize = 3;
/// Class images that a training is given.
const CLASS_IMAGES: usize = 4;

/// What to run, and on which driver.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// A revision or a binary to run in turns with this tree.
    base: Option<String>,
    /// The Vulkan driver's manifest.
    icd: Option<PathBuf>,
    /// The model of both trees.
    model: Option<PathBuf>,
    /// Only until the first denoising step is done: for models whose images take minutes.
    first_step: bool,
}

impl Options {
    /// From the command line; `None` where that is not understood.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--base" => options.base = Some(args.next()?),
                "--icd" => options.icd = Some(args.next()?.into()),
                "--model" => options.model = Some(args.next()?.into()),
                "--first-step" => options.first_step = true,
                _ => return None,
            }
        }
        Some(options)
    }

    /// Looks for the files that are given, before anything is built.
    fn check(&self) -> Result<(), Failure> {
        let given = [("--icd", &self.icd), ("--model", &self.model)];
        for (option, path) in given.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?))) {
            if !path.exists() {
                return Err(format!("{option} {}: no such file or folder", path.display()).into());
            }
        }
        Ok(())
    }

    fn model(&self) -> Result<PathBuf, Failure> {
        let model = self.model.clone().unwrap_or_else(|| root().join("assets").join("model"));
        std::path::absolute(&model).map_err(|e| format!("{}: {e}", model.display()).into())
    }
}

/// A command whose first run is timed.
struct Job {
    name: &'static str,
    args: Vec<String>,
    /// It is over when its events tell of a step.
    until_step: bool,
}

/// Seconds of a run, and those that its threads computed, where the system tells.
struct Taken {
    wall: f64,
    user: Option<f64>,
}

/// Runs this tree and `options.base` in turns, each time as on the first day, and prints medians.
pub fn run(options: &Options) -> Result<(), Failure> {
    options.check()?;
    let mut trees = Vec::new();
    if let Some(base) = &options.base {
        trees.push((base.as_str(), other_binary(base)?));
    }
    trees.push(("this tree", own_binary()?));
    let folder = target_folder().join("cold");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let jobs = jobs(options, &folder, &trees[trees.len() - 1].1)?;
    // By job, then by tree.
    let mut taken: Vec<Vec<Vec<Taken>>> = jobs.iter().map(|_| trees.iter().map(|_| Vec::new()).collect()).collect();
    for pair in 0..PAIRS {
        for (job, taken) in jobs.iter().zip(&mut taken) {
            eprintln!("{} of {PAIRS}: {}", pair + 1, job.name);
            // Who goes first takes turns, too: a machine that gets slower favours neither.
            let mut order: Vec<usize> = (0..trees.len()).collect();
            order.rotate_left(pair % trees.len());
            for tree in order {
                taken[tree].push(first_run(options, &trees[tree].1, &folder, job)?);
            }
        }
    }
    println!("{:<44} {:>10} {:>10} {:>10} {:>10}", "median of three first runs", "s", "ratio", "user s", "ratio");
    for (job, taken) in jobs.iter().zip(&taken) {
        for ((name, _), runs) in trees.iter().zip(taken) {
            let wall = |run: &Taken| Some(run.wall);
            let user = |run: &Taken| run.user;
            let (seconds, of_base) = compared(&taken[0], runs, wall);
            let (user, user_of_base) = compared(&taken[0], runs, user);
            let label = format!("{}, {name}", job.name);
            println!("{label:<44} {seconds:>10} {of_base:>10} {user:>10} {user_of_base:>10}");
        }
    }
    Ok(())
}

/// The median of a figure of `runs`, and that of its ratios to `base`'s, for people.
fn compared(base: &[Taken], runs: &[Taken], figure: impl Fn(&Taken) -> Option<f64>) -> (String, String) {
    let middle = |values: Option<Vec<f64>>, places: usize| {
        values.map_or_else(|| "-".to_owned(), |values| format!("{:.places$}", median(values)))
    };
    let ratio = |(base, run): (&Taken, &Taken)| Some(figure(run)? / figure(base)?);
    (middle(runs.iter().map(&figure).collect(), 2), middle(base.iter().zip(runs).map(ratio).collect(), 3))
}

/// What is run; class images are made once, by this tree.
fn jobs(options: &Options, folder: &Path, binary: &Path) -> Result<Vec<Job>, Failure> {
    let model = options.model()?.to_string_lossy().into_owned();
    let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if options.first_step {
        let line = ["generate", "a cat", "--model", &model, "--steps", "12", "--dtype", "f16", "--json"];
        let size = ["--width", "128", "--height", "128", "--out", "cold.png", "--force"];
        return Ok(vec![Job { name: "first step", args: words(&[&line[..], &size].concat()), until_step: true }]);
    }
    let classes = folder.join("class");
    if classes.exists() {
        std::fs::remove_dir_all(&classes).map_err(|e| format!("{}: {e}", classes.display()))?;
    }
    let (count, classes) = (CLASS_IMAGES.to_string(), classes.to_string_lossy().into_owned());
    let made = words(&["generate", "an animal", "--model", &model, "--steps", "12", "--count", &count]);
    let made = Job { name: "class images", args: [made, words(&["--out", &classes])].concat(), until_step: false };
    eprintln!("class images, once for all");
    first_run(options, binary, folder, &made)?;
    let photos = root().join("assets").join("subjects").join("cat").to_string_lossy().into_owned();
    let picture = ["generate", "a cat", "--model", &model, "--steps", "12", "--out", "cold.png", "--force"];
    let training = ["train", "--images", &photos, "--prompt", "a sks animal", "--class-prompt", "an animal"];
    let given = ["--class-images", &classes, "--model", &model, "--steps", "10"];
    let out = ["--out", "cold.safetensors", "--force"];
    Ok(vec![
        Job { name: "generate, 12 steps", args: words(&picture), until_step: false },
        Job { name: "train, 10 steps", args: words(&[&training[..], &given, &out].concat()), until_step: false },
    ])
}

/// Runs `job` with an empty cache folder, the drivers' own caches off.
fn first_run(options: &Options, binary: &Path, folder: &Path, job: &Job) -> Result<Taken, Failure> {
    let cache = folder.join("cache");
    if cache.exists() {
        std::fs::remove_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    }
    std::fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let mut command = Command::new(binary);
    command.current_dir(folder).args(&job.args).env("XDG_CACHE_HOME", &cache).stderr(Stdio::inherit());
    if !job.until_step {
        command.arg("--quiet");
    }
    // Mesa's (two names by version) and NVIDIA's.
    command.env("MESA_SHADER_CACHE_DISABLE", "true").env("MESA_GLSL_CACHE_DISABLE", "true");
    command.env("__GL_SHADER_DISK_CACHE", "0");
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    if let Some(icd) = &options.icd {
        let icd = std::path::absolute(icd).map_err(|e| format!("{}: {e}", icd.display()))?;
        // The loader takes the newer name where both are there.
        command.env("VK_ICD_FILENAMES", &icd).env("VK_DRIVER_FILES", &icd);
    }
    command.stdout(if job.until_step { Stdio::piped() } else { Stdio::null() });
    let name = binary.display();
    let began = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("cannot run {name}: {e}"))?;
    let mut stepped = false;
    if let Some(events) = child.stdout.take() {
        stepped = BufReader::new(events).lines().map_while(Result::ok).any(|line| tells_of_a_step(&line));
        child.kill().map_err(|e| format!("{name}: {e}"))?;
    }
    let mut wall = began.elapsed().as_secs_f64();
    let (success, usage) = usage(child).map_err(|e| format!("{name}: {e}"))?;
    if !job.until_step {
        wall = began.elapsed().as_secs_f64();
    }
    if !(success || stepped) {
        return Err(format!("{name} failed at {}", job.name).into());
    }
    Ok(Taken { wall, user: usage.map(|usage| usage.user_secs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
        let options = parse("--base 191f943 --icd lvp.json --model m --first-step").expect("options");
        assert_eq!((options.base.as_deref(), options.first_step), (Some("191f943"), true));
        assert_eq!((options.icd, options.model), (Some("lvp.json".into()), Some("m".into())));
        assert_eq!(parse(""), Some(Options::default()));
        assert!(parse("--base").is_none() && parse("191f943").is_none());
    }

    #[test]
    fn files_that_are_not_there_are_named() {
        let given = Options { icd: Some("no such.json".into()), ..Options::default() };
        assert!(given.check().is_err_and(|failure| failure.message.contains("--icd no such.json")));
        assert!(Options { model: Some(root()), ..Options::default() }.check().is_ok());
    }

    #[test]
    fn medians_are_of_the_ratios_of_pairs() {
        let runs = |walls: [f64; 3]| walls.map(|wall| Taken { wall, user: None });
        let (base, mine) = (runs([10.0, 20.0, 30.0]), runs([5.0, 5.0, 6.0]));
        assert_eq!(compared(&base, &mine, |run| Some(run.wall)), ("5.00".into(), "0.250".into()));
        assert_eq!(compared(&base, &mine, |run| run.user), ("-".into(), "-".into()));
    }
}
