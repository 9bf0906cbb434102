//! Who imports whom: every `use` and every path of the sources, resolved to the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{SourceFile, Token, closing};

/// A module's path from the crate's root: `["io", "files"]`.
pub type ModulePath = Vec<String>;

/// One name that a `use` brings in.
struct Import {
    /// Path as written; a glob's without the star.
    path: Vec<String>,
    /// Name in the module; `None` for a glob.
    name: Option<String>,
    /// Whether it is a re-export.
    public: bool,
}

/// A module: a file, or a `mod x { … }` in one.
#[derive(Default)]
struct Module {
    /// Index of its file.
    file: usize,
    /// Names of items that it defines.
    defines: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in its code that are no imports, as written.
    paths: Vec<Vec<String>>,
    /// Words of its code outside of imports.
    words: BTreeSet<String>,
}

/// The crate's modules with their names.
pub struct Crate<'a> {
    files: &'a [SourceFile],
    modules: BTreeMap<ModulePath, Module>,
}

/// Where a path leads.
#[derive(Clone, PartialEq)]
enum Target {
    Module(ModulePath),
    /// An item, by the file that defines it.
    Item(usize),
}

impl<'a> Crate<'a> {
    /// Reads the files below `src/`.
    pub fn new(files: &'a [SourceFile]) -> Self {
        let mut modules = BTreeMap::new();
        for (index, file) in files.iter().enumerate().filter(|(_, f)| f.path.starts_with("src/")) {
            read_module(index, &module_of(&file.path), &file.tokens, &mut modules);
        }
        // A file whose `mod` line stands under `#[cfg(test)]` is a test.
        let declared = |path: &ModulePath| {
            let Some((name, parent)) = path.split_last() else { return true };
            let parent = modules.get(parent);
            let line = |m: &Module, name: &str| m.defines.contains(&format!("mod {name}"));
            path.len() == 1 || parent.is_none_or(|m| line(m, name) || line(m, "$"))
        };
        let tests: Vec<ModulePath> = modules.keys().filter(|path| !declared(path)).cloned().collect();
        modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        Crate { files, modules }
    }

    /// For every file the rooms, modules at the root, that it imports from, its own too.
    pub fn rooms(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let mut rooms: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let found = rooms.entry(&self.files[module.file].path).or_default();
            for written in module.imports.iter().map(|i| &i.path).chain(&module.paths) {
                if let Some([room, ..]) = absolute(path, written).as_deref() {
                    found.insert(room.clone());
                }
            }
        }
        rooms
    }

    /// For every file the files whose items it imports. A re-export counts where the file uses the name itself.
    pub fn files(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let from = &self.files[module.file].path;
            let mut reach = |targets: Vec<Target>| {
                for target in targets {
                    if let Target::Item(file) = target
                        && file != module.file
                    {
                        edges.entry(from).or_default().insert(&self.files[file].path);
                    }
                }
            };
            for import in &module.imports {
                match &import.name {
                    Some(name) if import.public && !module.words.contains(name) => {}
                    Some(_) => reach(self.resolve(path, &import.path, &mut Vec::new())),
                    // What a glob brings is told by the words of the code.
                    None => module.words.iter().for_each(|word| reach(self.lookup(path, word, &mut Vec::new()))),
                }
            }
            for written in &module.paths {
                reach(self.resolve(path, written, &mut Vec::new()));
            }
        }
        edges
    }

    /// Where `written` leads from module `from`: to several places where targets differ, to none for other crates and
    /// the language's own names.
    fn resolve(&self, from: &ModulePath, written: &[String], seen: &mut Vec<(ModulePath, String)>) -> Vec<Target> {
        let (mut found, rest) = match (absolute(from, written), written.split_first()) {
            (Some(path), _) => (vec![Target::Module(Vec::new())], path),
            (None, Some((first, rest))) => (self.lookup(from, first, seen), rest.to_vec()),
            (None, None) => return Vec::new(),
        };
        for (i, name) in rest.iter().enumerate() {
            let mut next = Vec::new();
            for at in found {
                let Target::Module(module) = &at else {
                    next.push(at);
                    continue;
                };
                let child = [module.clone(), vec![name.clone()]].concat();
                // A module and an item may share a name: within a path it is the module, at the end the item.
                let exists =
                    self.modules.range(child.clone()..).next().is_some_and(|(path, _)| path.starts_with(&child));
                if exists && i + 1 < rest.len() {
                    next.push(Target::Module(child));
                }
                if !exists || i + 1 == rest.len() {
                    next.extend(self.lookup(module, name, &mut seen.clone()));
                } else {
                    let others = self.lookup(module, name, &mut seen.clone()).into_iter();
                    next.extend(others.filter(|target| matches!(target, Target::Module(_))));
                }
            }
            found = next;
        }
        found
    }

    /// Where `name` leads in `module`: its own item, what it imports, or a module in it.
    fn lookup(&self, module: &ModulePath, name: &str, seen: &mut Vec<(ModulePath, String)>) -> Vec<Target> {
        let key = (module.clone(), name.to_owned());
        let Some(found) = self.modules.get(module).filter(|_| !seen.contains(&key)) else { return Vec::new() };
        seen.push(key);
        if found.defines.contains(name) {
            return vec![Target::Item(found.file)];
        }
        let mut targets = Vec::new();
        for import in &found.imports {
            match &import.name {
                Some(named) if named == name => {
                    targets.extend(self.resolve(module, &import.path, &mut seen.clone()));
                }
                Some(_) => {}
                None => {
                    for from in self.globbed(module, &import.path, seen) {
                        let items = self.lookup(&from, name, &mut seen.clone()).into_iter();
                        targets.extend(items.filter(|target| matches!(target, Target::Item(_))));
                    }
                }
            }
        }
        if targets.iter().any(|target| matches!(target, Target::Item(_))) {
            targets.retain(|target| matches!(target, Target::Item(_)));
            return targets;
        }
        let child = [module.clone(), vec![name.to_owned()]].concat();
        if self.modules.contains_key(&child) {
            targets.push(Target::Module(child));
        }
        targets
    }

    /// The modules that a glob import of `path` brings; a macro's `pub use $op::*` any module inside this one.
    fn globbed(&self, module: &ModulePath, path: &[String], seen: &[(ModulePath, String)]) -> Vec<ModulePath> {
        if path == ["$"] {
            let inside = |path: &&ModulePath| path.split_last().is_some_and(|(_, parent)| parent == module);
            return self.modules.keys().filter(inside).cloned().collect();
        }
        let from = self.resolve(module, path, &mut seen.to_vec()).into_iter();
        let module = |target| if let Target::Module(path) = target { Some(path) } else { None };
        from.filter_map(module).collect()
    }
}

/// `src/io/mod.rs` and `src/io.rs` are `io`; `src/lib.rs` and `src/main.rs` the root.
fn module_of(path: &str) -> ModulePath {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || inner == "lib" || inner == "main" {
        parts.pop();
    }
    parts
}

/// `written` from the root where it begins with `crate`, `portray`, `self` or `super`. A room in `low_level` is at the root too.
fn absolute(from: &ModulePath, written: &[String]) -> Option<ModulePath> {
    let mut path = match written.first()?.as_str() {
        "crate" | "portray" => Vec::new(),
        "self" | "super" => from.clone(),
        _ => return None,
    };
    for name in written {
        match name.as_str() {
            "crate" | "portray" | "self" | "low_level" => {}
            "super" => drop(path.pop()),
            name => path.push(name.to_owned()),
        }
    }
    Some(path)
}

const ITEMS: &[&str] = &["fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"];

/// Reads a module's tokens, and those of modules in it.
fn read_module(file: usize, path: &ModulePath, tokens: &[Token], modules: &mut BTreeMap<ModulePath, Module>) {
    let mut module = modules.remove(path).unwrap_or_default();
    // `lib.rs` and `main.rs` are one root here, and no file imports from it.
    module.file = file;
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text.as_str());
    let (mut at, mut depth) = (0, 0usize);
    while at < tokens.len() {
        match text(at) {
            "use" if text(at + 1) != "<" => {
                let end = (at..tokens.len()).find(|i| text(*i) == ";").unwrap_or(tokens.len());
                let public = at > 0 && (text(at - 1) == "pub" || text(at - 1) == ")");
                read_tree(&tokens[at + 1..end], &[], public, &mut module.imports);
                at = end;
            }
            "mod" if text(at + 2) == "{" => {
                let end = closing(tokens, at + 2);
                let inner = [path.clone(), vec![text(at + 1).to_owned()]].concat();
                read_module(file, &inner, &tokens[at + 3..end], modules);
                module.defines.insert(format!("mod {}", text(at + 1)));
                at = end;
            }
            "mod" => drop(module.defines.insert(format!("mod {}", text(at + 1)))),
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            item if depth == 0 && ITEMS.contains(&item) => {
                let skip = 1 + usize::from(matches!(text(at + 1), "!" | "mut"));
                module.defines.insert(text(at + skip).to_owned());
            }
            word => {
                if word.starts_with(|c: char| c.is_alphabetic() || c == '_') && at > 0 && text(at - 1) != "." {
                    module.words.insert(word.to_owned());
                }
                if text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") {
                    let names = (at..).step_by(2).take_while(|i| *i == at || text(i - 1) == "::").map(text);
                    let is_name = |n: &&str| n.starts_with(|c: char| c.is_alphabetic() || c == '_');
                    let path: Vec<String> = names.take_while(is_name).map(str::to_owned).collect();
                    module.paths.push(path);
                }
            }
        }
        at += 1;
    }
    modules.insert(path.clone(), module);
}

/// Reads one tree of a `use`: `a::{b, c::D as E, f::*}`.
fn read_tree(tokens: &[Token], before: &[String], public: bool, imports: &mut Vec<Import>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => {}
            "{" => {
                let group = &tokens[at + 1..closing(tokens, at)];
                return split(group).into_iter().for_each(|tree| read_tree(tree, &path, public, imports));
            }
            "*" => return imports.push(Import { path, name: None, public }),
            "$" => return imports.push(Import { path: vec!["$".into()], name: None, public }),
            "as" => {
                let name = tokens.get(at + 1).map(|t| t.text.clone());
                return imports.push(Import { path, name, public });
            }
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    if path.last().is_some_and(|last| last == "self") && path.len() > before.len() && path.len() > 1 {
        path.pop();
    }
    if let Some(name) = path.last().cloned() {
        imports.push(Import { path, name: Some(name), public });
    }
}

/// Splits a group at its commas.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}
