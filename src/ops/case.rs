//! Test cases of ops.

use std::sync::Arc;

use crate::base::{DType, Shape};
use crate::graph::Op;

/// Values of an operand in a test.
#[derive(Clone, Debug)]
pub enum Given {
    /// Normal values times the factor.
    Normal(Shape, f64),
    /// Normal values stored as packed half.
    Half(Shape, f64),
    /// Normal values stored in blocks of bytes.
    Block8(Shape, f64),
    /// Blocks of four-bit codes that hold both ends of their range, so that quantizing them again changes nothing.
    Block4(Shape),
    /// Blocks of 17 words: a scale of 0.5 to 2, then random bytes.
    Moments(Shape),
    /// Uniform in [low, high).
    Uniform(Shape, f64, f64),
    /// Whole numbers below the bound, as `u32`.
    Ids(Shape, u32),
}

impl Given {
    /// Standard normal values.
    pub fn normal(shape: impl Into<Shape>) -> Given {
        Given::Normal(shape.into(), 1.0)
    }

    /// Standard normal values in packed half storage.
    pub fn half(shape: impl Into<Shape>) -> Given {
        Given::Half(shape.into(), 1.0)
    }

    /// Standard normal values in eight-bit storage; the last extent is a multiple of 64.
    pub fn block8(shape: impl Into<Shape>) -> Given {
        Given::Block8(shape.into(), 1.0)
    }

    /// Values of up to about 3 in four-bit storage; the last extent is a multiple of 32.
    pub fn block4(shape: impl Into<Shape>) -> Given {
        Given::Block4(shape.into())
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        match self {
            Given::Normal(s, _)
            | Given::Half(s, _)
            | Given::Block8(s, _)
            | Given::Block4(s)
            | Given::Moments(s)
            | Given::Uniform(s, ..)
            | Given::Ids(s, _) => s,
        }
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        match self {
            Given::Half(..) => DType::F16,
            Given::Block8(..) => DType::Q8,
            Given::Block4(_) => DType::Q4,
            Given::Ids(..) | Given::Moments(_) => DType::U32,
            _ => DType::F32,
        }
    }
}

/// Test case: an op with operands. It runs on the GPU and is compared with its reference. If the op has a gradient
/// rule, the gradient is compared with finite differences.
#[derive(Clone, Debug)]
pub struct Case {
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Operands.
    pub inputs: Vec<Given>,
    /// Allowed difference, relative to the largest magnitude of the reference.
    pub tolerance: f64,
    /// Operands to differentiate by; empty if the op is itself a backward op.
    pub differentiate: Vec<usize>,
    /// Number of results in the gradient check; the others are saved for the backward pass only.
    pub primary: usize,
    /// Number of results compared with the reference.
    pub compared: usize,
}

impl Case {
    /// Creates a case with tolerance 1e-5 and no gradient check.
    pub fn new(op: impl Op + 'static, inputs: impl Into<Vec<Given>>) -> Case {
        Case {
            op: Arc::new(op),
            inputs: inputs.into(),
            tolerance: 1e-5,
            differentiate: Vec::new(),
            primary: usize::MAX,
            compared: usize::MAX,
        }
    }

    /// Adds a check of the gradient by these operands.
    pub fn grads(mut self, by: impl Into<Vec<usize>>) -> Case {
        self.differentiate = by.into();
        self
    }

    /// Limits the gradient check to the first `count` results.
    pub fn primary(mut self, count: usize) -> Case {
        self.primary = count;
        self
    }

    /// Limits the comparison with the reference to the first `count` results.
    pub fn compared(mut self, count: usize) -> Case {
        self.compared = count;
        self
    }

    /// Sets the tolerance.
    pub fn tolerance(mut self, tolerance: f64) -> Case {
        self.tolerance = tolerance;
        self
    }
}
