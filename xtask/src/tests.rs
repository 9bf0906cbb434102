//! `cargo xtask test`: formatting, lints, every test on two software drivers, and the page in a browser.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::cases::{self, Program, Times};
use crate::install::{self, Installed};
use crate::steps::{Job, Outcome, Steps};
use crate::wasm::Toolchain;
use crate::{Failure, browser, cargo, root, target_folder, web};

/// Test programs that need no second driver: those without an adapter, what only wgpu's allocator decides, and the
/// command line, whose kernels the others compare on both.
const ONE_DRIVER: &[&str] = &["portray", "xtask", "without_adapter", "memory", "cli"];
/// Tests that measure how long frames take, and what a driver and an allocator hold, which is more on busy processors: a
/// program, and libtest's filter for those among its tests.
const ALONE: &[(&str, &str)] = &[("embed", "pace::"), ("leaks", "")];
/// Programs whose kernels lavapipe computes on one thread: waking others for every small kernel takes a third of these tests'
/// processor time. That kernels come out right on many threads is for `ops` and the other driver to tell.
const ONE_THREAD: &[&str] = &["cli", "golden"];
/// Tests within the others that a second driver can tell nothing new.
const ONCE: &[&str] = &["eight_bit_moments", "adapters::a_", "batches::", "coarse_weights"];

/// Programs that run longest, which begin first.
const LONGEST: &[&str] = &["cli", "golden", "ops"];

/// One set of features for every build of the tests, so that nothing is built twice.
pub const FEATURES: [&str; 2] = ["--features", "portray/window"];

const SWIFTSHADER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";

/// A display without a screen, and what winit loads to speak to it.
const DISPLAY: &str = "xvfb xdotool libxcursor1 libxi6 libxkbcommon-x11-0 libxrandr2";

/// The release whose interface this one is compared with.
const BASELINE: &str = "v0.1.0";

/// Runs everything and sums it up.
pub fn run() -> Result<(), Failure> {
    let (began, times) = (Instant::now(), Times::default());
    let mut steps = Steps::default();
    check(&mut steps, &times);
    times.print();
    steps.print(began)
}

fn check(steps: &mut Steps, times: &Times) {
    steps.step("formatting", || {
        let apart = |package: &str| ran(of(package, "fmt").arg("--check"));
        ran(at_root().args(["fmt", "--all", "--check"])).and(|| apart(BINDGEN)).and(|| apart(EGUI))
    });
    steps.step("a display for the window", || match install::package(DISPLAY) {
        Ok(Installed::Yes) => Outcome::Passed,
        Ok(Installed::No(reason)) | Err(reason) => Outcome::Skipped(reason),
    });
    let lavapipe = driver("mesa-vulkan-drivers", lavapipe_manifest);
    let swiftshader = driver("chromium", || Some(PathBuf::from(SWIFTSHADER)).filter(|p| p.exists()));
    // The page is compiled on one core for the most part, these on all.
    let page = std::thread::spawn(browser::page);
    let mut programs = Vec::new();
    steps.step("building tests and examples", || build(&mut programs));
    let skipped: Vec<&str> = ONCE.iter().flat_map(|name| ["--skip", name]).collect();
    let built = OnceLock::new();
    let page = |steps: &mut Steps| {
        let built = built.get_or_init(|| page.join().unwrap_or(Outcome::Failed));
        steps.step("the page in Chromium", || built.clone().and(|| browser::tests(times)));
    };
    // Lints come early: what they need is compiled while the page is linked, and nobody else waits for cargo then.
    let mut jobs: Vec<Job> = vec![Box::new(page), Box::new(lints)];
    let on_drivers = |program, args: Vec<&'static str>| {
        let lavapipe = tests_of(program, "lavapipe", &lavapipe, args.clone(), times);
        let swiftshader = || tests_of(program, "SwiftShader", &swiftshader, [args, skipped.clone()].concat(), times);
        std::iter::once(lavapipe).chain((!ONE_DRIVER.contains(&Program::name(program))).then(swiftshader))
    };
    for program in &programs {
        match filter_alone(program) {
            None => jobs.extend(on_drivers(program, Vec::new())),
            Some("") => {}
            Some(tests) => jobs.extend(on_drivers(program, vec!["--skip", tests])),
        }
    }
    jobs.push(Box::new(|steps| {
        let documented = ["test", "--package", "portray", "--release", "--quiet", "--doc"];
        let run = || on(&lavapipe, at_root().args(documented).args(FEATURES), ran);
        steps.step("examples in the documentation", run);
        steps.step("LoRA files in diffusers and PEFT", interop);
    }));
    steps.side_by_side(jobs);
    let alone = programs.iter().filter_map(|program| Some((program, filter_alone(program)?)));
    alone.flat_map(|(program, tests)| on_drivers(program, vec![tests])).for_each(|job| job(steps));
    let built = built.into_inner().unwrap_or(Outcome::Failed);
    steps.step("the page's pace", || built.and(|| browser::pace(times)));
}

/// Filter for the tests of `program` that run [`ALONE`], if some do.
fn filter_alone(program: &Program) -> Option<&'static str> {
    ALONE.iter().find_map(|(name, tests)| (*name == program.name()).then_some(*tests))
}

/// What is read, and not run.
fn lints(steps: &mut Steps) {
    let strict = ["--", "-D", "warnings"];
    // As most people build it, then whole. Examples ask for the same features of other crates as tests do, which are then
    // checked once.
    steps.step("lints", || lint(&[&["--lib", "--bins", "--examples"][..], &strict].concat()));
    steps.step("lints of everything", || lint(&[&FEATURES[..], &["--all-targets"], &strict].concat()));
    steps.step("lints of portray-bindgen", || {
        ran(of(BINDGEN, "clippy")
            .args(["--release", "--quiet", "--locked", "--target-dir"])
            .arg(web::bindgen_target())
            .args(["--", "-D", "warnings"]))
    });
    steps.step("the egui example", egui);
    steps.step("library for the browser", wasm);
    let document = ["doc", "--release", "--no-deps", "--quiet"];
    steps.step("documentation", || ran(at_root().args(document).env("RUSTDOCFLAGS", "-D warnings")));
    steps.step("public interface", public_interface);
}

/// Builds every test, and the examples with them.
fn build(programs: &mut Vec<Program>) -> Outcome {
    let mut command = at_root();
    command.args(["test", "--workspace", "--release", "--quiet", "--no-run"]).args(FEATURES);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    match command.output() {
        Ok(output) if output.status.success() => {
            *programs = cases::programs(&String::from_utf8_lossy(&output.stdout));
            let place = |name: &str| LONGEST.iter().position(|long| *long == name).unwrap_or(LONGEST.len());
            programs.sort_by(|a, b| place(a.name()).cmp(&place(b.name())).then_with(|| a.cmp(b)));
            if programs.is_empty() { Outcome::Failed } else { Outcome::Passed }
        }
        Ok(_) => Outcome::Failed,
        Err(e) => {
            eprintln!("cannot run cargo: {e}");
            Outcome::Failed
        }
    }
}

/// The tests of `program`, with `args`, on the driver of that `name`.
fn tests_of<'a>(
    program: &'a Program,
    name: &str,
    manifest: &'a Result<PathBuf, String>,
    args: Vec<&'static str>,
    times: &'a Times,
) -> Job<'a> {
    let filter = args.first().filter(|arg| !arg.is_empty() && !arg.starts_with('-'));
    let which = filter.map_or_else(String::new, |filter| format!(" {filter}"));
    let what = format!("{}{which} on {name}", program.name());
    Box::new(move |steps| {
        let run = |command: &mut Command| times.of(&what, command);
        let mut command = program.command(&args);
        if ONE_THREAD.contains(&program.name()) {
            command.env("LP_NUM_THREADS", "0");
        }
        steps.step(&what, || on(manifest, command.current_dir(root()), run));
    })
}

/// cargo, in the repository.
pub fn at_root() -> Command {
    let mut command = cargo();
    command.current_dir(root());
    command
}

/// Packages that are no members of the workspace. egui is too large to be built by every run.
const BINDGEN: &str = "xtask/bindgen/Cargo.toml";
const EGUI: &str = "examples/egui/Cargo.toml";

/// `cargo SUBCOMMAND` for one of them.
fn of(package: &str, subcommand: &str) -> Command {
    let mut command = at_root();
    command.args([subcommand, "--manifest-path", package]);
    command
}

/// The egui example, where its dependencies were checked before: the first time takes three minutes of one core, later ones
/// three seconds.
fn egui() -> Outcome {
    let target = target_folder().join("egui");
    if !target.exists() {
        let target = target.display();
        return Outcome::Skipped(format!(
            "cargo check --locked --manifest-path {EGUI} --target-dir {target} once: three minutes; later runs check it again"
        ));
    }
    ran(of(EGUI, "check").args(["--quiet", "--locked", "--target-dir"]).arg(target))
}

/// Runs `command`, which says itself what is wrong.
pub fn ran(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(_) => Outcome::Failed,
        Err(e) => {
            eprintln!("cannot run: {e}");
            Outcome::Failed
        }
    }
}

/// `cargo semver-checks` against the last release, where both are there.
fn public_interface() -> Outcome {
    if !install::works(at_root().args(["semver-checks", "--version"])) {
        return Outcome::Skipped(
            "cargo install cargo-semver-checks compares the interface with the last release".into(),
        );
    }
    let tag = Command::new("git").current_dir(root()).args(["rev-parse", "--verify", "--quiet", BASELINE]).output();
    if !tag.is_ok_and(|found| found.status.success()) {
        return Outcome::Skipped(format!("git has no tag {BASELINE} here: git fetch --tags"));
    }
    ran(at_root().args(["semver-checks", "--package", "portray", "--baseline-rev", BASELINE]))
}

/// What is written, as the libraries that people use read it, where they are installed.
fn interop() -> Outcome {
    let python = std::env::var("PORTRAY_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = "import torch, diffusers, transformers, peft";
    if !install::works(Command::new(&python).args(["-c", import])) {
        let reason = format!("{python} has no diffusers and PEFT: pip install torch diffusers transformers peft");
        return Outcome::Skipped(reason);
    }
    let test = ["test", "--release", "--quiet", "--test", "cli", "--", "--ignored", "interop"];
    ran(at_root().args(&test[..3]).args(FEATURES).args(&test[3..]))
}

fn lint(args: &[&str]) -> Outcome {
    ran(at_root().args(["clippy", "--workspace", "--release", "--quiet"]).args(args))
}

/// Runs `command` on the driver of `manifest`.
fn on(manifest: &Result<PathBuf, String>, command: &mut Command, run: impl FnOnce(&mut Command) -> Outcome) -> Outcome {
    match manifest {
        Ok(manifest) => {
            // Tests that run kernels themselves and tests that run the binary compile each kernel once between them.
            let shaders = target_folder().join("tmp").join("shaders");
            run(command.env("VK_ICD_FILENAMES", manifest).env("MESA_SHADER_CACHE_DIR", shaders))
        }
        Err(reason) => {
            eprintln!("{reason}");
            Outcome::Failed
        }
    }
}

/// A driver's manifest, installed if need be.
fn driver(package: &str, manifest: impl Fn() -> Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(found) = manifest() {
        return Ok(found);
    }
    match install::package(package)? {
        Installed::Yes => manifest().ok_or_else(|| format!("{package} is installed, but has no Vulkan driver")),
        Installed::No(remedy) => Err(format!("no Vulkan driver of {package}; {remedy}")),
    }
}

fn lavapipe_manifest() -> Option<PathBuf> {
    let files = std::fs::read_dir("/usr/share/vulkan/icd.d").ok()?;
    let is_lavapipe = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("lvp_icd"));
    files.flatten().map(|entry| entry.path()).find(is_lavapipe)
}

/// The library for WebAssembly, as pages use it: lints, or a check where the compiler comes without them.
fn wasm() -> Outcome {
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(reason) => return Outcome::Skipped(reason),
    };
    let mut command = toolchain.cargo(if toolchain.lints() { "clippy" } else { "check" });
    command.args(["--release", "--quiet", "--lib", "--no-default-features", "--features", "web"]);
    ran(if toolchain.lints() { command.args(["--", "-D", "warnings"]) } else { &mut command })
}
