//! Holds the architecture: imports go one way, wgpu and the target's differences stay where they belong, files stay
//! short. Reads the sources as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every module at the crate's root, with all that it may import of the others.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("base", &["error"]),
    ("event", &["error"]),
    ("diffusion", &["error", "base"]),
    ("io", &["error", "base"]),
    ("gpu", &["error", "base"]),
    ("graph", &["error", "base", "gpu"]),
    ("ops", &["error", "base", "gpu", "graph"]),
    ("nn", &["error", "base", "gpu", "graph", "ops", "io"]),
    ("models", &["error", "base", "gpu", "graph", "ops", "nn", "io"]),
    ("pipeline", &["error", "event", "base", "gpu", "graph", "ops", "nn", "models", "diffusion", "io"]),
    ("generate", &["error", "event", "base", "gpu", "graph", "ops", "nn", "models", "diffusion", "io", "pipeline"]),
    (
        "train",
        &["error", "event", "base", "gpu", "graph", "ops", "nn", "models", "diffusion", "io", "pipeline", "generate"],
    ),
    ("engine", &["error", "event", "base", "gpu", "graph", "ops", "io", "pipeline", "generate", "train"]),
    (
        "tools",
        &[
            "error", "event", "base", "gpu", "graph", "ops", "nn", "models", "io", "pipeline", "generate", "train",
            "engine",
        ],
    ),
];

/// Modules above the library's facade: they may import everything.
const FACES: &[&str] = &["cli", "main", "lib", "web"];

/// Where wgpu may be named: the device, the replay of plans, the facade that takes a host's device, and a host: the window.
const NAMES_WGPU: &[&str] =
    &["src/gpu/", "src/graph/run", "src/engine", "src/pipeline/textures.rs", "src/lib.rs", "src/cli/watch/"];

/// Files that differ between the machine and the browser: device, readback, IO and timers.
const TARGET_SPECIFIC: &[&str] = &["src/gpu/", "src/graph/run", "src/io/", "src/lib.rs", "src/web.rs"];

/// A file has one room in it.
const LONGEST: usize = 500;

struct SourceFile {
    /// Path from the repository's root, with `/`.
    path: String,
    /// All of it.
    text: String,
    /// Without comments, strings and tests.
    code: String,
}

fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "xtask/src", "xtask/bindgen/src", "shaders", "benches", "examples", "web"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let path = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            SourceFile { path, code: code_of(&text), text }
        })
        .collect()
}

/// What is written by hand.
const KINDS: &[&str] = &["rs", "wgsl", "js", "mjs", "css", "html"];
/// What lies beside it and is not.
const OTHERS: &[&str] = &["fixtures", "node_modules", "dist"];

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.file_name().is_some_and(|name| OTHERS.iter().any(|other| name == *other)) {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| KINDS.iter().any(|kind| e == *kind)) {
            files.push(path);
        }
    }
}

/// The text without line comments, without what is between quotes, and without what follows `#[cfg(test)]`.
fn code_of(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let mut code = String::new();
    for line in text[..end].lines() {
        let mut quoted = false;
        let mut previous = ' ';
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if previous != '\\' && previous != '\'' => quoted = !quoted,
                '/' if !quoted && chars.peek() == Some(&'/') => break,
                c if !quoted => code.push(c),
                _ => {}
            }
            previous = c;
        }
        code.push('\n');
    }
    code
}

/// Root modules that `file` imports: by `crate::x` or `portray::x`, grouped or not, or by enough `super::`.
fn imports(file: &SourceFile) -> Vec<String> {
    let words = |from: &str| -> Vec<String> {
        let rest = from.trim_start();
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            Some(group) => top_level_items(group).iter().map(|item| word(item)).collect(),
            None => vec![word(rest)],
        }
    };
    let mut found = Vec::new();
    for (at, _) in file.code.match_indices("crate::") {
        found.extend(words(&file.code[at + 7..]));
    }
    // `src/a/b.rs` is `a::b`: two `super` reach the root. `src/a/mod.rs` is `a`: one does.
    let parts: Vec<&str> = file.path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let depth = parts.len() - usize::from(parts.last() == Some(&"mod"));
    let chain = "super::".repeat(depth);
    for (at, _) in file.code.match_indices(&chain) {
        let before = &file.code[..at];
        if !before.ends_with("super::") && !file.code[at + chain.len()..].starts_with("super::") {
            found.extend(words(&file.code[at + chain.len()..]));
        }
    }
    found
}

/// The items between a group's braces, by their beginnings.
fn top_level_items(group: &str) -> Vec<String> {
    let (mut items, mut level) = (vec![String::new()], 0);
    for c in group.chars() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => items.push(String::new()),
            c if level == 0 => items.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    items.iter().map(|i| i.trim().to_owned()).filter(|i| !i.is_empty()).collect()
}

/// What is wrong with the layers of `files`.
fn wrong_imports(files: &[SourceFile]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| f.path.starts_with("src/")) {
        let layer = file.path["src/".len()..].split(['/', '.']).next().unwrap();
        if FACES.contains(&layer) {
            continue;
        }
        let Some(may) = allowed.get(layer) else {
            wrong.push(format!("{}: module '{layer}' is in no layer", file.path));
            continue;
        };
        for import in imports(file) {
            let known = allowed.contains_key(import.as_str()) || FACES.contains(&import.as_str());
            if known && import != layer && !may.contains(&import.as_str()) {
                wrong.push(format!("{}: {layer} imports {import}", file.path));
            }
        }
    }
    wrong
}

fn wrong_mentions(files: &[SourceFile], mark: &str, allowed: &[&str]) -> Vec<String> {
    let mentions = |code: &str| {
        code.match_indices(mark).any(|(at, _)| {
            let edge = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            edge(code[..at].chars().next_back()) && edge(code[at + mark.len()..].chars().next())
        })
    };
    let outside = |f: &&SourceFile| f.path.starts_with("src/") && !allowed.iter().any(|a| f.path.starts_with(a));
    files.iter().filter(outside).filter(|f| mentions(&f.code)).map(|f| format!("{} names {mark}", f.path)).collect()
}

fn too_long(files: &[SourceFile]) -> Vec<String> {
    let lines = |f: &SourceFile| f.text.lines().count();
    files.iter().filter(|f| lines(f) > LONGEST).map(|f| format!("{}: {} lines", f.path, lines(f))).collect()
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_go_one_way() {
    none(wrong_imports(&sources()));
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
fn files_are_short() {
    none(too_long(&sources()));
}

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.into(), code: code_of(text), text: text.into() }
}

#[test]
fn the_checks_can_fail() {
    for (path, text) in [
        ("src/base/a.rs", "use crate::gpu::Gpu;"),
        ("src/graph/a.rs", "use crate::{base::Shape, ops::{Op, grad}};"),
        ("src/gpu/mod.rs", "use super::graph::Graph;"),
        ("src/nn/deep/a.rs", "type T = super::super::super::models::Unet;"),
        ("src/io/a.rs", "fn f() { crate::diffusion::f() }"),
        ("src/engine/mod.rs", "use crate::cli;"),
        ("src/unheard_of.rs", ""),
    ] {
        assert_eq!(wrong_imports(&[file(path, text)]).len(), 1, "{path}: {text}");
    }
    assert_eq!(wrong_mentions(&[file("src/ops/a.rs", "fn f(b: wgpu::Buffer) {}")], "wgpu", NAMES_WGPU).len(), 1);
    assert_eq!(too_long(&[file("src/a.rs", &"\n".repeat(501))]).len(), 1);
}

#[test]
fn the_checks_let_good_code_pass() {
    let good = [
        file("src/ops/a.rs", "//! See crate::models and wgpu.\nuse crate::graph::{Graph, Tensor};\nuse super::Op;"),
        file(
            "src/gpu/b.rs",
            "use super::kernel::Kernel; use crate::error::{Error, Result}; fn f() { \"crate::ops\"; }",
        ),
        file("src/io/c.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::engine::Engine; }"),
        file("src/cli/mod.rs", "use portray::Engine;"),
        file("src/nn/lora/d.rs", "use super::super::linear::Linear; use crate::ops::matmul;"),
    ];
    none(wrong_imports(&good));
    none(wrong_mentions(&good, "wgpu", NAMES_WGPU));
}
