//! Rows of a table picked by ids, with an optional table of positions added.

use super::{Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo, Vjp};

/// `table[ids] (+ positions[index in the row])`.
#[derive(Clone, Debug)]
pub struct Embedding;

/// Rows of `table [V, D]` (F32, F16, Q8 or Q4) picked by `ids` (U32, `[.., T]`, below V): `[.., T, D]` in f32. With
/// `positions` (`[P, D]`, `P >= T`), row `t` of it is added to every token at place `t`.
pub fn embedding(g: &mut Graph, table: Tensor, ids: Tensor, positions: Option<Tensor>) -> Result<Tensor> {
    let mut inputs = vec![table, ids];
    inputs.extend(positions);
    g.push1(Embedding, &inputs)
}

/// Bindings of a table: whole, or in pieces if it exceeds a binding (in f32, CLIP's does).
struct Pieces {
    /// Rows of a piece.
    rows: usize,
    /// Bytes of a row, if there are several pieces.
    row_bytes: u64,
    /// Bytes of the table.
    bytes: u64,
}

impl Pieces {
    /// Rows of a piece are a multiple of this, so that pieces begin where a binding may.
    const STEP: u64 = 256;

    fn of(table: &TensorInfo, most: u64) -> Pieces {
        let (rows, bytes) = (table.shape[0], table.bytes());
        let row_bytes = bytes / rows.max(1) as u64;
        let fitting = most / (row_bytes * Pieces::STEP).max(1) * Pieces::STEP;
        let rows = if bytes <= most || fitting == 0 { rows.max(1) } else { fitting as usize };
        Pieces { rows, row_bytes, bytes }
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let (table, ids) = (inputs[0], inputs[1]);
        if table.shape.len() != 2 || table.dtype == DType::U32 || ids.dtype != DType::U32 {
            let message = format!("table is {:?} {}, ids are {:?} {}", table.dtype, table.shape, ids.dtype, ids.shape);
            return Err(Error::op(self.name(), message));
        }
        if let Some(p) = inputs.get(2)
            && (p.shape.len() != 2 || p.shape.last() != table.shape.last() || p.shape[0] < ids.shape.last())
        {
            let message = format!("table is {}, ids are {}, positions are {}", table.shape, ids.shape, p.shape);
            return Err(Error::op(self.name(), message));
        }
        let mut shape = ids.shape.to_vec();
        shape.push(table.shape.last());
        Ok(vec![(shape.into(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (rows, width) = (l.input(0).shape[0], l.input(0).shape.last());
        let tokens = l.input(1).shape.last();
        let vec4 = width.is_multiple_of(4);
        let width = if vec4 { width / 4 } else { width };
        let count = l.input(1).shape.elements() * width;
        let pieces = Pieces::of(l.input(0), l.caps.max_binding_bytes);
        let (table, ids, out) = (l.input_slot(0), l.input_slot(1), l.output_slot(0));
        let placed = l.input_count() == 3;
        let positions = l.input_slot(l.input_count() - 1);
        for first in (0..rows).step_by(pieces.rows) {
            let (rows_bound, offset) = (pieces.rows.min(rows - first), first as u64 * pieces.row_bytes);
            let bytes = if pieces.rows >= rows { pieces.bytes } else { rows_bound as u64 * pieces.row_bytes };
            let k = l.kernel(shader!("embedding")).value("vec4", vec4).value("placed", placed);
            let k = k.read_range("table", table, vec4, offset, bytes).read("ids", ids);
            let k = if placed { k.read_as("positions", positions, vec4) } else { k };
            k.write_as("out", out, vec4)
                .u32("count", count)
                .u32("width", width)
                .u32("first", first)
                .u32("rows", rows_bound)
                .u32("last_row", rows - 1)
                .u32("tokens", tokens)
                .linear(count.div_ceil(64))?;
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let (table, ids) = (inputs[0], inputs[1]);
        let (width, tokens) = (table.shape.last(), ids.shape.last());
        let mut data = Vec::with_capacity(ids.data.len() * width);
        for (i, &id) in ids.data.iter().enumerate() {
            let (row, place) = (id as usize * width, i % tokens * width);
            for c in 0..width {
                data.push(table.data[row + c] + inputs.get(2).map_or(0.0, |p| p.data[place + c]));
            }
        }
        let mut shape = ids.shape.to_vec();
        shape.push(width);
        vec![Array::new(shape, data)]
    }

    fn vjp(&self, _: &mut Vjp) -> Result<Vec<Option<Tensor>>> {
        Err(Error::op(self.name(), "has no gradient rule: embedding tables are not trained"))
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, width) in [(1usize, 1usize), (9, 5), (40, 8), (11, 36)] {
        for table in [Given::normal([rows, width]), Given::half([rows, width])] {
            cases.push(Case::new(Embedding, [table.clone(), Given::Ids([2, 3].into(), rows as u32)]));
            let ids = Given::Ids([2, 7].into(), rows as u32);
            cases.push(Case::new(Embedding, [table, ids, Given::normal([9, width])]));
        }
    }
    for table in [Given::block8([9, 128]), Given::block4([9, 96])] {
        cases.push(Case::new(Embedding, [table, Given::Ids([2, 7].into(), 9)]));
    }
    let ids = Given::Ids([2, 5].into(), 6);
    cases.push(Case::new(Embedding, [Given::half([6, 12]), ids, Given::half([5, 12])]));
    cases
}
