//! Eight-bit storage of frozen weights: blocks of 64 values, each an f32 scale and 64 signed bytes.
//!
//! A value is `scale * max(byte / 127, -1)`, which is core WGSL's `unpack4x8snorm`; the scale is the block's largest
//! magnitude, so rounding is off by at most 1/254 of it.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators' adapters stay calls where a crate's units are not optimized together: slower loops"
)]

/// Values of a block.
pub const VALUES: usize = 64;
/// Bytes of a block: the scale, then the values.
pub const BYTES: usize = 4 + VALUES;

/// A maximum is sought in as many lanes, which compilers keep in vectors.
const LANES: usize = 8;

/// Appends the blocks of `values`, whose number must be a multiple of [`VALUES`].
pub fn quantize(values: &[f32], out: &mut Vec<u8>) {
    debug_assert!(values.len().is_multiple_of(VALUES));
    // What is added rounds, ties to even, and leaves the whole number in the lowest bits: that every processor has in vectors.
    const ROUND: f32 = 12_582_912.0;
    out.reserve(values.len() / VALUES * BYTES);
    for block in values.as_chunks::<VALUES>().0 {
        let mut largest = [0f32; LANES];
        for i in 0..VALUES {
            let (size, lane) = (block[i].abs(), i % LANES);
            largest[lane] = if size > largest[lane] { size } else { largest[lane] };
        }
        let mut scale = largest[0];
        for size in largest {
            scale = if size > scale { size } else { scale };
        }
        let factor = if scale > 0.0 { 127.0 / scale } else { 0.0 };
        let mut codes = [0u8; VALUES];
        for i in 0..VALUES {
            codes[i] = (block[i] * factor + ROUND).to_bits() as u8;
        }
        out.extend_from_slice(&scale.to_le_bytes());
        out.extend_from_slice(&codes);
    }
}

/// The values of whole blocks.
pub fn dequantize(bytes: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len() / BYTES * VALUES);
    for block in bytes.chunks_exact(BYTES) {
        let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        values.extend(block[4..].iter().map(|&b| scale * (f32::from(b as i8) / 127.0).max(-1.0)));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_step() {
        let values: Vec<f32> = (0..3 * VALUES).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + i as f32)).collect();
        let mut bytes = Vec::new();
        quantize(&values, &mut bytes);
        assert_eq!(bytes.len(), 3 * BYTES);
        for (given, back) in values.chunks(VALUES).zip(dequantize(&bytes).chunks(VALUES)) {
            let scale = given.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in given.iter().zip(back) {
                assert!((a - b).abs() <= scale / 253.0, "{a} came back as {b}, scale {scale}");
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut bytes = Vec::new();
        quantize(&[0.0; VALUES], &mut bytes);
        assert_eq!(dequantize(&bytes), [0.0; VALUES]);
    }
}
