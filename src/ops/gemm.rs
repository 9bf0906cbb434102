//! The one contraction behind linear layers, matrix products and convolutions (implicit GEMM), with fused epilogues.
//!
//! `out[m, n] = act(alpha * sum_{tap, k} a(m, tap, k) * w(tap, k, n) + bias + addend + lora)`.

use super::{Activation, Case, Result};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::graph::{Launch, Op, Tensor, TensorInfo, Vjp};

/// A convolution's geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Step of the window.
    pub stride: usize,
    /// Padding: top, left, bottom, right.
    pub pad: [usize; 4],
    /// Reads its input as if enlarged twice (nearest neighbour).
    pub upsample: bool,
}

impl Conv {
    /// Stride 1 and the padding that keeps the size for an odd `kernel`.
    pub fn same(kernel: usize) -> Conv {
        Conv { stride: 1, pad: [kernel / 2; 4], upsample: false }
    }

    /// Output height and width for an input of `h` x `w` and a kernel of `kh` x `kw`; `None` where nothing is left.
    pub fn output_size(&self, [h, w]: [usize; 2], [kh, kw]: [usize; 2]) -> Option<[usize; 2]> {
        let scale = if self.upsample { 2 } else { 1 };
        let along = |n: usize, k: usize, pad: usize| Some((n * scale + pad).checked_sub(k)? / self.stride + 1);
        Some([along(h, kh, self.pad[0] + self.pad[2])?, along(w, kw, self.pad[1] + self.pad[3])?])
    }
}

/// Which row of `x` feeds a row of the result.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// The same row: linear layers and matrix products.
    Same,
    /// The pixels under the window. `w` is [out, kh, kw, in].
    Conv(Conv),
    /// The outputs that an input pixel fed: the gradient of a convolution by its input. `w` is [out, kh, kw, in], `x`
    /// the gradient of the result; the result has this height and width and columns `first..first + columns` of the
    /// input's.
    Transposed {
        /// The forward convolution.
        conv: Conv,
        /// Height and width of the forward input (enlarged, if it upsampled).
        size: [usize; 2],
        /// First input channel.
        first: usize,
        /// Number of input channels.
        columns: usize,
    },
}

/// What is added to the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddKind {
    /// A tensor of the result's shape.
    Full,
    /// A row per sample: columns `offset..` of [batch, stride].
    PerSample {
        /// First column.
        offset: usize,
    },
}

/// The contraction with its epilogue. Operands, in order: `x`, `x2`, `w`, `bias`, `addend`, `hidden`, `up`; all but
/// `x` and `w` where they are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    /// Geometry of the rows.
    pub rows: Rows,
    /// `w` is [k, n] instead of [n, k] (batched: [batch, k, n] instead of [batch, n, k]).
    pub k_major: bool,
    /// The first dimension of `x` and `w` counts independent products.
    pub batched: bool,
    /// Factor of the product.
    pub alpha: f64,
    /// A second source of input channels follows `x`'s.
    pub x2: bool,
    /// A bias per column.
    pub bias: bool,
    /// An addend.
    pub add: Option<AddKind>,
    /// Scale of the LoRA term `hidden . up^T`.
    pub lora: Option<f64>,
    /// Applied last.
    pub activation: Option<Activation>,
    /// The columns are values and gates: half as many results, `value * gelu(gate)` (Shazeer 2020, arXiv 2002.05202).
    pub geglu: bool,
}

impl Gemm {
    /// A plain product with rows `rows`.
    pub fn new(rows: Rows) -> Gemm {
        Gemm {
            rows,
            k_major: false,
            batched: false,
            alpha: 1.0,
            x2: false,
            bias: false,
            add: None,
            lora: None,
            activation: None,
            geglu: false,
        }
    }

    fn name_of(&self) -> &'static str {
        match self.rows {
            Rows::Same => "linear",
            Rows::Conv(_) => "conv2d",
            Rows::Transposed { .. } => "conv2d_transposed",
        }
    }

    /// Positions of the optional operands.
    fn operands(&self) -> Operands {
        let mut next = 1;
        let mut take = |present: bool| {
            let at = present.then_some(next);
            next += usize::from(present);
            at
        };
        let x2 = take(self.x2);
        let w = take(true).unwrap_or(1);
        let (bias, add, hidden, up) =
            (take(self.bias), take(self.add.is_some()), take(self.lora.is_some()), take(self.lora.is_some()));
        Operands { x2, w, bias, add, hidden, up, count: next }
    }

    fn dims(&self, x: &Shape, x2: Option<&Shape>, w: &Shape) -> Result<Dims> {
        let fail = |message: String| Err(Error::op(self.name_of(), message));
        let (c1, c2) = (x.last(), x2.map_or(0, Shape::last));
        let mut d = Dims { batch: 1, c1, c2, taps: 1, kernel: [1, 1], w_elements: w.elements(), ..Dims::default() };
        if self.rows != Rows::Same && (x.len() != 4 || w.len() != 4) {
            return fail(format!("x is {x}, w is {w}: expected [n,h,w,c] and [out,kh,kw,in]"));
        }
        match &self.rows {
            Rows::Same => {
                if self.batched && self.x2 {
                    return fail("a batched product takes no second source".into());
                }
                if self.batched {
                    if x.len() < 2 || w.len() < 2 || x[0] != w[0] {
                        return fail(format!("batched x is {x}, w is {w}"));
                    }
                    d.batch = x[0];
                }
                d.m = x.rows() / d.batch.max(1);
                let (n, k) = if self.k_major {
                    (w.last(), w.rows() / d.batch.max(1))
                } else {
                    (w.rows() / d.batch.max(1), w.last())
                };
                if k != c1 + c2 || (self.k_major && c2 > 0) {
                    return fail(format!("x is {x}{}, w is {w}: the contracted sizes differ", also(x2)));
                }
                d.n = n;
                (d.b_k, d.b_n) = if self.k_major { (n, 1) } else { (1, k) };
                d.out = if self.batched && x.len() == 2 { vec![d.batch, n].into() } else { x.with_last(n) };
            }
            Rows::Conv(conv) => {
                d.kernel = [w[1], w[2]];
                if w[3] != c1 + c2 || x2.is_some_and(|s| s[..3] != x[..3]) {
                    return fail(format!("x is {x}{}, w is {w}: the channels differ", also(x2)));
                }
                let Some(size) = conv.output_size([x[1], x[2]], d.kernel) else {
                    return fail(format!("x is {x}: smaller than the kernel of w {w}"));
                };
                d.taps = w[1] * w[2];
                d.n = w[0];
                d.m = x[0] * size[0] * size[1];
                (d.b_k, d.b_tap, d.b_n) = (1, w[3], w[1] * w[2] * w[3]);
                (d.out_size, d.in_size) = (size, [x[1], x[2]]);
                d.out = [x[0], size[0], size[1], d.n].into();
            }
            Rows::Transposed { size, first, columns, .. } => {
                d.kernel = [w[1], w[2]];
                if w[0] != c1 || first + columns > w[3] {
                    return fail(format!("gradient is {x}, w is {w}: the channels differ"));
                }
                d.taps = w[1] * w[2];
                d.n = *columns;
                d.m = x[0] * size[0] * size[1];
                (d.b_k, d.b_tap, d.b_n, d.b_col0) = (w[1] * w[2] * w[3], w[3], 1, *first);
                (d.out_size, d.in_size) = (*size, [x[1], x[2]]);
                d.out = [x[0], size[0], size[1], *columns].into();
            }
        }
        if self.geglu {
            if !d.n.is_multiple_of(2) {
                return fail(format!("w is {w}: a GEGLU pair needs an even number of columns"));
            }
            if self.add.is_some() || self.x2 || self.activation.is_some() {
                return fail("a GEGLU pair takes no addend, no second source and no other activation".into());
            }
            d.n /= 2;
            d.out = d.out.with_last(d.n);
        }
        Ok(d)
    }
}

fn also(x2: Option<&Shape>) -> String {
    x2.map_or_else(String::new, |s| format!(" and {s}"))
}

pub(super) struct Operands {
    pub x2: Option<usize>,
    pub w: usize,
    pub bias: Option<usize>,
    pub add: Option<usize>,
    pub hidden: Option<usize>,
    pub up: Option<usize>,
    pub count: usize,
}

/// Sizes and strides, in elements.
#[derive(Default)]
pub(super) struct Dims {
    pub batch: usize,
    pub m: usize,
    /// Columns of the result (half of `w`'s for GEGLU).
    pub n: usize,
    pub c1: usize,
    pub c2: usize,
    pub taps: usize,
    pub kernel: [usize; 2],
    pub b_k: usize,
    pub b_tap: usize,
    pub b_n: usize,
    pub b_col0: usize,
    pub w_elements: usize,
    pub in_size: [usize; 2],
    pub out_size: [usize; 2],
    pub out: Shape,
}

impl Op for Gemm {
    fn name(&self) -> &'static str {
        self.name_of()
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let at = self.operands();
        if inputs.len() != at.count {
            return Err(Error::op(self.name(), format!("{} operands, expected {}", inputs.len(), at.count)));
        }
        let shape = |i: usize| &inputs[i].shape;
        let d = self.dims(shape(0), at.x2.map(shape), shape(at.w))?;
        let columns = if self.geglu { 2 * d.n } else { d.n };
        let wrong = |what: &str, s: &Shape| Err(Error::op(self.name(), format!("{what} is {s}, the result {}", d.out)));
        if let Some(bias) = at.bias.map(shape).filter(|s| s.elements() != columns) {
            return wrong("bias", bias);
        }
        match (self.add, at.add.map(shape)) {
            (Some(AddKind::Full), Some(s)) if s.elements() != d.out.elements() => return wrong("addend", s),
            (Some(AddKind::PerSample { offset }), Some(s)) if s.rows() != d.out[0] || offset + d.n > s.last() => {
                return wrong("per-sample addend", s);
            }
            _ => {}
        }
        if let (Some(hidden), Some(up)) = (at.hidden.map(shape), at.up.map(shape))
            && (hidden.rows() != d.m || up.rows() != columns || hidden.last() != up.last())
        {
            return Err(Error::op(
                self.name(),
                format!("LoRA hidden {hidden} and up {up} do not fit the result {}", d.out),
            ));
        }
        Ok(vec![(d.out, DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let at = self.operands();
        let dims = self.dims(&l.input(0).shape, at.x2.map(|i| &l.input(i).shape), &l.input(at.w).shape)?;
        super::gemm_launch::launch(self, l, &at, &dims)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let at = self.operands();
        let (x, w) = (inputs[0], inputs[at.w]);
        let Ok(d) = self.dims(&x.shape, at.x2.map(|i| &inputs[i].shape), &w.shape) else { return Vec::new() };
        let columns = if self.geglu { 2 * d.n } else { d.n };
        let mut out = Array::zeros(d.out.clone());
        let samples = d.out[0].max(1);
        for batch in 0..d.batch {
            for m in 0..d.m {
                let mut row = vec![0.0; columns];
                for tap in 0..d.taps {
                    let Some(from) = self.source_row(&d, m, tap) else { continue };
                    for (k, value) in (0..d.c1 + d.c2).map(|k| (k, operand(inputs, at.x2, &d, batch * d.m + from, k))) {
                        let base = batch * (w.data.len() / d.batch) + d.b_col0 + tap * d.b_tap + k * d.b_k;
                        for (n, r) in row.iter_mut().enumerate() {
                            *r += value * w.data[base + n * d.b_n];
                        }
                    }
                }
                for (n, r) in row.iter_mut().enumerate() {
                    *r *= self.alpha;
                    *r += at.bias.map_or(0.0, |i| inputs[i].data[n]);
                    if let (Some(h), Some(u), Some(scale)) = (at.hidden, at.up, self.lora) {
                        let rank = inputs[u].shape.last();
                        let sum: f64 =
                            (0..rank).map(|j| inputs[h].data[m * rank + j] * inputs[u].data[n * rank + j]).sum();
                        *r += scale * sum;
                    }
                    *r += match (self.add, at.add) {
                        (Some(AddKind::Full), Some(i)) => inputs[i].data[(batch * d.m + m) * d.n + n],
                        (Some(AddKind::PerSample { offset }), Some(i)) => {
                            let row = (batch * d.m + m) / (d.batch * d.m / samples).max(1);
                            inputs[i].data[row * inputs[i].shape.last() + offset + n]
                        }
                        _ => 0.0,
                    };
                    *r = self.activation.map_or(*r, |a| a.value(*r));
                }
                for n in 0..d.n {
                    let gate = if self.geglu { Activation::Gelu.value(row[d.n + n]) } else { 1.0 };
                    out.data[(batch * d.m + m) * d.n + n] = row[n] * gate;
                }
            }
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        super::gemm_grad::gemm_vjp(self, v)
    }

    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        let at = self.operands();
        let k = inputs[0].shape.last() + at.x2.map_or(0, |i| inputs[i].shape.last());
        let w = &inputs[at.w].shape;
        let taps = if self.rows == Rows::Same { 1 } else { w[1] * w[2] };
        let rank = at.up.map_or(0, |i| inputs[i].shape.last());
        let pair = if self.geglu { 2 } else { 1 };
        2 * (outputs[0].shape.elements() * (k * taps + rank) * pair) as u64
    }
}

/// Element `k` of row `row` of the joined input channels.
fn operand(inputs: &[&Array], x2: Option<usize>, d: &Dims, row: usize, k: usize) -> f64 {
    match x2 {
        Some(i) if k >= d.c1 => inputs[i].data[row * d.c2 + k - d.c1],
        _ => inputs[0].data[row * d.c1 + k],
    }
}

impl Gemm {
    /// The input row that output row `m` reads through `tap`; `None` outside the picture.
    fn source_row(&self, d: &Dims, m: usize, tap: usize) -> Option<usize> {
        let conv = match &self.rows {
            Rows::Same => return Some(m),
            Rows::Conv(conv) | Rows::Transposed { conv, .. } => conv,
        };
        let (sample, y, x) =
            (m / (d.out_size[0] * d.out_size[1]), m / d.out_size[1] % d.out_size[0], m % d.out_size[1]);
        let (kh, kw) = (tap / d.kernel[1], tap % d.kernel[1]);
        let [h, w] = d.in_size;
        let (iy, ix) = if matches!(self.rows, Rows::Conv(_)) {
            let up = 1 + usize::from(conv.upsample);
            let (iy, ix) =
                ((y * conv.stride + kh).checked_sub(conv.pad[0])?, (x * conv.stride + kw).checked_sub(conv.pad[1])?);
            (iy / up, ix / up)
        } else {
            let (iy, ix) = ((y + conv.pad[0]).checked_sub(kh)?, (x + conv.pad[1]).checked_sub(kw)?);
            if iy % conv.stride != 0 || ix % conv.stride != 0 {
                return None;
            }
            (iy / conv.stride, ix / conv.stride)
        };
        (iy < h && ix < w).then_some((sample * h + iy) * w + ix)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    super::gemm_cases::gemm_cases()
}
