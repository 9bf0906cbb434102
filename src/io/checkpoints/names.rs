//! Tables of the names that the tensors of a part have in a file and in diffusers.

use std::collections::HashMap;

/// Relation of a tensor to the stored one of another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Whole,
    /// This third of its rows: OpenCLIP keeps the weights of queries, keys and values in one tensor.
    Third(usize),
    /// Its transpose: OpenCLIP multiplies by its text projection from the right.
    Transposed,
}

/// Both names of every tensor of one part. An entry is a module, or a tensor that is named apart from its module; below a
/// module both names agree.
#[derive(Clone, Debug, Default)]
pub struct Names {
    prefix: String,
    originals: HashMap<String, Vec<(String, Stored)>>,
    canonicals: HashMap<String, (String, Stored)>,
}

impl Names {
    /// Creates a table without entries for names that begin with `prefix` in the file.
    pub fn with_prefix(prefix: impl Into<String>) -> Names {
        Names { prefix: prefix.into(), ..Names::default() }
    }

    /// Prefix of every name of the part in the file.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns diffusers' names of the tensor that the file calls `original`, each with how it is stored; none for a tensor
    /// that this part has no use for.
    pub fn canonical(&self, original: &str) -> Vec<(String, Stored)> {
        let Some(inside) = original.strip_prefix(&self.prefix) else { return Vec::new() };
        let Some((found, tail)) = lookup(&self.originals, inside) else { return Vec::new() };
        found.iter().map(|(canonical, stored)| (format!("{canonical}{tail}"), *stored)).collect()
    }

    /// Returns the name in the file of diffusers' `canonical`.
    pub fn original(&self, canonical: &str) -> Option<(String, Stored)> {
        let ((original, stored), tail) = lookup(&self.canonicals, canonical)?;
        Some((format!("{}{original}{tail}", self.prefix), *stored))
    }

    /// Adds a module that both name.
    pub fn pair(&mut self, canonical: impl Into<String>, original: impl Into<String>) {
        self.stored(canonical, original, Stored::Whole);
    }

    /// Adds a tensor with how it is stored.
    pub fn stored(&mut self, canonical: impl Into<String>, original: impl Into<String>, stored: Stored) {
        let (canonical, original) = (canonical.into(), original.into());
        self.originals.entry(original.clone()).or_default().push((canonical.clone(), stored));
        self.canonicals.insert(canonical, (original, stored));
    }

    /// Adds another name of `canonical` in files, beside that which [`Names::original`] gives.
    pub fn also(&mut self, canonical: String, original: String) {
        self.originals.entry(original).or_insert_with(|| vec![(canonical, Stored::Whole)]);
    }

    /// Adds `modules` below a module that both name.
    pub fn pairs(&mut self, [canonical, original]: [&str; 2], modules: &[[&str; 2]]) {
        for [ours, theirs] in modules {
            self.pair(format!("{canonical}.{ours}"), format!("{original}.{theirs}"));
        }
    }
}

/// The entry of the longest module path that `name` begins with, and the rest of the name.
fn lookup<'t, 'n, V>(table: &'t HashMap<String, V>, name: &'n str) -> Option<(&'t V, &'n str)> {
    let ends = std::iter::once(name.len()).chain(name.rmatch_indices('.').map(|(i, _)| i));
    ends.into_iter().find_map(|end| Some((table.get(&name[..end])?, &name[end..])))
}

/// Spellings of these modules in various tools: the original's names, those of diffusers before 0.18 and since, and
/// those of scripts that insert the latter twice.
pub(crate) const VAE_ATTENTION_SPELLINGS: [(&str, &[&str]); 5] = [
    ("group_norm", &["group_norm", "norm"]),
    ("to_q", &["q", "query", "to_q", "to_to_q"]),
    ("to_k", &["k", "key", "to_k", "to_to_k"]),
    ("to_v", &["v", "value", "to_v", "to_to_v"]),
    ("to_out.0", &["proj_out", "proj_attn", "to_out.0", "to_out", "to_to_out.0", "to_to_out", "proj_out.0"]),
];

/// Diffusers' name of the module of a VAE's attention that `name` begins with, and the rest of `name`.
pub(super) fn vae_attention(name: &str) -> Option<(&'static str, &str)> {
    let (module, leaf) = name.rsplit_once('.')?;
    let (canonical, _) = VAE_ATTENTION_SPELLINGS.iter().find(|(_, spellings)| spellings.contains(&module))?;
    Some((canonical, &name[name.len() - leaf.len() - 1..]))
}
