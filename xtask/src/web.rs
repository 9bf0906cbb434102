//! `cargo xtask web`: the page in web/dist, from the library, web/ and assets/model. Two builds give the same bytes.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::wasm::{TARGET, Toolchain};
use crate::{Failure, cargo, root, succeed, target_folder};

/// Bytes of the module as servers send it (gzipped) that a visitor can be asked to wait for.
const WASM_LIMIT: u64 = 2_500_000;
/// The same of all that is loaded before the model.
const PAGE_LIMIT: u64 = 3_000_000;

/// Where the page is built.
pub fn dist() -> PathBuf {
    root().join("web/dist")
}

/// Builds the page into [`dist`] and prints how large it is.
pub fn build(toolchain: &Toolchain) -> Result<(), Failure> {
    eprintln!("building the library for {TARGET}");
    let remaps = remaps(toolchain);
    let flags: Vec<OsString> = remaps.iter().map(|(from, to)| remap(from, to)).collect();
    let mut command = toolchain.cargo("rustc");
    command.args(["--locked", "--lib", "--crate-type", "cdylib", "--profile", "web"]);
    command.args(["--no-default-features", "--features", "web"]);
    // Also keeps flags of the caller's environment out of what has to be the same everywhere.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f"))).env_remove("RUSTFLAGS");
    succeed(&mut command)?;
    let module = toolchain.target_folder().join(TARGET).join("web/portray.wasm");

    let dist = dist();
    if dist.exists() {
        fs::remove_dir_all(&dist).map_err(|e| format!("cannot empty {}: {e}", dist.display()))?;
    }
    copy(&root().join("web"), &dist, &|name| name != "dist" && !name.starts_with('.'))?;
    copy(&root().join("assets/model"), &dist.join("model"), &|name| !name.starts_with('.'))?;
    eprintln!("writing web/dist/pkg");
    bind(&module, &dist.join("pkg"))?;
    names_no_folder(&dist.join("pkg/portray_bg.wasm"), remaps.iter().map(|(from, _)| from.as_path()))?;
    sizes(&dist)
}

/// Folders of this machine whose names the compiler would write into the module, with what it writes instead.
fn remaps(toolchain: &Toolchain) -> Vec<(PathBuf, &'static str)> {
    let home = std::env::home_dir().unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // The last that fits wins: these may be inside of each other.
    let target = toolchain.target_folder();
    vec![(root(), "portray"), (target, "target"), (cargo_home, "cargo"), (toolchain.standard_library(), "std")]
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

/// Where `portray-bindgen` is built.
pub fn bindgen_target() -> PathBuf {
    target_folder().join("bindgen")
}

/// Runs `portray-bindgen`, which is a package of its own: its dependencies take a minute that nobody else should wait.
fn bind(module: &Path, folder: &Path) -> Result<(), Failure> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--locked", "--manifest-path"]);
    command.arg(root().join("xtask/bindgen/Cargo.toml")).arg("--target-dir").arg(bindgen_target());
    succeed(command.arg("--").args([module, folder]))
}

/// Copies the files below `from` whose names, and whose folders' names, are `wanted`.
fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(|e| format!("cannot make {}: {e}", to.display()))?;
    let entries = fs::read_dir(from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if !wanted(&name.to_string_lossy()) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name), wanted)?;
        } else {
            fs::copy(&path, to.join(name)).map_err(|e| format!("cannot copy {}: {e}", path.display()))?;
        }
    }
    Ok(())
}

/// A module that names a folder of this machine would be another one elsewhere.
fn names_no_folder<'a>(module: &Path, folders: impl Iterator<Item = &'a Path>) -> Result<(), Failure> {
    let bytes = fs::read(module).map_err(|e| format!("cannot read {}: {e}", module.display()))?;
    for folder in folders {
        if mentions(&bytes, folder.as_os_str().as_encoded_bytes()) {
            let message = format!("{} names {}: remap it in xtask/src/web.rs", module.display(), folder.display());
            return Err(message.into());
        }
    }
    Ok(())
}

fn mentions(bytes: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && bytes.windows(text.len()).any(|window| window == text)
}

/// Prints what a visitor loads.
///
/// # Errors
/// When that is more than the limits.
fn sizes(dist: &Path) -> Result<(), Failure> {
    let mut rows = [("module", 0, 0), ("page without model", 0, 0), ("model", 0, 0)];
    for path in files(dist)? {
        let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let (raw, gzipped) = (bytes.len() as u64, gzipped(&bytes)?);
        let mut add = |row: usize| {
            rows[row].1 += raw;
            rows[row].2 += gzipped;
        };
        if path.starts_with(dist.join("model")) {
            add(2);
            continue;
        }
        add(1);
        if path.extension().is_some_and(|e| e == "wasm") {
            add(0);
        }
    }
    println!("{:<20} {:>12} {:>12}", "web/dist", "bytes", "gzipped");
    for (name, raw, gzipped) in rows {
        println!("{name:<20} {raw:>12} {gzipped:>12}");
    }
    for ((name, _, gzipped), limit) in rows.into_iter().zip([WASM_LIMIT, PAGE_LIMIT]) {
        if gzipped > limit {
            return Err(format!("the {name} has {gzipped} bytes gzipped, more than {limit}").into());
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn gzipped(bytes: &[u8]) -> Result<u64, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let made = encoder.write_all(bytes).and_then(|()| encoder.finish());
    made.map(|out| out.len() as u64).map_err(|e| format!("cannot compress: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version of `package` in the text of a lock file.
    fn version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
        let after = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?.1;
        after.split('"').next()
    }

    #[test]
    fn bindgen_is_of_the_librarys_version() {
        let library = fs::read_to_string(root().join("Cargo.lock")).unwrap();
        let bindgen = fs::read_to_string(root().join("xtask/bindgen/Cargo.lock")).unwrap();
        let wanted = version(&library, "wasm-bindgen");
        assert!(wanted.is_some());
        assert_eq!(version(&bindgen, "wasm-bindgen-cli-support"), wanted, "pin it in xtask/bindgen/Cargo.toml");
    }

    #[test]
    fn folders_are_found_in_modules() {
        assert!(mentions(b"\0asm/home/me/x.rs", b"/home/me"));
        assert!(!mentions(b"\0asmportray/src/x.rs", b"/home/me"));
        assert!(!mentions(b"\0asm", b""));
    }

    #[test]
    fn copies_leave_out_what_is_unwanted() {
        let folder = std::env::temp_dir().join(format!("portray-xtask-copy-{}", std::process::id()));
        for path in ["from/a.js", "from/app/b.js", "from/dist/c.js", "from/.hidden"] {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        copy(&folder.join("from"), &folder.join("to"), &|n| n != "dist" && !n.starts_with('.')).ok().unwrap();
        let mut copied = files(&folder.join("to")).ok().unwrap();
        copied.sort();
        assert_eq!(copied, [folder.join("to/a.js"), folder.join("to/app/b.js")]);
        fs::remove_dir_all(folder).unwrap();
    }
}
