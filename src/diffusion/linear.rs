//! Linear forms: how a sampler's formulas become rows of a step's matrix.

use std::ops::{Add, Mul, Sub};

/// A linear combination of a step's inputs: the slots, the model's output, the noise, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Form(pub(super) Vec<f64>);

impl Form {
    /// Input `i` of a step with `slots` slots.
    fn input(slots: usize, i: usize) -> Self {
        let mut row = vec![0.0; slots + 2];
        row[i] = 1.0;
        Form(row)
    }
}

/// The inputs of one step as forms. Written with them, an update formula reads as in its paper.
pub(super) struct Inputs {
    /// Slot 0 is the sample.
    pub(super) slots: Vec<Form>,
    /// What the network gave.
    pub(super) output: Form,
    /// A fresh draw of N(0, 1).
    pub(super) noise: Form,
}

impl Inputs {
    pub(super) fn new(slots: usize) -> Self {
        Inputs {
            slots: (0..slots).map(|i| Form::input(slots, i)).collect(),
            output: Form::input(slots, slots),
            noise: Form::input(slots, slots + 1),
        }
    }
}

impl Add for Form {
    type Output = Form;

    fn add(mut self, other: Form) -> Form {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }
}

impl Sub for Form {
    type Output = Form;

    fn sub(self, other: Form) -> Form {
        self + &other * -1.0
    }
}

impl Mul<f64> for &Form {
    type Output = Form;

    fn mul(self, factor: f64) -> Form {
        Form(self.0.iter().map(|c| c * factor).collect())
    }
}

impl Mul<f64> for Form {
    type Output = Form;

    fn mul(self, factor: f64) -> Form {
        &self * factor
    }
}
