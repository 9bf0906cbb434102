//! Test cases that ops bring with them.

use std::sync::Arc;

use crate::base::{DType, Shape};
use crate::graph::Op;

/// How a test fills an operand.
#[derive(Clone, Debug)]
pub enum Given {
    /// Normal values times the factor.
    Normal(Shape, f64),
    /// Normal values stored as packed half.
    Half(Shape, f64),
    /// Normal values stored in blocks of bytes.
    Block8(Shape, f64),
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

    /// Extents.
    pub fn shape(&self) -> &Shape {
        match self {
            Given::Normal(s, _)
            | Given::Half(s, _)
            | Given::Block8(s, _)
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
            Given::Ids(..) | Given::Moments(_) => DType::U32,
            _ => DType::F32,
        }
    }
}

/// One op with operands: run on the GPU and compared with its reference, and, where it has a rule, differentiated and
/// compared with finite differences.
#[derive(Clone, Debug)]
pub struct Case {
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Operands.
    pub inputs: Vec<Given>,
    /// Allowed difference, relative to the largest magnitude of the reference.
    pub tolerance: f64,
    /// Which operands to differentiate by; empty where the op is a backward op itself.
    pub differentiate: Vec<usize>,
    /// How many results take part in the gradient check; those behind are saved for the backward pass only.
    pub primary: usize,
    /// How many results are compared with the reference.
    pub compared: usize,
}

impl Case {
    /// A case with tolerance 1e-5 and no gradient check.
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

    /// Checks the gradient by these operands too.
    pub fn grads(mut self, by: impl Into<Vec<usize>>) -> Case {
        self.differentiate = by.into();
        self
    }

    /// Only the first `count` results take part in the gradient check.
    pub fn primary(mut self, count: usize) -> Case {
        self.primary = count;
        self
    }

    /// Only the first `count` results are compared with the reference.
    pub fn compared(mut self, count: usize) -> Case {
        self.compared = count;
        self
    }

    /// Another tolerance.
    pub fn tolerance(mut self, tolerance: f64) -> Case {
        self.tolerance = tolerance;
        self
    }
}
