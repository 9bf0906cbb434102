//! Reads source files: as text, and Rust as tokens without comments, tests and the contents of strings.

use std::path::{Path, PathBuf};

/// One file of the repository that was written by hand.
pub struct SourceFile {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// The whole file.
    pub text: String,
    /// Rust tokens outside of tests; empty for other languages.
    pub tokens: Vec<Token>,
}

/// A token with the line where it stands.
pub struct Token {
    /// A word, a number, one punctuation mark or one of `::`, `->` and `=>`; `"` for any string.
    pub text: String,
    /// Line number from 1.
    pub line: usize,
}

/// Endings of files that are written by hand.
const KINDS: &[&str] = &["rs", "wgsl", "js", "mjs", "css", "html"];
/// Folders beside them whose files are not.
const OTHERS: &[&str] = &["fixtures", "node_modules", "dist"];

impl SourceFile {
    /// A file that holds `text`.
    pub fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs");
        let tokens = if rust { without_tests(tokens(text)) } else { Vec::new() };
        SourceFile { path: path.into(), text: text.into(), tokens }
    }

    /// Whether `word` is among the tokens.
    pub fn names(&self, word: &str) -> bool {
        self.tokens.iter().any(|t| t.text == word)
    }
}

/// All files of the repository.
pub fn sources() -> Vec<SourceFile> {
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
            SourceFile::new(&file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/"), &text)
        })
        .collect()
}

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

/// The tokens of a Rust text.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let (token, length) = match string_length(rest) {
            Some(length) => ("\"", length),
            None => next(rest),
        };
        if !token.is_empty() {
            found.push(Token { text: token.into(), line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// The token at the start of `rest`, empty for space and comments, and the bytes that it takes.
fn next(rest: &str) -> (&str, usize) {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if rest.starts_with("//") {
        return ("", rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return ("", comment_length(rest));
    }
    if let Some(mark) = ["::", "->", "=>"].into_iter().find(|mark| rest.starts_with(mark)) {
        return (mark, 2);
    }
    let first = rest.chars().next().unwrap();
    match first {
        // A lifetime is no token here; `'x'` was taken for a string.
        '\'' => ("", rest[1..].find(|c| !word(c)).map_or(rest.len(), |end| end + 1)),
        c if word(c) => {
            let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
            (&rest[..length], length)
        }
        c if c.is_whitespace() => ("", c.len_utf8()),
        c => (&rest[..c.len_utf8()], c.len_utf8()),
    }
}

/// Bytes of the block comment at the start of `rest`; they nest.
fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Bytes of the string or character at the start of `rest`, raw or not; `None` where there is none.
fn string_length(rest: &str) -> Option<usize> {
    let body = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - body.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inside = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    let quote = body.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let mut escaped = false;
    let mut chars = body.char_indices().skip(1);
    let end = chars.find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    let length = end.map_or(body.len(), |(at, _)| at + 1);
    // A lifetime: no quote behind one character, escaped or not.
    let character = &body[1..length.max(2) - 1];
    let lifetime =
        quote == '\'' && (character.is_empty() || character.chars().count() > 1) && !character.starts_with('\\');
    (!lifetime).then_some(prefix + length)
}

/// The tokens without items under `#[cfg(test)]` or `#[test]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = |i: usize| tokens.get(at + i).map_or("", |t| t.text.as_str());
        let test = text(0) == "#"
            && text(1) == "["
            && (text(2) == "test"
                || (text(2) == "cfg" && (text(4) == "test" || (text(4) == "all" && text(6) == "test"))));
        if !test {
            kept.push(Token { text: tokens[at].text.clone(), line: tokens[at].line });
            at += 1;
            continue;
        }
        at = closing(&tokens, at + 1) + 1;
        while at < tokens.len() && !["{", ";"].contains(&tokens[at].text.as_str()) {
            let skips = ["(", "["].contains(&tokens[at].text.as_str());
            at = if skips { closing(&tokens, at) } else { at } + 1;
        }
        at = if at < tokens.len() && tokens[at].text == "{" { closing(&tokens, at) } else { at } + 1;
    }
    kept
}

/// Index of the bracket that closes the one at `at`.
pub fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len().saturating_sub(1)
}
