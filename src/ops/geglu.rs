//! Gated linear units (Shazeer 2020, arXiv 2002.05202): GEGLU with the exact GELU, as diffusers' feed-forward has it, and
//! SwiGLU.

use super::{Activation, Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, Slot, TensorInfo, Vjp};

/// `value * f(gate)`, where the last dimension holds the value's half, then the gate's; with a second operand (the
/// gradient of the result), the gradient of the input.
#[derive(Clone, Debug)]
pub struct Geglu {
    /// f: GELU, or SiLU for SwiGLU.
    pub gate: Activation,
}

/// `x [.., 2C] -> [.., C]`: the first half times the GELU of the second.
pub fn geglu(g: &mut Graph, x: Tensor) -> Result<Tensor> {
    g.push1(Geglu { gate: Activation::Gelu }, &[x])
}

/// `x [.., 2C] -> [.., C]`: the first half times the SiLU of the second.
pub fn swiglu(g: &mut Graph, x: Tensor) -> Result<Tensor> {
    g.push1(Geglu { gate: Activation::Silu }, &[x])
}

impl Geglu {
    /// Launches the forward pass, from `x` `[rows, 2 channels]` to `out`.
    pub(super) fn forward(&self, l: &mut Launch, [x, out]: [Slot; 2], [rows, channels]: [usize; 2]) -> Result<()> {
        let vec4 = channels.is_multiple_of(4);
        let width = if vec4 { channels / 4 } else { channels };
        let k = l.kernel(shader!("geglu")).value("f", self.gate.wgsl()).value("vec4", vec4).value("backward", false);
        let k = k.read_as("x", x, vec4).write_as("out", out, vec4);
        k.u32("count", rows * width).u32("width", width).linear((rows * width).div_ceil(64))
    }
}

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let x = &inputs[0].shape;
        if !x.last().is_multiple_of(2) || x.is_empty() {
            return Err(Error::op(self.name(), format!("x is {x}: the last extent must be even")));
        }
        let half = x.with_last(x.last() / 2);
        match inputs.get(1) {
            None => Ok(vec![(half, DType::F32)]),
            Some(dout) if dout.shape.elements() == half.elements() => Ok(vec![(x.clone(), DType::F32)]),
            Some(dout) => Err(Error::op(self.name(), format!("x is {x}, the result's gradient {}", dout.shape))),
        }
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let backward = l.input_count() == 2;
        let channels = l.input(0).shape.last() / 2;
        let vec4 = channels.is_multiple_of(4);
        let width = if vec4 { channels / 4 } else { channels };
        let count = l.input(0).shape.rows() * width;
        let (x, dout, out) = (l.input_slot(0), l.input_slot(l.input_count() - 1), l.output_slot(0));
        if !backward {
            return self.forward(l, [x, out], [l.input(0).shape.rows(), channels]);
        }
        let k = l.kernel(shader!("geglu")).value("f", self.gate.wgsl()).value("vec4", vec4).value("backward", true);
        let k = k.read_as("x", x, vec4).read_as("dout", dout, vec4);
        k.write_as("out", out, vec4).u32("count", count).u32("width", width).linear(count.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = inputs[0];
        let channels = x.shape.last() / 2;
        let rows = x.data.chunks_exact((2 * channels).max(1));
        let data: Vec<f64> = match inputs.get(1) {
            None => rows
                .flat_map(|row| {
                    let (value, gate) = row.split_at(channels);
                    value.iter().zip(gate).map(|(v, &g)| v * self.gate.value(g))
                })
                .collect(),
            Some(dout) => rows
                .zip(dout.data.chunks_exact(channels.max(1)))
                .flat_map(|(row, d)| {
                    let (value, gate) = row.split_at(channels);
                    let dvalue = gate.iter().zip(d).map(|(&g, d)| d * self.gate.value(g));
                    let dgate = value.iter().zip(gate).zip(d).map(|((v, &g), d)| d * v * self.gate.derivative(g));
                    dvalue.chain(dgate).collect::<Vec<_>>()
                })
                .collect(),
        };
        let shape = if inputs.len() == 2 { x.shape.clone() } else { x.shape.with_last(channels) };
        vec![Array::new(shape, data)]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, dout) = (v.inputs[0], v.grad()?);
        Ok(vec![Some(v.g.push1(self.clone(), &[x, dout])?)])
    }

    fn flops(&self, inputs: &[&TensorInfo], _: &[&TensorInfo]) -> u64 {
        10 * inputs[0].shape.elements() as u64
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let (gelu, silu) = (Geglu { gate: Activation::Gelu }, Geglu { gate: Activation::Silu });
    let mut cases = Vec::new();
    for (op, rows, channels) in [
        (&gelu, 1usize, 1usize),
        (&gelu, 3, 5),
        (&gelu, 2, 8),
        (&gelu, 7, 12),
        (&gelu, 33, 40),
        (&silu, 3, 5),
        (&silu, 7, 12),
    ] {
        let x = || Given::Normal([rows, 2 * channels].into(), 2.0);
        cases.push(Case::new(op.clone(), [x()]).grads([0]));
        cases.push(Case::new(op.clone(), [x(), Given::normal([rows, channels])]));
    }
    cases.push(Case::new(gelu, [Given::half([5, 12])]));
    cases
}
