//! Text form of a graph: one line per node, for reading and for diffs.

use std::fmt;

use super::Graph;

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, node) in self.nodes.iter().enumerate() {
            let show = |ts: &[super::Tensor]| {
                ts.iter().map(|&t| format!("%{} {}", t.0, self.info(t).shape)).collect::<Vec<_>>().join(", ")
            };
            writeln!(f, "{id:5} {} = {}({})", show(&node.outputs), node.op.name(), show(&node.inputs))?;
        }
        Ok(())
    }
}
