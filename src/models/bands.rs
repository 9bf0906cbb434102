//! Feature maps too large to be in memory at once, as bands of rows that are made when they are asked for.
//!
//! The autoencoder's last layers hold 128 channels of every pixel: in f32 as much as WebGPU binds at all, and several
//! of them at a time. A band is a tensor of its own, so nothing is ever bound that is larger, and liveness does the
//! rest: a band is freed when the last one that reads it is done. What does not fit beside its input is made again
//! instead of kept: once for the statistics of the norm behind it, once for the layer behind that. Convolutions read a
//! row more on either side, so the result is exactly that of the whole map.

use std::ops::Range;
use std::rc::Rc;

use super::resnet::ResnetBlock;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::nn::{Conv2d, GroupNorm};
use crate::ops::{
    Addend, Conv, Epilogue, GroupNormApply, group_norm_apply, group_norm_moments, join_rows, merge_moments, reshape,
    slice_rows,
};

/// Rows that a band has at least: fewer would make more of their neighbours' rows than of their own.
const LEAST_ROWS: usize = 8;

type Make<'m> = Rc<dyn Fn(&mut Graph, Range<usize>) -> Result<Tensor> + 'm>;

/// A feature map `[n, height, width, channels]`.
#[derive(Clone)]
pub(super) struct Bands<'m> {
    pub(super) shape: [usize; 4],
    /// Bytes of a band, about.
    band: usize,
    /// Bytes of a row of the widest map that is made on the way to a row of this one.
    row: usize,
    /// Bytes of what is kept to make it from.
    kept: usize,
    make: Make<'m>,
}

fn bytes([n, h, w, c]: [usize; 4]) -> usize {
    4 * n * h * w * c
}

fn row_bytes([n, _, w, c]: [usize; 4]) -> usize {
    bytes([n, 1, w, c])
}

/// Rows of each strip of a map, in order, if a row takes `row` bytes.
fn ranges(height: usize, row: usize, band: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (band / row.max(1)).max(LEAST_ROWS);
    (0..height).step_by(step).map(move |first| first..(first + step).min(height))
}

/// Rows `range` of x `[n, h, w, c]`.
fn rows_of(g: &mut Graph, x: Tensor, range: Range<usize>) -> Result<Tensor> {
    let shape = g.shape(x).clone();
    if range == (0..shape[1]) {
        return Ok(x);
    }
    let flat = reshape(g, x, [shape[0], shape[1], shape[2] * shape[3]])?;
    let some = slice_rows(g, flat, range.start, range.len())?;
    reshape(g, some, [shape[0], range.len(), shape[2], shape[3]])
}

/// `parts` `[n, h_i, w, c]`, one below the other.
fn stack(g: &mut Graph, parts: &[Tensor]) -> Result<Tensor> {
    if let [whole] = parts {
        return Ok(*whole);
    }
    let shape = parts.first().map(|&t| g.shape(t).clone()).unwrap_or_default();
    let flat = |g: &mut Graph, &t: &Tensor| {
        let rows = g.shape(t)[1];
        reshape(g, t, [shape[0], rows, shape[2] * shape[3]])
    };
    let flats = parts.iter().map(|t| flat(g, t)).collect::<Result<Vec<_>>>()?;
    let joined = join_rows(g, &flats)?;
    let rows = g.shape(joined)[1];
    reshape(g, joined, [shape[0], rows, shape[2], shape[3]])
}

impl<'m> Bands<'m> {
    /// Creates a map that is in memory, in strips of about `band` bytes.
    pub(super) fn whole(g: &Graph, x: Tensor, band: usize) -> Result<Bands<'m>> {
        let &[n, h, w, c] = &g.shape(x)[..] else {
            return Err(Error::op("bands", format!("x is {}: expected [n, h, w, c]", g.shape(x))));
        };
        let shape = [n, h, w, c];
        Ok(Bands {
            shape,
            band,
            row: row_bytes(shape),
            kept: bytes(shape),
            make: Rc::new(move |g, rows| rows_of(g, x, rows)),
        })
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        ranges(self.shape[1], self.row, self.band)
    }

    /// Rows `range`.
    fn rows(&self, g: &mut Graph, range: Range<usize>) -> Result<Tensor> {
        (self.make)(g, range)
    }

    /// Records the map as one tensor.
    pub(super) fn joined(&self, g: &mut Graph) -> Result<Tensor> {
        let parts = self.ranges().map(|range| self.rows(g, range)).collect::<Result<Vec<_>>>()?;
        stack(g, &parts)
    }

    /// Records the map with all of its strips computed and kept.
    pub(super) fn stored(&self, g: &mut Graph) -> Result<Bands<'m>> {
        let ranges: Vec<Range<usize>> = self.ranges().collect();
        let parts = ranges.iter().map(|range| self.rows(g, range.clone())).collect::<Result<Vec<_>>>()?;
        Ok(Bands { row: row_bytes(self.shape), kept: bytes(self.shape), make: kept_rows(ranges, parts), ..*self })
    }

    /// Records the map with its strips computed and kept, if that takes at most `budget` bytes; otherwise leaves it as
    /// it is.
    pub(super) fn stored_within(self, g: &mut Graph, budget: usize) -> Result<Bands<'m>> {
        if bytes(self.shape) <= budget { self.stored(g) } else { Ok(self) }
    }

    /// `layer`, a convolution of three rows, over the map: of stride 1, over the map enlarged twice, or of stride 2
    /// with a row of zeros behind the map.
    pub(super) fn conv(self, layer: &'m Conv2d) -> Bands<'m> {
        let [n, h, w, _] = self.shape;
        let Conv { stride, upsample, pad } = layer.conv;
        let scale = if upsample { 2 } else { 1 };
        let size = |along: usize, pads: usize| (along * scale + pads - 3) / stride + 1;
        let shape = [n, size(h, pad[0] + pad[2]), size(w, pad[1] + pad[3]), layer.channels()];
        let (kept, band) = (self.kept, self.band);
        let row = row_bytes(shape).max(self.row * stride / scale);
        let make = move |g: &mut Graph, range: Range<usize>| {
            let needs = ConvRows::new(layer.conv, h, &range);
            let input = self.rows(g, needs.input.clone())?;
            let out = needs.run(g, layer, input, Epilogue::default())?;
            rows_of(g, out, needs.surplus..needs.surplus + range.len())
        };
        Bands { shape, band, row, kept, make: Rc::new(make) }
    }

    /// Applies `norm` and SiLU to the map.
    pub(super) fn norm_silu(&self, g: &mut Graph, norm: &'m GroupNorm) -> Result<Bands<'m>> {
        let mut total = None;
        for range in self.ranges() {
            let band = self.rows(g, range)?;
            let moments = group_norm_moments(g, band, norm.groups)?;
            total = Some(match total {
                Some(before) => merge_moments(g, before, moments)?,
                None => moments,
            });
        }
        let moments = total.ok_or_else(|| Error::op("bands", "a map without rows"))?;
        let source = self.clone();
        let op = GroupNormApply { groups: norm.groups, eps: norm.eps, silu: true };
        let make = move |g: &mut Graph, range: Range<usize>| {
            let x = source.rows(g, range)?;
            let (gamma, beta) = (norm.weight.get(g)?, norm.bias.get(g)?);
            group_norm_apply(g, op.clone(), x, gamma, beta, moments)
        };
        Ok(Bands { make: Rc::new(make), ..*self })
    }

    /// `block` over the map, its result kept; what lies between its convolutions is kept too where both are at most
    /// `budget` bytes.
    pub(super) fn resnet(&self, g: &mut Graph, block: &'m ResnetBlock, budget: usize) -> Result<Bands<'m>> {
        let hidden = self.norm_silu(g, &block.norm1)?.conv(&block.conv1);
        let hidden = hidden.stored_within(g, budget.saturating_sub(self.kept))?;
        let hidden = hidden.norm_silu(g, &block.norm2)?;
        let [n, h, w, _] = self.shape;
        let shape = [n, h, w, block.conv2.channels()];
        let row = row_bytes(shape).max(hidden.row).max(self.row);
        let ranges: Vec<Range<usize>> = ranges(h, row, self.band).collect();
        let mut parts = Vec::with_capacity(ranges.len());
        for range in &ranges {
            let needs = ConvRows::new(block.conv2.conv, h, range);
            let input = hidden.rows(g, needs.input.clone())?;
            let x = self.rows(g, range.clone())?;
            let shortcut = match &block.conv_shortcut {
                Some(conv) => conv.forward(g, x)?,
                None => x,
            };
            let residual = Epilogue { add: Some(Addend::Full(shortcut)), ..Epilogue::default() };
            parts.push(needs.run(g, &block.conv2, input, residual)?);
        }
        Ok(Bands { shape, row: row_bytes(shape), kept: bytes(shape), make: kept_rows(ranges, parts), ..*self })
    }
}

/// Rows out of bands that are in memory.
fn kept_rows<'m>(ranges: Vec<Range<usize>>, parts: Vec<Tensor>) -> Make<'m> {
    Rc::new(move |g, wanted| {
        let mut found = Vec::new();
        for (range, &part) in ranges.iter().zip(&parts) {
            let (start, end) = (range.start.max(wanted.start), range.end.min(wanted.end));
            if start < end {
                found.push(rows_of(g, part, start - range.start..end - range.start)?);
            }
        }
        stack(g, &found)
    })
}

/// Inputs from which a convolution of three rows makes rows of its result.
struct ConvRows {
    /// Rows of the input.
    input: Range<usize>,
    /// Rows of zeros above and below them.
    pad: [usize; 2],
    /// Rows made above the wanted ones.
    surplus: usize,
}

impl ConvRows {
    fn new(conv: Conv, height: usize, wanted: &Range<usize>) -> ConvRows {
        let (scale, [top, ..]) = (if conv.upsample { 2 } else { 1 }, conv.pad);
        // Rows of the (enlarged) input, counted with the padding above it.
        let (first, end) = (wanted.start * conv.stride, (wanted.end.max(1) - 1) * conv.stride + 3);
        let above = top.saturating_sub(first);
        let below = end.saturating_sub(top + height * scale);
        let (first, end) = (first.saturating_sub(top), end - below - top);
        let input = first / scale..end.div_ceil(scale);
        // An enlarged row comes with its twin: where only the second is wanted, a row too many is made.
        let surplus = if above == 0 { (first - input.start * scale) / conv.stride } else { 0 };
        ConvRows { input, pad: [above, below], surplus }
    }

    /// `layer` over `input`, the rows that it needs.
    fn run(&self, g: &mut Graph, layer: &Conv2d, input: Tensor, epilogue: Epilogue) -> Result<Tensor> {
        let ([_, left, _, right], [top, bottom]) = (layer.conv.pad, self.pad);
        let conv = Conv { pad: [top, left, bottom, right], ..layer.conv };
        Conv2d { conv, ..layer.clone() }.forward_with(g, input, None, epilogue)
    }
}
