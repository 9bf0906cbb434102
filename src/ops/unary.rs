//! Activations as ops, and their gradients.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::gpu::shader;
use crate::graph::{Launch, Op, Slot, TensorInfo, Vjp};

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// Exact (erf) GELU, Hendrycks and Gimpel 2016 (arXiv 1606.08415).
    Gelu,
    /// `x * sigmoid(1.702 x)`, as OpenAI's CLIP uses it.
    QuickGelu,
    /// GELU by tanh: `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
}

/// sqrt(2 / pi)
const TANH: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

impl Activation {
    /// Returns the function that transformers calls `name` (`activations.py`, `ACT2FN`).
    pub fn from_name(name: &str) -> Option<Activation> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu" | "gelu_python" => Some(Activation::Gelu),
            "quick_gelu" => Some(Activation::QuickGelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => {
                Some(Activation::GeluTanh)
            }
            "relu" => Some(Activation::Relu),
            _ => None,
        }
    }

    /// Name of the function in `shaders/lib/activation.wgsl` and `shaders/lib/activation_more.wgsl`.
    pub fn wgsl(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::QuickGelu => "quick_gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
        }
    }

    /// Value in f64.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::GeluTanh => 0.5 * x * (1.0 + (TANH * (x + 0.044715 * x.powi(3))).tanh()),
            Activation::Relu => x.max(0.0),
        }
    }

    /// Derivative, in f64.
    pub fn derivative(self, x: f64) -> f64 {
        let swish = |b: f64| {
            let s = 1.0 / (1.0 + (-b * x).exp());
            s + b * x * s * (1.0 - s)
        };
        match self {
            Activation::Silu => swish(1.0),
            Activation::QuickGelu => swish(1.702),
            Activation::Gelu => {
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
            }
            Activation::GeluTanh => {
                let t = (TANH * (x + 0.044715 * x.powi(3))).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * TANH * (1.0 + 3.0 * 0.044715 * x * x)
            }
            Activation::Relu => f64::from(u8::from(x > 0.0)),
        }
    }
}

/// The error function to f64 accuracy: its Maclaurin series below 3, the continued fraction of erfc above
/// (Abramowitz and Stegun 7.1.5, 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..200 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = a;
        for k in (1..60).rev() {
            fraction = a + f64::from(k) / 2.0 / fraction;
        }
        1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

impl Activation {
    /// Applies the function to the `elements` of `slot`, in place.
    pub(super) fn in_place(self, l: &mut Launch, slot: Slot, elements: usize) -> Result<()> {
        let vectors = elements.div_ceil(4);
        let k = l.kernel(shader!("unary")).value("f", self.wgsl()).value("backward", false);
        k.read_as("x", slot, true).write_as("out", slot, true).u32("vectors", vectors).linear(vectors.div_ceil(64))
    }
}

/// `activation(x)`, elementwise; with a second operand, `dout * activation'(x)`.
#[derive(Clone, Debug)]
pub struct Unary {
    /// The function.
    pub activation: Activation,
}

/// `activation(x)`, elementwise.
pub fn unary(g: &mut Graph, x: Tensor, activation: Activation) -> Result<Tensor> {
    g.push1(Unary { activation }, &[x])
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let vectors = l.output(0).shape.elements().div_ceil(4);
        let backward = l.input_count() == 2;
        let (x, dout, out) = (l.input_slot(0), l.input_slot(l.input_count() - 1), l.output_slot(0));
        let k = l.kernel(shader!("unary")).value("f", self.activation.wgsl()).value("backward", backward);
        let k = k.read_as("x", x, true);
        let k = if backward { k.read_as("dout", dout, true) } else { k };
        k.write_as("out", out, true).u32("vectors", vectors).linear(vectors.div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        match inputs {
            [x, dout] => {
                let data = x.data.iter().zip(&dout.data).map(|(&x, d)| d * self.activation.derivative(x)).collect();
                vec![Array::new(x.shape.clone(), data)]
            }
            _ => vec![inputs[0].map(|x| self.activation.value(x))],
        }
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, dout) = (v.inputs[0], v.grad()?);
        Ok(vec![Some(v.g.push1(self.clone(), &[x, dout])?)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    use Activation as A;
    for activation in [A::Silu, A::Gelu, A::QuickGelu, A::GeluTanh, A::Relu] {
        for n in [1usize, 37, 300] {
            cases.push(Case::new(Unary { activation }, [Given::Normal([n].into(), 3.0)]).grads([0]));
            cases.push(Case::new(Unary { activation }, [Given::Normal([n].into(), 3.0), Given::normal([n])]));
        }
    }
    cases
}
