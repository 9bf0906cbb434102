//! Transformer blocks of a UNet's attentions.

use serde::Deserialize;

/// Transformer blocks of the attentions of one resolution.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a list of one for each attention")]
pub enum Depth {
    /// One number for all attentions.
    All(usize),
    /// One number for each attention.
    Each(Vec<usize>),
}

/// Transformer blocks of each attention of a UNet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a list with a number or a list of numbers for each block")]
pub enum Depths {
    /// One number for all attentions.
    One(usize),
    /// One entry for each resolution.
    Each(Vec<Depth>),
}

impl Default for Depths {
    fn default() -> Self {
        Depths::One(1)
    }
}

impl Depth {
    fn values(&self) -> &[usize] {
        match self {
            Depth::All(n) => std::slice::from_ref(n),
            Depth::Each(list) => list,
        }
    }
}

impl Depths {
    /// Number of transformer blocks of attention `layer` at resolution `i`.
    pub fn get(&self, i: usize, layer: usize) -> usize {
        match self {
            Depths::One(n) => *n,
            Depths::Each(list) => match list.get(i) {
                Some(Depth::All(n)) => *n,
                Some(Depth::Each(list)) => list.get(layer).copied().unwrap_or(0),
                None => 0,
            },
        }
    }

    /// Returns whether any resolution has a list of its own.
    pub(super) fn nested(&self) -> bool {
        matches!(self, Depths::Each(list) if list.iter().any(|depth| matches!(depth, Depth::Each(_))))
    }

    /// Numbers as written.
    pub(super) fn values(&self) -> Vec<usize> {
        match self {
            Depths::One(n) => vec![*n],
            Depths::Each(list) => list.iter().flat_map(|depth| depth.values().to_vec()).collect(),
        }
    }
}
