//! What is updated together, and the plan of an update behind the backward pass.

use crate::base::DType;
use crate::error::Result;
use crate::gpu::{Caps, Variants, flat_bytes};
use crate::graph::{Graph, Plan, PlanOptions, Tensor};
use crate::nn::Param;
use crate::ops::clip_grad_norm;

use super::optimizer::{Optimizer, ParamUpdate, UpdateInputs};

/// Parameters with one learning rate.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub label: &'static str,
    pub params: Vec<Param>,
}

/// Parameters that are updated in one dispatch: a piece of a group stored flat, or one tensor. Moments lie beside it as
/// `m.KEY` and `v.KEY`.
#[derive(Clone, Debug)]
pub(super) struct Vector {
    /// The group that its parameters are of.
    pub group: usize,
    /// Key of the parameters.
    pub param: String,
    /// Key of their moments, behind `m.` and `v.`.
    pub moments: String,
    pub elements: usize,
}

/// The plan of clipping and applying stored gradients.
pub(super) struct UpdatePlan {
    pub plan: Plan,
    pub at: UpdateInputs,
    /// Of all gradients.
    pub norm: Tensor,
}

/// The vectors of a run that trains `groups` on an adapter with `caps`.
pub(super) fn vectors(fused: bool, groups: &[Group], caps: &Caps) -> Result<Vec<Vector>> {
    let mut vectors = Vec::new();
    for (group, Group { label, params }) in groups.iter().enumerate() {
        if fused {
            vectors.extend(params.iter().map(|p| Vector {
                group,
                param: p.key.clone(),
                moments: p.key.clone(),
                elements: p.elements(),
            }));
            continue;
        }
        let tensors: Vec<(String, u64)> = params.iter().map(|p| (p.key.clone(), p.bytes())).collect();
        for (piece, bytes) in flat_bytes(&tensors, caps)?.into_iter().enumerate() {
            let (moments, param) = (format!("{label}#{piece}"), format!("param.{label}#{piece}"));
            vectors.push(Vector { group, param, moments, elements: bytes as usize / 4 });
        }
    }
    Ok(vectors)
}

impl UpdatePlan {
    /// Of a run whose passes store the gradients of `vectors`.
    pub fn new(
        optimizer: Optimizer,
        groups: &[Group],
        vectors: &[Vector],
        caps: &Caps,
        variants: &Variants,
    ) -> Result<UpdatePlan> {
        let (graph, at, norm) = update_graph(groups, vectors, optimizer)?;
        Ok(UpdatePlan { plan: Plan::new(&graph, caps, variants, &PlanOptions::default())?, at, norm })
    }
}

/// The norm of all gradients, and the update of every flat vector.
fn update_graph(groups: &[Group], vectors: &[Vector], optimizer: Optimizer) -> Result<(Graph, UpdateInputs, Tensor)> {
    let mut g = Graph::new();
    let at = UpdateInputs::new(&mut g, optimizer, groups.iter().map(|group| group.label));
    let gradient = |g: &mut Graph, v: &Vector| g.stored(&format!("grad.{}", v.moments), [v.elements], DType::F32);
    let grads: Vec<Tensor> = vectors.iter().map(|v| gradient(&mut g, v)).collect::<Result<_>>()?;
    let (norm, clip) = clip_grad_norm(&mut g, &grads, at.max_norm)?;
    g.output(norm);
    for (vector, grad) in vectors.iter().zip(grads) {
        let param = g.stored(&vector.param, [vector.elements], DType::F32)?;
        let update = ParamUpdate { group: vector.group, key: &vector.moments, param, gradient: grad };
        at.record(&mut g, update, clip)?;
    }
    Ok((g, at, norm))
}
