//! The product of two factors, which most LoRAs are made of.

/// One of the two matrices of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// `down`: `[rank, in]` or `[rank, in, kh, kw]`; `up`: `[out, rank]` or `[out, rank, 1, 1]`.
    pub shape: Vec<usize>,
    /// Row-major values, all finite.
    pub data: Vec<f32>,
}

/// The low-rank change of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `A`, applied first: `[rank, in]` or `[rank, in, kh, kw]`.
    pub down: Factor,
    /// `B`, applied second: `[out, rank]` or `[out, rank, 1, 1]`.
    pub up: Factor,
    /// The factor is `alpha / rank`, or 1 where there is no alpha.
    pub alpha: Option<f32>,
}

impl LoraModule {
    /// The inner dimension.
    pub fn rank(&self) -> usize {
        self.down.shape.first().copied().unwrap_or(1)
    }

    /// `alpha / rank`, 1 without an alpha.
    pub fn scale(&self) -> f32 {
        self.alpha.map_or(1.0, |alpha| alpha / self.rank() as f32)
    }

    /// The shape of the weight it changes: `[out, in]` or `[out, in, kh, kw]`.
    pub fn weight_shape(&self) -> Vec<usize> {
        self.up.shape.iter().take(1).chain(self.down.shape.iter().skip(1)).copied().collect()
    }

    /// Name of the kind.
    pub(crate) fn kind(&self) -> &'static str {
        if self.down.shape.iter().skip(2).any(|&extent| extent > 1) { "LoCon" } else { "LoRA" }
    }

    /// Computes the change of the weight, row-major in [`weight_shape`](Self::weight_shape).
    pub fn delta(&self) -> Vec<f32> {
        let (rank, scale) = (self.rank(), self.scale());
        let columns = self.down.data.len() / rank.max(1);
        let mut out = vec![0.0; self.up.data.len() / rank.max(1) * columns];
        for (row, up) in out.chunks_mut(columns.max(1)).zip(self.up.data.chunks(rank.max(1))) {
            for (factor, down) in up.iter().zip(self.down.data.chunks(columns.max(1))) {
                row.iter_mut().zip(down).for_each(|(sum, x)| *sum += scale * factor * x);
            }
        }
        out
    }
}
