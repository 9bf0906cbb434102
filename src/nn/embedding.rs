//! Tables of vectors.

use super::{Pack, Param, Role, Scope};
use crate::base::DType;

/// Table of `rows` vectors; [`crate::ops::embedding`] picks from it.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[rows, width]`
    pub weight: Param,
}

impl Embedding {
    /// Creates a table in storage type `dtype`.
    pub fn new(scope: &Scope, rows: usize, width: usize, dtype: DType) -> Embedding {
        Embedding { weight: scope.param("weight", &[rows, width], Pack::AsIs, Role::Other, dtype) }
    }
}
