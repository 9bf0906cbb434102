//! Static shapes, outermost dimension first.

use std::fmt;
use std::ops::Deref;

/// The extents of a tensor; the last one is contiguous in memory.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Number of elements; the largest number where they are more, so that no check of a size lets it pass.
    pub fn elements(&self) -> usize {
        product(&self.0)
    }

    /// The last extent (1 for a scalar).
    pub fn last(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// All extents but the last, multiplied: the number of rows.
    pub fn rows(&self) -> usize {
        self.0.split_last().map_or(1, |(_, outer)| product(outer))
    }

    /// The same shape with another last extent.
    pub fn with_last(&self, last: usize) -> Shape {
        let mut dims = self.0.clone();
        match dims.last_mut() {
            Some(d) => *d = last,
            None => dims.push(last),
        }
        Shape(dims)
    }
}

fn product(extents: &[usize]) -> usize {
    // A zero extent makes the tensor empty however large the others are.
    if extents.contains(&0) { 0 } else { extents.iter().fold(1, |all, &extent| all.saturating_mul(extent)) }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(v: Vec<usize>) -> Self {
        Shape(v)
    }
}

impl From<&[usize]> for Shape {
    fn from(v: &[usize]) -> Self {
        Shape(v.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(v: [usize; N]) -> Self {
        Shape(v.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_machine_has_do_not_wrap() {
        assert_eq!(Shape::from([1 << 40, 1 << 40]).elements(), usize::MAX);
        assert_eq!(Shape::from([1 << 40, 1 << 40, 2]).rows(), usize::MAX);
        assert_eq!(Shape::from([1 << 40, 1 << 40, 0]).elements(), 0);
        assert_eq!((Shape::from([2, 3]).elements(), Shape::default().elements()), (6, 1));
    }
}
