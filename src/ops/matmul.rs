//! Linear layers and matrix products.

use super::{Activation, AddKind, Gemm, Graph, Result, Rows, Tensor};

/// Epilogue of a linear layer or convolution: `act(product + bias + addend + lora)`.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// Bias per output column, `[N]`.
    pub bias: Option<Tensor>,
    /// Residual or per-sample row.
    pub add: Option<Addend>,
    /// LoRA term (Hu et al. 2021, arXiv 2106.09685).
    pub lora: Option<LoraAdd>,
    /// Activation, applied last.
    pub activation: Option<Activation>,
    /// Half the columns gate the other half: `value * gelu(gate)`.
    pub geglu: bool,
}

/// Addend of a product.
#[derive(Clone, Copy, Debug)]
pub enum Addend {
    /// A tensor of the result's shape.
    Full(Tensor),
    /// Columns `offset..offset + N` of a row per sample.
    PerSample {
        /// [batch, stride]
        tensor: Tensor,
        /// First column.
        offset: usize,
    },
}

/// LoRA term `scale * hidden . up^T`.
#[derive(Clone, Copy, Debug)]
pub struct LoraAdd {
    /// Rows `x . down^T`, [.., r].
    pub hidden: Tensor,
    /// Up factor, [N, r].
    pub up: Tensor,
    /// Scale: alpha / rank.
    pub scale: f64,
}

impl Epilogue {
    /// Creates an epilogue that only adds a bias.
    pub fn bias(bias: Option<Tensor>) -> Epilogue {
        Epilogue { bias, ..Epilogue::default() }
    }

    /// Records `gemm` on `operands`, followed by the operands of this epilogue.
    pub(super) fn record(self, g: &mut Graph, mut gemm: Gemm, mut operands: Vec<Tensor>) -> Result<Tensor> {
        gemm.bias = self.bias.is_some();
        operands.extend(self.bias);
        match self.add {
            Some(Addend::Full(t)) => {
                gemm.add = Some(AddKind::Full);
                operands.push(t);
            }
            Some(Addend::PerSample { tensor, offset }) => {
                gemm.add = Some(AddKind::PerSample { offset });
                operands.push(tensor);
            }
            None => {}
        }
        if let Some(lora) = self.lora {
            gemm.lora = Some(lora.scale);
            operands.extend([lora.hidden, lora.up]);
        }
        gemm.activation = self.activation;
        gemm.geglu = self.geglu;
        g.push1(gemm, &operands)
    }
}

/// `x . w^T` with an epilogue: x [.., K], w [N, K] -> [.., N].
pub fn linear(g: &mut Graph, x: Tensor, w: Tensor, epilogue: Epilogue) -> Result<Tensor> {
    epilogue.record(g, Gemm::new(Rows::Same), vec![x, w])
}

/// Options of [`matmul`].
#[derive(Clone, Copy, Debug)]
pub struct MatmulSpec {
    /// `b` is [.., N, K] instead of [.., K, N].
    pub transpose_b: bool,
    /// The first dimension counts independent products.
    pub batched: bool,
    /// Factor of the product.
    pub alpha: f64,
}

/// `alpha * a . b`: a [.., M, K], b [.., K, N] (or [.., N, K]) -> [.., M, N].
pub fn matmul(g: &mut Graph, a: Tensor, b: Tensor, spec: MatmulSpec) -> Result<Tensor> {
    let gemm = Gemm { k_major: !spec.transpose_b, batched: spec.batched, alpha: spec.alpha, ..Gemm::new(Rows::Same) };
    g.push1(gemm, &[a, b])
}
