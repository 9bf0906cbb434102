//! Changes that LyCORIS files make to a layer, other than one product of two factors: LoHa, LoKr (Yeh et al. 2023,
//! arXiv 2309.14859) and full differences. They are computed row by row in f64 and added to the weight when it is
//! loaded.

use std::ops::Range;

use super::Factor;

/// A matrix `[rows, columns]`, given whole or by factors; a convolution's is `[out, in * kh * kw]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Matrix {
    /// `[rows, ..]`
    Whole(Factor),
    /// `a . b` of `a [rows, r]` and `b [r, ..]`.
    Product(Factor, Factor),
    /// `sum over r, s of core[r, s] * a[r, row] * b[s, in]` of `core [r, s, kh, kw]`, `a [r, rows]` and `b [s, in]`.
    Tucker { core: Factor, a: Factor, b: Factor },
}

impl Matrix {
    /// `[rows, columns]`, or `[rows, in, kh, kw]` where the factors tell a window apart.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Matrix::Whole(whole) => whole.shape.clone(),
            Matrix::Product(a, b) => [&a.shape[..1], &b.shape[1..]].concat(),
            Matrix::Tucker { core, a, b } => [&a.shape[1..], &b.shape[1..], &core.shape[2..]].concat(),
        }
    }

    /// Rows and columns.
    pub fn size(&self) -> [usize; 2] {
        flat(&self.shape())
    }

    /// The inner size of its factors, where it has any.
    fn rank(&self) -> Option<usize> {
        match self {
            Matrix::Whole(_) => None,
            Matrix::Product(_, b) | Matrix::Tucker { b, .. } => Some(b.shape[0]),
        }
    }

    fn parameters(&self) -> usize {
        match self {
            Matrix::Whole(whole) => whole.data.len(),
            Matrix::Product(a, b) => a.data.len() + b.data.len(),
            Matrix::Tucker { core, a, b } => core.data.len() + a.data.len() + b.data.len(),
        }
    }

    fn row(&self, i: usize) -> Vec<f64> {
        let columns = self.size()[1];
        match self {
            Matrix::Whole(whole) => whole.data[i * columns..][..columns].iter().map(|&x| f64::from(x)).collect(),
            Matrix::Product(a, b) => {
                let r = b.shape[0];
                weighted(&a.data[i * r..][..r], b.data.chunks_exact(columns), columns)
            }
            Matrix::Tucker { core, a, b } => {
                let (rows, inner, window) = (a.shape[1], b.shape[1], core.shape[2] * core.shape[3]);
                let column: Vec<f32> = a.data.iter().skip(i).step_by(rows).copied().collect();
                let planes = weighted(&column, core.data.chunks_exact(b.shape[0] * window), b.shape[0] * window);
                let mut row = vec![0.0; columns];
                for (plane, factors) in planes.chunks_exact(window).zip(b.data.chunks_exact(inner)) {
                    for (sums, factor) in row.chunks_exact_mut(window).zip(factors) {
                        sums.iter_mut().zip(plane).for_each(|(sum, x)| *sum += f64::from(*factor) * x);
                    }
                }
                row
            }
        }
    }
}

/// `[rows, columns]` of a weight of `shape`: input and window of a convolution lie in one row.
pub(crate) fn flat(shape: &[usize]) -> [usize; 2] {
    let columns = shape.iter().skip(1).fold(1usize, |product, &extent| product.saturating_mul(extent));
    [shape.first().copied().unwrap_or(1), columns]
}

/// The sum of `rows`, each times its factor.
fn weighted<'a>(factors: &[f32], rows: impl Iterator<Item = &'a [f32]>, columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for (factor, row) in factors.iter().zip(rows) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*factor) * f64::from(*x));
    }
    sums
}

fn add(values: &mut [f32], change: impl IntoIterator<Item = f64>, scale: f64) {
    values.iter_mut().zip(change).for_each(|(value, x)| *value = (f64::from(*value) + scale * x) as f32);
}

/// Change of a weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WeightChange {
    /// Elementwise product of two matrices.
    LoHa(Matrix, Matrix),
    /// Kronecker product of two matrices.
    LoKr(Matrix, Matrix),
    /// The difference itself (`.diff`).
    Full(Matrix),
}

impl WeightChange {
    fn shape(&self) -> Vec<usize> {
        match self {
            WeightChange::LoHa(a, b) if a.shape().len() < b.shape().len() => b.shape(),
            WeightChange::LoHa(m, _) | WeightChange::Full(m) => m.shape(),
            WeightChange::LoKr(a, b) => {
                let ([rows, columns], mut shape) = (a.size(), b.shape());
                // Nothing bounds the product of two factors' sizes; one that is too large matches no model.
                shape[0] = shape[0].saturating_mul(rows);
                shape[1] = shape[1].saturating_mul(columns);
                shape
            }
        }
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let (first, second) = match self {
            WeightChange::LoHa(a, b) | WeightChange::LoKr(a, b) => (a, Some(b)),
            WeightChange::Full(m) => (m, None),
        };
        [Some(first), second].into_iter().flatten()
    }

    fn row(&self, i: usize) -> Vec<f64> {
        match self {
            WeightChange::Full(m) => m.row(i),
            WeightChange::LoHa(a, b) => a.row(i).iter().zip(b.row(i)).map(|(x, y)| x * y).collect(),
            WeightChange::LoKr(a, b) => {
                let inner = b.size()[0];
                let (left, right) = (a.row(i / inner), b.row(i % inner));
                left.iter().flat_map(|x| right.iter().map(move |y| x * y)).collect()
            }
        }
    }
}

/// The change of one layer that is no product of two factors: LoHa, LoKr, a whole difference, a bias.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub(super) weight: Option<WeightChange>,
    /// `[out]`
    pub(super) bias: Option<Factor>,
    pub(super) alpha: Option<f32>,
}

impl Change {
    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        match self.weight {
            Some(WeightChange::LoHa(..)) => "LoHa",
            Some(WeightChange::LoKr(..)) => "LoKr",
            Some(WeightChange::Full(..)) => "weight difference",
            None => "bias difference",
        }
    }

    /// Shape of the weight it changes, if it does: `[out, in, ..]`, or `[out, in * kh * kw]` where the factors do not
    /// tell the window apart.
    pub fn weight_shape(&self) -> Option<Vec<usize>> {
        self.weight.as_ref().map(WeightChange::shape)
    }

    /// Length of the bias it changes, if it does.
    pub fn bias_length(&self) -> Option<usize> {
        self.bias.as_ref().map(|bias| bias.data.len())
    }

    /// The inner size of the weight's factors; `None` where everything is whole.
    pub fn rank(&self) -> Option<usize> {
        self.weight.iter().flat_map(WeightChange::matrices).filter_map(Matrix::rank).last()
    }

    /// The factor of the weight's change: `alpha / rank`, 1 without an alpha and where nothing has a rank (as LyCORIS's
    /// `LokrModule`).
    pub fn scale(&self) -> f64 {
        self.alpha.zip(self.rank()).map_or(1.0, |(alpha, rank)| f64::from(alpha) / rank as f64)
    }

    /// Numbers stored.
    pub fn parameters(&self) -> usize {
        let weight: usize = self.weight.iter().flat_map(WeightChange::matrices).map(Matrix::parameters).sum();
        weight + self.bias_length().unwrap_or(0)
    }

    /// `weight += scale * alpha / rank * change`, where `weight` holds the rows `rows` of the row-major `[out, ..]`.
    /// `false`, and nothing done, where the sizes differ; `true` where there is no change of the weight.
    pub fn add_to_weight(&self, weight: &mut [f32], rows: Range<usize>, scale: f64) -> bool {
        let Some(change) = &self.weight else { return true };
        let [all, columns] = flat(&change.shape());
        if rows.end > all || columns == 0 || Some(weight.len()) != rows.len().checked_mul(columns) {
            return false;
        }
        let scale = scale * self.scale();
        for (row, i) in weight.chunks_exact_mut(columns).zip(rows) {
            add(row, change.row(i), scale);
        }
        true
    }

    /// `bias += scale * change`, where `bias` holds the elements `rows` of `[out]`; `false` and `true` as of
    /// [`add_to_weight`](Self::add_to_weight).
    pub fn add_to_bias(&self, bias: &mut [f32], rows: Range<usize>, scale: f64) -> bool {
        let Some(change) = &self.bias else { return true };
        let Some(change) = change.data.get(rows).filter(|some| some.len() == bias.len()) else { return false };
        add(bias, change.iter().map(|&x| f64::from(x)), scale);
        true
    }
}
