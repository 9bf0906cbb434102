//! Fields of `config.json` that may differ by block.

use serde::Deserialize;

/// One value for all blocks, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a list of one for each block")]
pub enum PerBlock {
    /// One value for all blocks.
    One(usize),
    /// By block, from the highest resolution down.
    Each(Vec<usize>),
}

impl PerBlock {
    /// The value for block `i`.
    pub fn get(&self, i: usize) -> usize {
        match self {
            PerBlock::One(n) => *n,
            PerBlock::Each(list) => list.get(i).or(list.last()).copied().unwrap_or(0),
        }
    }

    /// The values as written.
    pub(super) fn values(&self) -> &[usize] {
        match self {
            PerBlock::One(n) => std::slice::from_ref(n),
            PerBlock::Each(list) => list,
        }
    }
}
