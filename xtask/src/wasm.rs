//! The one place that knows how to compile for WebAssembly: with rustup's target, else with Debian's compiler and the
//! sources of its standard library.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{self, Installed};
use crate::{cargo, output, root, target_folder};

/// What both compile for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A compiler for [`TARGET`].
pub enum Toolchain {
    /// That of rustup, which runs this.
    Rustup,
    /// Debian's, with the other's linker.
    Debian {
        /// `rust-lld`.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// Finds or installs one.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    pub fn find() -> Result<Toolchain, String> {
        if output("rustup", &["target", "list", "--installed"]).contains(TARGET)
            || Command::new("rustup").args(["target", "add", TARGET]).status().is_ok_and(|s| s.success())
        {
            return Ok(Toolchain::Rustup);
        }
        match install::package("rustc-web cargo-web rust-web-src") {
            Ok(Installed::Yes) => {}
            Ok(Installed::No(remedy)) | Err(remedy) => return Err(format!("no {TARGET} target; {remedy}")),
        }
        let version = output("/usr/bin/rustc", &["--version"]);
        if !new_enough(&version) {
            return Err(format!("no {TARGET} target; Debian's is {} and too old", version.trim()));
        }
        let sysroot = output("rustc", &["--print", "sysroot"]);
        let linker = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
        Ok(Toolchain::Debian { linker })
    }

    /// Whether `cargo clippy` is there.
    pub fn lints(&self) -> bool {
        matches!(self, Toolchain::Rustup)
    }

    /// Where results go.
    pub fn target_folder(&self) -> PathBuf {
        match self {
            Toolchain::Rustup => target_folder(),
            // Another compiler's results would only displace those of the first.
            Toolchain::Debian { .. } => target_folder().join("debian"),
        }
    }

    /// Where the sources of the standard library are, if they are.
    pub fn standard_library(&self) -> PathBuf {
        let rustc = if self.lints() { "rustc" } else { "/usr/bin/rustc" };
        Path::new(output(rustc, &["--print", "sysroot"]).trim()).join("lib/rustlib/src/rust")
    }

    /// `cargo SUBCOMMAND` for the target.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = match self {
            Toolchain::Rustup => cargo(),
            Toolchain::Debian { .. } => Command::new("/usr/bin/cargo"),
        };
        command.current_dir(root()).args([subcommand, "--target", TARGET]);
        command.arg("--target-dir").arg(self.target_folder());
        if let Toolchain::Debian { linker } = self {
            command.arg("-Zbuild-std=std,panic_abort");
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            // cargo told us about the toolchain that runs this; the other one must not hear of it.
            for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTUP_HOME", "LD_LIBRARY_PATH"] {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Whether `rustc 1.96.0 (…)` can build what asks for 1.88.
fn new_enough(version: &str) -> bool {
    let minor = version.split_whitespace().nth(1).and_then(|v| v.split('.').nth(1)).and_then(|m| m.parse::<u32>().ok());
    minor.is_some_and(|m| m >= 88)
}
