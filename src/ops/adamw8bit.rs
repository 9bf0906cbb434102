//! AdamW with 8-bit moments in blocks, each with a scale (Dettmers et al. 2021, arXiv 2110.02861): a quarter of their
//! memory. Instead of that paper's table, codes are squares (first moment) and fourth powers (second), which are as
//! fine near zero. Rounding is random by element and step, so that a moment can follow changes smaller than a step of
//! its code.

use super::{AdamW, Case, Given, Graph, Result, Tensor};
use crate::base::{Array, DType, Shape};
use crate::error::Error;
use crate::gpu::shader;
use crate::graph::{Launch, Op, TensorInfo};

/// Values of a block.
const BLOCK: usize = 64;
/// Words of a block: the scale, then four values per word.
const WORDS: usize = 1 + BLOCK / 4;

/// Number of `u32` words of the 8-bit moments of `elements` values.
pub fn moment_words(elements: usize) -> usize {
    elements.div_ceil(BLOCK) * WORDS
}

/// Operands `param` `[n]`, `m` and `v` (U32 [`moment_words`]; all updated in place), `grad` `[n]`, `clip` `[1]` and
/// `hyper` `[9]`; results the updated three.
#[derive(Clone, Debug)]
pub struct AdamW8bit;

/// Updates `param` and its moments in place, with `grad` multiplied by `clip`. `hyper` is that of [`super::adamw`],
/// followed by the number of the optimizer step.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn adamw8bit(
    g: &mut Graph,
    param: Tensor,
    m: Tensor,
    v: Tensor,
    grad: Tensor,
    clip: Tensor,
    hyper: Tensor,
) -> Result<()> {
    g.push(AdamW8bit, &[param, m, v, grad, clip, hyper]).map(drop)
}

fn noise(i: u32, step: u32) -> f64 {
    let mut h = i.wrapping_mul(0x9e37_79b1).wrapping_add(step.wrapping_mul(0x85eb_ca77));
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    f64::from((h ^ (h >> 16)) >> 8) / 16_777_216.0
}

/// Decodes a moment's words: codes of `most` steps, raised to `power`.
fn decode(words: &[f64], signed: bool) -> Vec<f64> {
    let mut values = Vec::with_capacity(words.len() / WORDS * BLOCK);
    for block in words.chunks_exact(WORDS) {
        let scale = f64::from(f32::from_bits(block[0] as u32));
        for byte in block[1..].iter().flat_map(|&word| (word as u32).to_le_bytes()) {
            values.push(if signed {
                let q = (f64::from(byte as i8) / 127.0).max(-1.0);
                scale * q * q.abs()
            } else {
                scale * (f64::from(byte) / 255.0).powi(4)
            });
        }
    }
    values
}

/// Encodes `values` at optimizer step `step`; the counterpart of [`decode`].
fn encode(values: &[f64], signed: bool, step: u32) -> Vec<f64> {
    let mut words = Vec::with_capacity(moment_words(values.len()));
    for (b, block) in values.chunks(BLOCK).enumerate() {
        let scale = block.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        words.push(f64::from((scale as f32).to_bits()));
        let mut codes = [0u8; BLOCK];
        for (i, &x) in block.iter().enumerate().filter(|_| scale > 0.0) {
            let at = (b * BLOCK + i) as u32;
            let random = noise(at / 4 * 8 + at % 4 + if signed { 0 } else { 4 }, step);
            let (most, power) = if signed { (127.0f64, 2) } else { (255.0, 4) };
            let ratio = x.abs() / scale;
            let low = (ratio.powf(1.0 / f64::from(power)) * most).floor();
            let (a, next) = (low.powi(power), (low + 1.0).powi(power));
            let up = ratio * most.powi(power) - a > random * (next - a);
            let q = if up { low + 1.0 } else { low }.min(most);
            let q = if signed || x == 0.0 { q } else { q.max(1.0) };
            codes[i] = if x < 0.0 { (-q) as i8 as u8 } else { q as u8 };
        }
        words.extend(codes.chunks_exact(4).map(|c| f64::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]]))));
    }
    words
}

impl Op for AdamW8bit {
    fn name(&self) -> &'static str {
        "adamw8bit"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        let n = inputs[0].shape.elements();
        let moments = [inputs[1], inputs[2]];
        let moments_fit = moments.iter().all(|m| m.dtype == DType::U32 && m.shape.elements() == moment_words(n));
        if !moments_fit || inputs[3].shape.elements() != n || inputs[5].shape.elements() != 9 {
            let shapes: Vec<String> = inputs.iter().map(|i| format!("{:?} {}", i.dtype, i.shape)).collect();
            return Err(Error::op(self.name(), format!("operands are {}", shapes.join(", "))));
        }
        Ok(inputs[..3].iter().map(|i| (i.shape.clone(), i.dtype)).collect())
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let n = l.input(0).shape.elements();
        let slots: Vec<_> = (0..6).map(|i| l.input_slot(i)).collect();
        l.kernel(shader!("adamw8bit"))
            .write_as("param", slots[0], true)
            .write("m", slots[1])
            .write("v", slots[2])
            .read_as("grad", slots[3], true)
            .read("clip", slots[4])
            .read("hyper", slots[5])
            .u32("blocks", n.div_ceil(BLOCK))
            .u32("vectors", n.div_ceil(4))
            .linear(n.div_ceil(BLOCK).div_ceil(64))
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        let n = inputs[0].data.len();
        let moment = |words: &Array, signed: bool| {
            let mut values = decode(&words.data, signed);
            values.truncate(n);
            Array::new([n], values)
        };
        let (m, v) = (moment(inputs[1], true), moment(inputs[2], false));
        let step = inputs[5].data[8] as u32;
        let hyper = Array::new([8], inputs[5].data[..8].to_vec());
        let mut updated = AdamW.reference(&[inputs[0], &m, &v, inputs[3], inputs[4], &hyper]);
        let words = |x: &Array, signed: bool| {
            let words = encode(&x.data, signed, step);
            Array::new([words.len()], words)
        };
        (updated[1], updated[2]) = (words(&updated[1], true), words(&updated[2], false));
        updated
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0), (1, 1), (2, 2)]
    }
}

/// Test cases. Only the parameters are compared: rounding may leave a moment at either of two codes.
pub fn cases() -> Vec<Case> {
    [1usize, 6, 64, 500, 4 * 64 * 100 + 2]
        .map(|n| {
            let normal = || Given::normal([n]);
            let hyper = Given::Uniform([9].into(), 0.1, 0.9);
            let clip = Given::Uniform([1].into(), 0.5, 1.0);
            let moments = || Given::Moments([moment_words(n)].into());
            Case::new(AdamW8bit, [normal(), moments(), moments(), normal(), clip, hyper]).compared(1)
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{CounterRng, Stream};

    #[test]
    fn moments_come_back_close_and_right_on_average() {
        let rng = CounterRng::new(1, Stream::Bench);
        let values: Vec<f64> = rng.normals(0, 0, 3 * BLOCK).iter().map(|x| f64::from(*x) * 1e-3).collect();
        for signed in [true, false] {
            let given: Vec<f64> = values.iter().map(|x| if signed { *x } else { x * x }).collect();
            let mut mean = vec![0.0; given.len()];
            for step in 0..400 {
                let back = decode(&encode(&given, signed, step), signed);
                for (block, (x, y)) in given.iter().zip(&back).enumerate().map(|(i, pair)| (i / BLOCK, pair)) {
                    let scale = given[block * BLOCK..][..BLOCK].iter().fold(0.0f64, |m, x| m.max(x.abs()));
                    // A step of the code at x, by its slope.
                    let step_here = if signed {
                        2.0 * (x.abs() / scale).sqrt() / 127.0
                    } else {
                        4.0 * (x / scale).powf(0.75) / 255.0
                    };
                    assert!((x - y).abs() <= scale * (1.5 * step_here + 1e-4), "{x} came back as {y}, scale {scale}");
                }
                mean.iter_mut().zip(&back).for_each(|(m, y)| *m += y / 400.0);
            }
            let off = mean.iter().zip(&given).map(|(m, x)| (m - x).abs()).fold(0.0, f64::max);
            let largest = given.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(off < 2e-3 * largest, "off by {off} of {largest} on average");
        }
        assert!(decode(&encode(&[0.0; BLOCK], false, 1), false).iter().all(|&x| x == 0.0));
    }

    /// Three hundred updates with noisy gradients end where AdamW with whole moments ends.
    #[test]
    fn steps_as_adamw_does() {
        let n = 2 * BLOCK;
        let rng = CounterRng::new(2, Stream::Bench);
        let zeros = |n: usize| Array::zeros([n]);
        let (mut whole, mut small) =
            ([zeros(n), zeros(n), zeros(n)], [zeros(n), zeros(moment_words(n)), zeros(moment_words(n))]);
        for step in 1..=300u32 {
            let drift = |i: usize| 0.3 * (i as f64 / 9.0).sin() * 10f64.powi(-((i % 2) as i32));
            let grad = (0..n).map(|i| drift(i) + 0.1 * drift(i).abs() * f64::from(rng.normal(step, i as u64)));
            let (grad, clip) = (Array::new([n], grad.collect::<Vec<_>>()), Array::new([1], vec![1.0]));
            let hyper = super::super::AdamWHyper {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                step: step as usize,
            };
            let mut packed: Vec<f64> = hyper.pack().iter().map(|&x| f64::from(x)).collect();
            let hyper8 = Array::new([8], packed.clone());
            packed.push(f64::from(step));
            let hyper9 = Array::new([9], packed);
            let update = |op: &dyn Op, s: &[Array; 3], h: &Array| -> [Array; 3] {
                let out = op.reference(&[&s[0], &s[1], &s[2], &grad, &clip, h]);
                [out[0].clone(), out[1].clone(), out[2].clone()]
            };
            whole = update(&AdamW, &whole, &hyper8);
            small = update(&AdamW8bit, &small, &hyper9);
        }
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let apart: Vec<f64> = whole[0].data.iter().zip(&small[0].data).map(|(a, b)| a - b).collect();
        let off = norm(&apart) / norm(&whole[0].data);
        assert!(off < 0.05, "off by {off}");
        assert!(off > 1e-9, "eight bits must show somewhere");
    }
}
