//! Dependence of tensors on each other.

use std::collections::HashSet;

use super::{Graph, Tensor};

impl Graph {
    /// Returns every tensor that `t` is computed from, `t` included. A parameter that is not among them has no gradient by
    /// `t`.
    pub fn dependencies(&self, t: Tensor) -> HashSet<Tensor> {
        let mut found = HashSet::from([t]);
        for node in self.nodes.iter().rev() {
            if node.outputs.iter().any(|output| found.contains(output)) {
                found.extend(&node.inputs);
            }
        }
        found
    }
}
