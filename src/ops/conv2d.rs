//! 2-D convolution in NHWC as implicit GEMM.

use super::{Conv, Epilogue, Gemm, Graph, Result, Rows, Tensor};

/// Convolution with an epilogue: x `[n,h,w,c1]` (and x2 `[n,h,w,c2]`, in place of a concat of channels), w
/// [out,kh,kw,c1+c2] -> `[n,oh,ow,out]`.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn conv2d(
    g: &mut Graph,
    x: Tensor,
    x2: Option<Tensor>,
    w: Tensor,
    conv: Conv,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let mut operands = vec![x];
    operands.extend(x2);
    operands.push(w);
    epilogue.record(g, Gemm { x2: x2.is_some(), ..Gemm::new(Rows::Conv(conv)) }, operands)
}
