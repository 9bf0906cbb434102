//! The ops. Adding one: `src/ops/<op>.rs` (shape rule, launch, f64 reference, vjp, test cases), `shaders/<op>.wgsl`,
//! and its name in the registry below. Shader validation, GPU-against-reference tests, gradient checks and the bench
//! find it there.

mod case;

pub use case::{Case, Given};

use crate::error::Result;
use crate::graph::{self, Graph, Tensor};

macro_rules! registry {
    ($($op:ident),* $(,)?) => {
        $(mod $op; pub use $op::*;)*

        /// Every op's test cases, with the op file's name.
        pub fn cases() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($op), $op::cases())),*]
        }
    };
}

mod gemm_cases;
mod gemm_grad;
mod tile;

registry! {
    accumulate,
    adamw,
    attention,
    binary,
    clip_grad_norm,
    conv2d,
    embedding,
    fill,
    geglu,
    gemm,
    group_norm,
    group_norm_backward,
    layer_norm,
    matmul,
    mse,
    reduce,
    repeat,
    reshape,
    sampler_step,
    scale_input,
    softmax,
    timestep_embedding,
    unary,
    upsample_nearest,
    weight_grad,
}

/// Appends the gradient of the scalar `loss` by each of `wrt`; see [`graph::grad`].
pub fn grad(g: &mut Graph, loss: Tensor, wrt: &[Tensor], checkpoint: bool) -> Result<Vec<Tensor>> {
    let seed = fill(g, g.shape(loss).clone(), 1.0)?;
    graph::grad(g, loss, seed, wrt, checkpoint, add)
}
