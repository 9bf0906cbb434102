//! Gradient of a linear layer or convolution by its weight: `dw = alpha * dout^T . rows(x)`.

use super::gemm_epilogue::Epilogue;
use super::gemm_launch::reduce;
use super::tile::{Extent, Tile};
use super::{Case, Conv, Given, Result, Rows};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::AdapterClass;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Operands `dout` [.., N], `x` [.., c1], [`x2` [.., c2]]; result [N, c1] or [N, kh, kw, c1 + c2].
#[derive(Clone, Debug, PartialEq)]
pub struct WeightGrad {
    /// `Same` or `Conv`, as in the forward pass.
    pub rows: Rows,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Factor.
    pub alpha: f64,
    /// Has a second source of channels.
    pub x2: bool,
}

impl Op for WeightGrad {
    fn name(&self) -> &'static str {
        "weight_grad"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let (dout, x) = (&inputs[0].shape, &inputs[1].shape);
        let channels = x.last() + inputs.get(2).map_or(0, |i| i.shape.last());
        let shape: Shape = match &self.rows {
            Rows::Same if dout.rows() == x.rows() => [dout.last(), channels].into(),
            Rows::Conv(conv)
                if x.len() == 4 && conv.output_size([x[1], x[2]], self.kernel).is_some_and(|s| dout[1..3] == s) =>
            {
                [dout.last(), self.kernel[0], self.kernel[1], channels].into()
            }
            _ => return Err(Error::op(self.name(), format!("dout is {dout}, x is {x}: the rows differ"))),
        };
        Ok(vec![(shape, DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (dout, x) = (l.input(0).shape.clone(), l.input(1).shape.clone());
        let n = dout.last();
        let taps = self.kernel[0] * self.kernel[1];
        let total: usize = (1..l.input_count()).map(|i| l.input(i).shape.last()).sum();
        let (dout_slot, out) = (l.input_slot(0), l.output_slot(0));
        let mut first = 0;
        for i in 1..l.input_count() {
            let c = l.input(i).shape.last();
            let slot = l.input_slot(i);
            // Parts are added up where one source fills the whole result.
            let (splittable, window) = (c == total, self.rows != Rows::Same);
            let extent = Extent { batch: taps, m: n, n: c, k: dout.rows(), pair: false, splittable, window };
            let tile = Tile::choose(l.caps, l.variants, extent);
            let (tiles, tiles_n, tiles_c) = tile.counts(extent);
            let parts = (tile.splits > 1).then(|| l.scratch(tile.splits * n * taps * c));
            let hardware = tile.class == AdapterClass::Gpu;
            let mut k = l.kernel(if hardware { shader!("weight_grad_gpu") } else { shader!("weight_grad_cpu") });
            for &(name, value) in &tile.values {
                k = k.value(name, value);
            }
            k = k
                .value("split", parts.is_some())
                .value("d_vec", n.is_multiple_of(4))
                .value("x_vec", c.is_multiple_of(4))
                .value("geometry", if self.rows == Rows::Same { "rows" } else { "conv" })
                .read_as("d", dout_slot, n.is_multiple_of(4))
                .read_as("x", slot, c.is_multiple_of(4))
                .write("out", parts.unwrap_or(out))
                .u32("tiles", tiles)
                .u32("tiles_n", tiles_n)
                .u32("tiles_c", tiles_c)
                .u32("splits", tile.splits)
                .u32("n", n)
                .u32("c", c)
                .u32("out_row", taps * total)
                .u32("out_tap", total)
                .u32("out_first", first)
                .u32("rows", dout.rows())
                .f32("alpha", self.alpha);
            if let Rows::Conv(conv) = &self.rows {
                k = k
                    .u32("out_h", dout[1])
                    .u32("out_w", dout[2])
                    .u32("in_h", x[1])
                    .u32("in_w", x[2])
                    .u32("kw", self.kernel[1])
                    .u32("stride", conv.stride)
                    .u32("pad_top", conv.pad[0])
                    .u32("pad_left", conv.pad[1])
                    .u32("up", usize::from(conv.upsample));
            }
            k.linear(tiles.div_ceil(tile.units))?;
            if let Some(parts) = parts {
                reduce(l, parts, tile.splits, &Epilogue::plain(n, taps * c, out, (taps * c).is_multiple_of(4)))?;
            }
            first += c;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (dout, x) = (inputs[0], inputs[1]);
        let n = dout.shape.last();
        let channels: usize = inputs[1..].iter().map(|x| x.shape.last()).sum();
        let taps = self.kernel[0] * self.kernel[1];
        let mut out = Array::zeros(match self.rows {
            Rows::Same => Shape::from([n, channels]),
            _ => [n, self.kernel[0], self.kernel[1], channels].into(),
        });
        for m in 0..dout.shape.rows() {
            for tap in 0..taps {
                let Some(row) = self.source_row(&dout.shape, &x.shape, m, tap) else { continue };
                let mut first = 0;
                for x in &inputs[1..] {
                    let c = x.shape.last();
                    for o in 0..n {
                        for i in 0..c {
                            out.data[(o * taps + tap) * channels + first + i] +=
                                self.alpha * dout.data[m * n + o] * x.data[row * c + i];
                        }
                    }
                    first += c;
                }
            }
        }
        vec![out]
    }

    fn flops(&self, inputs: &[&TensorInfo], outputs: &[&TensorInfo]) -> u64 {
        2 * (outputs[0].shape.elements() * inputs[0].shape.rows()) as u64
    }
}

impl WeightGrad {
    fn source_row(&self, dout: &Shape, x: &Shape, m: usize, tap: usize) -> Option<usize> {
        let Rows::Conv(conv) = &self.rows else { return Some(m) };
        let (sample, oy, ox) = (m / (dout[1] * dout[2]), m / dout[2] % dout[1], m % dout[2]);
        let up = 1 + usize::from(conv.upsample);
        let y = (oy * conv.stride + tap / self.kernel[1]).checked_sub(conv.pad[0])? / up;
        let x_ = (ox * conv.stride + tap % self.kernel[1]).checked_sub(conv.pad[1])? / up;
        (y < x[1] && x_ < x[2]).then_some((sample * x[1] + y) * x[2] + x_)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let same = |alpha| WeightGrad { rows: Rows::Same, kernel: [1, 1], alpha, x2: false };
    let mut cases = Vec::new();
    for (m, n, c) in [(1, 1, 1), (7, 3, 5), (33, 12, 20), (64, 8, 64)] {
        cases.push(Case::new(same(0.5), [Given::normal([m, n]), Given::normal([m, c])]));
    }
    let conv = |stride, pad: [usize; 4], upsample| Conv { stride, pad, upsample };
    for (geometry, h, w, kernel) in [
        (conv(1, [1; 4], false), 5, 6, [3, 3]),
        (conv(2, [1; 4], false), 7, 6, [3, 3]),
        (conv(2, [0, 0, 1, 1], false), 6, 8, [3, 3]),
        (conv(1, [1; 4], true), 3, 4, [3, 3]),
        (conv(1, [0; 4], false), 4, 4, [1, 1]),
    ] {
        let Some([oh, ow]) = geometry.output_size([h, w], kernel) else { continue };
        for (c1, c2, n) in [(4, 0, 8), (5, 3, 6), (8, 12, 16)] {
            let op = WeightGrad { rows: Rows::Conv(geometry), kernel, alpha: 1.0, x2: c2 > 0 };
            let mut inputs = vec![Given::normal([2, oh, ow, n]), Given::normal([2, h, w, c1])];
            inputs.extend((c2 > 0).then(|| Given::normal([2, h, w, c2])));
            cases.push(Case::new(op, inputs));
        }
    }
    cases
}
