//! Debian packages, where there is an apt that we may use.

use std::process::{Command, Stdio};

/// What came of asking for a package.
pub enum Installed {
    /// It is there.
    Yes,
    /// It is not; what the user can do.
    No(String),
}

/// Installs `packages` (separated by spaces) through apt: as root or with a sudo that asks nothing.
///
/// # Errors
/// When apt refuses.
pub fn package(packages: &str) -> Result<Installed, String> {
    if !works(Command::new("apt-get").arg("--version")) {
        return Ok(Installed::No(format!("install what Debian calls {packages} (this machine has no apt)")));
    }
    let names: Vec<&str> = packages.split(' ').collect();
    if works(Command::new("dpkg").arg("-s").args(&names)) {
        return Ok(Installed::Yes);
    }
    let Some(prefix) = privilege() else {
        return Ok(Installed::No(format!("run: sudo apt-get install {packages}")));
    };
    eprintln!("installing {packages}");
    let apt = |args: &[&str]| {
        let mut words = prefix.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]);
        let mut command = Command::new(words.next().unwrap_or("env"));
        command.args(words).args(args).stdout(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    let install: Vec<&str> = ["install", "--yes", "--no-install-recommends"].into_iter().chain(names).collect();
    // The package lists of a fresh machine are empty or old.
    if apt(&install) || (apt(&["update"]) && apt(&install)) {
        Ok(Installed::Yes)
    } else {
        Err(format!("apt could not install {packages}"))
    }
}

/// The words before a command that needs root; `None` where we cannot have it.
fn privilege() -> Option<&'static [&'static str]> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout.trim_ascii() == b"0" {
        Some(&[])
    } else if works(Command::new("sudo").args(["-n", "true"])) {
        Some(&["sudo", "-n"])
    } else {
        None
    }
}

/// Whether `command` can be run and ends well.
pub fn works(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
