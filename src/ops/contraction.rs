//! The contraction's attributes, operands and sizes, which its forward and backward passes share.

use super::{Activation, Result};
use crate::base::Shape;
use crate::error::Error;

/// Geometry of a convolution.
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
    /// Creates a geometry of stride 1, with the padding that keeps the size for an odd `kernel`.
    pub fn same(kernel: usize) -> Conv {
        Conv { stride: 1, pad: [kernel / 2; 4], upsample: false }
    }

    /// Output height and width for an input of `h` x `w` and a kernel of `kh` x `kw`; `None` if nothing is left.
    pub fn output_size(&self, [h, w]: [usize; 2], [kh, kw]: [usize; 2]) -> Option<[usize; 2]> {
        let scale = if self.upsample { 2 } else { 1 };
        let along = |n: usize, k: usize, pad: usize| Some((n * scale + pad).checked_sub(k)? / self.stride + 1);
        Some([along(h, kh, self.pad[0] + self.pad[2])?, along(w, kw, self.pad[1] + self.pad[3])?])
    }
}

/// Rows of `x` that feed a row of the result.
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

/// Addend of the product.
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

/// Contraction with its epilogue. Operands, in order: `x`, `x2`, `w`, `bias`, `addend`, `hidden`, `up`; all but `x` and
/// `w` only if requested.
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
    /// Creates a plain product with rows `rows`.
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

    /// Name of the op, by its rows.
    pub(super) fn name_of(&self) -> &'static str {
        match self.rows {
            Rows::Same => "linear",
            Rows::Conv(_) => "conv2d",
            Rows::Transposed { .. } => "conv2d_transposed",
        }
    }

    /// Positions of the optional operands.
    pub(super) fn operands(&self) -> Operands {
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

    /// Sizes and strides for operands of these shapes.
    ///
    /// # Errors
    /// [`Error::Op`] where they do not fit each other.
    pub(super) fn dims(&self, x: &Shape, x2: Option<&Shape>, w: &Shape) -> Result<Dims> {
        let (c1, c2) = (x.last(), x2.map_or(0, Shape::last));
        let mut d = Dims { batch: 1, c1, c2, taps: 1, kernel: [1, 1], w_elements: w.elements(), ..Dims::default() };
        if self.rows != Rows::Same && (x.len() != 4 || w.len() != 4) {
            return self.fail(format!("x is {x}, w is {w}: expected [n,h,w,c] and [out,kh,kw,in]"));
        }
        match &self.rows {
            Rows::Same => self.product_dims(&mut d, [x, w], x2)?,
            Rows::Conv(conv) => self.convolution_dims(&mut d, [x, w], x2, conv)?,
            Rows::Transposed { size, first, columns, .. } => {
                d.kernel = [w[1], w[2]];
                if w[0] != c1 || first + columns > w[3] {
                    return self.fail(format!("gradient is {x}, w is {w}: the channels differ"));
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
                return self.fail(format!("w is {w}: a GEGLU pair needs an even number of columns"));
            }
            if self.add.is_some() || self.x2 || self.activation.is_some() {
                return self.fail("a GEGLU pair takes no addend, no second source and no other activation".into());
            }
            d.n /= 2;
            d.out = d.out.with_last(d.n);
        }
        Ok(d)
    }

    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::op(self.name_of(), message))
    }

    fn product_dims(&self, d: &mut Dims, [x, w]: [&Shape; 2], x2: Option<&Shape>) -> Result<()> {
        if self.batched && self.x2 {
            return self.fail("a batched product takes no second source".into());
        }
        if self.batched {
            if x.len() < 2 || w.len() < 2 || x[0] != w[0] {
                return self.fail(format!("batched x is {x}, w is {w}"));
            }
            d.batch = x[0];
        }
        d.m = x.rows() / d.batch.max(1);
        let (n, k) = match self.k_major {
            true => (w.last(), w.rows() / d.batch.max(1)),
            false => (w.rows() / d.batch.max(1), w.last()),
        };
        if k != d.c1 + d.c2 || (self.k_major && d.c2 > 0) {
            return self.fail(format!("x is {x}{}, w is {w}: the contracted sizes differ", also(x2)));
        }
        d.n = n;
        (d.b_k, d.b_n) = if self.k_major { (n, 1) } else { (1, k) };
        d.out = if self.batched && x.len() == 2 { vec![d.batch, n].into() } else { x.with_last(n) };
        Ok(())
    }

    fn convolution_dims(&self, d: &mut Dims, [x, w]: [&Shape; 2], x2: Option<&Shape>, conv: &Conv) -> Result<()> {
        d.kernel = [w[1], w[2]];
        if w[3] != d.c1 + d.c2 || x2.is_some_and(|s| s[..3] != x[..3]) {
            return self.fail(format!("x is {x}{}, w is {w}: the channels differ", also(x2)));
        }
        let Some(size) = conv.output_size([x[1], x[2]], d.kernel) else {
            return self.fail(format!("x is {x}: smaller than the kernel of w {w}"));
        };
        d.taps = w[1] * w[2];
        d.n = w[0];
        d.m = x[0] * size[0] * size[1];
        (d.b_k, d.b_tap, d.b_n) = (1, w[3], w[1] * w[2] * w[3]);
        (d.out_size, d.in_size) = (size, [x[1], x[2]]);
        d.out = [x[0], size[0], size[1], d.n].into();
        Ok(())
    }
}

fn also(x2: Option<&Shape>) -> String {
    x2.map_or_else(String::new, |s| format!(" and {s}"))
}

/// Positions of the operands that a [`Gemm`] has.
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
#[derive(Clone, Default)]
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

impl Gemm {
    /// The input row that output row `m` reads through `tap`; `None` outside the image.
    pub(super) fn source_row(&self, d: &Dims, m: usize, tap: usize) -> Option<usize> {
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
