//! Nearest-neighbour upsampling to a given size and its transpose, as `torch.nn.functional.interpolate` has it.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// `[n, h, w, c] -> [n, size[0], size[1], c]`: result pixel `i` is source pixel `floor(i * h / size[0])`; or with
/// `backward` the sum over the result pixels of each of the `size` source pixels.
#[derive(Clone, Debug)]
pub struct UpsampleNearest {
    /// Height and width of the result.
    pub size: [usize; 2],
    /// Transposed.
    pub backward: bool,
}

/// `x [n, h, w, c] -> [n, size[0], size[1], c]`. Sizes need not be multiples: a UNet whose skips are odd asks for
/// `2h - 1`.
pub fn upsample_nearest(g: &mut Graph, x: Tensor, size: [usize; 2]) -> Result<Tensor> {
    g.push1(UpsampleNearest { size, backward: false }, &[x])
}

/// The transpose of [`upsample_nearest`]: `dout [n, H, W, c] -> [n, size[0], size[1], c]`, the gradient of its operand.
pub fn upsample_nearest_bwd(g: &mut Graph, dout: Tensor, size: [usize; 2]) -> Result<Tensor> {
    g.push1(UpsampleNearest { size, backward: true }, &[dout])
}

impl Op for UpsampleNearest {
    fn name(&self) -> &'static str {
        "upsample_nearest"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x = &inputs[0].shape;
        let shrinks = |small: &[usize], large: &[usize]| small.iter().zip(large).any(|(s, l)| s > l || *s == 0);
        let wrong = x.len() != 4
            || (self.backward && shrinks(&self.size, &x[1..3]))
            || (!self.backward && shrinks(&x[1..3], &self.size));
        if wrong {
            let [h, w] = self.size;
            return Err(Error::op(self.name(), format!("x is {x}, cannot become {h} x {w} pixels of [n, h, w, c]")));
        }
        Ok(vec![([x[0], self.size[0], self.size[1], x[3]].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (from, to) = (&l.input(0).shape, &l.output(0).shape);
        let vec4 = to.last().is_multiple_of(4);
        let channels = if vec4 { to.last() / 4 } else { to.last() };
        let count = to.rows() * channels;
        let (x, out) = (l.input_slot(0), l.output_slot(0));
        l.kernel(shader!("upsample_nearest"))
            .value("vec4", vec4)
            .value("backward", self.backward)
            .read_as("x", x, vec4)
            .write_as("out", out, vec4)
            .u32("count", count)
            .u32("channels", channels)
            .u32("from_h", from[1])
            .u32("from_w", from[2])
            .u32("to_h", to[1])
            .u32("to_w", to[2])
            .linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = inputs[0];
        let (n, c) = (x.shape[0], x.shape[3]);
        let given = [x.shape[1], x.shape[2]];
        let (small, large) = if self.backward { (self.size, given) } else { (given, self.size) };
        let mut out = Array::zeros([n, self.size[0], self.size[1], c]);
        for i in 0..n * large[0] * large[1] {
            let (b, y, z) = (i / (large[0] * large[1]), i / large[1] % large[0], i % large[1]);
            let j = (b * small[0] + y * small[0] / large[0]) * small[1] + z * small[1] / large[1];
            for k in 0..c {
                if self.backward {
                    out.data[j * c + k] += x.data[i * c + k];
                } else {
                    out.data[i * c + k] = x.data[j * c + k];
                }
            }
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, dout) = (v.shape(0), v.grad()?);
        let other = UpsampleNearest { size: [x[1], x[2]], backward: !self.backward };
        Ok(vec![Some(v.g.push1(other, &[dout])?)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, from, size, c) in [
        (1usize, [1usize, 1usize], [1usize, 1usize], 1usize),
        (2, [3, 4], [6, 8], 5),
        (1, [3, 5], [5, 9], 8),
        (2, [2, 3], [7, 3], 4),
        (1, [1, 2], [3, 5], 3),
    ] {
        let small = Given::normal([n, from[0], from[1], c]);
        cases.push(Case::new(UpsampleNearest { size, backward: false }, [small]).grads([0]));
        let large = Given::normal([n, size[0], size[1], c]);
        cases.push(Case::new(UpsampleNearest { size: from, backward: true }, [large]).grads([0]));
    }
    cases.push(Case::new(UpsampleNearest { size: [4, 6], backward: false }, [Given::half([1, 2, 3, 12])]));
    cases.push(Case::new(UpsampleNearest { size: [700, 600], backward: false }, [Given::normal([1, 350, 301, 11])]));
    cases
}
