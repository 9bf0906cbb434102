//! Holds the architecture: imports go one way between rooms and never in a circle between files, wgpu and the target's
//! differences stay where they belong, files and functions stay short. Reads the sources as text.

mod circles;
mod functions;
mod imports;
mod planted;
mod source;

use std::collections::BTreeMap;

use circles::circles;
use functions::functions;
use imports::Crate;
use source::{SourceFile, sources};

/// Every module at the crate's root, with all that it may import of the others.
const LAYERS: &[(&str, &str)] = &[
    ("error", ""),
    ("base", "error"),
    ("event", "error"),
    ("diffusion", "error base"),
    ("io", "error base"),
    ("gpu", "error base"),
    ("graph", "error base gpu"),
    ("ops", "error base gpu graph"),
    ("nn", "error base gpu graph ops io"),
    ("models", "error base gpu graph ops nn io"),
    ("family", "error base gpu graph ops nn models diffusion io"),
    ("pipeline", "error event base gpu graph ops nn models diffusion io family"),
    ("generate", "error event base gpu graph ops nn models diffusion io family pipeline"),
    ("identifier", "error event base gpu graph ops nn models diffusion io family pipeline generate"),
    ("evaluate", "error event base gpu graph ops nn models diffusion io family pipeline generate"),
    ("train", "error event base gpu graph ops nn models diffusion io family pipeline generate evaluate identifier"),
    ("engine", "error event base gpu graph ops io pipeline generate evaluate identifier train"),
    ("tools", "error event base gpu graph ops nn models io family pipeline generate identifier train engine"),
];

/// Modules above the library's facade: they may import everything.
const FACES: &[&str] = &["cli", "main", "lib", "low_level", "web"];

/// Where wgpu may be named: the device, the replay of plans, the facade that takes a host's device, and a host: the
/// window.
const NAMES_WGPU: &[&str] =
    &["src/gpu/", "src/graph/run", "src/engine", "src/pipeline/textures.rs", "src/lib.rs", "src/cli/watch/"];

/// Files that differ between the machine and the browser: device, readback, IO and timers.
const TARGET_SPECIFIC: &[&str] = &["src/gpu/", "src/graph/run", "src/io/", "src/lib.rs", "src/web.rs"];

/// A file has one subject.
const LONGEST_FILE: usize = 400;

/// Lines of a function, from its name to its last brace.
const LONGEST_FUNCTION: usize = 60;

/// Arguments of a function beside `self`.
const MOST_ARGUMENTS: usize = 5;

/// Imports of rooms that [`LAYERS`] does not allow.
fn wrong_imports(files: &[SourceFile]) -> Vec<String> {
    let allowed: BTreeMap<&str, Vec<&str>> =
        LAYERS.iter().map(|(room, imports)| (*room, imports.split(' ').collect())).collect();
    let mut wrong = Vec::new();
    for (path, imports) in Crate::new(files).rooms() {
        let layer = path["src/".len()..].split(['/', '.']).next().unwrap();
        if FACES.contains(&layer) {
            continue;
        }
        let Some(may) = allowed.get(layer) else {
            wrong.push(format!("{path}: module '{layer}' is in no layer"));
            continue;
        };
        for import in imports {
            let known = allowed.contains_key(import.as_str()) || FACES.contains(&import.as_str());
            if known && import != layer && !may.contains(&import.as_str()) {
                wrong.push(format!("{path}: {layer} imports {import}"));
            }
        }
    }
    wrong
}

/// Circles of files that import each other.
fn wrong_circles(files: &[SourceFile]) -> Vec<String> {
    let sources = Crate::new(files);
    circles(&sources.files()).into_iter().map(|circle| circle.join(" -> ")).collect()
}

/// Files that no plain `mod` line declares: rustfmt does not see them.
fn undeclared(files: &[SourceFile]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.path.starts_with("src/") && f.path.ends_with(".rs")) {
        let inner = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let (Some((folder, name)), false) = (inner.rsplit_once('/'), ["src/lib", "src/main"].contains(&inner)) else {
            continue;
        };
        let parents = [
            format!("{folder}.rs"),
            format!("{folder}/mod.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}/low_level.rs"),
        ];
        let declares = |text: &str| text.lines().any(|line| line.trim().ends_with(&format!("mod {name};")));
        if !files.iter().any(|f| parents.contains(&f.path) && declares(&f.text)) {
            wrong.push(format!("{}: no line 'mod {name};'", file.path));
        }
    }
    wrong
}

fn wrong_mentions(files: &[SourceFile], mark: &str, allowed: &[&str]) -> Vec<String> {
    let outside = |f: &&SourceFile| f.path.starts_with("src/") && !allowed.iter().any(|a| f.path.starts_with(a));
    files.iter().filter(outside).filter(|f| f.names(mark)).map(|f| format!("{} names {mark}", f.path)).collect()
}

/// Files and functions that are too long, and functions with too many arguments, where no attribute gives a reason:
/// `#[allow(clippy::too_many_lines, reason = "…")]` or `clippy::too_many_arguments`.
fn too_long(files: &[SourceFile]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{}: {lines} lines", file.path));
        }
        for function in functions(file) {
            let name = format!("{}: fn {}", file.path, function.name);
            if function.lines > LONGEST_FUNCTION && !function.allows("too_many_lines") {
                wrong.push(format!("{name} has {} lines", function.lines));
            }
            if function.arguments > MOST_ARGUMENTS && !function.allows("too_many_arguments") {
                wrong.push(format!("{name} has {} arguments", function.arguments));
            }
        }
    }
    wrong
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_go_one_way() {
    none(wrong_imports(&sources()));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    none(wrong_circles(&sources()));
}

#[test]
fn rustfmt_sees_every_file() {
    none(undeclared(&sources()));
}

#[test]
fn wgpu_is_named_in_few_places() {
    none(wrong_mentions(&sources(), "wgpu", NAMES_WGPU));
}

#[test]
fn target_differences_stay_in_few_files() {
    none(wrong_mentions(&sources(), "target_arch", TARGET_SPECIFIC));
}

#[test]
fn files_and_functions_are_short() {
    none(too_long(&sources()));
}
