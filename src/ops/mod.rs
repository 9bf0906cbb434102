//! Operations: one file and one kernel each.
//!
//! A new op is `src/ops/<op>.rs` (shape rule, launch, f64 reference, gradient, test cases), `shaders/<op>.wgsl`, and
//! its name in the registry below. Shader validation, the comparison with the reference and the gradient check find
//! it there.

mod case;
pub mod oracle;

// The ops, each with its name in the registry below. Plain lines: rustfmt does not see modules inside a macro.
mod adamw;
mod adamw8bit;
mod attention;
mod binary;
mod clip_grad_norm;
mod embedding;
mod fill;
mod fma_peak;
mod geglu;
mod gemm;
mod group_norm;
mod group_norm_backward;
mod group_norm_bands;
mod guidance;
mod layer_norm;
mod mse;
mod reduce;
mod repeat;
mod reshape;
mod rows;
mod sampler_step;
mod scale_input;
mod softmax;
mod timestep_embedding;
mod unary;
mod upsample_nearest;
mod weight_grad;

// Parts of ops, and the ways to record a contraction.
mod attention_backward;
mod attention_launch;
mod attention_spec;
mod attention_wide;
mod contraction;
mod conv2d;
mod gemm_cases;
mod gemm_epilogue;
mod gemm_grad;
mod gemm_launch;
mod group_norm_sizes;
mod matmul;
mod team;
mod tile;
mod variants;

pub use attention_backward::AttentionBackward;
pub use attention_spec::{Attention, AttentionSpec, Heads, WIDEST_HEAD};
pub use case::{Case, Given};
pub use contraction::{AddKind, Conv, Gemm, Rows};
pub use conv2d::conv2d;
pub use group_norm_sizes::GroupNorm;
pub use matmul::{Addend, Epilogue, LoraAdd, MatmulSpec, linear, matmul};
pub use variants::{Choice, choices, large_tiles};

use crate::error::Result;
use crate::gpu::{Caps, Kernel, Variants};
use crate::graph::{self, Gradients, Graph, Tensor};

macro_rules! registry {
    ($($op:ident),* $(,)?) => {
        $(
            #[allow(unused_imports, reason = "an op whose type lies in a part of it has its cases alone")]
            pub use $op::*;
        )*

        /// Test cases of every op, with the name of the op's file.
        pub fn cases() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($op), $op::cases())),*]
        }
    };
}

registry! {
    adamw,
    adamw8bit,
    attention,
    binary,
    clip_grad_norm,
    embedding,
    fill,
    fma_peak,
    geglu,
    gemm,
    group_norm,
    group_norm_backward,
    group_norm_bands,
    guidance,
    layer_norm,
    mse,
    reduce,
    repeat,
    reshape,
    rows,
    sampler_step,
    scale_input,
    softmax,
    timestep_embedding,
    unary,
    upsample_nearest,
    weight_grad,
}

/// Renders every distinct kernel of the ops' cases, as an adapter with `caps` would run it under one of `variants`:
/// template name and WGSL.
///
/// # Errors
/// If a case cannot be planned or rendered.
pub fn rendered_cases(caps: &Caps, variants: &[Variants]) -> Result<Vec<(&'static str, String)>> {
    let mut kernels = std::collections::BTreeMap::new();
    each_kernel(caps, variants, &mut |kernel| {
        kernels.insert(kernel.render()?, kernel.template.name);
        Ok(())
    })?;
    Ok(kernels.into_iter().map(|(text, name)| (name, text)).collect())
}

fn each_kernel(caps: &Caps, variants: &[Variants], each: &mut dyn FnMut(&Kernel) -> Result<()>) -> Result<()> {
    for case in cases().into_iter().flat_map(|(_, cases)| cases) {
        let mut g = Graph::new();
        let mut inputs = Vec::new();
        for (i, given) in case.inputs.iter().enumerate() {
            inputs.push(g.stored(&format!("operand{i}"), given.shape().clone(), given.dtype())?);
        }
        g.push_dyn(case.op.clone(), &inputs)?.into_iter().for_each(|t| g.output(t));
        for variants in variants {
            let plan = graph::Plan::new(&g, caps, variants, &Default::default())?;
            plan.kernels().try_for_each(&mut *each)?;
        }
    }
    Ok(())
}

/// Appends the gradient of the scalar `loss` by each of `wrt`; see [`graph::grad`].
///
/// # Errors
/// Those of [`graph::grad`].
pub fn grad(g: &mut Graph, loss: Tensor, wrt: &[Tensor], checkpoint: bool) -> Result<Vec<Tensor>> {
    let mut found = vec![loss; wrt.len()];
    grad_each(g, loss, wrt, checkpoint, &mut |_, i, gradient| {
        found[i] = gradient;
        Ok(())
    })?;
    Ok(found)
}

/// Appends the gradient of the scalar `loss` by each of `wrt` and calls `each` with its index in `wrt` and the
/// gradient, the last layer's first; see [`graph::grad`].
///
/// # Errors
/// Those of [`graph::grad`], and those of `each`.
pub fn grad_each(
    g: &mut Graph,
    loss: Tensor,
    wrt: &[Tensor],
    checkpoint: bool,
    each: &mut dyn FnMut(&mut Graph, usize, Tensor) -> Result<()>,
) -> Result<()> {
    let seed = fill(g, g.shape(loss).clone(), 1.0)?;
    graph::grad(g, &Gradients { loss, wrt, checkpoint, seed, sum: add }, each)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::gpu::AdapterClass;

    /// A compiled kernel is found by its key: what is rendered differently must have another.
    #[test]
    fn a_key_stands_for_one_text() {
        let variants: Vec<Variants> = [Variants::default()].into_iter().chain(large_tiles()).collect();
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        for (class, subgroup) in [(AdapterClass::Cpu, 0), (AdapterClass::Cpu, 8), (AdapterClass::Gpu, 0)] {
            let mut look = |kernel: &Kernel| {
                let text = kernel.render()?;
                let known = texts.entry(kernel.key()).or_insert_with(|| text.clone());
                assert_eq!(*known, text, "{}", kernel.key());
                Ok(())
            };
            let caps = Caps { subgroup, ..Caps::webgpu_defaults(class) };
            each_kernel(&caps, &variants, &mut look).unwrap();
        }
        let distinct: BTreeSet<&String> = texts.values().collect();
        println!("{} keys, {} texts", texts.len(), distinct.len());
        assert!(distinct.len() > 100);
    }
}
