//! How a tensor's elements are stored on the GPU.

use super::{block4, block8};

/// Storage type. Arithmetic is f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Half precision, two to a `u32` word (`unpack2x16float`, core WGSL, so it works on every adapter).
    F16,
    /// Signed bytes in blocks of 64 with a scale each ([`super::block8`]): frozen weights whose last extent is a
    /// multiple of 64.
    Q8,
    /// Codes of 4 bits in blocks of 32 with a scale and a minimum each ([`super::block4`]): frozen weights whose last
    /// extent is a multiple of 32.
    Q4,
    /// 32-bit unsigned integer: token ids.
    U32,
}

impl DType {
    /// Bytes of `elements` values of this type and nothing else: what a copy moves and a readback returns.
    pub fn value_bytes(self, elements: usize) -> u64 {
        match self {
            DType::F32 | DType::U32 => (elements as u64).saturating_mul(4),
            DType::F16 => (elements as u64).saturating_mul(2),
            DType::Q8 => blocks(elements, block8::VALUES, block8::BYTES),
            DType::Q4 => blocks(elements, block4::VALUES, block4::BYTES),
        }
    }

    /// Bytes that `elements` of this type take, padded to whole `vec4` so that kernels may read the last vector whole.
    pub fn bytes(self, elements: usize) -> u64 {
        // Numbers that no adapter has stay so: limits are checked against them.
        let padded = (elements.div_ceil(4).max(1) as u64).saturating_mul(4);
        match self {
            DType::F32 | DType::U32 => padded.saturating_mul(4),
            DType::F16 => padded.saturating_mul(2),
            DType::Q8 => blocks(elements.max(1), block8::VALUES, block8::BYTES).div_ceil(16).saturating_mul(16),
            DType::Q4 => blocks(elements.max(1), block4::VALUES, block4::BYTES).div_ceil(16).saturating_mul(16),
        }
    }
}

/// Bytes of the blocks that hold `elements`.
fn blocks(elements: usize, values: usize, bytes: usize) -> u64 {
    (elements.div_ceil(values) as u64).saturating_mul(bytes as u64)
}
