//! The page in a real browser: builds it, gets what the tests need, and runs tests/web.

use std::process::Command;

use crate::install::{self, Installed};
use crate::tests::Outcome;
use crate::wasm::Toolchain;
use crate::{cargo, manifest, output, root, succeed, target_folder, web};

/// What the tests run on: a browser with its software renderer, and node with its packages.
const PACKAGES: &[(&str, &str)] = &[("/usr/bin/chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// Builds the page and the native programs that it is held against, and runs every test of tests/web.
pub fn tests() -> Outcome {
    for (program, package) in PACKAGES {
        if !output(program, &["--version"]).is_empty() {
            continue;
        }
        match install::package(package) {
            Ok(Installed::Yes) => {}
            Ok(Installed::No(remedy)) | Err(remedy) => return Outcome::Skipped(format!("no {program}; {remedy}")),
        }
    }
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(reason) => return Outcome::Skipped(reason),
    };
    let mut natives = cargo();
    natives.args(["build", "--quiet", "--release", "--bin", "portray", "--example", "step_time"]).args(manifest());
    if let Err(failure) = web::build(&toolchain).and_then(|()| succeed(&mut natives)) {
        eprintln!("{}", failure.message);
        return Outcome::Failed;
    }
    let folder = root().join("tests/web");
    let fetched = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder).status();
    if !fetched.is_ok_and(|status| status.success()) {
        return Outcome::Skipped("npm cannot get playwright-core: see what it says above".into());
    }
    let mut run = Command::new("node");
    run.arg(folder.join("run.mjs")).env("CARGO_TARGET_DIR", target_folder());
    match run.status() {
        Ok(status) if status.success() => Outcome::Passed,
        _ => Outcome::Failed,
    }
}
