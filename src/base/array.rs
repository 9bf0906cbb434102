//! Host arrays in f64: what op references compute with.

use super::Shape;

/// A dense array on the host, row-major. Token ids are held as whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents.
    pub shape: Shape,
    /// Elements, the last dimension contiguous.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of `shape` over `data`; the lengths must agree.
    pub fn new(shape: impl Into<Shape>, data: Vec<f64>) -> Array {
        let shape = shape.into();
        debug_assert_eq!(shape.elements(), data.len());
        Array { shape, data }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        let data = vec![0.0; shape.elements()];
        Array { shape, data }
    }

    /// Element by element.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Array {
        Array { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// From f32 values.
    pub fn from_f32(shape: impl Into<Shape>, data: &[f32]) -> Array {
        Array::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// Rounded to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }
}
