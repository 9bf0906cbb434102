//! Lengths and arguments of functions.

use super::source::{SourceFile, Token, closing};

/// A function of a file.
pub struct Function {
    /// Name without its path.
    pub name: String,
    /// From the line of its name to that of its closing brace.
    pub lines: usize,
    /// Arguments, `self` not counted.
    pub arguments: usize,
    /// Words of the attributes before it, where they allow something and give a reason.
    allowed: Vec<String>,
}

impl Function {
    /// Tells whether an attribute allows `lint` here and gives a reason.
    pub fn allows(&self, lint: &str) -> bool {
        self.allowed.iter().any(|word| word == lint)
    }
}

/// The functions of `file` that have a body, outside of tests.
pub fn functions(file: &SourceFile) -> Vec<Function> {
    let tokens = &file.tokens;
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if text(at) != "fn" || !text(at + 1).starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let mut open = at + 2;
        if text(open) == "<" {
            open = after_generics(tokens, open);
        }
        let close = closing(tokens, open);
        let Some(body) = (close..tokens.len()).find(|i| ["{", ";"].contains(&text(*i))) else { continue };
        if text(open) != "(" || text(body) == ";" {
            continue;
        }
        let last = tokens[closing(tokens, body)].line;
        found.push(Function {
            name: text(at + 1).into(),
            lines: last - tokens[at].line + 1,
            arguments: arguments(&tokens[open + 1..close]),
            allowed: allowed(tokens, at),
        });
    }
    found
}

/// Index behind the `>` that closes the `<` at `open`.
fn after_generics(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

fn arguments(tokens: &[Token]) -> usize {
    let (mut count, mut depth, mut filled, mut is_self) = (0, 0i32, false, false);
    for token in tokens {
        match token.text.as_str() {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth -= 1,
            "," if depth == 0 => {
                count += usize::from(filled);
                filled = false;
                continue;
            }
            "self" if depth == 0 => is_self = true,
            _ => {}
        }
        filled = true;
    }
    count + usize::from(filled) - usize::from(is_self)
}

/// Words of the attributes between the previous item and `at`, where they allow something and give a reason.
fn allowed(tokens: &[Token], at: usize) -> Vec<String> {
    let mut start = at;
    while start > 0 && ![";", "{", "}"].contains(&tokens[start - 1].text.as_str()) {
        start -= 1;
    }
    let words: Vec<String> = tokens[start..at].iter().map(|t| t.text.clone()).collect();
    if words.iter().any(|w| w == "allow" || w == "expect") && words.iter().any(|w| w == "reason") {
        words
    } else {
        Vec::new()
    }
}
