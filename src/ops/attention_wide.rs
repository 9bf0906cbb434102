//! Attention of one head too wide for a thread's registers (the VAE's 512 columns): its scores are kept in memory, for
//! a chunk of queries at a time.

use super::{AttentionSpec, Graph, Heads, MatmulSpec, Result, Tensor, join_rows, matmul, slice_rows, softmax};
use crate::error::Error;

/// Scores kept at a time: 32 MiB, a quarter of WebGPU's default binding, so that the decoder's peak is elsewhere.
const SCORES: usize = 8 << 20;

/// `softmax(scale * q k^T) v` for one head that is a whole row: q [n, tokens_q, C], k and v [n, tokens_k, C]. No
/// gradient rule: batched products have none.
pub(super) fn attention_wide(g: &mut Graph, heads: [Heads; 3], spec: AttentionSpec) -> Result<Tensor> {
    let whole = |h: &Heads| h.offset == 0 && g.shape(h.tensor).last() == spec.head_dim;
    if spec.heads != 1 || spec.causal || !heads.iter().all(whole) {
        let message = format!("{} heads of {} columns: heads this wide must be single", spec.heads, spec.head_dim);
        return Err(Error::op("attention", message));
    }
    in_chunks(g, heads.map(|h| h.tensor), spec.scale, SCORES)
}

/// Computes attention with at most `scores` scores at a time, but at least a query's whole row.
fn in_chunks(g: &mut Graph, [q, k, v]: [Tensor; 3], scale: f64, scores: usize) -> Result<Tensor> {
    let (q_shape, k_shape) = (g.shape(q).clone(), g.shape(k).clone());
    if q_shape.len() != 3 || k_shape.len() != 3 {
        return Err(Error::op("attention", format!("q is {q_shape}, k {k_shape}, expected [n, tokens, columns]")));
    }
    let queries = q_shape[1];
    let chunk = (scores / (q_shape[0] * k_shape[1]).max(1)).clamp(1, queries.max(1));
    let mut parts = Vec::new();
    for first in (0..queries).step_by(chunk) {
        let rows = chunk.min(queries - first);
        let part = if rows == queries { q } else { slice_rows(g, q, first, rows)? };
        let logits = matmul(g, part, k, MatmulSpec { transpose_b: true, batched: true, alpha: scale })?;
        let weights = softmax(g, logits)?;
        parts.push(matmul(g, weights, v, MatmulSpec { transpose_b: false, batched: true, alpha: 1.0 })?);
    }
    match parts.as_slice() {
        [whole] => Ok(*whole),
        parts => join_rows(g, parts),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::{Array, DType};
    use crate::graph::{Op, eval};
    use crate::ops::Attention;

    fn array(shape: [usize; 3], seed: usize) -> Array {
        let value = |i: usize| (((i + 1) * (seed * 2 + 7919)) % 1009) as f64 / 504.5 - 1.0;
        Array::new(shape, (0..shape.iter().product()).map(value).collect())
    }

    /// Chunks of one, three and all five queries give what the fused op's reference gives.
    #[test]
    fn chunks_give_what_the_whole_gives() {
        let spec = AttentionSpec { heads: 1, head_dim: 6, scale: 0.4, causal: false };
        let operands = [array([2, 5, 6], 1), array([2, 7, 6], 2), array([2, 7, 6], 3)];
        let expected = Attention { spec, offsets: [0; 3] }.reference(&operands.iter().collect::<Vec<_>>()).remove(0);
        for scores in [1, 3 * 14, 1000] {
            let mut g = Graph::new();
            let t: Vec<Tensor> = (operands.iter().enumerate())
                .map(|(i, a)| g.stored(&i.to_string(), a.shape.clone(), DType::F32).expect("operand"))
                .collect();
            let out = in_chunks(&mut g, [t[0], t[1], t[2]], spec.scale, scores).expect("attention");
            let values = eval(&g, t.iter().copied().zip(operands.iter().cloned()).collect::<HashMap<_, _>>());
            let values = values.expect("values");
            let off = values[&out].data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-12, "{scores} scores at a time: off by {off}");
        }
    }

    #[test]
    fn narrow_use_of_wide_heads_is_refused() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 400], DType::F32);
        let spec = AttentionSpec { heads: 2, head_dim: 200, scale: 1.0, causal: false };
        let error = attention_wide(&mut g, [x.into(), x.into(), x.into()], spec).expect_err("two wide heads");
        assert!(error.to_string().contains("200"), "{error}");
    }
}
