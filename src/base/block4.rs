//! Four-bit storage of frozen weights: blocks of 32 values, each a scale and a minimum in bf16 and 32 codes of 4 bits.
//!
//! A value is `minimum + scale * code`. A block is five words: scale (low half) and minimum (high half), then eight codes
//! a word: code `b` of the first four in the low half of byte `b`, of the last four in its high half, so that four
//! values are one shift away from four bytes. Scale and minimum are bf16 because they then have f32's range, and two
//! integer operations decode them on every adapter; what a block loses is the same with f16 (normal values: 0.0783 of
//! their RMS with either, before the search).

#![allow(
    clippy::needless_range_loop,
    reason = "iterators' adapters stay calls where a crate's units are not optimized together, four times as slow in here"
)]

use half::bf16;

/// Values of a block.
pub const VALUES: usize = 32;
/// Bytes of a block: scale and minimum, then the codes.
pub const BYTES: usize = 4 + VALUES / 2;

/// Largest code.
const LARGEST: f32 = 15.0;

/// Refinements of a block's line. Normal values lose 0.0783 of their RMS before the first, 0.0750 after it, 0.0735 after
/// the second, 0.0729 after a third. Two more searches, from lines that cut the ends off, lead to 0.0722, but the bundled
/// model's UNet is further off with them: its largest weights then lose most.
const REFINEMENTS: usize = 2;

/// What is added and taken away again leaves whole numbers: the rounding that every processor has in vectors.
const ROUND: f32 = 12_582_912.0;

/// Sums are made in as many lanes, which compilers keep in vectors.
const LANES: usize = 8;

type Block = [f32; VALUES];

/// The line on which a block's values lie.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    minimum: f32,
}

impl Line {
    /// The line as it is stored.
    fn rounded(self) -> Line {
        let round = |x: f32| bf16::from_f32(x).to_f32().clamp(bf16::MIN.to_f32(), bf16::MAX.to_f32());
        Line { scale: round(self.scale), minimum: round(self.minimum) }
    }

    fn codes(self, values: &Block) -> Block {
        let factor = if self.scale > 0.0 { 1.0 / self.scale } else { 0.0 };
        let mut codes = [0.0; VALUES];
        for i in 0..VALUES {
            let place = (values[i] - self.minimum) * factor;
            let place = if place > 0.0 { place } else { 0.0 };
            let place = if place < LARGEST { place } else { LARGEST };
            codes[i] = place + ROUND - ROUND;
        }
        codes
    }

    /// Sum of the squares of what `codes` on this line miss `values` by, in units of `step`.
    fn error(self, values: &Block, codes: &Block, step: f32) -> f32 {
        let factor = 1.0 / step;
        let mut squares = [0.0; VALUES];
        for i in 0..VALUES {
            let miss = (values[i] - (self.minimum + self.scale * codes[i])) * factor;
            squares[i] = miss * miss;
        }
        sum(&squares)
    }

    /// The line that fits `values` best where their codes are these: least squares.
    fn fit(values: &Block, codes: &Block) -> Option<Line> {
        let (mut squares, mut products) = ([0.0; VALUES], [0.0; VALUES]);
        for i in 0..VALUES {
            squares[i] = codes[i] * codes[i];
            products[i] = values[i] * codes[i];
        }
        let (c, cc, v, cv) = (sum(codes), sum(&squares), sum(values), sum(&products));
        let n = VALUES as f32;
        let spread = n * cc - c * c;
        let scale = (n * cv - c * v) / spread;
        (spread > 0.0 && scale > 0.0).then(|| Line { scale, minimum: (v - scale * c) / n })
    }

    /// The line of the smallest error among those that the search meets, and the codes on it.
    fn search(values: &Block) -> (Line, Block) {
        let (low, high) = range(values);
        let step = high / LARGEST - low / LARGEST;
        let mut line = Line { scale: step, minimum: low }.rounded();
        let mut codes = line.codes(values);
        let (mut best, mut least) = ((line, codes), line.error(values, &codes, step));
        for _ in 0..REFINEMENTS {
            let Some(fitted) = Line::fit(values, &codes) else { break };
            line = fitted.rounded();
            codes = line.codes(values);
            let error = line.error(values, &codes, step);
            if error < least {
                (best, least) = ((line, codes), error);
            }
        }
        best
    }
}

/// Smallest and largest of the values.
fn range(values: &Block) -> (f32, f32) {
    let (mut lows, mut highs) = ([values[0]; LANES], [values[0]; LANES]);
    for i in 0..VALUES {
        let (x, lane) = (values[i], i % LANES);
        lows[lane] = if x < lows[lane] { x } else { lows[lane] };
        highs[lane] = if x > highs[lane] { x } else { highs[lane] };
    }
    let (mut low, mut high) = (lows[0], highs[0]);
    for lane in 1..LANES {
        low = if lows[lane] < low { lows[lane] } else { low };
        high = if highs[lane] > high { highs[lane] } else { high };
    }
    (low, high)
}

/// Sum of the values.
fn sum(values: &Block) -> f32 {
    let mut lanes = [0.0; LANES];
    for i in 0..VALUES {
        lanes[i % LANES] += values[i];
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// Appends the blocks of `values`, whose number must be a multiple of [`VALUES`].
pub fn quantize(values: &[f32], out: &mut Vec<u8>) {
    debug_assert!(values.len().is_multiple_of(VALUES));
    out.reserve(values.len() / VALUES * BYTES);
    for block in values.as_chunks::<VALUES>().0 {
        let (line, codes) = Line::search(block);
        let mut stored = [0; BYTES];
        let [scale, minimum] = [line.scale, line.minimum].map(|x| bf16::from_f32(x).to_le_bytes());
        (stored[0], stored[1], stored[2], stored[3]) = (scale[0], scale[1], minimum[0], minimum[1]);
        for i in 0..VALUES / 2 {
            // The second of a word's two fours lies behind the first. What is added leaves whole numbers in the lowest bits.
            let at = i / 4 * 8 + i % 4;
            stored[4 + i] = (codes[at] + 16.0 * codes[at + 4] + ROUND).to_bits() as u8;
        }
        out.extend_from_slice(&stored);
    }
}

/// The values of whole blocks.
pub fn dequantize(bytes: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len() / BYTES * VALUES);
    for block in bytes.chunks_exact(BYTES) {
        let half = |at: usize| bf16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let (scale, minimum) = (half(0), half(2));
        let value = |code: u8| minimum + scale * f32::from(code);
        for four in block[4..].chunks_exact(4) {
            values.extend(four.iter().map(|b| value(b & 15)));
            values.extend(four.iter().map(|b| value(b >> 4)));
        }
    }
    values
}

/// Root mean square of what `values` lose in whole blocks, relative to theirs; zero if all are.
pub fn loss(values: &[f32]) -> f64 {
    let mut bytes = Vec::with_capacity(values.len() / VALUES * BYTES);
    quantize(values, &mut bytes);
    let squares = |sum: f64, x: f64| sum + x * x;
    let missed = values.iter().zip(dequantize(&bytes)).map(|(a, b)| f64::from(*a) - f64::from(b)).fold(0.0, squares);
    let all = values.iter().map(|x| f64::from(*x)).fold(0.0, squares);
    if all > 0.0 { (missed / all).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a normal distribution's shape, up to a factor: sums of twelve uniform ones.
    fn normal(count: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut uniform = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    fn coded(values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        quantize(values, &mut bytes);
        assert_eq!(bytes.len(), values.len() / VALUES * BYTES);
        dequantize(&bytes)
    }

    #[test]
    fn normal_values_lose_less_than_the_bar_at_every_size() {
        for size in [1e-20, 1e-6, 0.02, 1.0, 1e30f32] {
            let values: Vec<f32> = normal(200 * VALUES).iter().map(|x| x * size).collect();
            let lost = loss(&values);
            assert!((0.065..0.075).contains(&lost), "{lost} at {size}");
        }
    }

    #[test]
    fn no_search_is_worse_than_the_plain_range() {
        let values = normal(50 * VALUES);
        for (block, back) in values.as_chunks::<VALUES>().0.iter().zip(coded(&values).as_chunks::<VALUES>().0) {
            let low = block.iter().fold(f32::INFINITY, |m, x| m.min(*x));
            let high = block.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
            let plain = Line { scale: (high - low) / LARGEST, minimum: low }.rounded();
            let error: f32 = block.iter().zip(back).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!(error <= plain.error(block, &plain.codes(block), 1.0) * 1.0001);
        }
    }

    #[test]
    fn what_is_stored_comes_back_as_it_was() {
        // Codes in every place, both ends among them: quantizing again finds the line.
        let values: Vec<f32> = (0..4 * VALUES).map(|i| -1.5 + 0.25 * ((i * 7 + i / VALUES) % 16) as f32).collect();
        assert_eq!(coded(&values), values);
    }

    #[test]
    fn values_all_equal_stay_so_and_ends_of_the_range_stay_finite() {
        for value in [0.0, -0.75, 2.0f32] {
            assert_eq!(coded(&[value; VALUES]), [value; VALUES]);
        }
        let mut ends = [0.0; VALUES];
        (ends[0], ends[VALUES - 1]) = (1.5e38, -1.5e38);
        assert!(coded(&ends).iter().all(|x| x.is_finite()));
    }
}
