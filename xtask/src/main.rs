//! `cargo xtask demo` and `cargo xtask test`: everything that they need is installed, or named where that cannot be.
//! `cargo xtask web` builds the page, `cargo xtask make-model` writes models of full size with random weights,
//! `cargo xtask compare` runs this tree and another in turns, `cargo xtask cold` the same with nothing compiled before.

mod browser;
mod cases;
mod cold;
mod compare;
mod install;
mod serve;
mod steps;
mod tests;
#[cfg(unix)]
mod turns;
mod wasm;
mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use install::Installed;
use wasm::Toolchain;

const USAGE: &str = "usage: cargo xtask demo [options of `portray demo`] | cargo xtask test
       | cargo xtask web [--serve [PORT] [--base /PATH/]]
       | cargo xtask make-model sd15|sd2-base|sd21|turbo DIR|FILE.safetensors [SEED]
       | cargo xtask make-model sdxl|ssd-1b|vega|bk-tiny DIR [SEED]
       | cargo xtask compare REVISION|BINARY
       | cargo xtask cold [--base REVISION|BINARY] [--icd FILE] [--model DIR|FILE.safetensors] [--first-step]";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        Some("demo") => demo(&args.collect::<Vec<_>>()),
        Some("make-model") => {
            let mut command = cargo();
            command.args(["run", "--quiet", "--release", "--example", "make_model"]).args(manifest()).arg("--");
            succeed(command.args(args))
        }
        Some("web") => match page(&args.collect::<Vec<_>>()) {
            Some(result) => result,
            None => return usage(),
        },
        Some("compare") => match args.collect::<Vec<_>>().as_slice() {
            [other] => compare::run(other),
            _ => return usage(),
        },
        Some("cold") => match cold::Options::parse(args) {
            Some(options) => cold::run(&options),
            None => return usage(),
        },
        Some("test") if args.next().is_none() => tests::run(),
        _ => return usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::from(code)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Why a task ended early. An empty message: whoever failed has said it already.
struct Failure {
    message: String,
    code: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { message, code: 1 }
    }
}

/// Builds, makes sure that an adapter answers, and runs the demo.
fn demo(args: &[String]) -> Result<(), Failure> {
    eprintln!("building portray");
    succeed(cargo().args(["build", "--release", "--bin", "portray"]).args(manifest()))?;
    if !adapter_answers() {
        eprintln!("no GPU adapter answers: a software Vulkan driver is needed");
        match install::package("mesa-vulkan-drivers")? {
            Installed::Yes if adapter_answers() => {}
            Installed::Yes => return Err("mesa-vulkan-drivers is installed, but no adapter answers".to_owned().into()),
            Installed::No(remedy) => return Err(format!("no GPU adapter answers; {remedy}").into()),
        }
    }
    succeed(portray().arg("demo").args(args))
}

/// Builds the page and serves it where that is asked for. `None`: not understood.
fn page(args: &[String]) -> Option<Result<(), Failure>> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (args, base) = match args.as_slice() {
        [args @ .., "--base", base] => (args, *base),
        args => (args, "/"),
    };
    let port = match args {
        [] if base == "/" => None,
        ["--serve"] => Some(serve::PORT),
        ["--serve", port] => Some(port.parse().ok()?),
        _ => return None,
    };
    if !(base.starts_with('/') && base.ends_with('/')) {
        return Some(Err(format!("--base {base}: begins and ends with a slash").into()));
    }
    let built = Toolchain::find().map_err(Failure::from).and_then(|toolchain| web::build(&toolchain));
    Some(built.and_then(|()| port.map_or(Ok(()), |port| serve::serve(&web::dist(), base, port))))
}

fn adapter_answers() -> bool {
    let status = portray().args(["info", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
}

/// The built binary, in the caller's folder.
fn portray() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--bin", "portray"]).args(manifest()).arg("--");
    command
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn manifest() -> [PathBuf; 2] {
    ["--manifest-path".into(), root().join("Cargo.toml")]
}

/// The cargo that runs this, with a runtime folder for drivers that complain without one.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    command
}

/// Where cargo writes what it builds.
fn target_folder() -> PathBuf {
    // A relative one is meant from where cargo was called, as cargo means it.
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| std::path::absolute(&folder).unwrap_or_else(|_| folder.into()))
}

/// What `program` prints; nothing where it cannot run.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// Runs `command`; its own exit code becomes ours.
fn succeed(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| format!("cannot run {name}: {e}"))?;
    match status.code() {
        Some(0) => Ok(()),
        code => Err(Failure { message: String::new(), code: code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1) }),
    }
}
