//! The page and its engine in Debian's Chromium, without a GPU: tests/web.

use std::process::{Command, Stdio};

use crate::cases::Times;
use crate::install::{self, Installed, works};
use crate::steps::Outcome;
use crate::tests::{FEATURES, at_root, ran};
use crate::wasm::Toolchain;
use crate::{root, target_folder, web};

/// Programs that the tests need, with the packages that bring them.
const NEEDED: &[(&str, &str)] = &[("node", "nodejs"), ("npm", "npm"), ("/usr/bin/chromium", "chromium")];
/// What npm says when it has reached no registry.
const OFFLINE: &[&str] = &[
    "ENOTFOUND",
    "EAI_AGAIN",
    "ETIMEDOUT",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "network",
];

/// Builds the page, once what its tests need is there.
pub fn page() -> Outcome {
    for (program, package) in NEEDED {
        if works(Command::new(program).arg("--version")) {
            continue;
        }
        match install::package(package) {
            Ok(Installed::Yes) if works(Command::new(program).arg("--version")) => {}
            Ok(Installed::Yes) => {
                return Outcome::Skipped(format!("{package} is installed, but {program} does not run"));
            }
            Ok(Installed::No(remedy)) | Err(remedy) => return Outcome::Skipped(format!("no {program}; {remedy}")),
        }
    }
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(reason) => return Outcome::Skipped(reason),
    };
    packages().and(|| build(&toolchain))
}

/// Builds what the page's results are compared with, and runs the tests of tests/web but those of its pace.
pub fn tests(times: &Times) -> Outcome {
    native().and(|| times.of("the page in Chromium", &mut node("-pace")))
}

/// Runs the tests that want a machine to themselves.
pub fn pace(times: &Times) -> Outcome {
    times.of("the page's pace", &mut node("pace"))
}

fn node(which: &str) -> Command {
    let mut node = Command::new("node");
    node.args(["tests/web/run.mjs", which]).current_dir(root()).env("CARGO_TARGET_DIR", target_folder());
    node
}

/// What tests/web/package-lock.json names, as it names it.
fn packages() -> Outcome {
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(root().join("tests/web")).stdin(Stdio::null());
    let output = match npm.output() {
        Ok(output) if output.status.success() => return Outcome::Passed,
        Ok(output) => output,
        Err(e) => return Outcome::Skipped(format!("cannot run npm: {e}")),
    };
    let text = String::from_utf8_lossy(&output.stderr);
    match offline(&text) {
        Some(line) => Outcome::Skipped(format!("npm ci reaches no registry: {line}")),
        None => {
            eprintln!("{text}");
            Outcome::Failed
        }
    }
}

/// The line that says that there is no network, if one does.
fn offline(text: &str) -> Option<&str> {
    text.lines().find(|line| OFFLINE.iter().any(|word| line.contains(word)))
}

fn build(toolchain: &Toolchain) -> Outcome {
    match web::build(toolchain) {
        Ok(()) => Outcome::Passed,
        Err(failure) => {
            eprintln!("{}", failure.message);
            Outcome::Failed
        }
    }
}

/// What a tab's results are held against.
fn native() -> Outcome {
    ran(at_root()
        .args(["build", "--workspace", "--release", "--quiet", "--bin", "portray", "--example", "step_time"])
        .args(FEATURES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_network_is_told_from_a_wrong_lock_file() {
        let unreachable = "npm error code ENOTFOUND\nnpm error errno ENOTFOUND\n";
        assert_eq!(offline(unreachable), Some("npm error code ENOTFOUND"));
        assert_eq!(
            offline("npm error code EUSAGE\nnpm error `npm ci` can only install with a lock file in sync"),
            None
        );
    }
}
