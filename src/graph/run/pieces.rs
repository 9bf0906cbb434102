//! Pieces of a run: how much of a plan goes into one submit.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::gpu::{Allowance, Pipeline};
use crate::graph::Dispatch;
use crate::graph::plan::Plan;

/// Work of one submit.
pub(super) enum Piece {
    /// Whole dispatches.
    Steps(Range<usize>),
    /// Some workgroups of one dispatch.
    Slice { step: usize, workgroups: Range<u32> },
}

/// A dispatch, bound.
pub(super) struct Step {
    pub pipeline: Arc<Pipeline>,
    pub bind_group: wgpu::BindGroup,
    pub grid: [u32; 3],
    pub cost: f64,
    /// Offset of its uniform block, which begins with the first workgroup that runs.
    pub uniform: u64,
    /// Whether some of its workgroups may run alone.
    pub can_be_cut: bool,
}

impl Step {
    pub fn workgroups(&self) -> u32 {
        self.grid.iter().product()
    }
}

/// Takes what is `allowed` of the steps from `start` on, of which `first` workgroups have run, with its cost: some
/// workgroups of one step if it takes too long, else at least one step.
pub(super) fn take(steps: &[Step], limit: u32, start: usize, first: u32, allowed: Allowance) -> (Piece, f64) {
    let step = &steps[start];
    let all = step.workgroups();
    if first > 0 || (step.can_be_cut && step.cost > allowed.most) {
        let one = step.cost / f64::from(all);
        // A slice has one dimension: its index must not run beyond it.
        let count = ((allowed.most.min(allowed.cost) / one) as u32).clamp(1, limit).min(all - first);
        return (Piece::Slice { step: start, workgroups: first..first + count }, one * f64::from(count));
    }
    let (mut end, mut cost) = (start, 0.0);
    while let Some(step) = steps.get(end).filter(|_| end - start < allowed.dispatches) {
        let long = step.can_be_cut && step.cost > allowed.most;
        if end > start && (long || cost + step.cost > allowed.cost) {
            break;
        }
        cost += step.cost;
        end += 1;
    }
    (Piece::Steps(start..end), cost)
}

/// Estimates the cost of each dispatch: its share of its node's FLOPs, by weight, plus the bytes that it touches.
pub(super) fn costs(plan: &Plan) -> Vec<f64> {
    let mut weights: HashMap<usize, f64> = HashMap::new();
    for d in &plan.dispatches {
        *weights.entry(d.node).or_default() += d.weight as f64;
    }
    let cost = |d: &Dispatch| {
        let share = d.weight as f64 / weights.get(&d.node).copied().unwrap_or(1.0).max(1.0);
        let flops = plan.flops.get(&d.node).copied().unwrap_or(0) as f64 * share;
        flops + d.bindings.iter().map(|b| b.bytes as f64).sum::<f64>() * 4.0 + 1e4
    };
    plan.dispatches.iter().map(cost).collect()
}
