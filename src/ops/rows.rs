//! Ranges of rows: cut out of every sample, and joined again.

use super::{Case, Given, Graph, Result, Tensor, fill, reshape};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, Slot, TensorInfo, Vjp};

/// Rows `first .. first + count` of every sample of `x` [n, rows, C].
#[derive(Clone, Debug)]
pub struct SliceRows {
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
}

/// Tensors [n, rows_i, C] one behind the other: [n, sum of rows_i, C].
#[derive(Clone, Debug)]
pub struct JoinRows;

/// Rows `first .. first + count` of every sample: x [n, rows, C] -> [n, count, C].
pub fn slice_rows(g: &mut Graph, x: Tensor, first: usize, count: usize) -> Result<Tensor> {
    g.push1(SliceRows { first, count }, &[x])
}

/// The rows of all `parts` [n, rows_i, C], sample by sample: [n, sum of rows_i, C].
pub fn join_rows(g: &mut Graph, parts: &[Tensor]) -> Result<Tensor> {
    g.push1(JoinRows, parts)
}

/// The columns of all `parts` [n, rows, columns_i] side by side: [n, rows, sum of columns_i].
pub fn join_columns(g: &mut Graph, parts: &[Tensor]) -> Result<Tensor> {
    let Some(&[n, rows, _]) = parts.first().map(|&first| &g.shape(first)[..]) else {
        return Err(Error::op("join_columns", "takes tensors [n, rows, columns]"));
    };
    // Each row becomes a sample whose rows are its columns, four at a time where all are multiples of four.
    let fours = parts.iter().all(|&part| g.shape(part).last().is_multiple_of(4));
    let width = if fours { 4 } else { 1 };
    let mut views = Vec::with_capacity(parts.len());
    for &part in parts {
        let columns = g.shape(part).last();
        views.push(reshape(g, part, [n * rows, columns / width, width])?);
    }
    let joined = join_rows(g, &views)?;
    let columns = g.shape(joined)[1] * width;
    reshape(g, joined, [n, rows, columns])
}

/// Copy of `rows` rows of every sample.
struct Copy {
    from: (Slot, Shape, usize),
    to: (Slot, Shape, usize),
    rows: usize,
}

impl Copy {
    fn launch(self, l: &mut Launch) -> Result<()> {
        let ((x, from, from_row), (out, to, to_row)) = (self.from, self.to);
        let vec4 = from[2].is_multiple_of(4);
        let columns = if vec4 { from[2] / 4 } else { from[2] };
        l.kernel(shader!("copy_rows"))
            .value("vec4", vec4)
            .read_as("x", x, vec4)
            .write_as("out", out, vec4)
            .u32("samples", from[0])
            .u32("rows", self.rows)
            .u32("columns", columns)
            .u32("x_rows", from[1])
            .u32("out_rows", to[1])
            .u32("from_row", from_row)
            .u32("to_row", to_row)
            .linear((from[0] * self.rows * columns).div_ceil(64))
    }
}

/// Copies rows on the host.
fn copy(x: &Array, from_row: usize, out: &mut Array, to_row: usize, rows: usize) {
    let (c, x_rows, out_rows) = (x.shape[2], x.shape[1], out.shape[1]);
    for n in 0..x.shape[0] {
        let (from, to) = ((n * x_rows + from_row) * c, (n * out_rows + to_row) * c);
        out.data[to..to + rows * c].copy_from_slice(&x.data[from..from + rows * c]);
    }
}

impl Op for SliceRows {
    fn name(&self) -> &'static str {
        "slice_rows"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let [x] = inputs else { return Err(Error::op(self.name(), "takes x")) };
        if x.shape.len() != 3 || self.first + self.count > x.shape[1] {
            let message = format!("x is {}, rows {} to {} of it", x.shape, self.first, self.first + self.count);
            return Err(Error::op(self.name(), message));
        }
        Ok(vec![([x.shape[0], self.count, x.shape[2]].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let from = (l.input_slot(0), l.input(0).shape.clone(), self.first);
        let to = (l.output_slot(0), l.output(0).shape.clone(), 0);
        Copy { from, to, rows: self.count }.launch(l)
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let x = inputs[0];
        let mut out = Array::zeros([x.shape[0], self.count, x.shape[2]]);
        copy(x, self.first, &mut out, 0, self.count);
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let (shape, dout) = (v.shape(0), v.grad()?);
        let behind = shape[1] - self.first - self.count;
        let mut parts = Vec::new();
        if self.first > 0 {
            parts.push(fill(v.g, [shape[0], self.first, shape[2]], 0.0)?);
        }
        parts.push(dout);
        if behind > 0 {
            parts.push(fill(v.g, [shape[0], behind, shape[2]], 0.0)?);
        }
        Ok(vec![Some(join_rows(v.g, &parts)?)])
    }
}

impl Op for JoinRows {
    fn name(&self) -> &'static str {
        "join_rows"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let Some(first) = inputs.first().filter(|t| t.shape.len() == 3) else {
            return Err(Error::op(self.name(), "takes tensors [n, rows, columns]"));
        };
        let (n, c) = (first.shape[0], first.shape[2]);
        let mut rows = 0;
        for t in inputs {
            if t.shape.len() != 3 || t.shape[0] != n || t.shape[2] != c {
                return Err(Error::op(self.name(), format!("{} does not fit behind {}", t.shape, first.shape)));
            }
            rows += t.shape[1];
        }
        Ok(vec![([n, rows, c].into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let mut row = 0;
        for i in 0..l.input_count() {
            let from = (l.input_slot(i), l.input(i).shape.clone(), 0);
            let to = (l.output_slot(0), l.output(0).shape.clone(), row);
            let rows = from.1[1];
            Copy { from, to, rows }.launch(l)?;
            row += rows;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let rows: usize = inputs.iter().map(|x| x.shape[1]).sum();
        let mut out = Array::zeros([inputs[0].shape[0], rows, inputs[0].shape[2]]);
        let mut row = 0;
        for x in inputs {
            copy(x, 0, &mut out, row, x.shape[1]);
            row += x.shape[1];
        }
        vec![out]
    }

    fn vjp(&self, v: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        let dout = v.grad()?;
        let (mut grads, mut row) = (Vec::new(), 0);
        for i in 0..v.inputs.len() {
            let rows = v.shape(i)[1];
            grads.push(if v.needs(i) { Some(slice_rows(v.g, dout, row, rows)?) } else { None });
            row += rows;
        }
        Ok(grads)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, rows, c, first, count) in [(1usize, 1usize, 1usize, 0usize, 1usize), (2, 9, 5, 3, 4), (3, 70, 8, 60, 10)] {
        let x = Given::normal([n, rows, c]);
        cases.push(Case::new(SliceRows { first, count }, [x.clone()]).grads([0]));
        let parts = [x, Given::normal([n, count, c]), Given::normal([n, 1, c])];
        cases.push(Case::new(JoinRows, parts).grads([0, 1, 2]));
    }
    // More workgroups than one dimension of a grid takes.
    let x = Given::normal([1, 65_536 * 64 + 3, 1]);
    cases.push(Case::new(SliceRows { first: 2, count: 65_536 * 64 + 1 }, [x]));
    cases
}
